# SPDX-License-Identifier: Apache-2.0
"""What every benchmark gives back, and how it is shown: on the terminal and in `docs/benchmarks.md`.

A benchmark is a module of this folder with `TITLE`, `HOW` (how it is measured, for the document) and
`measure(place) -> Result`. `run.py` knows them by name.
"""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from glideflow import __version__

CHECKOUT = Path(__file__).parents[2]
DOCUMENT = CHECKOUT / "docs" / "benchmarks.md"
_HEAD = "# Benchmarks\n"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that must hold, and whether it does."""

    text: str
    """For example `at least 20 times the rate`."""
    value: str
    """What was measured, with its unit."""
    holds: bool

    def __str__(self) -> str:
        """The verdict as a sentence."""
        return f"Target: {self.text}. Measured: {self.value}, so it {'holds' if self.holds else 'does NOT hold'}."


@dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of one benchmark."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    targets: Sequence[Target] = ()


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Where and when something was measured."""

    load: float
    """Average number of busy processes in the minute before."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def now(cls) -> "Circumstances":
        """Look at the machine, before the benchmark makes it busy."""
        return cls(load=os.getloadavg()[0])

    def __str__(self) -> str:
        """Everything that a number needs beside it."""
        return (
            f"{self.at:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({cpu_model()}), load average {self.load:.1f} at "
            f"the start, glideflow {__version__}, commit {commit()}"
        )


def cpu_model() -> str:
    """Return the processor's name as the kernel knows it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """Return the checkout's commit, and whether product or benchmarks were changed since."""
    paths = ["--", "src", "flows", "pilot", "condor_templates", "tests/benchmarks"]
    name = _git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{name} with changes" if _git("status", "--porcelain", *paths) else name


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", CHECKOUT, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def seconds(values: Sequence[float], digits: int = 2) -> str:
    """Return the median of some times, with the smallest and the largest."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} s ({low} to {high})"


def show(console: Console, title: str, command: str, circumstances: Circumstances, result: Result) -> None:
    """Print a result."""
    table = Table(title=title, caption=f"{command}\n{circumstances}", title_justify="left", caption_justify="left")
    for column in result.columns:
        table.add_column(column)
    for row in result.rows:
        table.add_row(*row)
    console.print()
    console.print(table)
    for target in result.targets:
        console.print(str(target), style="green" if target.holds else "bold red")


def write(name: str, title: str, how: str, command: str, circumstances: Circumstances, result: Result) -> None:
    """Replace a benchmark's part of the document, or add it at the end; what stands outside the parts is kept."""
    lines = [
        f"## {title}", "", how.strip(), "",
        f"| {' | '.join(result.columns)} |", "|---" * len(result.columns) + "|",
        *(f"| {' | '.join(row)} |" for row in result.rows), "",
        *(part for target in result.targets for part in (str(target), "")),
        f"`{command}`: {circumstances}.",
    ]  # fmt: skip
    begin, end = f"<!-- benchmark {name} -->", f"<!-- end of benchmark {name} -->"
    part = "\n".join([begin, *lines, end])
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else _HEAD
    before, found, rest = text.partition(begin)
    text = before + part + rest.partition(end)[2] if found else f"{text.rstrip()}\n\n{part}\n"
    DOCUMENT.write_text(text, encoding="utf-8")
