# SPDX-License-Identifier: Apache-2.0
"""Queries on tasks and their input files."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from glideflow.domain.identifiers import TaskId
from glideflow.domain.splitting import Cursor
from glideflow.domain.states import FINAL_TASKS, TaskState
from glideflow.domain.task import Submission
from glideflow.store.engine import Connection
from glideflow.store.moves import strings

Row = dict[str, Any]


def insert(connection: Connection, submission: Submission, *, owner: str, vo: str) -> TaskId:
    """Store a new task in state `submitted`, without its input files."""
    spec = submission.spec
    row = connection.execute(
        """
        INSERT INTO tasks (name, owner, vo, "group", priority, spec, source, sandbox, flow_run_id)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id
        """,
        [
            spec.name,
            owner,
            vo,
            spec.group or "",
            spec.priority,
            Jsonb(spec.model_dump(mode="json", exclude_none=True)),
            submission.source,
            Jsonb([file.model_dump() for file in submission.sandbox]),
            submission.flow_run_id,
        ],
    ).fetchone()
    return TaskId((row or {})["id"])


def policies(connection: Connection, task_ids: Iterable[TaskId]) -> dict[int, Row]:
    """Return what some tasks say about failures: `failure_policy` as JSON text, and `retries`."""
    rows = connection.execute(
        """
        SELECT id, spec->>'failure_policy' AS failure_policy, (spec->>'retries')::int AS retries FROM tasks
        WHERE id = ANY(%s)
        """,
        [sorted(set(task_ids))],
    )
    return {row["id"]: row for row in rows}


def inputs_at(connection: Connection, wanted: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Row]:
    """Return some input files by task and position."""
    pairs = sorted(set(wanted))
    if not pairs:
        return {}
    rows = connection.execute(
        """
        SELECT i.* FROM task_inputs i
        JOIN unnest(%s::bigint[], %s::int[]) AS w(task_id, position) USING (task_id, position)
        """,
        [[task for task, _ in pairs], [position for _, position in pairs]],
    )
    return {(row["task_id"], row["position"]): row for row in rows}


def get(connection: Connection, task_id: TaskId, *, lock: bool = False) -> Row | None:
    """Return a task's row; with `lock`, no one else changes it until the transaction ends."""
    # Not FOR UPDATE: that would hold up whoever only refers to the task, such as a job's end that registers files.
    suffix = "FOR NO KEY UPDATE" if lock else ""
    return connection.execute(f"SELECT * FROM tasks WHERE id = %s {suffix}", [task_id]).fetchone()


def latest_of_name(connection: Connection, name: str) -> TaskId | None:
    """Return the newest task of a name."""
    row = connection.execute("SELECT id FROM tasks WHERE name = %s ORDER BY id DESC LIMIT 1", [name]).fetchone()
    return None if row is None else TaskId(row["id"])


def page(connection: Connection, *, state: str | None, before: int | None, limit: int) -> list[Row]:
    """Return tasks, the newest first, without their long fields."""
    return connection.execute(
        """
        SELECT id, name, owner, vo, state, paused, priority, jobs_total, jobs_written, flow_run_id,
            reason_code, reason_text, reason_source, created_at, ended_at, spec ? 'merge' AS merges
        FROM tasks
        WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(before)s::bigint IS NULL OR id < %(before)s)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"state": state, "before": before, "limit": limit},
    ).fetchall()


def unplanned(connection: Connection) -> list[TaskId]:
    """Return the tasks that may be split and are not yet, the oldest first."""
    rows = connection.execute(
        """
        SELECT id FROM tasks
        WHERE state IN ('submitted', 'planning') AND NOT waits AND (state = 'submitted' OR scouts = 0) ORDER BY id
        """
    )
    return [TaskId(row["id"]) for row in rows]


def among(connection: Connection, task_ids: Iterable[int], states: Iterable[TaskState]) -> set[int]:
    """Return those of some tasks that are in some states."""
    rows = connection.execute(
        "SELECT id FROM tasks WHERE id = ANY(%s) AND state = ANY(%s)", [sorted(set(task_ids)), strings(states)]
    )
    return {row["id"] for row in rows}


def set_total(connection: Connection, task_id: TaskId, jobs_total: int) -> None:
    """Note how many jobs a task is split into."""
    connection.execute("UPDATE tasks SET jobs_total = %s WHERE id = %s", [jobs_total, task_id])


def set_cursor(connection: Connection, task_id: TaskId, cursor: Cursor) -> None:
    """Note how far the jobs of a task are written."""
    connection.execute(
        "UPDATE tasks SET jobs_written = %s, next_file = %s, next_event = %s WHERE id = %s",
        [cursor.index, cursor.file, cursor.event, task_id],
    )


def unwritten(connection: Connection) -> list[TaskId]:
    """Return the running tasks of which not all jobs are written."""
    rows = connection.execute("SELECT id FROM tasks WHERE jobs_written < jobs_total AND state = 'running' ORDER BY id")
    return [TaskId(row["id"]) for row in rows]


def end(connection: Connection, task_id: TaskId, *, ended: bool) -> None:
    """Set or clear the time of the task's end; a pause ends with the task."""
    connection.execute(
        "UPDATE tasks SET ended_at = CASE WHEN %s THEN now() END, paused = false WHERE id = %s",
        [ended, task_id],
    )


def set_paused(connection: Connection, task_id: TaskId, paused: bool) -> None:
    """Hold the jobs of a task back that no pilot has taken, or let them go."""
    connection.execute("UPDATE tasks SET paused = %s WHERE id = %s", [paused, task_id])


def set_priority(connection: Connection, task_id: TaskId, priority: int) -> None:
    """Note a task's priority, for the jobs that will be written for it."""
    connection.execute("UPDATE tasks SET priority = %s WHERE id = %s", [priority, task_id])


def change_spec(connection: Connection, task_id: TaskId, changes: Mapping[str, Any]) -> None:
    """Change keys of a task's specification; its source stays as it was submitted."""
    connection.execute("UPDATE tasks SET spec = spec || %s WHERE id = %s", [Jsonb(dict(changes)), task_id])


def change_resources(connection: Connection, task_id: TaskId, resources: Mapping[str, int]) -> None:
    """Change what the jobs ask for that will be written for a task, whatever its scouts needed."""
    connection.execute(
        """
        UPDATE tasks SET spec = jsonb_set(spec, '{resources}', spec->'resources' || %(new)s),
            decision = CASE WHEN decision ? 'decision'
                THEN jsonb_set(decision, '{decision}', decision->'decision' || %(new)s) ELSE decision END
        WHERE id = %(id)s
        """,
        {"new": Jsonb(dict(resources)), "id": task_id},
    )


def set_flow_run(connection: Connection, task_id: TaskId, flow_run_id: str) -> None:
    """Note the Prefect flow run that drives a task."""
    connection.execute("UPDATE tasks SET flow_run_id = %s WHERE id = %s", [flow_run_id, task_id])


def next_generation(connection: Connection, task_id: TaskId) -> None:
    """Ask for a new flow run: the task is to be driven again."""
    connection.execute(
        "UPDATE tasks SET flow_generation = flow_generation + 1, flow_run_id = NULL WHERE id = %s", [task_id]
    )


def oldest_open(connection: Connection) -> datetime | None:
    """Return when the oldest task that has not ended was submitted, or None when all have."""
    row = connection.execute(
        "SELECT min(created_at) AS at FROM tasks WHERE state <> ALL(%s)", [strings(FINAL_TASKS)]
    ).fetchone()
    return row["at"] if row else None


def open_ones(connection: Connection) -> list[Row]:
    """Return all tasks that have not ended, with whether their present stage has all its jobs."""
    return connection.execute(
        """
        SELECT t.id AS task_id, t.name AS task_name, t.owner, t.vo, t.state, t.flow_run_id,
            t.flow_generation AS generation,
            coalesce(t.state IN ('running', 'merging') AND t.jobs_written >= t.jobs_total, false) AS all_written
        FROM tasks t WHERE t.state <> ALL(%s) ORDER BY t.id
        """,
        [strings(FINAL_TASKS)],
    ).fetchall()


def keep_near(connection: Connection, task_id: TaskId, parts: Mapping[str, float]) -> None:
    """Keep which part of a task's input has URLs that begin with each prefix; not while another has locked the task."""
    connection.execute(
        """
        UPDATE tasks SET input_near = %s
        WHERE id IN (SELECT id FROM tasks WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED)
        """,
        [Jsonb(parts), task_id],
    )


def note_job_input(connection: Connection, task_id: TaskId, size_bytes: int) -> None:
    """Note what one of a task's jobs reads; the largest is kept."""
    connection.execute(
        "UPDATE tasks SET job_input_mb = greatest(job_input_mb, ceil(%s / 1e6)::int) WHERE id = %s",
        [size_bytes, task_id],
    )
