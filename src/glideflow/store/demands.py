# SPDX-License-Identifier: Apache-2.0
"""Queries on demands: the jobs of one task and stage that ask for the same."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from glideflow.domain.demand import Demand
from glideflow.domain.identifiers import DemandId, TaskId
from glideflow.store.engine import Connection

Row = dict[str, Any]

_KEY = "task_id, stage, priority, cores, memory_mb, disk_mb, wall_seconds, avoid_sites, avoid_nodes, paused"
_PLACING = ("cores", "memory_mb", "disk_mb", "wall_seconds", "avoid_sites", "avoid_nodes")
"""On these it depends where jobs may run."""
_BESIDE = 1_000_000
"""A priority that no user can give."""
_TALLIED = """(
    SELECT demand_id, state, n FROM tally WHERE state NOT IN ('done', 'failed', 'cancelled')
    UNION ALL SELECT demand_id, state, n FROM tally_deltas WHERE state NOT IN ('done', 'failed', 'cancelled')
)"""
_FIELDS = """d.id AS demand_id, d.task_id, d.stage, d.priority, d.cores, d.memory_mb, d.disk_mb, d.wall_seconds,
    d.avoid_sites, d.avoid_nodes, d.sites, t.owner, t.vo, t."group",
    (t.spec->>'max_running')::int AS max_running"""


def ensure(connection: Connection, wanted: Mapping[str, Any]) -> DemandId:
    """Return the demand with the given numbers; it is made where there is none.

    Args:
        connection: The caller's transaction.
        wanted: `task_id`, `stage`, `priority`, `cores`, `memory_mb`, `disk_mb`, `wall_seconds`, and where jobs must
            not run: `avoid_sites`, `avoid_nodes`, sorted; `paused` for jobs that are not handed out.
    """
    row = connection.execute(
        f"""
        INSERT INTO demands ({_KEY})
        VALUES (%(task_id)s, %(stage)s, %(priority)s, %(cores)s, %(memory_mb)s, %(disk_mb)s, %(wall_seconds)s,
            %(avoid_sites)s, %(avoid_nodes)s, %(paused)s)
        ON CONFLICT ({_KEY}) DO UPDATE SET priority = excluded.priority RETURNING id
        """,
        {"avoid_sites": [], "avoid_nodes": [], "paused": False, **wanted},
    ).fetchone()
    return DemandId((row or {})["id"])


def change(connection: Connection, demand_id: DemandId, wanted: Mapping[str, Any]) -> DemandId:
    """Return the demand that differs from another one as wanted; it may be the same one.

    Args:
        connection: The caller's transaction.
        demand_id: The other one.
        wanted: New values of `ensure`'s keys but for `task_id` and `stage`; what is missing or None stays. Where the
            jobs may run is taken over when only priority and pause are given, on which it does not depend.
    """
    row = connection.execute(
        f"""
        INSERT INTO demands ({_KEY}, sites, brokerage, brokered_at)
        SELECT task_id, stage, coalesce(%(priority)s, priority), coalesce(%(cores)s, cores),
            coalesce(%(memory_mb)s, memory_mb), coalesce(%(disk_mb)s, disk_mb),
            coalesce(%(wall_seconds)s, wall_seconds), coalesce(%(avoid_sites)s::text[], avoid_sites),
            coalesce(%(avoid_nodes)s::text[], avoid_nodes), coalesce(%(paused)s, paused),
            CASE WHEN %(stays)s THEN sites END, CASE WHEN %(stays)s THEN brokerage END,
            CASE WHEN %(stays)s THEN brokered_at END
        FROM demands WHERE id = %(id)s
        ON CONFLICT ({_KEY}) DO UPDATE SET priority = excluded.priority RETURNING id
        """,
        {
            **dict.fromkeys(("priority", "paused", *_PLACING)),
            **wanted,
            "id": demand_id,
            "stays": all(wanted.get(name) is None for name in _PLACING),
        },
    ).fetchone()
    return DemandId((row or {})["id"])


def priorities(connection: Connection, task_id: TaskId) -> set[int]:
    """Return the priorities of a task's jobs that are not done."""
    rows = connection.execute(
        """
        SELECT d.priority FROM demands d JOIN (
            SELECT demand_id, state, n FROM tally UNION ALL SELECT demand_id, state, n FROM tally_deltas
        ) c ON c.demand_id = d.id
        WHERE d.task_id = %s AND c.state <> 'done' GROUP BY d.id, c.state HAVING sum(c.n) <> 0
        """,
        [task_id],
    )
    return {row["priority"] for row in rows}


def set_priority(connection: Connection, task_id: TaskId, priority: int) -> None:
    """Give all jobs of a task that are not done one priority.

    The demands' rows are changed and not the jobs', of which there may be a million. Only where demands differ in
    nothing but their priority, which single jobs were given, their jobs join the demand with the most.
    """
    alike = connection.execute(
        f"""
        SELECT array_agg(d.id ORDER BY c.n DESC NULLS LAST, d.id) AS ids,
            (array_agg(d.priority ORDER BY c.n DESC NULLS LAST, d.id))[1] AS was,
            max(d.id) FILTER (WHERE d.priority = %s) AS holder
        FROM demands d LEFT JOIN (SELECT demand_id, sum(n) AS n FROM {_TALLIED} t GROUP BY demand_id) c
            ON c.demand_id = d.id
        WHERE d.task_id = %s
        GROUP BY {_KEY.replace("priority, ", "")} ORDER BY min(d.id)
        """,
        [priority, task_id],
    ).fetchall()
    for row in alike:
        largest, *others = row["ids"]
        if others:
            _join(connection, others, largest)
        if row["holder"] not in (None, largest):
            # No two demands are the same, not even for a moment: the one in the way takes the other's priority.
            for priority_now, demand in ((_BESIDE, largest), (row["was"], row["holder"])):
                connection.execute("UPDATE demands SET priority = %s WHERE id = %s", [priority_now, demand])
        connection.execute("UPDATE demands SET priority = %s WHERE id = %s", [priority, largest])


def with_work(connection: Connection) -> list[tuple[Demand, int, int]]:
    """Return the demands with ready or running jobs, with the numbers of both.

    Jobs that are paused, or whose task is, are not counted as ready. The numbers come from the tally, so that a million
    jobs cost no more than one.
    """
    rows = connection.execute(
        f"""
        SELECT {_FIELDS}, CASE WHEN t.paused OR d.paused THEN 0 ELSE c.ready END AS ready, c.active
        FROM (
            SELECT demand_id, coalesce(sum(n) FILTER (WHERE state = 'ready'), 0)::bigint AS ready,
                coalesce(sum(n) FILTER (WHERE state NOT IN ('ready', 'waiting')), 0)::bigint AS active
            FROM {_TALLIED} t GROUP BY demand_id
        ) c
        JOIN demands d ON d.id = c.demand_id JOIN tasks t ON t.id = d.task_id
        WHERE c.ready > 0 OR c.active > 0 ORDER BY d.id
        """
    )
    return [(_demand(row), row["ready"], row["active"]) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Brokered:
    """A demand with all that decides about its sites."""

    demand: Demand
    """What its jobs ask for, with the sites of the last time."""
    row: Row
    """`ready` jobs, what the task says (`site`, `requires`, `merge_input`), what is known of its input (`job_input_mb`,
    `input_near`), what was said of the sites (`brokerage`) and how long ago (`age_seconds`)."""


def to_broker(connection: Connection, *, new: bool) -> list[Brokered]:
    """Return the demands whose sites are to be chosen, the most urgent and oldest first.

    Args:
        connection: The caller's transaction.
        new: Only those of which nobody has said anything, locked; else all with open jobs.
    """
    which = "d.sites IS NULL" if new else "c.demand_id IS NOT NULL"
    rows = connection.execute(
        f"""
        SELECT {_FIELDS}, t.spec->>'site' AS site, t.spec->'requires' AS requires,
            t.spec->'merge'->>'input' AS merge_input, t.job_input_mb, t.input_near, d.brokerage,
            extract(epoch FROM now() - d.brokered_at)::float8 AS age_seconds,
            CASE WHEN t.paused OR d.paused THEN 0 ELSE coalesce(c.ready, 0) END AS ready
        FROM demands d JOIN tasks t ON t.id = d.task_id
        LEFT JOIN (
            SELECT demand_id, coalesce(sum(n) FILTER (WHERE state = 'ready'), 0)::bigint AS ready
            FROM {_TALLIED} t GROUP BY demand_id HAVING sum(n) > 0
        ) c ON c.demand_id = d.id
        WHERE {which} ORDER BY d.priority DESC, d.id {"FOR NO KEY UPDATE OF d SKIP LOCKED" if new else ""}
        """
    )
    return [Brokered(demand=_demand(row), row=row) for row in rows]


def save_brokerage(
    connection: Connection, rows: Iterable[tuple[DemandId, Sequence[str], Sequence[Mapping[str, Any]]]]
) -> None:
    """Keep where the jobs of demands may run, best first, and what was said of each site; who is locked is left out."""
    values = [{"id": demand, "sites": list(sites), "brokerage": list(said)} for demand, sites, said in rows]
    if not values:
        return
    connection.execute(
        """
        WITH r AS (
            SELECT * FROM jsonb_to_recordset(%s) AS r(id bigint, sites text[], brokerage jsonb)
        ), locked AS (
            SELECT id FROM demands WHERE id IN (SELECT id FROM r) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE demands d SET sites = r.sites, brokerage = r.brokerage, brokered_at = now()
        FROM locked JOIN r USING (id) WHERE d.id = locked.id
        """,
        [Jsonb(values)],
    )


def read(connection: Connection, demand_ids: Iterable[DemandId]) -> dict[DemandId, Demand]:
    """Return some demands."""
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM demands d JOIN tasks t ON t.id = d.task_id WHERE d.id = ANY(%s)",
        [sorted(set(demand_ids))],
    )
    return {row["demand_id"]: _demand(row) for row in rows}


def brokerage(connection: Connection, demand_id: DemandId) -> Row:
    """Return what was said of the sites of one demand: `sites`, `brokerage`, `brokered_at`."""
    row = connection.execute("SELECT sites, brokerage, brokered_at FROM demands WHERE id = %s", [demand_id]).fetchone()
    return row or {}


def of_task(connection: Connection, task_id: TaskId) -> list[Row]:
    """Return the demands of a task."""
    return connection.execute("SELECT * FROM demands WHERE task_id = %s ORDER BY id", [task_id]).fetchall()


def _join(connection: Connection, sources: Sequence[DemandId], target: DemandId) -> None:
    connection.execute(
        """
        WITH locked AS (
            SELECT id FROM jobs WHERE demand_id = ANY(%s) AND state <> 'done' ORDER BY id FOR UPDATE
        )
        UPDATE jobs j SET demand_id = %s FROM locked WHERE j.id = locked.id
        """,
        [sources, target],
    )


def _demand(row: Mapping[str, Any]) -> Demand:
    names = ("stage", "priority", "cores", "memory_mb", "disk_mb", "wall_seconds")
    return Demand(
        demand_id=row["demand_id"],
        task_id=row["task_id"],
        leaf=(row["vo"], row["group"], row["owner"]),
        avoid_sites=tuple(row["avoid_sites"]),
        avoid_nodes=tuple(row["avoid_nodes"]),
        max_running=row["max_running"],
        sites=tuple(row["sites"] or ()),
        **{name: row[name] for name in names},
    )
