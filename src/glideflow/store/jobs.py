# SPDX-License-Identifier: Apache-2.0
"""Queries on jobs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from glideflow.domain.identifiers import DemandId, JobId, TaskId
from glideflow.domain.job import JobPlan
from glideflow.domain.reasons import Reason
from glideflow.domain.retrying import Selection
from glideflow.domain.states import JobState
from glideflow.store import demands
from glideflow.store.engine import Connection
from glideflow.store.moves import move, move_each, strings

Row = dict[str, Any]

MAIN = "main"
MERGE = "merge"

_SHOWN = """j.*, t.name AS task, (t.spec->>'retries')::int AS retries, d.priority, d.wall_seconds,
    d.paused AND j.state NOT IN ('done', 'failed', 'cancelled') AS paused, t.paused AS task_paused"""
_NAMED = f"SELECT {_SHOWN} FROM jobs j JOIN tasks t ON t.id = j.task_id JOIN demands d ON d.id = j.demand_id"
_COPY = "COPY jobs (task_id, demand_id, stage, index, state, slices) FROM STDIN"


def insert(connection: Connection, task_id: TaskId, demand_id: DemandId, stage: str, plans: Iterable[JobPlan]) -> int:
    """Write jobs of one stage of a task, ready to be claimed.

    Args:
        connection: The caller's transaction.
        task_id: The task.
        demand_id: What each of them needs.
        stage: `main` or `merge`.
        plans: The jobs, in order; read once.

    Returns:
        How many were written.
    """
    count = 0
    with connection.cursor().copy(_COPY) as copy:
        for plan in plans:
            slices = [[piece.file, piece.first_event, piece.events] for piece in plan.slices]
            copy.write_row((task_id, demand_id, stage, plan.index, "ready", Jsonb(slices)))
            count += 1
    return count


def take_ready(connection: Connection, wanted: Mapping[DemandId, int]) -> list[Row]:
    """Lock so many ready jobs of each demand, in their order; jobs that others are taking are skipped.

    What is paused is asked here and not of the board, which other endpoints' commands reach a moment later.

    Returns:
        The jobs; fewer where there are not so many.
    """
    return connection.execute(
        """
        SELECT j.* FROM unnest(%s::bigint[], %s::int[]) AS w(demand_id, n)
        JOIN demands d ON d.id = w.demand_id AND NOT d.paused JOIN tasks t ON t.id = d.task_id AND NOT t.paused
        CROSS JOIN LATERAL (
            SELECT id, demand_id, task_id, stage, index, slices, attempts FROM jobs
            WHERE demand_id = w.demand_id AND state = 'ready' ORDER BY id LIMIT w.n FOR UPDATE SKIP LOCKED
        ) j
        """,
        [list(wanted), list(wanted.values())],
    ).fetchall()


def claim(connection: Connection, claims: Sequence[Mapping[str, Any]]) -> None:
    """Move locked ready jobs to `claimed`, counting the attempt; rows with `id`, `site`, `node`."""
    move_each(
        connection,
        JobState.CLAIMED,
        [{"code": None, "text": None, "source": None, **claim} for claim in claims],
        columns=", site text, node text",
        set_also=", attempts = attempts + 1, site = r.site, node = r.node, started_at = NULL, exit_code = NULL",
    )


def settle(
    connection: Connection, to: JobState, rows: Sequence[Mapping[str, Any]], *, via: JobState | None = None
) -> list[JobId]:
    """Move jobs to where an attempt's end sends them.

    Args:
        connection: The caller's transaction.
        to: DONE, FAILED, READY or WAITING.
        rows: `id`, reason values, `failures`, `delay` in seconds, `exit_code` and `started_at` of each; where they
            change also `rule_counts` and `demand_id`.
        via: VERIFYING for attempts of which the pilot reported the end.
    """
    return move_each(
        connection,
        to,
        rows,
        via=via,
        columns=""", failures int, delay float8, exit_code int, started_at timestamptz, rule_counts jsonb,
            demand_id bigint""",
        set_also=""", failures = r.failures, exit_code = r.exit_code,
            rule_counts = coalesce(r.rule_counts, t.rule_counts), demand_id = coalesce(r.demand_id, t.demand_id),
            started_at = coalesce(t.started_at, r.started_at),
            not_before = CASE WHEN r.delay > 0 THEN now() + r.delay * interval '1 second' END,
            ended_at = CASE WHEN %(to)s IN ('done', 'failed') THEN now() END""",
    )


def wake(connection: Connection) -> int:
    """Make the jobs ready whose delay is over; returns how many."""
    due = connection.execute(
        """
        SELECT id, reason_code AS code, reason_text AS text, reason_source AS source FROM jobs
        WHERE state = 'waiting' AND not_before <= now() ORDER BY id FOR UPDATE SKIP LOCKED
        """
    ).fetchall()
    # The reason of the failure before stays visible until the next claim.
    return len(move_each(connection, JobState.READY, due, set_also=", not_before = NULL"))


def ask_otherwise(connection: Connection, job_ids: Iterable[JobId], wanted: Mapping[str, Any]) -> list[JobId]:
    """Let jobs that are not done ask for something else.

    Args:
        connection: The caller's transaction.
        job_ids: The jobs.
        wanted: What is new, as `store.demands.change` takes it.

    Returns:
        The jobs for which that changed anything.
    """
    of_demand: dict[DemandId, list[JobId]] = defaultdict(list)
    for row in lock(connection, job_ids):
        if row["state"] != JobState.DONE:
            of_demand[row["demand_id"]].append(row["id"])
    changed = []
    for old, members in sorted(of_demand.items()):
        new = demands.change(connection, old, wanted)
        if new != old:
            connection.execute("UPDATE jobs SET demand_id = %s WHERE id = ANY(%s)", [new, members])
            changed += members
    return sorted(changed)


def lock(connection: Connection, job_ids: Iterable[JobId]) -> list[Row]:
    """Lock jobs and return what is needed to judge them, in the order of their ids."""
    return connection.execute(
        """
        SELECT id, task_id, state, demand_id, failures, rule_counts, site, node FROM jobs
        WHERE id = ANY(%s) ORDER BY id FOR UPDATE
        """,
        [sorted(set(job_ids))],
    ).fetchall()


def get(connection: Connection, job_id: JobId) -> Row | None:
    """Return a job's row with its task's name."""
    return connection.execute(f"{_NAMED} WHERE j.id = %s", [job_id]).fetchone()


_PARTS: Mapping[str, LiteralString] = {
    JobState.READY: "state = 'ready'",
    JobState.WAITING: "state = 'waiting'",
    JobState.DONE: "state = 'done'",
    **dict.fromkeys(
        (JobState.CLAIMED, JobState.RUNNING, JobState.VERIFYING, JobState.TRANSFERRING),
        "state IN ('claimed', 'running', 'verifying', 'transferring')",
    ),
    **dict.fromkeys((JobState.FAILED, JobState.CANCELLED), "state IN ('failed', 'cancelled')"),
}
"""The partial index of each state, as it is defined."""


def page(
    connection: Connection, task_id: TaskId, *, state: str | None, stage: str | None, after: int, limit: int
) -> list[Row]:
    """Return jobs of a task in their order, after the one with the id `after`."""
    if state is not None and state not in _PARTS:
        return []
    # Jobs of one state are found by the demands' index for it, all jobs by reading on from the cursor.
    source = (
        f"""demands d CROSS JOIN LATERAL (
            SELECT * FROM jobs WHERE demand_id = d.id AND {_PARTS[state]} AND state = %(state)s AND id > %(after)s
            ORDER BY id LIMIT %(limit)s
        ) j WHERE d.task_id = %(task)s"""
        if state
        else "jobs j WHERE j.task_id = %(task)s AND (j.stage, j.index) > (%(after_stage)s, %(after_index)s)"
    )
    order = "j.id" if state else "j.stage, j.index"
    cursor = connection.execute("SELECT stage, index FROM jobs WHERE id = %s", [after]).fetchone()
    return connection.execute(
        f"""
        SELECT {_SHOWN} FROM (
            SELECT j.* FROM {source} AND (%(stage)s::text IS NULL OR j.stage = %(stage)s)
            ORDER BY {order} LIMIT %(limit)s
        ) j JOIN tasks t ON t.id = j.task_id JOIN demands d ON d.id = j.demand_id ORDER BY {order}
        """,
        {
            "task": task_id,
            "after": after,
            "after_stage": cursor["stage"] if cursor else "",
            "after_index": cursor["index"] if cursor else 0,
            "state": state,
            "stage": stage,
            "limit": limit,
        },
    ).fetchall()


def at_index(connection: Connection, task_id: TaskId, stage: str, index: int) -> Row | None:
    """Return the job of a task with a number."""
    return connection.execute(
        f"{_NAMED} WHERE j.task_id = %s AND j.stage = %s AND j.index = %s", [task_id, stage, index]
    ).fetchone()


def last_merge(connection: Connection, task_id: TaskId) -> Row | None:
    """Return the merge job of a task; of several, each made because more main jobs were done, the last."""
    return connection.execute(
        f"{_NAMED} WHERE j.task_id = %s AND j.stage = 'merge' ORDER BY j.index DESC LIMIT 1", [task_id]
    ).fetchone()


def done_since(connection: Connection, task_id: TaskId, at: datetime) -> bool:
    """Tell whether main jobs of a task were done after some time."""
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM jobs WHERE task_id = %s AND stage = 'main' AND state = 'done' AND ended_at > %s
        ) AS found
        """,
        [task_id, at],
    ).fetchone()
    return bool((row or {})["found"])


def run_again(connection: Connection, job_ids: Iterable[JobId], reason: Reason) -> list[JobId]:
    """Make failed and cancelled jobs ready, as if they had never run; returns those that were."""
    return move(
        connection,
        JobState.READY,
        job_ids,
        reason=reason,
        set_also=", ended_at = NULL, not_before = NULL, failures = 0, rule_counts = NULL",
    )


def counts_in(connection: Connection, task_id: TaskId, *, first: int, last: int) -> dict[str, int]:
    """Count a task's main jobs by state in a range of their numbers."""
    rows = connection.execute(
        """
        SELECT state, count(*) AS n FROM jobs
        WHERE task_id = %s AND stage = 'main' AND index BETWEEN %s AND %s GROUP BY state
        """,
        [task_id, first, last],
    )
    return {row["state"]: row["n"] for row in rows}


def of_task(
    connection: Connection, task_id: TaskId, states: Iterable[JobState], *, stage: str | None = None
) -> list[JobId]:
    """Return the ids of a task's jobs in some states, of one stage or of all."""
    rows = connection.execute(
        """
        SELECT id FROM jobs WHERE task_id = %(task)s AND state = ANY(%(states)s)
            AND (%(stage)s::text IS NULL OR stage = %(stage)s) ORDER BY id
        """,
        {"task": task_id, "states": strings(states), "stage": stage},
    )
    return [JobId(row["id"]) for row in rows]


def unsuccessful(connection: Connection, task_id: TaskId, selection: Selection, *, stage: str) -> list[Row]:
    """Return some of a task's failed and cancelled jobs in one stage, of merge jobs the last only.

    Args:
        connection: The caller's transaction.
        task_id: The task.
        selection: Which ones.
        stage: `main` or `merge`.

    Returns:
        `id`, `stage`, `state` and `demand_id` of each, in the order of their ids.
    """
    return connection.execute(
        """
        SELECT j.id, j.stage, j.state, j.demand_id FROM demands d JOIN jobs j ON j.demand_id = d.id
        WHERE d.task_id = %(task)s AND d.stage = %(stage)s AND j.state IN ('failed', 'cancelled')
            AND (j.state = ANY(%(states)s) OR j.reason_code = ANY(%(codes)s))
            AND (%(stage)s = 'main' OR j.index = (
                SELECT max(index) FROM jobs WHERE task_id = %(task)s AND stage = 'merge'
            ))
        ORDER BY j.id
        """,
        {
            "task": task_id,
            "stage": stage,
            "states": strings(selection.states),
            "codes": strings(selection.codes),
        },
    ).fetchall()


def some(connection: Connection, job_ids: Sequence[JobId]) -> list[Row]:
    """Return some jobs with their tasks' names, in the order of their ids."""
    return connection.execute(f"{_NAMED} WHERE j.id = ANY(%s) ORDER BY j.id", [list(job_ids)]).fetchall()


def ahead(connection: Connection, job: Mapping[str, Any]) -> int:
    """Count the ready jobs of its demand that are taken before a job, up to 10,000."""
    row = connection.execute(
        """
        SELECT count(*) AS n FROM (
            SELECT 1 FROM jobs WHERE demand_id = %s AND state = 'ready' AND id < %s LIMIT 10000
        ) before
        """,
        [job["demand_id"], job["id"]],
    ).fetchone()
    return int((row or {"n": 0})["n"])
