# SPDX-License-Identifier: Apache-2.0
"""`glideflow submit | wait`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from glideflow.cli.following import follow
from glideflow.cli.terminal import AsJson, Columns, Flag, Json, connect, counted, err, print_json, print_table, say
from glideflow.client import Client, OnUpload
from glideflow.errors import TaskFileError
from glideflow.settings import load_settings
from glideflow.submission import LocalSubmission, resolve
from glideflow.task_file import TaskFile, read_task_files

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
    """Submit a task, or several of one file.

    For example:

    * glideflow submit hello.yaml --wait
    * glideflow submit analyse.yaml --dry-run
    * glideflow submit analyse.yaml --site cluster
    * glideflow submit analyse.yaml --set inputs.files=[data/*.csv] --set split.events_per_job=1000
    * glideflow submit chain.yaml --set generate:inputs.jobs=5 --wait

    Args:
        file: The task file, YAML; several tasks in it are separated by lines `---`, and accepted all or none.
        set_: Change a key of the task, as key=value with a value in YAML, or task:key=value where the file holds
            several; may be repeated. Relative files in it are relative to the current folder.
        site: Let only this site run it: the same as --set site=NAME.
        wait: Wait until the task has ended, or all of the file; exit status 1 when one failed.
        dry_run: Only show the jobs that would come out; nothing is stored.
        json: Print the task, or what the dry run found, as JSON.
    """
    task_files = read_task_files(file, set_ or [], everywhere=[f"site={site}"] if site else [])
    most = load_settings().max_sandbox_mb
    local = [resolve(task_file, max_sandbox_mb=most) for task_file in task_files]
    with connect() as client:
        if dry_run:
            _show_plans(_placed(client, local, task_files, dry_run=True), task_files, json=json)
            return 0
        tasks = _placed(client, local, task_files, dry_run=False)
        for task in tasks:
            _warn(task)
        if wait:
            # A file of one task prints that, a file of several one after the other.
            return max(follow(client, task, json=json) for task in tasks)
    if json:
        print_json(tasks[0] if len(tasks) == 1 else tasks)
        return 0
    for task in tasks:
        waits = f": {task['reason']['text']}" if task["reason"] else ""
        say(f"task {task['id']} ({task['name']}) is submitted{waits}")
    last = tasks[-1]["id"]
    say(f"follow it with `glideflow wait {last}` or `glideflow jobs {last}`", err())
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


def _placed(
    client: Client, local: Sequence[LocalSubmission], task_files: Sequence[TaskFile], *, dry_run: bool
) -> list[Json]:
    """Send tasks; problems that the endpoint finds get file and line."""
    try:
        return _send(client, local, dry_run=dry_run)
    except TaskFileError as error:
        first = task_files[0]
        # Which of several tasks is meant, the endpoint says itself.
        located = [first.places.located(problem) for problem in error.problems] if len(local) == 1 else error.problems
        raise TaskFileError(located, first.path) from error


def _send(client: Client, local: Sequence[LocalSubmission], *, dry_run: bool) -> list[Json]:
    def send(on_upload: OnUpload | None = None) -> list[Json]:
        if len(local) == 1:
            return [client.submit(local[0], dry_run=dry_run, on_upload=on_upload)]
        return client.submit_all(local, dry_run=dry_run, on_upload=on_upload)

    total = sum({upload.url: upload.size_bytes for one in local for upload in one.uploads}.values())
    if dry_run or total < SHOWN_BYTES:
        return send()
    with Progress(TextColumn("uploading"), BarColumn(), DownloadColumn(), console=err(), transient=True) as progress:
        bar = progress.add_task("", total=total)
        return send(lambda _, number: progress.advance(bar, number))


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


def _show_plans(plans: Sequence[Json], task_files: Sequence[TaskFile], *, json: bool) -> None:
    if json:
        print_json(plans[0] if len(plans) == 1 else list(plans))
        return
    for plan, task_file in zip(plans, task_files, strict=True):
        if len(plans) > 1:
            say(f"{task_file.spec.name}:")
        _show_plan(plan)


def _show_plan(plan: Json) -> None:
    shown, total = plan["jobs"], plan["jobs_total"]
    rest = f"; the first {len(shown)}:" if len(shown) < total else ":"
    say(f"{counted(total, 'job')} would come out{rest}")
    print_table(shown, PLAN_COLUMNS, empty="no jobs")
    _warn(plan)


def _warn(answer: Json) -> None:
    for warning in answer.get("warnings", ()):
        say(f"warning: {warning}", err())
