# SPDX-License-Identifier: Apache-2.0
"""Queries on scout jobs: the first main jobs of a task that measures before it is split."""

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from glideflow.domain.identifiers import TaskId
from glideflow.domain.job import InputSlice
from glideflow.store.engine import Connection

Row = dict[str, Any]


def ended(connection: Connection) -> list[TaskId]:
    """Return the tasks that wait for their scouts, of which every one has ended."""
    rows = connection.execute(
        """
        SELECT t.id FROM tasks t
        WHERE t.state = 'planning' AND t.scouts > 0 AND NOT EXISTS (
            SELECT FROM jobs j WHERE j.task_id = t.id AND j.stage = 'main' AND j.index < t.scouts
                AND j.state NOT IN ('done', 'failed', 'cancelled')
        ) ORDER BY t.id
        """
    )
    return [TaskId(row["id"]) for row in rows]


def set_number(connection: Connection, task_id: TaskId, scouts: int) -> None:
    """Note how many scouts a task sent."""
    connection.execute("UPDATE tasks SET scouts = %s WHERE id = %s", [scouts, task_id])


def results(connection: Connection, task_id: TaskId, scouts: int) -> list[Row]:
    """Return what the scouts of a task did: `index`, `state`, `slices`, `usage` of the last attempt, `output_bytes`."""
    return connection.execute(
        """
        SELECT j.id, j.task_id, j.index, j.state, j.slices, a.usage, coalesce(f.size_bytes, 0)::bigint AS output_bytes
        FROM jobs j
        LEFT JOIN attempts a ON a.job_id = j.id AND a.number = j.attempts
        LEFT JOIN LATERAL (SELECT sum(size_bytes) AS size_bytes FROM files WHERE job_id = j.id) f ON true
        WHERE j.task_id = %s AND j.stage = 'main' AND j.index < %s ORDER BY j.index
        """,
        [task_id, scouts],
    ).fetchall()


def taken(connection: Connection, task_id: TaskId, scouts: int) -> list[InputSlice]:
    """Return what the scouts of a task read."""
    rows = connection.execute(
        "SELECT slices FROM jobs WHERE task_id = %s AND stage = 'main' AND index < %s ORDER BY index",
        [task_id, scouts],
    )
    return [
        InputSlice(file=file, first_event=first, events=events) for row in rows for file, first, events in row["slices"]
    ]


def save_decision(connection: Connection, task_id: TaskId, decision: Mapping[str, Any]) -> None:
    """Keep how the rest of a task is split, with everything that led to it."""
    connection.execute("UPDATE tasks SET decision = %s WHERE id = %s", [Jsonb(dict(decision)), task_id])
