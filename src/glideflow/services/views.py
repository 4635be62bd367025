# SPDX-License-Identifier: Apache-2.0
"""What users see of tasks, jobs, pilots, sites and datasets, as plain values ready for JSON."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.site import Site
from glideflow.domain.states import FINAL_JOBS, FINAL_TASKS, JobState
from glideflow.errors import NotFound
from glideflow.store import attempts, files, jobs, outbox, parents, pilots, tally, tasks
from glideflow.store.engine import Connection, Database
from glideflow.store.moves import reason_of

View = dict[str, Any]

_DIGITS = 18
"""More digits do not fit PostgreSQL's bigint."""
_MOST_JOBS = 2**31 - 1
_TASK_FIELDS = ("id", "name", "owner", "vo", "state", "paused", "priority", "flow_run_id")
_JOB_FIELDS = ("id", "task_id", "task", "stage", "index", "state", "paused", "priority", "site", "node", "attempts",
               "retries", "exit_code")  # fmt: skip
_PILOT_FIELDS = ("id", "site", "state", "node", "batch_id", "version", "python", "cores", "memory_mb", "disk_mb")
_ATTEMPT_FIELDS = (
    "id", "number", "state", "pilot_id", "site", "node", "exit_code", "signal", "usage", "rule", "verdict"
)  # fmt: skip


def instant(at: datetime | None) -> str | None:
    """Return a time as text: ISO 8601 in UTC with milliseconds."""
    if at is None:
        return None
    return f"{at.astimezone(UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def _pick(row: Mapping[str, Any], fields: Iterable[str], times: Iterable[str]) -> View:
    view = {field: row[field] for field in fields}
    view |= {field: instant(row[field]) for field in times}
    return view | {"reason": reason_of(row)}


def task_id_of(database: Database, name: str) -> TaskId:
    """Return the number of a task given by number or name; of a name, the newest task.

    Raises:
        NotFound: There is no such task.
    """
    with database.snapshot() as connection:
        return _task_id(connection, name)


def _task_id(connection: Connection, name: str) -> TaskId:
    number = _number(name)
    if number is not None and tasks.get(connection, TaskId(number)) is not None:
        return TaskId(number)
    found = tasks.latest_of_name(connection, name) if name.isprintable() else None
    if found is None:
        raise NotFound("task", name, "see `glideflow tasks`")
    return found


def _number(text: str) -> int | None:
    """Return a text's value if it is a number that fits an identifier."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def job_id_of(database: Database, name: str) -> JobId:
    """Return the number of a job given by number, or as `TASK.INDEX` or `TASK.merge`.

    Raises:
        NotFound: There is no such job.
    """
    task, _, index = name.rpartition(".")
    with database.snapshot() as connection:
        number = _number(name)
        if number is not None:
            row = jobs.get(connection, JobId(number))
        elif task and index == jobs.MERGE:
            row = jobs.last_merge(connection, _task_id(connection, task))
        elif task and (_number(index) or 0) < 2**31 and _number(index) is not None:
            row = jobs.at_index(connection, _task_id(connection, task), jobs.MAIN, int(index))
        else:
            row = None
    if row is None:
        raise NotFound("job", name, "give its number, or TASK.INDEX; see `glideflow jobs TASK`")
    return JobId(row["id"])


def _task_view(row: Mapping[str, Any], counts: Mapping[str, int], merge: Mapping[str, Any] | None) -> View:
    counts = _with_unwritten(row, counts)
    return {
        **_pick(row, _TASK_FIELDS, ("created_at", "ended_at")),
        "jobs": {
            "total": row["jobs_total"] or sum(counts.values()),
            **{state.value: counts.get(state.value, 0) for state in JobState},
        },
        "merge": {"job_id": merge["id"], "state": merge["state"]} if merge else None,
    }


def _with_unwritten(
    row: Mapping[str, Any], counts: Mapping[str, int], *, first: int = 0, last: int = _MOST_JOBS
) -> Mapping[str, int]:
    """Count the jobs in a range that are known and not written: they wait, or ended with their task."""
    missing = min(last + 1, row["jobs_total"] or 0) - max(first, row["jobs_written"])
    if missing <= 0:
        return counts
    state = JobState.CANCELLED if row["state"] in FINAL_TASKS else JobState.WAITING
    return {**counts, state.value: counts.get(state.value, 0) + missing}


def task_page(database: Database, *, state: str | None, cursor: int | None, limit: int) -> View:
    """Return a page of tasks, the newest first."""
    with database.snapshot() as connection:
        rows = tasks.page(connection, state=state, before=cursor, limit=limit + 1)
        shown = rows[:limit]
        counts = tally.by_state(connection, [row["id"] for row in shown], stage=jobs.MAIN)
        items = [_task_view(row, counts[row["id"]], _merge_of(connection, row["id"])) for row in shown]
    return {"items": items, "next": shown[-1]["id"] if len(rows) > limit else None}


def _merge_of(connection: Connection, task_id: int) -> Mapping[str, Any] | None:
    return jobs.last_merge(connection, TaskId(task_id))


def task(database: Database, task_id: TaskId) -> View:
    """Return one task."""
    with database.snapshot() as connection:
        return _task(connection, _task_row(connection, task_id))


def _task_row(connection: Connection, task_id: TaskId) -> Mapping[str, Any]:
    row = tasks.get(connection, task_id)
    if row is None:
        raise NotFound("task", task_id, "see `glideflow tasks`")
    return row


def _task(connection: Connection, row: Mapping[str, Any]) -> View:
    counts = tally.by_state(connection, [row["id"]], stage=jobs.MAIN)[row["id"]]
    view = _task_view(row, counts, _merge_of(connection, row["id"]))
    more = {key: row[key] for key in ("spec", "source", "scouts", "decision")}
    return {**view, **more, "parents": parents.of_task(connection, row["id"])}


def job_view(row: Mapping[str, Any]) -> View:
    """Return a job's row as users see it."""
    return _pick(row, _JOB_FIELDS, ("created_at", "started_at", "ended_at", "not_before"))


def job_page(
    database: Database, task_id: TaskId, *, state: str | None, stage: str | None, cursor: int, limit: int
) -> View:
    """Return a page of a task's jobs."""
    with database.snapshot() as connection:
        rows = jobs.page(connection, task_id, state=state, stage=stage, after=cursor, limit=limit + 1)
    shown = rows[:limit]
    return {"items": [job_view(row) for row in shown], "next": shown[-1]["id"] if len(rows) > limit else None}


def job(database: Database, job_id: JobId) -> View:
    """Return one job."""
    with database.snapshot() as connection:
        return job_view(_job(connection, job_id))


def _job(connection: Connection, job_id: JobId) -> Mapping[str, Any]:
    row = jobs.get(connection, job_id)
    if row is None:
        raise NotFound("job", job_id, "see `glideflow jobs TASK`")
    return row


def attempts_of(connection: Connection, job_id: JobId) -> list[View]:
    """Return the attempts of a job."""
    times = ("claimed_at", "started_at", "ended_at")
    return [_pick(row, _ATTEMPT_FIELDS, times) for row in attempts.of_job(connection, job_id)]


def attempt_of(database: Database, job_id: JobId, number: int | None) -> View:
    """Return one attempt of a job; the last one without a number.

    Raises:
        NotFound: There is no such job or attempt.
    """
    with database.snapshot() as connection:
        _job(connection, job_id)
        found = attempts_of(connection, job_id)
    for attempt in reversed(found):
        if number in (None, attempt["number"]):
            return attempt
    remedy = f"it has {len(found)}" if found else "no pilot has taken it yet; see `glideflow explain`"
    raise NotFound(f"attempt {number or ''} of job".replace("  ", " "), job_id, remedy)


def progress(database: Database, task_id: TaskId, *, first: int = 0, last: int | None = None) -> View:
    """Return how far a task is: its present stage, jobs by state and site, failures by reason.

    Args:
        database: The store.
        task_id: The task.
        first: First job number that is counted in `by_state`.
        last: Last job number that is counted.
    """
    with database.snapshot() as connection:
        row = _task_row(connection, task_id)
        shown = _task(connection, row)
        stage = jobs.MERGE if shown["merge"] and shown["state"] in ("merging", "done") else jobs.MAIN
        end = _MOST_JOBS if last is None else last
        if first == 0 and last is None:
            written = tally.by_state(connection, [task_id], stage=jobs.MAIN)[task_id]
        else:
            written = jobs.counts_in(connection, task_id, first=first, last=end)
        counts = _with_unwritten(row, written, first=first, last=end)
        sites: dict[str, dict[str, int]] = defaultdict(dict)
        for row in tally.by_site(connection, task_id, stage=jobs.MAIN):
            sites[row["site"] or "-"][row["state"]] = row["n"]
        failures = tally.failures(connection, task_id)
        open_jobs = bool(tally.with_open_jobs(connection, [task_id]))
    del shown["source"]
    planned = shown["state"] not in ("submitted", "planning")
    return {
        "task": shown,
        "stage": stage,
        "ended": planned and not open_jobs,
        "total": sum(counts.values()),
        "finished": sum(n for state, n in counts.items() if state in FINAL_JOBS),
        "by_state": counts,
        "by_site": [{"site": site, "states": states} for site, states in sorted(sites.items())],
        "failures": failures,
    }


def outputs(database: Database, task_id: TaskId) -> View:
    """Return the files that a task made."""
    with database.snapshot() as connection:
        if tasks.get(connection, task_id) is None:
            raise NotFound("task", task_id, "see `glideflow tasks`")
        return {"items": files.of_task(connection, task_id)}


def dataset(database: Database, name: str) -> View:
    """Return the files of a dataset; `name@12` takes what task 12 wrote.

    Raises:
        NotFound: There is no such dataset.
    """
    base, _, number = name.partition("@")
    with database.snapshot() as connection:
        known = not number or number.isdigit()
        found = files.of_dataset(connection, base, TaskId(int(number)) if number else None) if known else None
    if found is None:
        raise NotFound("dataset", name, "see `glideflow datasets`")
    counted = [row["events"] for row in found if row["events"] is not None]
    return {
        "name": name,
        "files": found,
        "size_bytes": sum(row["size_bytes"] for row in found),
        "events": sum(counted) if counted else None,
    }


def dataset_page(database: Database) -> View:
    """Return all datasets."""
    with database.snapshot() as connection:
        rows = files.datasets(connection)
    return {"items": [{**row, "created_at": instant(row["created_at"])} for row in rows]}


def pilot_page(database: Database, *, site: str | None, everything: bool, limit: int) -> View:
    """Return pilots, the newest first."""
    times = ("planned_at", "registered_at", "last_seen_at", "ended_at")
    with database.snapshot() as connection:
        rows = pilots.page(connection, site=site, everything=everything, limit=limit)
    return {"items": [_pick(row, (*_PILOT_FIELDS, "running"), times) for row in rows]}


def site_page(database: Database, sites: Iterable[Site]) -> View:
    """Return the sites with their pilots and the last decision about each."""
    with database.snapshot() as connection:
        counts, decisions = pilots.counts(connection), pilots.decisions(connection)
    return {
        "items": [
            {
                **site.model_dump(),
                "pilots": counts.get(site.name, {}),
                "decision": _decision(decisions.get(site.name)),
            }
            for site in sites
        ]
    }


def _decision(row: Mapping[str, Any] | None) -> View | None:
    if row is None:
        return None
    return {"n": row["pilots"], "reasons": row["reasons"], "at": instant(row["at"])}


def event_page(
    database: Database, *, task: int | None, kind: str | None, subject: str | None, cursor: int, limit: int
) -> View:
    """Return a page of the event log, the oldest first."""
    with database.snapshot() as connection:
        rows: Sequence[Mapping[str, Any]] = outbox.events(
            connection, task_id=task, kind=kind, subject=subject, after=cursor, limit=limit + 1
        )
    shown = rows[:limit]
    fields = ("id", "kind", "subject", "task_id", "old_state", "new_state")
    return {
        "items": [_pick(row, fields, ("at",)) for row in shown],
        "next": shown[-1]["id"] if len(rows) > limit else None,
    }
