# SPDX-License-Identifier: Apache-2.0
"""`glideflow up | down | status`: one instance on this machine."""

import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from glideflow.condor.private_pool import PrivatePool
from glideflow.errors import PoolError
from glideflow.instance.control import InstanceFailed, bring_down, bring_up, supervisor_arguments
from glideflow.instance.home import Home, InstanceInfo
from glideflow.instance.plan import launcher_of
from glideflow.instance.status import ComponentState, InstanceState, InstanceStatus, read_status
from glideflow.settings import Settings, load_settings
from glideflow.shares import load_shares
from glideflow.sites import load_sites

MAX_SLOTS = 4096
Json = Annotated[bool, Parameter(name="--json", negative=())]

_STYLES = {
    ComponentState.READY: "green",
    ComponentState.DONE: "green",
    ComponentState.STARTING: "yellow",
    ComponentState.CRASHED: "red",
}


def up(
    *,
    launcher: Literal["htcondor", "local"] | None = None,
    slots: Annotated[int | None, Parameter(validator=Number(gte=1, lte=MAX_SLOTS))] = None,
) -> None:
    """Start the instance of this home.

    And a private HTCondor pool, where the sites need one and no configured pool answers. What runs already is left
    alone. The state is in GLIDEFLOW_HOME, by default ~/.glideflow.

    For example:

    * glideflow up --launcher local --slots 4

    Args:
        launcher: How pilots are started: `htcondor`, or `local` for plain processes on this machine. Remembered.
        slots: Cores of the private pool, or most local pilots. Remembered.
    """
    console = Console(stderr=True)
    settings = load_settings()
    # A mistake in it is told here rather than by the log of a component that cannot start.
    load_shares(settings)
    home = Home(settings)
    home.create()
    before = home.read_instance()
    if _needs_pool(settings, launcher or launcher_of(settings, before)):
        _start_pool(console, settings, home, slots or (before.slots if before else None) or None)
    started = _start_instance(console, home, supervisor_arguments(home, launcher, slots))
    info = home.read_instance()
    if info is None:
        raise InstanceFailed(f"{home.instance_file} is missing although the instance runs: `glideflow down`, then `up`")
    if not started and (launcher or slots):
        console.print("it ran already; --launcher and --slots count after `glideflow down`", style="yellow")
    _print_addresses(Console(), "glideflow is up" if started else "glideflow runs already", home, info)
    if not read_status(home).is_up():
        raise InstanceFailed("not every component works: see `glideflow status`")


def down() -> None:
    """Stop the instance of this home.

    Its state, its queue and its pilots' jobs stay for the next `up`. A private pool goes on: `glideflow pool down`
    ends it.

    For example:

    * glideflow down
    """
    console = Console(stderr=True)
    home = Home(load_settings())
    with console.status("stopping") as spinner:
        ended = bring_down(home, lambda status: spinner.update(_still_there(status)))
    Console().print("glideflow is down" if ended else "there was no instance running")


def status(*, json_: Json = False) -> None:
    """Say what of the instance runs.

    Where, and since when; exit status 1 unless all of it works.

    For example:

    * glideflow status --json

    Args:
        json_: Print JSON.
    """
    home = Home(load_settings())
    found = read_status(home)
    info = home.read_instance()
    if json_:
        addresses = {"rest_url": info.rest_url, "prefect_ui_url": info.prefect_ui_url} if info else {}
        document = {"home": str(home.root), **asdict(found), **addresses}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        console = Console()
        if found.components:
            console.print(_table(found))
        for line in (found.message, *(f"{part.name}: {part.detail}" for part in found.components if part.detail)):
            if line:
                console.print(line, style="red", markup=False, soft_wrap=True)
        if info is not None and found.state is InstanceState.RUNNING:
            _print_addresses(console, f"glideflow is {found.state}", home, info)
        else:
            words = "could not be started" if found.state is InstanceState.FAILED else f"is {found.state}"
            console.print(f"glideflow {words}; home {home.root}", soft_wrap=True)
    if not found.is_up():
        raise SystemExit(1)


def _needs_pool(settings: Settings, launcher: str) -> bool:
    return any(site.launcher == "htcondor" for site in load_sites(settings, launcher).values())


def _start_pool(console: Console, settings: Settings, home: Home, slots: int | None) -> None:
    with console.status("looking for a HTCondor pool") as spinner:
        pool = PrivatePool(settings, home).up(slots, progress=lambda text: spinner.update(text))
    if not pool.running:
        raise PoolError(f"{pool.text}; `glideflow up --launcher local` does without HTCondor")
    console.print(pool.text, style="dim", soft_wrap=True)


def _start_instance(console: Console, home: Home, argv: list[str]) -> bool:
    try:
        if not console.is_terminal:
            return bring_up(home, argv, lambda status: None)
        with Live(console=console, transient=True, refresh_per_second=10) as live:
            return bring_up(home, argv, lambda status: live.update(_table(status)))
    except InstanceFailed as error:
        if error.log:
            console.print(f"the last lines of {home.logs / error.component}.log:", style="bold", soft_wrap=True)
            for line in error.log:
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        raise


def _print_addresses(console: Console, headline: str, home: Home, info: InstanceInfo) -> None:
    rows = {
        "Prefect UI": info.prefect_ui_url,
        "REST endpoint": f"{info.rest_url} (documentation: {info.rest_url}/docs)",
        "CA certificate": str(home.ca / "ca.pem"),
        "logs": str(home.logs),
        "stop it with": "glideflow down",
    }
    console.print(headline, style="bold green")
    for name, value in rows.items():
        console.print(f"  {name:15} {value}", markup=False, soft_wrap=True)


def _table(found: InstanceStatus) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("component", "state", "process", "port", "since", "restarts"):
        table.add_column(name, no_wrap=True)
    for part in found.components:
        table.add_row(
            part.name,
            Text(str(part.state), style=_STYLES.get(part.state, "")),
            "" if part.pid is None else str(part.pid),
            "" if part.port is None else str(part.port),
            _local_time(part.started_at),
            str(part.restarts) if part.restarts else "",
        )
    return table


def _local_time(text: str | None) -> str:
    return "" if text is None else f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def _still_there(found: InstanceStatus) -> str:
    left = [part.name for part in found.components if part.pid is not None]
    return f"stopping {', '.join(left)}" if left else "stopping"
