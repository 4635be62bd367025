# SPDX-License-Identifier: Apache-2.0
"""What all commands share: their common options, tables, times, JSON, and the connection."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glideflow.client import Client
from glideflow.settings import load_settings

Json = dict[str, Any]
Cell = str | Text
Columns = Mapping[str, Callable[[Json], Any]]

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
All = Annotated[bool, Parameter(name="--all", negative=(), show_default=False)]
StateName = Annotated[str | None, Parameter(name="--state")]

WIDE = 240
"""Width of tables that no terminal limits, characters."""

COLOURS = {
    "done": "green",
    "partly_done": "yellow",
    "failed": "red",
    "lost": "red",
    "vanished": "red",
    "held": "yellow",
    "cancelled": "yellow",
    "running": "cyan",
    "registered": "cyan",
    "merging": "cyan",
}
KILOBYTE = 1000


def connect() -> Client:
    """Return a client of the endpoint that the settings name.

    Raises:
        SettingsError: There is none.
    """
    return Client.from_settings(load_settings())


def out() -> Console:
    """Return the console for results."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)


def err() -> Console:
    """Return the console for progress and remarks."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(text: str, console: Console | None = None) -> None:
    """Print a sentence as it stands: no markup, no line breaks."""
    (console or out()).print(Text(text), soft_wrap=True)


def print_table(rows: Iterable[Json], columns: Columns, *, empty: str) -> None:
    """Print a table.

    Args:
        rows: What the endpoint sent.
        columns: Title of each column, and how it is made of a row; titles in lower case.
        empty: The sentence when there are no rows.
    """
    shown = list(rows)
    if not shown:
        say(empty, err())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, cell in columns.items():
        numbers = all(isinstance(cell(row), int | None) for row in shown)
        table.add_column(title, justify="right" if numbers else "left", overflow="fold", no_wrap=title == "id")
    for row in shown:
        table.add_row(*(_cell(cell(row)) for cell in columns.values()))
    out().print(table)


def _cell(value: Any) -> Cell:
    if value is None:
        return "-"
    return value if isinstance(value, Text) else Text(str(value))


def state(row: Json) -> Text:
    """Return a row's state in its colour."""
    name = row["state"] + (" (paused)" if row.get("paused") else "")
    return Text(name, style=COLOURS.get(row["state"], ""))


def reason(row: Json) -> str | None:
    """Return the sentence of a row's reason."""
    return row["reason"]["text"] if row.get("reason") else None


def local_time(text: str | None) -> str | None:
    """Return a time of the endpoint as the clock on the wall shows it."""
    if text is None:
        return None
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(number: int | None) -> str | None:
    """Return a size in bytes for people, in powers of 1000."""
    if number is None:
        return None
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < KILOBYTE:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= KILOBYTE
    return f"{value:.1f} TB"


def counted(number: int, word: str) -> str:
    """Return a number with its word in the right form, for example `1 job` or `20 jobs`."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def job_name(job: Json) -> str:
    """Return how a job is called: `TASK.INDEX`, or `TASK.merge`."""
    return f"{job['task']}.{'merge' if job['stage'] == 'merge' else job['index']}"
