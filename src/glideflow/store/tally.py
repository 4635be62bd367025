# SPDX-License-Identifier: Apache-2.0
"""Counts of jobs, which the triggers of the table `jobs` keep: they cost the same with a million jobs as with ten.

A statement that moves jobs adds a few rows to `tally_deltas`; `fold` moves them into `tally`. Every query adds both up,
so that it is exact at any time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from glideflow.domain.identifiers import TaskId
from glideflow.store.engine import Connection

Row = dict[str, Any]

DIMENSIONS: Mapping[str, LiteralString] = {
    "reason": "reason_code",
    "exit_code": "exit_code",
    "site": "site",
    "node": "node",
}
"""By what failed jobs are counted: names for users, and columns."""
USUAL_DIMENSIONS = ("reason", "exit_code", "site")
_ALL = "(SELECT * FROM tally UNION ALL SELECT * FROM tally_deltas)"


def fold(connection: Connection) -> None:
    """Move what was counted since the last time into the tally; one process at a time, the others do nothing."""
    alone = connection.execute("SELECT pg_try_advisory_xact_lock(7305818) AS alone").fetchone()
    if not (alone or {})["alone"]:
        return
    connection.execute(
        """
        WITH new AS (DELETE FROM tally_deltas RETURNING *)
        INSERT INTO tally (demand_id, state, site, node, reason_code, exit_code, n)
        SELECT demand_id, state, site, node, reason_code, exit_code, sum(n) FROM new
        WHERE EXISTS (SELECT FROM demands d WHERE d.id = demand_id)
        GROUP BY demand_id, state, site, node, reason_code, exit_code HAVING sum(n) <> 0
        ON CONFLICT (demand_id, state, site, node, reason_code, exit_code) DO UPDATE SET n = tally.n + excluded.n
        """
    )
    connection.execute("DELETE FROM tally WHERE n = 0")


def by_state(connection: Connection, task_ids: Sequence[int], *, stage: str) -> dict[int, dict[str, int]]:
    """Count the jobs of some tasks in one stage by state."""
    rows = connection.execute(
        f"""
        SELECT d.task_id, c.state, sum(c.n)::bigint AS n FROM demands d JOIN {_ALL} c ON c.demand_id = d.id
        WHERE d.task_id = ANY(%s) AND d.stage = %s GROUP BY d.task_id, c.state HAVING sum(c.n) <> 0
        """,
        [list(task_ids), stage],
    )
    found: dict[int, dict[str, int]] = {task: {} for task in task_ids}
    for row in rows:
        found[row["task_id"]][row["state"]] = row["n"]
    return found


def by_site(connection: Connection, task_id: TaskId, *, stage: str) -> list[Row]:
    """Count a task's jobs in one stage by the site that took them last, and state."""
    return connection.execute(
        f"""
        SELECT c.site, c.state, sum(c.n)::bigint AS n FROM demands d JOIN {_ALL} c ON c.demand_id = d.id
        WHERE d.task_id = %s AND d.stage = %s GROUP BY c.site, c.state HAVING sum(c.n) <> 0 ORDER BY c.site, c.state
        """,
        [task_id, stage],
    ).fetchall()


def failures(
    connection: Connection, task_id: TaskId, *, by: Sequence[str] = USUAL_DIMENSIONS, limit: int = 50
) -> list[Row]:
    """Group a task's failed jobs, the most frequent kind first, with an example each.

    Args:
        connection: The caller's transaction.
        task_id: The task.
        by: Names of DIMENSIONS.
        limit: Most groups.

    Returns:
        The columns of the dimensions with the reason as `code`; `count`; `total` of all groups, also of those beyond
        the limit; and one job's `job_id` and `text`.
    """
    columns = [DIMENSIONS[name] for name in by]
    listed, ours, theirs = (", ".join(prefix + column for column in columns) for prefix in ("", "j.", "f."))
    rows = connection.execute(
        f"""
        WITH parts AS (
            SELECT d.id AS demand_id, {listed}, sum(c.n) AS n FROM demands d JOIN {_ALL} c ON c.demand_id = d.id
            WHERE d.task_id = %s AND c.state = 'failed' GROUP BY d.id, {listed} HAVING sum(c.n) > 0
        ), found AS (
            SELECT {listed}, sum(n)::bigint AS count, sum(sum(n)) OVER ()::bigint AS total,
                min(demand_id) AS demand_id
            FROM parts GROUP BY {listed} ORDER BY sum(n) DESC, {listed} LIMIT %s
        )
        SELECT f.*, e.id AS job_id, e.reason_text AS text FROM found f LEFT JOIN LATERAL (
            SELECT j.id, j.reason_text FROM jobs j
            WHERE j.demand_id = f.demand_id AND j.state = 'failed' AND ({ours}) IS NOT DISTINCT FROM ({theirs})
            ORDER BY j.id LIMIT 1
        ) e ON true ORDER BY f.count DESC, {theirs}
        """,
        [task_id, limit],
    ).fetchall()
    return [{("code" if key == "reason_code" else key): value for key, value in row.items()} for row in rows]


def with_open_jobs(connection: Connection, task_ids: Sequence[int]) -> set[int]:
    """Return which of some tasks have a job that has not ended, or is not even written."""
    rows = connection.execute(
        f"""
        SELECT d.task_id FROM demands d JOIN {_ALL} c ON c.demand_id = d.id
        WHERE d.task_id = ANY(%(tasks)s) AND c.state NOT IN ('done', 'failed', 'cancelled')
        GROUP BY d.task_id HAVING sum(c.n) > 0
        UNION SELECT id FROM tasks WHERE id = ANY(%(tasks)s) AND jobs_written < jobs_total AND state = 'running'
        """,
        {"tasks": list(task_ids)},
    )
    return {row["task_id"] for row in rows}


def any_open(connection: Connection) -> bool:
    """Tell whether any job that is not paused, nor its task, is ready or waiting."""
    row = connection.execute(
        f"""
        SELECT EXISTS (
            SELECT FROM {_ALL} c JOIN demands d ON d.id = c.demand_id JOIN tasks t ON t.id = d.task_id
            WHERE c.state IN ('ready', 'waiting') AND NOT (t.paused OR d.paused) GROUP BY d.id HAVING sum(c.n) > 0
        ) AS found
        """
    ).fetchone()
    return bool((row or {})["found"])
