# SPDX-License-Identifier: Apache-2.0
"""When a silent pilot is given up, and when its silence is our own deafness."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dispatch_world import FakePilot, World

from glideflow.domain.identifiers import PilotId
from glideflow.domain.messages import Answer
from glideflow.domain.states import AttemptState, JobState
from glideflow.services.policies import Policies
from glideflow.services.watchdog import Limits, Watch, sweep_attempts
from glideflow.store.engine import Database
from glideflow.store.moves import move

LIMITS = Limits(lost_seconds=120, unheld_seconds=60, verifying_seconds=300)
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
    watch = Watch(database, POLICIES, started_at=started(), limits=LIMITS)
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
    watch = Watch(database, POLICIES, started_at=started() + timedelta(seconds=400), limits=LIMITS)
    assert watch.look(started() + timedelta(seconds=405)) == []


# --- attempts


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database_url, tmp_path)
    yield made
    made.close()


def look_at_attempts(world: World, *, later: float = 0.0, listening: float = 10_000.0) -> list[int]:
    """Return the attempts that are given up at a time after now, by a server that listens for so long, seconds."""
    now = datetime.now(UTC) + timedelta(seconds=later)
    since = now - timedelta(seconds=listening)
    return list(sweep_attempts(world.database, world.policies, LIMITS, now=now, listening_since=since))


def given(world: World, pilot: FakePilot, *, is_lost: bool) -> Answer:
    """Let a pilot be given a job long ago; its answer may be lost."""
    call = pilot.call(want=1)
    (answer,) = world.endpoints[0].answer([call])
    assert isinstance(answer, Answer)
    if not is_lost:
        pilot.hear(answer)
    world.rows("UPDATE attempts SET claimed_at = now() - interval '61 seconds' RETURNING id")
    return answer


def test_a_pilot_that_never_says_a_word_of_its_job_loses_it(world: World) -> None:
    world.submit()
    pilot = world.pilot()
    answer = given(world, pilot, is_lost=True)
    attempt = answer.jobs[0].attempt_id
    # Nothing was heard of the pilot since.
    world.rows("UPDATE pilots SET last_seen_at = now() - interval '30 seconds' RETURNING id")
    assert look_at_attempts(world) == []
    world.endpoints[0].answer([pilot.call()])
    assert look_at_attempts(world) == [attempt]
    assert look_at_attempts(world) == []
    (row,) = world.rows("SELECT * FROM attempts")
    assert (row["state"], row["reason_code"]) == ("lost", "attempt_not_held")
    assert "was heard 61 s after it was given attempt 1, which was claimed, and does not hold it" in row["reason_text"]
    assert world.state("jobs", answer.jobs[0].job_id) == "ready"
    # It has the job after all: it is told to end it, and its word does not count.
    pilot.hear(answer)
    said = world.exchange(pilot)
    assert isinstance(said, Answer)
    assert [(each.command, each.attempt_id) for each in said.commands] == [("kill", attempt)]
    said = world.exchange(pilot)
    assert isinstance(said, Answer)
    assert [receipt.accepted for receipt in said.receipts] == [False]
    assert world.state("attempts", attempt) == "lost"


@pytest.mark.parametrize("is_running", [False, True])
def test_a_pilot_that_holds_its_job_keeps_it(world: World, is_running: bool) -> None:
    world.submit()
    pilot = world.pilot()
    attempt = given(world, pilot, is_lost=False).jobs[0].attempt_id
    if is_running:
        world.start(pilot, attempt)
    world.exchange(pilot)
    assert look_at_attempts(world) == []


def test_a_running_job_that_its_pilot_forgot_runs_elsewhere(world: World) -> None:
    world.submit()
    pilot = world.pilot()
    attempt = given(world, pilot, is_lost=False).jobs[0].attempt_id
    world.start(pilot, attempt)
    pilot.holding.clear()
    world.exchange(pilot)
    assert look_at_attempts(world) == [attempt]
    assert "which was running, and does not hold it" in world.rows("SELECT reason_text FROM attempts")[0]["reason_text"]


def test_an_old_question_that_comes_late_does_not_say_what_a_pilot_holds(world: World) -> None:
    world.submit()
    pilot = world.pilot()
    given(world, pilot, is_lost=False)
    world.exchange(pilot)
    world.endpoints[0].answer([pilot.sent[0]])
    assert look_at_attempts(world) == []


def test_a_verification_without_end_is_given_up_by_a_server_that_could_have_done_it(world: World) -> None:
    world.submit()
    pilot = world.pilot()
    attempt = given(world, pilot, is_lost=False).jobs[0].attempt_id
    with world.database.transaction() as connection:
        move(connection, AttemptState.REPORTED, [attempt])
        move(connection, JobState.VERIFYING, [1])
    assert look_at_attempts(world, later=290) == []
    assert look_at_attempts(world, later=310, listening=100) == []
    assert look_at_attempts(world, later=310) == [attempt]
    (row,) = world.rows("SELECT * FROM attempts")
    assert (row["state"], row["reason_code"]) == ("lost", "verification_timeout")
    assert "s ago and is not verified; 300 s are allowed" in row["reason_text"]
    assert world.state("jobs", 1) == "ready"


def test_a_pilot_that_is_just_speaking_is_not_given_up(database: Database) -> None:
    watch = Watch(database, POLICIES, started_at=started(), limits=LIMITS)
    watch.look(started())
    with database.transaction() as connection:
        connection.execute("SELECT FROM pilots FOR UPDATE")
        assert [watch.look(started() + timedelta(seconds=after)) for after in range(5, 140, 5)] == [[]] * 27
    assert watch.look(started() + timedelta(seconds=140)) == [PILOT]
