# SPDX-License-Identifier: Apache-2.0
"""`glideflow tasks | jobs | pilots | sites | datasets`: tables of what there is."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from glideflow.cli.terminal import (
    All,
    AsJson,
    Columns,
    Json,
    StateName,
    connect,
    err,
    job_name,
    local_time,
    print_json,
    print_table,
    reason,
    say,
    size,
    state,
)

RECENT = 20
SHOWN_JOBS = 100

TASK_COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "name": lambda row: row["name"],
    "state": state,
    "jobs": lambda row: row["jobs"]["total"],
    "done": lambda row: row["jobs"].get("done", 0),
    "running": lambda row: row["jobs"].get("running", 0),
    "failed": lambda row: row["jobs"].get("failed", 0),
    "priority": lambda row: row["priority"],
    "owner": lambda row: row["owner"],
    "created": lambda row: local_time(row["created_at"]),
    "reason": reason,
}
JOB_COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "job": job_name,
    "state": state,
    "priority": lambda row: row["priority"],
    "site": lambda row: row["site"],
    "node": lambda row: row["node"],
    "attempts": lambda row: row["attempts"],
    "exit": lambda row: row["exit_code"],
    "reason": reason,
}
PILOT_COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "site": lambda row: row["site"],
    "state": state,
    "node": lambda row: row["node"],
    "batch id": lambda row: row["batch_id"],
    "cores": lambda row: row["cores"],
    "running": lambda row: row["running"],
    "last seen": lambda row: local_time(row["last_seen_at"]),
    "reason": reason,
}
DATASET_COLUMNS: Columns = {
    "name": lambda row: row["name"],
    "files": lambda row: row["files"],
    "size": lambda row: size(row["size_bytes"]),
    "events": lambda row: row["events"],
    "owner": lambda row: row.get("owner"),
}
FILE_COLUMNS: Columns = {
    "file": lambda row: row["file"],
    "size": lambda row: size(row["size_bytes"]),
    "events": lambda row: row["events"],
    "task": lambda row: row["task_id"],
    "url": lambda row: row["url"],
}


def _site_pilots(row: Json) -> str:
    return ", ".join(f"{number} {name}" for name, number in row["pilots"].items()) or "none"


def _site_decision(row: Json) -> str | None:
    decision = row["decision"]
    return f"{decision['n']} more: {'; '.join(decision['reasons'])}" if decision else None


SITE_COLUMNS: Columns = {
    "site": lambda row: row["name"],
    "launcher": lambda row: row["launcher"],
    "status": lambda row: row["status"],
    "cores": lambda row: row["cores"],
    "memory": lambda row: f"{row['memory_mb']:,} MB",
    "most pilots": lambda row: row["max_pilots"],
    "pilots now": _site_pilots,
    "last decision": _site_decision,
}


def tasks(*, state: StateName = None, all_: All = False,
          json: AsJson = False) -> None:  # fmt: skip
    """List tasks, the newest first.

    For example:

    * glideflow tasks
    * glideflow tasks --state failed --all

    Args:
        state: Only tasks in this state: submitted, planning, running, merging, done, partly_done, failed, cancelled.
        all_: All tasks, and not only the 20 newest.
        json: Print JSON.
    """
    with connect() as client:
        found = client.tasks(state=state, limit=None if all_ else RECENT)
    if json:
        print_json(found)
        return
    print_table(found, TASK_COLUMNS, empty="there are no tasks yet" if state is None else f"no task is {state}")
    if len(found) == RECENT and not all_:
        say(f"the {RECENT} newest tasks; --all lists all", err())


def jobs(
    task: str,
    /,
    *,
    state: StateName = None,
    limit: Annotated[int, Parameter(validator=Number(gte=0))] = SHOWN_JOBS,
    json: AsJson = False,
) -> None:
    """List the jobs of a task.

    For example:

    * glideflow jobs zpeak-generate
    * glideflow jobs 12 --state failed --limit 0

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        state: Only jobs in this state: waiting, ready, claimed, running, verifying, done, failed, cancelled.
        limit: Most jobs to list; 0 for all.
        json: Print JSON.
    """
    with connect() as client:
        found = client.jobs(task, state=state, limit=limit + 1 if limit else None)
    shown = found[:limit] if limit else found
    if json:
        print_json(shown)
        return
    print_table(
        shown, JOB_COLUMNS, empty=f"task {task} has no jobs" if state is None else f"no job of {task} is {state}"
    )
    if len(found) > len(shown):
        say(f"the first {limit} jobs; --limit 0 lists all, --state only some", err())


def pilots(*, site: str | None = None, all_: All = False,
           json: AsJson = False) -> None:  # fmt: skip
    """List pilots, the newest first.

    For example:

    * glideflow pilots
    * glideflow pilots --site local --all

    Args:
        site: Only pilots of this site.
        all_: Those that have ended, too.
        json: Print JSON.
    """
    with connect() as client:
        found = client.pilots(site=site, everything=all_)
    if json:
        print_json(found)
        return
    print_table(found, PILOT_COLUMNS, empty="there are no pilots; they are sent when jobs wait for them")


def sites(*, json: AsJson = False) -> None:
    """List sites, their pilots and the last decision about each.

    For example:

    * glideflow sites

    Args:
        json: Print JSON.
    """
    with connect() as client:
        found = client.sites()
    if json:
        print_json(found)
        return
    print_table(found, SITE_COLUMNS, empty="there are no sites; see the setting `sites_file`")


def datasets(name: str | None = None, /, *, json: AsJson = False) -> None:
    """List datasets, or the files of one.

    For example:

    * glideflow datasets
    * glideflow datasets zpeak.events
    * glideflow datasets zpeak.events@12

    Args:
        name: List the files of this dataset; with `@12`, only those that task 12 wrote.
        json: Print JSON.
    """
    with connect() as client:
        found = client.datasets() if name is None else client.dataset(name)
    if json:
        print_json(found)
    elif isinstance(found, dict):
        print_table(found["files"], FILE_COLUMNS, empty=f"dataset {name} has no files")
    else:
        print_table(found, DATASET_COLUMNS, empty="there are no datasets yet; outputs of tasks make them")
