# SPDX-License-Identifier: Apache-2.0
"""Queries on what VOs, groups and users have used."""

from collections.abc import Mapping

from glideflow.domain.demand import Leaf
from glideflow.store.engine import Connection

Amount = tuple[float, float]
"""Core-seconds as they counted at some time, and the seconds since then."""


def seconds_since_count(connection: Connection) -> float | None:
    """Lock the clock and return how long ago the usage was counted; None while another process counts."""
    row = connection.execute(
        "SELECT extract(epoch FROM now() - at)::float8 AS seconds FROM usage_clock FOR UPDATE SKIP LOCKED"
    ).fetchone()
    return None if row is None else row["seconds"]


def read(connection: Connection) -> dict[Leaf, Amount]:
    """Return what each leaf had used and how long ago that was worked out."""
    rows = connection.execute(
        """
        SELECT vo, "group", owner, core_seconds, extract(epoch FROM now() - at)::float8 AS seconds
        FROM usage ORDER BY vo, "group", owner
        """
    )
    return {(row["vo"], row["group"], row["owner"]): (row["core_seconds"], row["seconds"]) for row in rows}


def save(connection: Connection, core_seconds: Mapping[Leaf, float]) -> None:
    """Keep what leaves have used by now; that of the others stays as it was."""
    connection.cursor().executemany(
        """
        INSERT INTO usage (vo, "group", owner, core_seconds, at) VALUES (%s, %s, %s, %s, now())
        ON CONFLICT (vo, "group", owner) DO UPDATE SET core_seconds = excluded.core_seconds, at = excluded.at
        """,
        [(*leaf, amount) for leaf, amount in sorted(core_seconds.items())],
    )
    connection.execute("UPDATE usage_clock SET at = now()")
