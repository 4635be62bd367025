# SPDX-License-Identifier: Apache-2.0
"""Queries on pilots and on the decisions to send them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from glideflow.domain.identifiers import PilotId
from glideflow.domain.states import PilotState
from glideflow.store.engine import Connection
from glideflow.store.moves import move_each

Row = dict[str, Any]

# As the partial index is defined, so that the planner can use it.
_OPEN = "state NOT IN ('ended', 'failed', 'removed', 'vanished')"


def plan(connection: Connection, site: str, secrets: Mapping[PilotId, str]) -> None:
    """Write pilots down before they are submitted.

    Args:
        connection: The caller's transaction.
        site: Where they are sent.
        secrets: The hash of each one's registration secret.
    """
    connection.cursor().executemany(
        "INSERT INTO pilots (id, site, secret_hash) VALUES (%s, %s, %s)",
        [(pilot, site, secret) for pilot, secret in secrets.items()],
    )


def submitted(connection: Connection, batch_ids: Mapping[PilotId, str]) -> None:
    """Note the batch system's names of pilots; one that registered faster than we wrote keeps its state."""
    values = {"code": None, "text": None, "source": None}
    move_each(connection, PilotState.SUBMITTED, [{"id": pilot, **values} for pilot in batch_ids])
    connection.cursor().executemany(
        "UPDATE pilots SET batch_id = %s WHERE id = %s AND batch_id IS NULL",
        [(batch, pilot) for pilot, batch in batch_ids.items()],
    )


def lock(connection: Connection, pilot_id: PilotId) -> Row | None:
    """Lock and return one pilot."""
    return connection.execute("SELECT * FROM pilots WHERE id = %s FOR UPDATE", [pilot_id]).fetchone()


def describe(connection: Connection, pilot_id: PilotId, key_hash: str, facts: Mapping[str, Any]) -> None:
    """Store what a pilot said of itself when it registered."""
    connection.execute(
        """
        UPDATE pilots SET key_hash = %(key_hash)s, node = %(node)s, version = %(version)s, python = %(python)s,
            cores = %(cores)s, memory_mb = %(memory_mb)s, disk_mb = %(disk_mb)s,
            batch_id = coalesce(%(batch_id)s, batch_id), registered_at = now(), last_seen_at = now()
        WHERE id = %(id)s
        """,
        {**facts, "id": pilot_id, "key_hash": key_hash},
    )


def key_hash(connection: Connection, pilot_id: PilotId) -> str | None:
    """Return the hash of a living pilot's session key."""
    row = connection.execute(f"SELECT key_hash FROM pilots WHERE id = %s AND {_OPEN}", [pilot_id]).fetchone()
    return None if row is None else row["key_hash"]


def current(connection: Connection, pilot_ids: Iterable[PilotId]) -> dict[str, Row]:
    """Return those of some pilots that are current, by id."""
    rows = connection.execute(
        """
        SELECT id, site, node, state, reason_code, reason_text, reason_source FROM pilots
        WHERE id = ANY(%s) AND state IN ('registered', 'draining')
        """,
        [sorted(pilot_ids)],
    )
    return {row["id"]: row for row in rows}


def nodes(connection: Connection, sites: Iterable[str]) -> list[str]:
    """Return the nodes on which pilots of some sites run."""
    rows = connection.execute(
        f"""
        SELECT DISTINCT node FROM pilots
        WHERE site = ANY(%s) AND state IN ('registered', 'draining') AND {_OPEN} AND node IS NOT NULL
        """,
        [sorted(set(sites))],
    )
    return [row["node"] for row in rows]


def heard(connection: Connection, words: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Note that pilots spoke; rows with `id`, `sequence`, and `holding`: the attempts that they have.

    Returns:
        The pilots that are current, by id; a missing one has ended or was given up.
    """
    rows = connection.execute(
        """
        WITH r AS (
            SELECT * FROM jsonb_to_recordset(%s) AS r(id text, sequence bigint, holding bigint[])
        ), locked AS (
            SELECT id FROM pilots WHERE id IN (SELECT id FROM r)
                AND state IN ('registered', 'draining') ORDER BY id FOR UPDATE
        )
        UPDATE pilots p SET last_seen_at = now(), sequence = greatest(p.sequence, r.sequence),
            holding = CASE WHEN r.sequence < p.sequence THEN p.holding ELSE r.holding END
        FROM locked JOIN r USING (id) WHERE p.id = locked.id
        RETURNING p.id, p.site, p.node, p.state, p.reason_code, p.reason_text, p.reason_source
        """,
        [Jsonb(list(words))],
    )
    return {row["id"]: row for row in rows}


def end(connection: Connection, to: PilotState, rows: Sequence[Mapping[str, Any]]) -> list[PilotId]:
    """Move pilots to a final state; rows with `id`, reason values and `log` (None keeps what is there)."""
    return move_each(
        connection,
        to,
        rows,
        columns=", log text",
        set_also=", ended_at = now(), holding = '{}', log = coalesce(r.log, t.log)",
    )


def silent(connection: Connection, before: datetime) -> list[Row]:
    """Lock and return the registered pilots that were not heard from since a time.

    One that is just speaking is left out.
    """
    return connection.execute(
        """
        SELECT id, site, node, last_seen_at FROM pilots
        WHERE state IN ('registered', 'draining') AND last_seen_at < %s ORDER BY id
        FOR UPDATE SKIP LOCKED
        """,
        [before],
    ).fetchall()


def open_at(connection: Connection, site: str) -> list[Row]:
    """Return the pilots of a site that have not ended."""
    return connection.execute(
        f"""
        SELECT id, state, batch_id, cardinality(holding) AS holding, planned_at, last_seen_at, now() AS now FROM pilots
        WHERE site = %s AND {_OPEN} ORDER BY planned_at, id
        """,
        [site],
    ).fetchall()


def counts_by_work(connection: Connection, heard_seconds: float) -> list[Row]:
    """Count the pilots that have not ended by site, state, whether they are `busy`, and `heard` within a time."""
    return connection.execute(
        f"""
        SELECT site, state, holding <> '{{}}' AS busy,
            coalesce(last_seen_at > now() - %s * interval '1 second', false) AS heard, count(*) AS n
        FROM pilots WHERE {_OPEN} GROUP BY 1, 2, 3, 4
        """,
        [heard_seconds],
    ).fetchall()


def recent_ends(connection: Connection, seconds: float, short_seconds: float) -> dict[str, Row]:
    """Count each site's pilots that ended lately, and those among them that could not start or failed at once.

    Pilots that vanished are not the site's fault: they were killed, or the network or the pool went away.
    """
    rows = connection.execute(
        """
        SELECT site, count(*) AS ended, count(*) FILTER (
            WHERE state = 'failed' AND coalesce(ended_at - registered_at < %s * interval '1 second', true)
        ) AS failed
        FROM pilots WHERE ended_at > now() - %s * interval '1 second' GROUP BY site
        """,
        [short_seconds, seconds],
    )
    return {row["site"]: row for row in rows}


def ended_before(connection: Connection, pilot_ids: Iterable[PilotId], seconds: float) -> list[PilotId]:
    """Return those of some pilots that ended longer ago than this."""
    rows = connection.execute(
        "SELECT id FROM pilots WHERE id = ANY(%s) AND ended_at < now() - %s * interval '1 second' ORDER BY id",
        [sorted(set(pilot_ids)), seconds],
    )
    return [PilotId(row["id"]) for row in rows]


def idle_ids(connection: Connection) -> list[PilotId]:
    """Return the registered pilots that hold no attempt."""
    rows = connection.execute("SELECT id FROM pilots WHERE state = 'registered' AND holding = '{}'")
    return [PilotId(row["id"]) for row in rows]


def page(connection: Connection, *, site: str | None, everything: bool, limit: int) -> list[Row]:
    """Return pilots, the newest first; without `everything` only those that have not ended."""
    return connection.execute(
        f"""
        SELECT id, site, state, node, batch_id, version, python, cores, memory_mb, disk_mb,
            cardinality(holding) AS running, planned_at, registered_at, last_seen_at, ended_at, reason_code,
            reason_text, reason_source
        FROM pilots WHERE (%(site)s::text IS NULL OR site = %(site)s) AND (%(everything)s OR {_OPEN})
        ORDER BY planned_at DESC, id LIMIT %(limit)s
        """,
        {"site": site, "everything": everything, "limit": limit},
    ).fetchall()


def counts(connection: Connection) -> dict[str, dict[str, int]]:
    """Count the pilots that have not ended, by site and state."""
    found: dict[str, dict[str, int]] = {}
    for row in connection.execute(f"SELECT site, state, count(*) AS n FROM pilots WHERE {_OPEN} GROUP BY site, state"):
        found.setdefault(row["site"], {})[row["state"]] = row["n"]
    return found


def save_decision(connection: Connection, site: str, pilots: int, reasons: Iterable[str]) -> None:
    """Keep the last decision about a site, and why."""
    connection.execute(
        """
        INSERT INTO site_decisions (site, at, pilots, reasons) VALUES (%s, now(), %s, %s)
        ON CONFLICT (site) DO UPDATE SET at = now(), pilots = excluded.pilots, reasons = excluded.reasons
        """,
        [site, pilots, Jsonb(list(reasons))],
    )


def decisions(connection: Connection) -> dict[str, Row]:
    """Return the last decision about each site."""
    return {row["site"]: row for row in connection.execute("SELECT * FROM site_decisions")}
