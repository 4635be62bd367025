# SPDX-License-Identifier: Apache-2.0
"""`glideflow database dump | restore`: a copy of everything that the instance knows."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from glideflow.instance.backup import dump as dump_databases
from glideflow.instance.backup import restore as restore_databases
from glideflow.instance.home import Home
from glideflow.settings import load_settings

database_app = App(
    name="database",
    help="""Dump the instance's databases into a file, and make them anew from it.

    A dump holds the tasks and all that belongs to them, and Prefect's flow runs. Stored files, certificates and
    settings are in the home and are not in it.
    """,
    help_format="markdown",
)


@database_app.command
def dump(file: Path) -> None:
    """Write the databases into a new file; the instance may be running.

    For example:

    * glideflow database dump monday.dump

    Args:
        file: The file; must not exist. Mode 0600.
    """
    settings = load_settings()
    with Console(stderr=True).status("dumping"):
        names = dump_databases(settings, Home(settings), file)
    size = file.stat().st_size / 1e6
    Console().print(f"dumped {' and '.join(names)} into {file}, {size:.1f} MB", soft_wrap=True)


@database_app.command
def restore(file: Path, *, force: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Make the databases anew from a dump; the instance must be down.

    For example:

    * glideflow database restore --force monday.dump

    Args:
        file: A file written by `glideflow database dump`.
        force: Put a database that is there aside; it is kept, and the output says where.
    """
    settings = load_settings()
    with Console(stderr=True).status("restoring"):
        aside = restore_databases(settings, Home(settings), file, force=force)
    console = Console()
    console.print(f"restored {file}; start the instance with `glideflow up`", soft_wrap=True)
    if aside is not None:
        console.print(f"the previous database is in {aside}; remove it when you are content", soft_wrap=True)
