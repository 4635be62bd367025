# SPDX-License-Identifier: Apache-2.0
"""Queries on which tasks wait for which."""

from collections.abc import Iterable
from typing import Any

from glideflow.domain.identifiers import TaskId
from glideflow.domain.reasons import Reason
from glideflow.domain.states import FINAL_TASKS
from glideflow.store.engine import Connection
from glideflow.store.moves import strings

Row = dict[str, Any]


def insert(connection: Connection, task_id: TaskId, parent_ids: Iterable[TaskId]) -> None:
    """Note what a task waits for."""
    connection.execute(
        "INSERT INTO task_parents (task_id, parent_id) SELECT %s, id FROM unnest(%s::bigint[]) AS id",
        [task_id, sorted(set(parent_ids))],
    )


def of_task(connection: Connection, task_id: TaskId) -> list[Row]:
    """Return `id`, `name` and `state` of the parents of a task."""
    return connection.execute(
        """
        SELECT t.id, t.name, t.state FROM task_parents p JOIN tasks t ON t.id = p.parent_id
        WHERE p.task_id = %s ORDER BY t.id
        """,
        [task_id],
    ).fetchall()


def lock(connection: Connection, task_ids: Iterable[TaskId]) -> list[Row]:
    """Keep some tasks from ending until the transaction does; returns `id`, `name` and `state` of each."""
    return connection.execute(
        "SELECT id, name, state FROM tasks WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", [sorted(set(task_ids))]
    ).fetchall()


def waiting(connection: Connection, parent_id: TaskId) -> list[Row]:
    """Lock and return the tasks that wait for a task."""
    return _children(connection, parent_id, "t.state = 'submitted'")


def given_up(connection: Connection, parent_id: TaskId) -> list[Row]:
    """Lock and return the tasks that were cancelled because of what they waited for."""
    return _children(connection, parent_id, "t.state = 'cancelled' AND t.reason_code = 'parent_failed'")


def _children(connection: Connection, parent_id: TaskId, which: Any) -> list[Row]:
    return connection.execute(
        f"""
        SELECT t.* FROM task_parents p JOIN tasks t ON t.id = p.task_id
        WHERE p.parent_id = %s AND t.waits AND {which} ORDER BY t.id FOR NO KEY UPDATE OF t
        """,
        [parent_id],
    ).fetchall()


def set_waits(connection: Connection, task_id: TaskId, reason: Reason | None) -> None:
    """Note that a task waits, and for what; without a reason, that it waits no more."""
    connection.execute(
        """
        UPDATE tasks SET waits = %s, reason_code = %s, reason_text = %s, reason_source = %s WHERE id = %s
        """,
        [
            reason is not None,
            reason.code.value if reason else None,
            reason.text if reason else None,
            reason.source.value if reason else None,
            task_id,
        ],
    )


def open_tasks(connection: Connection) -> list[Row]:
    """Return `id` and `spec` of the tasks that have not ended and write something."""
    return connection.execute(
        "SELECT id, spec FROM tasks WHERE state <> ALL(%s) AND spec ? 'outputs' ORDER BY id", [strings(FINAL_TASKS)]
    ).fetchall()
