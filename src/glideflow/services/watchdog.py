# SPDX-License-Identifier: Apache-2.0
"""Find pilots that are silent for too long, and give their jobs to others."""

from datetime import datetime, timedelta

from glideflow.domain.identifiers import PilotId
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.states import PilotState
from glideflow.services.completion import announce_ended_stages
from glideflow.services.policies import Policies
from glideflow.services.settlement import give_up
from glideflow.store import jobs, pilots
from glideflow.store.engine import Channel, Connection, Database, notify
from glideflow.store.moves import reason_values

DEAF_AFTER = timedelta(seconds=30)
"""A watch that could not look for longer was frozen, or without its database, and pilots could not be heard."""


class Watch:
    """Looks for silent pilots again and again, and knows since when it could have heard them.

    Args:
        database: The store.
        policies: What becomes of the jobs of silent pilots.
        started_at: When the endpoint started.
        lost_seconds: How long a pilot may be silent, seconds.
    """

    def __init__(self, database: Database, policies: Policies, *, started_at: datetime, lost_seconds: float) -> None:
        self._database = database
        self._policies = policies
        self._lost_seconds = lost_seconds
        self._listening_since = started_at
        self._looked_at = started_at

    def look(self, now: datetime) -> list[PilotId]:
        """Give up the pilots that were silent for too long, and return them.

        Args:
            now: The time.

        Raises:
            DatabaseUnavailable: Nothing was done.
        """
        if now - self._looked_at > DEAF_AFTER:
            self._listening_since = now
        lost = sweep(
            self._database,
            self._policies,
            now=now,
            listening_since=self._listening_since,
            lost_seconds=self._lost_seconds,
        )
        self._looked_at = now
        return lost


def sweep(
    database: Database, policies: Policies, *, now: datetime, listening_since: datetime, lost_seconds: float
) -> list[PilotId]:
    """End the pilots that were silent for too long.

    Args:
        database: The store.
        policies: What becomes of their jobs.
        now: The time.
        listening_since: Since when pilots can be heard: silence before that is not their fault.
        lost_seconds: How long a pilot may be silent, seconds.

    Returns:
        The pilots that were given up.
    """
    limit = now - timedelta(seconds=lost_seconds)
    if listening_since > limit:
        return []
    with database.transaction() as connection:
        silent = pilots.silent(connection, limit)
        silent_ids = [PilotId(row["id"]) for row in silent]
        ended = lose(connection, policies, silent_ids, f"was silent for {lost_seconds:.0f} s")
    announce_ended_stages(database, ended)
    return silent_ids


def lose(connection: Connection, policies: Policies, pilot_ids: list[PilotId], text: str) -> set[int]:
    """Give pilots up, and their attempts with them.

    Args:
        connection: The caller's transaction.
        policies: What becomes of their jobs.
        pilot_ids: The pilots.
        text: What was seen of each, as the end of a sentence.

    Returns:
        The tasks of which a job failed for good.
    """
    ended: set[int] = set()
    for pilot_id in pilot_ids:
        reason = Reason(code=ReasonCode.PILOT_LOST, text=f"pilot {pilot_id} {text}", source=Source.SERVER)
        pilots.end(connection, PilotState.VANISHED, [{"id": pilot_id, **reason_values(reason), "log": None}])
        ended |= give_up(connection, policies, [pilot_id], reason)
    return ended


def wake_delayed(database: Database) -> int:
    """Make jobs ready whose retry delay is over; returns how many."""
    with database.transaction() as connection:
        woken = jobs.wake(connection)
        if woken:
            notify(connection, Channel.JOBS)
    return woken
