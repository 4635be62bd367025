# SPDX-License-Identifier: Apache-2.0
"""`glideflow pool`: a private HTCondor pool on this machine."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from glideflow.condor.pool_status import PoolStatus
from glideflow.condor.private_pool import PrivatePool
from glideflow.instance.home import Home
from glideflow.settings import load_settings

MAX_SLOTS = 4096
Flag = Annotated[bool, Parameter(negative=())]

pool_app = App(
    name="pool",
    help="""A private HTCondor pool on this machine, for where there is none.

    It runs from Debian's packages in namespaces of its own: nothing is installed, and nothing stays when it is down.
    Where a configured pool answers, that one is used.

    For example:

    * glideflow pool up --slots 4
    * glideflow pool exec -- condor_q
    * glideflow pool status --json
    * glideflow pool down
    """,
    help_format="markdown",
)


@pool_app.command
def up(*, slots: Annotated[int | None, Parameter(validator=Number(gte=1, lte=MAX_SLOTS))] = None) -> None:
    """Start the pool; the first time its root is built, which takes about half a minute.

    A pool that runs already is left alone, unless other slots are asked for; its login token is renewed.

    For example:

    * glideflow pool up --slots 4

    Args:
        slots: Cores to advertise; may exceed the machine's. Without it, the setting pool_slots.
    """
    console = Console(stderr=True)
    with console.status("starting the private pool") as spinner:
        status = _pool(create=True).up(slots, progress=lambda text: _show(console, spinner.update, text))
    Console().print(status.text)


@pool_app.command
def down(*, purge: Flag = False) -> None:
    """End every process of the private pool, and nothing else.

    Its queue and logs stay for the next `up`.

    For example:

    * glideflow pool down --purge

    Args:
        purge: Delete its queue and logs too.
    """
    ended = _pool().down(purge=purge)
    Console().print("the private pool is down" if ended else "there was no private pool running")


@pool_app.command
def status(*, json_: Annotated[bool, Parameter(name="--json", negative=())] = False) -> None:
    """Say which pool serves this home and whether it answers; exit status 1 when none does.

    For example:

    * glideflow pool status --json

    Args:
        json_: Print JSON.
    """
    found = _pool().status()
    if json_:
        sys.stdout.write(json.dumps(asdict(found), default=str, indent=2) + "\n")
    else:
        Console().print(_table(found))
    if not found.running:
        raise SystemExit(1)


@pool_app.command(name="exec")
def exec_(*argv: Annotated[str, Parameter(allow_leading_hyphen=True)], root: Flag = False) -> None:
    """Run a command inside the private pool, with its exit status.

    It runs as the account of the pilots and sees the files of the pool's root, not those of this machine.

    For example:

    * glideflow pool exec -- condor_q
    * glideflow pool exec -- condor_status -compact
    * glideflow pool exec --root -- condor_reconfig

    Args:
        argv: The command and its arguments.
        root: Run it as the pool's administrator.
    """
    raise SystemExit(_pool().exec(list(argv) or ["sh"], as_root=root))


def _pool(*, create: bool = False) -> PrivatePool:
    settings = load_settings()
    home = Home(settings)
    if create:
        home.create()
    return PrivatePool(settings, home)


def _show(console: Console, update: Callable[[str], None], text: str) -> None:
    update(text)
    console.print(text, style="dim")


def _table(found: PoolStatus) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("state", found.text)
    rows = {"address": found.address, "slots": found.slots, "identity": found.identity, "process": found.pid}
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, str(value))
    if found.started_at is not None:
        table.add_row("started", found.started_at.astimezone().isoformat(sep=" ", timespec="seconds"))
    return table
