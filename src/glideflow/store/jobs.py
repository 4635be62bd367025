# SPDX-License-Identifier: Apache-2.0
"""Queries on jobs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from psycopg.types.json import Jsonb

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.job import JobPlan
from glideflow.domain.matching import Offer
from glideflow.domain.states import JobState
from glideflow.domain.task import Resources
from glideflow.store.engine import Connection
from glideflow.store.moves import move_each, strings

Row = dict[str, Any]

MAIN = "main"
MERGE = "merge"

_COPY = """
    COPY jobs (task_id, stage, index, state, priority, slices, cores, memory_mb, disk_mb, wall_seconds, pinned_site,
        retries)
    FROM STDIN
"""


def insert(
    connection: Connection,
    task: Mapping[str, Any],
    stage: str,
    plans: Iterable[JobPlan],
    resources: Resources,
) -> int:
    """Write the jobs of one stage of a task, ready to be claimed.

    Args:
        connection: The caller's transaction.
        task: The task's row.
        stage: `main` or `merge`.
        plans: The jobs, in order; read once.
        resources: What each needs.

    Returns:
        How many were written.
    """
    spec = task["spec"]
    tail = (
        resources.cores,
        resources.memory_mb,
        resources.disk_mb,
        resources.wall_seconds,
        spec.get("site"),
        spec["retries"],
    )
    count = 0
    with connection.cursor().copy(_COPY) as copy:
        for plan in plans:
            slices = [[piece.file, piece.first_event, piece.events] for piece in plan.slices]
            copy.write_row((task["id"], stage, plan.index, "ready", task["priority"], Jsonb(slices), *tail))
            count += 1
    return count


_FITTING = """
    FROM jobs j JOIN tasks t ON t.id = j.task_id
    WHERE j.state = 'ready' AND NOT t.paused AND (j.pinned_site IS NULL OR j.pinned_site = %(site)s)
        AND j.cores <= %(cores)s AND j.memory_mb <= %(memory_mb)s AND j.disk_mb <= %(disk_mb)s
        AND j.wall_seconds <= %(seconds)s
"""


def ready(connection: Connection, room: Offer, limit: int) -> list[Row]:
    """Lock the most urgent ready jobs that fit; jobs that others are taking are skipped.

    Args:
        connection: The caller's transaction.
        room: The site, and the most that one pilot of it has free.
        limit: Most jobs.
    """
    return connection.execute(
        f"""
        SELECT j.id, j.task_id, j.stage, j.index, j.slices, j.cores, j.memory_mb, j.disk_mb, j.wall_seconds,
            j.pinned_site, j.attempts
        {_FITTING} ORDER BY j.priority DESC, j.id LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED
        """,
        {**asdict(room), "limit": limit},
    ).fetchall()


def demand(connection: Connection, room: Offer) -> Row:
    """Count the ready jobs that a pilot could take.

    Args:
        connection: The caller's transaction.
        room: The site and what an empty pilot of it has.

    Returns:
        `jobs` and their `cores` together. At most 100,000 jobs are looked at: beyond that no site needs a number.
    """
    row = connection.execute(
        f"SELECT count(*) AS jobs, coalesce(sum(cores), 0) AS cores FROM (SELECT j.cores {_FITTING} LIMIT 100000) f",
        asdict(room),
    ).fetchone()
    return row or {"jobs": 0, "cores": 0}


def claim(connection: Connection, claims: Sequence[Mapping[str, Any]]) -> None:
    """Move locked ready jobs to `claimed`, counting the attempt; rows with `id`, `site`, `node`."""
    move_each(
        connection,
        JobState.CLAIMED,
        [{"code": None, "text": None, "source": None, **claim} for claim in claims],
        columns=", site text, node text",
        set_also=", attempts = attempts + 1, site = r.site, node = r.node, started_at = NULL, exit_code = NULL",
    )


def settle(connection: Connection, to: JobState, rows: Sequence[Mapping[str, Any]]) -> list[JobId]:
    """Move jobs to where an attempt's end sends them.

    Args:
        connection: The caller's transaction.
        to: DONE, FAILED, READY or WAITING.
        rows: `id`, reason values, `failures`, `delay` in seconds and `exit_code` of each.
    """
    return move_each(
        connection,
        to,
        rows,
        columns=", failures int, delay float8, exit_code int",
        set_also=""", failures = r.failures, exit_code = r.exit_code,
            not_before = CASE WHEN r.delay > 0 THEN now() + r.delay * interval '1 second' END,
            ended_at = CASE WHEN %(to)s IN ('done', 'failed') THEN now() END""",
    )


def wake(connection: Connection) -> int:
    """Make the jobs ready whose delay is over; returns how many."""
    due = connection.execute(
        "SELECT id FROM jobs WHERE state = 'waiting' AND not_before <= now() ORDER BY id FOR UPDATE SKIP LOCKED"
    ).fetchall()
    # The reason of the failure before stays visible until the next claim.
    return connection.execute(
        "UPDATE jobs SET state = 'ready', not_before = NULL WHERE id = ANY(%s) AND state = 'waiting'",
        [[row["id"] for row in due]],
    ).rowcount


def get(connection: Connection, job_id: JobId) -> Row | None:
    """Return a job's row with its task's name."""
    return connection.execute(
        "SELECT j.*, t.name AS task FROM jobs j JOIN tasks t ON t.id = j.task_id WHERE j.id = %s", [job_id]
    ).fetchone()


def page(
    connection: Connection, task_id: TaskId, *, state: str | None, stage: str | None, after: int, limit: int
) -> list[Row]:
    """Return jobs of a task in the order of their ids."""
    return connection.execute(
        """
        SELECT j.*, t.name AS task FROM jobs j JOIN tasks t ON t.id = j.task_id
        WHERE j.task_id = %(task)s AND j.id > %(after)s AND (%(state)s::text IS NULL OR j.state = %(state)s)
            AND (%(stage)s::text IS NULL OR j.stage = %(stage)s)
        ORDER BY j.id LIMIT %(limit)s
        """,
        {"task": task_id, "after": after, "state": state, "stage": stage, "limit": limit},
    ).fetchall()


def at_index(connection: Connection, task_id: TaskId, stage: str, index: int) -> Row | None:
    """Return the job of a task with a number."""
    return connection.execute(
        """
        SELECT j.*, t.name AS task FROM jobs j JOIN tasks t ON t.id = j.task_id
        WHERE j.task_id = %s AND j.stage = %s AND j.index = %s
        """,
        [task_id, stage, index],
    ).fetchone()


def counts(
    connection: Connection, task_ids: Sequence[int], *, stage: str = MAIN, first: int = 0, last: int | None = None
) -> dict[int, dict[str, int]]:
    """Count jobs by state for some tasks, in a range of job numbers."""
    rows = connection.execute(
        """
        SELECT task_id, state, count(*) AS n FROM jobs
        WHERE task_id = ANY(%s) AND stage = %s AND index BETWEEN %s AND %s GROUP BY task_id, state
        """,
        [list(task_ids), stage, first, 2**31 - 1 if last is None else last],
    )
    found: dict[int, dict[str, int]] = {task: {} for task in task_ids}
    for row in rows:
        found[row["task_id"]][row["state"]] = row["n"]
    return found


def counts_by_site(connection: Connection, task_id: TaskId) -> list[Row]:
    """Count a task's main jobs by the site that took them last, and state."""
    return connection.execute(
        """
        SELECT site, state, count(*) AS n FROM jobs WHERE task_id = %s AND stage = 'main'
        GROUP BY site, state ORDER BY site, state
        """,
        [task_id],
    ).fetchall()


def failures(connection: Connection, task_id: TaskId, *, limit: int = 50) -> list[Row]:
    """Group a task's failed jobs by reason, exit code and site, the most frequent first."""
    return connection.execute(
        """
        SELECT reason_code AS code, exit_code, site, count(*) AS count, min(reason_text) AS text, min(id) AS job_id
        FROM jobs WHERE task_id = %s AND state = 'failed'
        GROUP BY reason_code, exit_code, site ORDER BY count(*) DESC, reason_code LIMIT %s
        """,
        [task_id, limit],
    ).fetchall()


def with_open_stage(connection: Connection, task_ids: Iterable[int]) -> set[int]:
    """Return which of some tasks have a job that has not ended."""
    rows = connection.execute(
        """
        SELECT w.id FROM unnest(%s::bigint[]) AS w(id)
        WHERE EXISTS (SELECT FROM jobs j WHERE j.task_id = w.id AND j.state NOT IN ('done', 'failed', 'cancelled'))
        """,
        [sorted(set(task_ids))],
    )
    return {row["id"] for row in rows}


def of_task(connection: Connection, task_id: TaskId, states: Iterable[JobState]) -> list[JobId]:
    """Return the ids of a task's jobs in some states."""
    rows = connection.execute(
        "SELECT id FROM jobs WHERE task_id = %s AND state = ANY(%s) ORDER BY id", [task_id, strings(states)]
    )
    return [JobId(row["id"]) for row in rows]


def ahead(connection: Connection, job: Mapping[str, Any]) -> int:
    """Count the ready jobs that are taken before a job, up to 10,000."""
    row = connection.execute(
        """
        SELECT count(*) AS n FROM (
            SELECT 1 FROM jobs WHERE state = 'ready' AND (priority, -id) > (%s, %s) LIMIT 10000
        ) before
        """,
        [job["priority"], -job["id"]],
    ).fetchone()
    return int((row or {"n": 0})["n"])


def any_ready(connection: Connection) -> bool:
    """Tell whether any job of a task that is not paused is ready."""
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM jobs j JOIN tasks t ON t.id = j.task_id WHERE j.state IN ('ready', 'waiting') AND NOT t.paused
        ) AS found
        """
    ).fetchone()
    return bool((row or {})["found"])
