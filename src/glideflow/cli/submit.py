# SPDX-License-Identifier: Apache-2.0
"""`glideflow submit | wait`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from glideflow.cli.following import follow
from glideflow.cli.terminal import AsJson, Columns, Flag, Json, connect, counted, err, print_json, print_table, say
from glideflow.client import Client
from glideflow.errors import TaskFileError
from glideflow.settings import load_settings
from glideflow.submission import LocalSubmission, resolve
from glideflow.task_file import TaskFile, read_task_file

SHOWN_BYTES = 10_000_000
"""Uploads above this size get a progress bar."""


def submit(
    file: Path,
    /,
    *,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    site: str | None = None,
    wait: Flag = False,
    dry_run: Flag = False,
    json: AsJson = False,
) -> int:
    """Submit a task.

    For example:

    * glideflow submit hello.yaml --wait
    * glideflow submit analyse.yaml --dry-run
    * glideflow submit analyse.yaml --site cluster
    * glideflow submit analyse.yaml --set inputs.files=[data/*.csv] --set split.events_per_job=1000

    Args:
        file: The task file, YAML.
        set_: Change a key of the task, as key=value with a value in YAML; may be repeated. Relative files in it are
            relative to the current folder.
        site: Let only this site run it: the same as --set site=NAME.
        wait: Wait until the task has ended; exit status 1 when it failed.
        dry_run: Only show the jobs that would come out; nothing is stored.
        json: Print the task, or what the dry run found, as JSON.
    """
    task_file = read_task_file(file, [*(set_ or []), *([f"site={site}"] if site else [])])
    local = resolve(task_file, max_sandbox_mb=load_settings().max_sandbox_mb)
    with connect() as client:
        if dry_run:
            _show_plan(_placed(client, local, task_file, dry_run=True), json=json)
            return 0
        task = _placed(client, local, task_file, dry_run=False)
        _warn(task)
        if wait:
            return follow(client, task, json=json)
    if json:
        print_json(task)
    else:
        say(f"task {task['id']} ({task['name']}) is submitted")
        say(f"follow it with `glideflow wait {task['id']}` or `glideflow jobs {task['id']}`", err())
    return 0


def wait(task: str, /, *, json: AsJson = False) -> int:
    """Wait until a task has ended.

    Exit status 1 when it failed or was cancelled.

    For example:

    * glideflow wait zpeak-generate

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        json: Print the task as JSON when it has ended.
    """
    with connect() as client:
        return follow(client, client.task(task), json=json)


def _placed(client: Client, local: LocalSubmission, task_file: TaskFile, *, dry_run: bool) -> Json:
    """Send a task; problems that the endpoint finds get file and line."""
    try:
        return _send(client, local, dry_run=dry_run)
    except TaskFileError as error:
        raise TaskFileError(
            [task_file.places.located(problem) for problem in error.problems], task_file.path
        ) from error


def _send(client: Client, local: LocalSubmission, *, dry_run: bool) -> Json:
    total = sum(upload.size_bytes for upload in local.uploads)
    if dry_run or total < SHOWN_BYTES:
        return client.submit(local, dry_run=dry_run)
    with Progress(TextColumn("uploading"), BarColumn(), DownloadColumn(), console=err(), transient=True) as progress:
        bar = progress.add_task("", total=total)
        return client.submit(local, on_upload=lambda _, number: progress.advance(bar, number))


def _inputs(job: Json) -> str:
    def one(part: Json) -> str:
        if part["events"] is None:
            return str(part["name"])
        return f"{part['name']} ({part['first_event']} to {part['first_event'] + part['events'] - 1})"

    return ", ".join(one(part) for part in job["inputs"])


PLAN_COLUMNS: Columns = {
    "job": lambda row: row["index"],
    "inputs (events)": _inputs,
    "command": lambda row: " ".join(row["command"].split()),
    "outputs": lambda row: ", ".join(row["outputs"]),
}


def _show_plan(plan: Json, *, json: bool) -> None:
    if json:
        print_json(plan)
        return
    shown, total = plan["jobs"], plan["jobs_total"]
    rest = f"; the first {len(shown)}:" if len(shown) < total else ":"
    say(f"{counted(total, 'job')} would come out{rest}")
    print_table(shown, PLAN_COLUMNS, empty="no jobs")
    _warn(plan)


def _warn(answer: Json) -> None:
    for warning in answer.get("warnings", ()):
        say(f"warning: {warning}", err())
