# SPDX-License-Identifier: Apache-2.0
"""The demo: a HTCondor pool, the servers, 100,000 collisions, and a Z boson. `make demo` runs this.

    .venv/bin/python examples/zpeak/demo.py [--launcher local] [--results FOLDER]

With `--launcher local` pilots are plain processes, for machines on which no HTCondor can be had.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glideflow.client import Client
from glideflow.errors import GlideflowError
from glideflow.settings import load_settings
from rich.console import Console
from rich.table import Table

EXAMPLE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("glideflow")
POLL_SECONDS = 0.3
FLOW_RUN_SECONDS = 20
BARS = " ▁▂▃▄▅▆▇█"


class DemoFailed(Exception):
    """A phase did not work; the message says which and what to do."""


class Phases:
    """The demo's phases and how long each took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, words: str) -> Iterator[None]:
        """Announce a phase and take its time."""
        self.console.print(f"\n[bold]{len(self.seconds) + 1}. {name}[/]  [dim]{words}[/]")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def table(self) -> Table:
        """Return the times."""
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_column(style="dim")
        table.add_column(justify="right")
        for name, seconds in {**self.seconds, "together": time.monotonic() - self.started}.items():
            table.add_row(name, f"{seconds:.1f} s")
        return table


def glideflow(*arguments: str, capture: bool = False) -> str:
    """Run the `glideflow` command beside this Python, as a user would, with its words on the terminal.

    Args:
        arguments: Its arguments.
        capture: Return what it prints instead.

    Raises:
        DemoFailed: It ended with another status than 0.
    """
    pipe = subprocess.PIPE if capture else None
    result = subprocess.run([COMMAND, *arguments], check=False, stdout=pipe, text=True)
    if result.returncode:
        command = f"`glideflow {' '.join(arguments)}`"
        raise DemoFailed(f"{command} ended with status {result.returncode}; the lines above say why")
    return result.stdout or ""


def run_task(client: Client, file: str, *changes: str) -> dict[str, Any]:
    """Submit a task and show its jobs until it is done; returns the task."""
    options = [part for change in changes for part in ("--set", change)]
    number = json.loads(glideflow("submit", str(EXAMPLE / file), *options, "--json", capture=True))["id"]
    glideflow("wait", str(number))
    return client.task(number)


def download(client: Client, task: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Fetch what the merge step made; the files by the outputs' names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for output in client.outputs(task["id"]):
        if output["stage"] == "merge":
            paths[output["name"]] = folder / output["file"]
            client.download(output["url"], paths[output["name"]], output["size_bytes"], output["sha256"])
    return paths


def sketch(counts: Sequence[int], first: int, last: int, rows: int = 8) -> list[str]:
    """Return a histogram in characters, two columns per bin, and its axis."""
    part = counts[first:last]
    heights = [round(count / max(part) * rows * 8) for count in part]
    lines = ["".join(2 * BARS[min(8, max(0, height - 8 * row))] for height in heights) for row in reversed(range(rows))]
    axis = list(" " * (2 * len(part) + 4))
    for mass in range(-(-first // 10) * 10, last, 10):
        place = 2 * (mass - first)
        axis[place : place + 3] = f"{mass:<3}"
    return [*lines, "─" * 2 * len(part), "".join(axis).rstrip() + " GeV"]


def flow_run_url(client: Client, task: dict[str, Any]) -> str:
    """Return the address of a task's flow run; Prefect may need a moment to create it."""
    deadline = time.monotonic() + FLOW_RUN_SECONDS
    while not task["flow_run_url"] and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        task = client.task(task["id"])
    return task["flow_run_url"] or "not created yet; `glideflow doctor` checks Prefect"


def demonstrate(console: Console, arguments: argparse.Namespace) -> None:
    """Run all phases and show the result."""
    phases = Phases(console)
    if arguments.launcher == "htcondor":
        with phases.phase("HTCondor", "the configured pool, or a private one on this machine"):
            glideflow("pool", "up")
    with phases.phase("Servers", "PostgreSQL, REST endpoint, Prefect, pilot factory"):
        glideflow("up", *(["--launcher", "local"] if arguments.launcher == "local" else []))
    client = Client.from_settings(load_settings())
    with phases.phase("Generate", "20 jobs of 5,000 Drell-Yan events"):
        generated = run_task(client, "generate.yaml")
    with phases.phase("Analyse", "histograms in jobs of 8,000 events, one more merges and fits"):
        analysed = run_task(client, "analyse.yaml", f"inputs.dataset=zpeak.events@{generated['id']}")
        files = download(client, analysed, arguments.results)
    histogram = json.loads(files["histogram"].read_text())
    console.print()
    for line in sketch(histogram["counts"], 73, 109):
        console.print(f"   {line}", style="cyan", highlight=False)
    console.print(
        f"\n[bold green]The Z boson: {histogram['peak_gev']:.3f} ± {histogram['peak_error_gev']:.3f} GeV[/] "
        f"from {histogram['events']:,} events  [dim](world average 91.188 GeV)[/]\n",
        highlight=False,
    )
    console.print(phases.table())
    console.print()
    for name, place in places(client, analysed, files).items():
        # Whatever the terminal's width: an address in one piece can be clicked and copied.
        console.print(f" [dim]{name:<16}[/] {place}", soft_wrap=True)


def places(client: Client, task: dict[str, Any], files: dict[str, Path]) -> dict[str, str]:
    """Return where to look next."""
    return {
        "plot": str(files["plot"].absolute()),
        "histogram": str(files["histogram"].absolute()),
        "task in Prefect": flow_run_url(client, task),
        "REST": f"{client.url}/docs",
        "its jobs": f"{COMMAND} jobs {task['id']}",
        "stop everything": "[bold]make down[/]",
    }


def main() -> int:
    """Read the command line and run the demo."""
    parser = argparse.ArgumentParser(description="Run glideflow's demo.")
    parser.add_argument("--launcher", choices=("htcondor", "local"), default="htcondor", help="how pilots are started")
    parser.add_argument("--results", type=Path, default=Path("zpeak-results"), help="folder for histogram and plot")
    console = Console(highlight=False)
    try:
        demonstrate(console, parser.parse_args())
    except (DemoFailed, GlideflowError) as error:
        console.print(f"\n[bold red]The demo stopped:[/] {error}", soft_wrap=True)
        console.print("`.venv/bin/glideflow doctor` checks each part; `make down` stops what runs.")
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. Servers and jobs go on; `make down` stops them.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
