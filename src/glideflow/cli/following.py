# SPDX-License-Identifier: Apache-2.0
"""Follow a task until it has ended: a live bar on a terminal, a line per change elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from glideflow.cli.terminal import COLOURS, Columns, Json, counted, err, out, print_json, print_table, say
from glideflow.client import Client
from glideflow.domain.states import FINAL_TASKS, TaskState
from glideflow.errors import EndpointUnavailable

FIRST_POLL_SECONDS = 0.2
LONGEST_POLL_SECONDS = 1.0
LINE_SECONDS = 30.0
"""Without a terminal, an unchanged task gets a line after this time."""
PATIENCE_SECONDS = 600.0
"""How long the endpoint may be away before we stop waiting; the task goes on without us."""

FAILURE_COLUMNS: Columns = {
    "jobs": lambda row: row["count"],
    "reason": lambda row: row["text"],
    "exit": lambda row: row["exit_code"],
    "site": lambda row: row["site"],
}


def follow(client: Client, task: Json, *, json: bool) -> int:
    """Show a task's progress until it has ended, then its result.

    Args:
        client: The endpoint.
        task: The task as it is now.
        json: Print the task as JSON at the end, and no sentences.

    Returns:
        Exit status: 0, or 1 when the task failed or was cancelled; 130 when the user does not want to wait any more.
    """
    console = err()
    try:
        with _display(console, task) as display:
            progress = _until_the_end(client, task["id"], display, console)
    except KeyboardInterrupt:
        number = task["id"]
        text = f"task {number} goes on; `glideflow wait {number}` follows it again, `glideflow kill {number}` ends it"
        say(text, console)
        return 130
    ended = progress["task"]
    if json:
        print_json(ended)
    else:
        _show_result(ended, progress["failures"])
    return 0 if ended["state"] in (TaskState.DONE, TaskState.PARTLY_DONE) else 1


def _until_the_end(client: Client, task_id: int, display: "Display", console: Console) -> Json:
    """Ask for the progress until the task has ended; a restart of the endpoint is waited for."""
    pause = FIRST_POLL_SECONDS
    away_since: float | None = None
    while True:
        try:
            progress = client.progress(task_id)
            away_since = None
            display.show(progress)
            if progress["task"]["state"] in FINAL_TASKS:
                return progress
        except EndpointUnavailable as error:
            if away_since is None:
                away_since = time.monotonic()
                say(f"{error}; trying again", console)
            if time.monotonic() - away_since > PATIENCE_SECONDS:
                raise
        time.sleep(pause)
        pause = min(pause * 1.2, LONGEST_POLL_SECONDS)


class Display(Protocol):
    """Something that shows progress."""

    def show(self, progress: Json) -> None:
        """Show how far the task is."""


class _Bar:
    """A live bar."""

    def __init__(self, progress: Progress, task: Json) -> None:
        self._progress = progress
        self._bar = progress.add_task(task["name"], total=None, counts="")

    def show(self, progress: Json) -> None:
        """Move the bar."""
        jobs = progress["task"]["jobs"]
        finished = sum(jobs.get(name, 0) for name in ("done", "failed", "cancelled"))
        self._progress.update(self._bar, total=jobs["total"] or None, completed=finished, counts=_counts(progress))


class _Lines:
    """A line for each change, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._at = 0.0

    def show(self, progress: Json) -> None:
        """Print a line when something changed and the last one is not just printed."""
        text = _counts(progress)
        age = time.monotonic() - self._at
        if age > LINE_SECONDS or (text != self._last and (age > LONGEST_POLL_SECONDS or not self._last)):
            say(f"task {progress['task']['id']}: {text}", self._console)
            self._last, self._at = text, time.monotonic()


@contextmanager
def _display(console: Console, task: Json) -> Iterator[Display]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(40),
        TaskProgressColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, task)


def _counts(progress: Json) -> str:
    """Say how far a task is, for example `12 of 20 jobs done, 3 running, 1 failed`."""
    task = progress["task"]
    jobs = task["jobs"]
    if not jobs["total"]:
        return str(task["state"])
    parts = [f"{jobs.get('done', 0):,} of {counted(jobs['total'], 'job')} done"]
    parts += [f"{jobs[name]:,} {name}" for name in ("running", "failed", "cancelled") if jobs.get(name)]
    if task["merge"]:
        parts.append(f"merge {task['merge']['state']}")
    if progress["ended"] and task["state"] not in FINAL_TASKS:
        parts.append("the flow takes the next step")
    return ", ".join(parts)


def _extent(task: Json) -> str:
    """Say how large a task was and how long it took."""
    jobs = counted(task["jobs"]["total"], "job") + (" and the merge" if task["merge"] else "")
    if not task["ended_at"]:
        return f": {jobs}"
    seconds = (datetime.fromisoformat(task["ended_at"]) - datetime.fromisoformat(task["created_at"])).total_seconds()
    return f": {jobs} in {timedelta(seconds=round(seconds))}"


def _show_result(task: Json, failures: list[Json]) -> None:
    console = out()
    number = task["id"]
    state = task["state"]
    line = Text.assemble(f"task {number} ({task['name']}) is ", (state, COLOURS.get(state, "bold")), _extent(task))
    console.print(line, soft_wrap=True)
    if task["reason"] and state != TaskState.DONE:
        say(f"  {task['reason']['text']}", console)
    if failures:
        print_table(failures, FAILURE_COLUMNS, empty="")
        say(
            f"  look at one:  glideflow explain {failures[0]['job_id']}; glideflow log {failures[0]['job_id']}", console
        )
        say(f"  run them again:  glideflow retry {number}", console)
    if task["flow_run_url"]:
        say(f"  in Prefect:  {task['flow_run_url']}", console)
    if state in (TaskState.DONE, TaskState.PARTLY_DONE):
        kept = task.get("spec", {}).get("outputs", True)
        say(
            f"  fetch its files:  glideflow outputs {number} --to FOLDER"
            if kept
            else f"  it kept no files; read a log:  glideflow log {number}.0",
            console,
        )
