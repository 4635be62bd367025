# SPDX-License-Identifier: Apache-2.0
"""The one way in which states change: a guarded update; the trigger of the table writes the events."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from glideflow.domain.reasons import Reason
from glideflow.domain.states import AttemptState, JobState, PilotState, State, TaskState, moves_of, sources
from glideflow.errors import IllegalTransition
from glideflow.store.engine import Connection

_TABLES: dict[type, tuple[LiteralString, LiteralString]] = {
    TaskState: ("tasks", "bigint"),
    JobState: ("jobs", "bigint"),
    AttemptState: ("attempts", "bigint"),
    PilotState: ("pilots", "text"),
}


def move_each(
    connection: Connection,
    to: State,
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: LiteralString = "",
    set_also: LiteralString = "",
    via: State | None = None,
) -> list[Any]:
    """Move rows of one table to a state, where the state machine allows it, each with values of its own.

    Args:
        connection: The caller's transaction.
        to: The new state; its kind names the table.
        rows: One mapping each with `id`, the values of `reason_values`, and those of `columns`.
        columns: Further values of the rows as SQL column definitions, each preceded by a comma.
        set_also: Assignments of them (as `r.name`), each preceded by a comma.
        via: A state that the rows pass on their way, in this one update: both moves are checked, and both are events.

    Returns:
        The keys that moved; the others were in a state that does not allow it, and are unchanged.
    """
    if not rows:
        return []
    table, key = _TABLES[type(to)]
    allowed = sources(to) if via is None else {via, *sources(via)}
    if via is not None and to not in moves_of(via)[via]:
        raise IllegalTransition(f"a row of {table}", via, to)
    found = connection.execute(
        # Locking in the order of the keys keeps two transactions from waiting for each other.
        f"""
        WITH r AS (
            SELECT r.* FROM set_config('glideflow.via', %(via)s, true),
                jsonb_to_recordset(%(rows)s) AS r(id {key}, code text, text text, source text {columns})
        ), locked AS (
            SELECT id FROM {table} WHERE id IN (SELECT id FROM r) AND state = ANY(%(sources)s) ORDER BY id FOR UPDATE
        )
        UPDATE {table} t
        SET state = %(to)s, reason_code = r.code, reason_text = r.text, reason_source = r.source {set_also}
        FROM locked JOIN r USING (id) WHERE t.id = locked.id RETURNING t.id
        """,
        {"rows": Jsonb(list(rows)), "sources": strings(allowed), "to": to.value, "via": str(via or "")},
    )
    return [row["id"] for row in found]


def move(
    connection: Connection,
    to: State,
    ids: Iterable[Any],
    *,
    reason: Reason | None = None,
    set_also: LiteralString = "",
) -> list[Any]:
    """Move rows of one table to a state, all for the same reason; see `move_each`."""
    values = reason_values(reason)
    return move_each(connection, to, [{"id": key, **values} for key in sorted(set(ids))], set_also=set_also)


def reason_values(reason: Reason | None) -> dict[str, str | None]:
    """Return a reason as the values `code`, `text` and `source`; all None for no reason."""
    if reason is None:
        return {"code": None, "text": None, "source": None}
    return {"code": reason.code.value, "text": reason.text, "source": reason.source.value}


def reason_of(row: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a row's reason as it is shown to users, or None."""
    if row["reason_code"] is None:
        return None
    return {"code": row["reason_code"], "text": row["reason_text"], "source": row["reason_source"]}


def strings(states: Iterable[str]) -> list[str]:
    """Return enumeration members as a sorted list of plain strings, for `= ANY(...)`."""
    return sorted(str(state) for state in states)
