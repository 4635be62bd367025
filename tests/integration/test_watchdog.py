# SPDX-License-Identifier: Apache-2.0
"""When a silent pilot is given up, and when its silence is our own deafness."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from glideflow.domain.identifiers import PilotId
from glideflow.services.policies import Policies
from glideflow.services.watchdog import Watch
from glideflow.store.engine import Database

LOST_SECONDS = 120.0
POLICIES = Policies(sites={}, system=())
PILOT = PilotId("quiet")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A store in which one pilot has registered just now."""
    opened = Database(database_url)
    with opened.transaction() as connection:
        connection.execute(
            "INSERT INTO pilots (id, site, state, secret_hash, last_seen_at) VALUES (%s, 'here', 'registered', '', %s)",
            [PILOT, started()],
        )
    yield opened
    opened.close()


def started() -> datetime:
    """Return when pilot and watch began, on a clock of the test's own."""
    return datetime(2026, 1, 1, tzinfo=UTC)


def looks(database: Database, *seconds: float) -> list[list[PilotId]]:
    """Return what is given up at some times after the start."""
    watch = Watch(database, POLICIES, started_at=started(), lost_seconds=LOST_SECONDS)
    return [watch.look(started() + timedelta(seconds=after)) for after in seconds]


def test_a_pilot_that_stays_silent_is_given_up_once(database: Database) -> None:
    found = looks(database, *range(0, 140, 5))
    assert [after for after, lost in zip(range(0, 140, 5), found, strict=True) if lost] == [125]


def test_a_watch_that_was_frozen_gives_pilots_time_to_speak(database: Database) -> None:
    assert looks(database, 5, 10, 400, 405) == [[], [], [], []]


def test_after_a_freeze_a_pilot_that_stays_silent_is_given_up_later(database: Database) -> None:
    times = [5, 400, *range(405, 560, 5)]
    assert [after for after, lost in zip(times, looks(database, *times), strict=True) if lost] == [520]


def test_a_watch_that_starts_late_gives_pilots_time_to_speak(database: Database) -> None:
    watch = Watch(database, POLICIES, started_at=started() + timedelta(seconds=400), lost_seconds=LOST_SECONDS)
    assert watch.look(started() + timedelta(seconds=405)) == []
