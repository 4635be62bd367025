# SPDX-License-Identifier: Apache-2.0
"""Say in sentences what a job waits for, or why it ended."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from glideflow.domain.identifiers import JobId
from glideflow.domain.shares import ShareConfig
from glideflow.domain.states import JobState
from glideflow.errors import NotFound
from glideflow.services.explain_ready import where_and_when
from glideflow.services.views import View, attempts_of, job_view
from glideflow.store import jobs
from glideflow.store.engine import Connection, Database

Row = Mapping[str, Any]


def explain(database: Database, shares: ShareConfig, job_id: JobId, now: datetime) -> View:
    """Explain a job.

    Args:
        database: The store.
        shares: The shares and limits.
        job_id: The job.
        now: The time, for "since" and "in".

    Returns:
        The job, the sentences, and its attempts.

    Raises:
        NotFound: There is no such job.
    """
    with database.snapshot() as connection:
        job = jobs.get(connection, job_id)
        if job is None:
            raise NotFound("job", job_id, "see `glideflow jobs TASK`")
        tries = attempts_of(connection, job_id)
        last_verdict = tries[-1]["verdict"] if tries else None
        paused = _paused(job)
        sentences = [
            *_history(job, tries),
            *(paused or _EXPLAIN[JobState(job["state"])](connection, {**job, "verdict": last_verdict}, now)),
            *(where_and_when(connection, shares, job) if job["state"] == JobState.READY and not paused else ()),
        ]
    return {"job": job_view(job), "sentences": sentences, "attempts": tries}


def _paused(job: Row) -> list[str]:
    """Say why a job that waits is not handed out, where a user ordered that."""
    if job["state"] not in (JobState.READY, JobState.WAITING):
        return []
    found = []
    if job["task_paused"]:
        found.append(f"Task {job['task_id']} is paused: `glideflow resume {job['task_id']}` lets it go on.")
    if job["paused"]:
        found.append(f"It is paused: `glideflow resume --job {job['id']}` lets it go on.")
    return found


def _history(job: Row, tries: Sequence[View]) -> Iterator[str]:
    """Tell of the last attempts; of a failed job's last one its own sentence tells."""
    failed = [attempt for attempt in tries if attempt["reason"]]
    if job["state"] == JobState.FAILED:
        failed = failed[:-1]
    if len(tries) > 1:
        yield f"It was tried {len(tries)} times."
    for attempt in failed[-3:]:
        place = attempt["node"] or attempt["site"]
        then = f" {attempt['verdict']}" if attempt["verdict"] else ""
        yield f"Attempt {attempt['number']} on {place} ended as {attempt['state']}: {attempt['reason']['text']}.{then}"


def _waiting(connection: Connection, job: Row, now: datetime) -> Iterator[str]:
    if job["not_before"] is not None:
        seconds = max((job["not_before"] - now).total_seconds(), 0)
        until = job["not_before"].astimezone(UTC).strftime("%H:%M:%S")
        yield f"It waits {seconds:.0f} s more before the next attempt, until {until} UTC."
    else:
        yield "It waits for its inputs."


def _ready(connection: Connection, job: Row, now: datetime) -> Iterator[str]:
    ahead = jobs.ahead(connection, job)
    more = " or more" if ahead >= 10_000 else ""
    yield f"It is ready: the next free pilot that fits takes it. {ahead}{more} ready jobs like it come before it."


def _claimed(connection: Connection, job: Row, now: datetime) -> Iterator[str]:
    yield f"A pilot on {job['node']} (site {job['site']}) took it and prepares its files; the command starts next."


def _running(connection: Connection, job: Row, now: datetime) -> Iterator[str]:
    since = f" for {(now - job['started_at']).total_seconds():.0f} s" if job["started_at"] else ""
    yield f"Its command runs on {job['node']} (site {job['site']}){since}; at most {job['wall_seconds']} s are allowed."
    yield f"`glideflow log {job['id']} --follow` shows what it prints."


def _verifying(connection: Connection, job: Row, now: datetime) -> Iterator[str]:
    yield "Its pilot reported the end; the server checks that the outputs are complete."


def _done(connection: Connection, job: Row, now: datetime) -> Iterator[str]:
    took = ""
    if job["started_at"] and job["ended_at"]:
        took = f" after {(job['ended_at'] - job['started_at']).total_seconds():.1f} s"
    yield f"It is done{took} on {job['node']} (site {job['site']}), with verified outputs."


def _failed(connection: Connection, job: Row, now: datetime) -> Iterator[str]:
    yield f"It failed for good: {job['reason_text']} [{job['reason_code']}, said by the {job['reason_source']}]."
    if job["verdict"]:
        yield job["verdict"]
    yield (f"`glideflow log {job['id']}` shows what it printed; `glideflow retry --job {job['id']}` runs it again.")


def _cancelled(connection: Connection, job: Row, now: datetime) -> Iterator[str]:
    yield f"It was cancelled: {job['reason_text']}."
    yield f"`glideflow retry --job {job['id']}` runs it again."


_Explain = Callable[[Connection, Row, datetime], Iterator[str]]
_EXPLAIN: Mapping[JobState, _Explain] = {
    JobState.WAITING: _waiting,
    JobState.READY: _ready,
    JobState.CLAIMED: _claimed,
    JobState.RUNNING: _running,
    JobState.VERIFYING: _verifying,
    JobState.TRANSFERRING: _verifying,
    JobState.DONE: _done,
    JobState.FAILED: _failed,
    JobState.CANCELLED: _cancelled,
}
