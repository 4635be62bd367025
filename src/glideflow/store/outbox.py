# SPDX-License-Identifier: Apache-2.0
"""Queries on the outbox (what Prefect must still be told) and on the event log."""

from collections.abc import Iterable, Mapping
from typing import Any, LiteralString

from glideflow.domain.identifiers import TaskId
from glideflow.domain.reasons import Reason
from glideflow.store.engine import Channel, Connection, notify

Row = dict[str, Any]


def put(connection: Connection, task_ids: Iterable[int], action: str) -> None:
    """Ask for an action on the flow runs of some tasks; asking twice before it is done asks once.

    Args:
        connection: The caller's transaction: what it changes and this go together.
        task_ids: The tasks.
        action: `start`, `resume` or `cancel`.
    """
    keys = sorted(set(task_ids))
    if not keys:
        return
    connection.execute(
        """
        INSERT INTO outbox (task_id, action) SELECT id, %s FROM unnest(%s::bigint[]) AS id
        ON CONFLICT (task_id, action) DO NOTHING
        """,
        [action, keys],
    )
    notify(connection, Channel.OUTBOX)


def pending(connection: Connection) -> list[Row]:
    """Return all entries, the oldest first, with what Prefect needs to know of the task."""
    return connection.execute(
        """
        SELECT o.id, o.task_id, o.action, o.tries, t.name AS task_name, t.owner, t.vo,
            t.flow_generation AS generation, t.flow_run_id, t.reason_text AS reason
        FROM outbox o JOIN tasks t ON t.id = o.task_id ORDER BY o.id LIMIT 500
        """
    ).fetchall()


def done(connection: Connection, entry_id: int) -> None:
    """Remove an entry that was carried out."""
    connection.execute("DELETE FROM outbox WHERE id = %s", [entry_id])


def failed(connection: Connection, entry_id: int, text: str) -> None:
    """Keep an entry for another try, with what went wrong."""
    connection.execute("UPDATE outbox SET tries = tries + 1, last_error = %s WHERE id = %s", [text, entry_id])


def drop(connection: Connection, task_id: TaskId) -> None:
    """Forget what was asked for a task."""
    connection.execute("DELETE FROM outbox WHERE task_id = %s", [task_id])


def note(connection: Connection, kind: str, subject: int, reason: Reason) -> None:
    """Write a command that moves nothing into the event log: its event leads from the present state to itself.

    Args:
        connection: The caller's transaction.
        kind: `task` or `job`.
        subject: Which one.
        reason: What was ordered, by whom and why.
    """
    present: Mapping[str, LiteralString] = {
        "task": "id AS task_id, NULL::bigint AS job_id, state FROM tasks",
        "job": "task_id, id AS job_id, state FROM jobs",
    }
    connection.execute(
        f"""
        INSERT INTO events (kind, subject, task_id, job_id, old_state, new_state, reason_code, reason_text,
            reason_source)
        SELECT %s, %s::text, s.task_id, s.job_id, s.state, s.state, %s, %s, %s
        FROM (SELECT {present[kind]} WHERE id = %s) s
        """,
        [kind, str(subject), reason.code.value, reason.text, reason.source.value, subject],
    )


def events(
    connection: Connection, *, task_id: int | None, kind: str | None, subject: str | None, after: int, limit: int
) -> list[Row]:
    """Return events in the order in which they happened."""
    # A job's events, and those of its attempts, are found by its number; other ones by kind and subject.
    owner = {"job": "%(subject)s::bigint", "attempt": "(SELECT job_id FROM attempts WHERE id = %(subject)s::bigint)"}
    known = subject is not None and subject.isdecimal()
    found = f"AND job_id = {owner[kind]}" if known and kind in owner else ""
    return connection.execute(
        f"""
        SELECT id, at, kind, subject, task_id, old_state, new_state, reason_code, reason_text, reason_source
        FROM events
        WHERE id > %(after)s AND (%(task)s::bigint IS NULL OR task_id = %(task)s)
            AND (%(kind)s::text IS NULL OR kind = %(kind)s) AND (%(subject)s::text IS NULL OR subject = %(subject)s)
            {found}
        ORDER BY id LIMIT %(limit)s
        """,
        {"after": after, "task": task_id, "kind": kind, "subject": subject, "limit": limit},
    ).fetchall()
