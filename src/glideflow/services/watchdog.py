# SPDX-License-Identifier: Apache-2.0
"""Find what takes too long: silent pilots, attempts that nobody holds, verifications; their jobs run elsewhere."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from glideflow.domain.identifiers import AttemptId, PilotId
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.states import PilotState
from glideflow.services.completion import announce_ended_stages
from glideflow.services.policies import Policies
from glideflow.services.settlement import give_up, give_up_attempts
from glideflow.store import attempts, jobs, pilots
from glideflow.store.engine import Channel, Connection, Database, notify
from glideflow.store.moves import reason_values

DEAF_AFTER = timedelta(seconds=30)
"""A watch that could not look for longer was frozen, or without its database, and pilots could not be heard."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long each state may last."""

    lost_seconds: float
    """Registered: silence of a pilot, and with it of its claimed and running attempts."""
    unheld_seconds: float
    """Claimed or running: since the claim, when the pilot says that it does not hold the attempt."""
    verifying_seconds: float
    """Reported: until the server has decided."""


class Watch:
    """Looks for what takes too long again and again, and knows since when it could have heard of it.

    Args:
        database: The store.
        policies: What becomes of the jobs.
        started_at: When the endpoint started.
        limits: How long each state may last.
    """

    def __init__(self, database: Database, policies: Policies, *, started_at: datetime, limits: Limits) -> None:
        self._database = database
        self._policies = policies
        self._limits = limits
        self._listening_since = started_at
        self._looked_at = started_at

    def look(self, now: datetime) -> list[PilotId]:
        """Give up the pilots that were silent for too long, and attempts that go nowhere; return the pilots.

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
            lost_seconds=self._limits.lost_seconds,
        )
        sweep_attempts(self._database, self._policies, self._limits, now=now, listening_since=self._listening_since)
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


def sweep_attempts(
    database: Database, policies: Policies, limits: Limits, *, now: datetime, listening_since: datetime
) -> list[AttemptId]:
    """End the attempts that living pilots do not hold, and those whose verification does not come to an end.

    Args:
        database: The store.
        policies: What becomes of their jobs.
        limits: How long each state may last.
        now: The time.
        listening_since: Since when there was somebody who could verify.

    Returns:
        The attempts that were given up.
    """
    before = now - timedelta(seconds=limits.verifying_seconds)
    with database.transaction() as connection:
        given_up = [(row, _not_held(row)) for row in attempts.not_held(connection, limits.unheld_seconds)]
        if listening_since <= before:
            stuck = attempts.reported_before(connection, before)
            given_up += [(row, _not_verified(row, now, limits.verifying_seconds)) for row in stuck]
        ended = give_up_attempts(connection, policies, given_up)
        if given_up:
            # Who holds one of them after all is told to end it.
            notify(connection, Channel.COMMANDS)
    announce_ended_stages(database, ended)
    return [AttemptId(row["id"]) for row, _ in given_up]


def _not_held(row: dict[str, Any]) -> Reason:
    text = (
        f"pilot {row['pilot_id']} was heard {row['seconds']:.0f} s after it was given attempt {row['id']}, which was "
        f"{row['state']}, and does not hold it"
    )
    return Reason(code=ReasonCode.ATTEMPT_NOT_HELD, text=text, source=Source.SERVER)


def _not_verified(row: dict[str, Any], now: datetime, limit: float) -> Reason:
    text = (
        f"attempt {row['id']} was reported as ended {(now - row['at']).total_seconds():.0f} s ago and is not verified; "
        f"{limit:.0f} s are allowed"
    )
    return Reason(code=ReasonCode.VERIFICATION_TIMEOUT, text=text, source=Source.SERVER)


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
