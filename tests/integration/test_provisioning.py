# SPDX-License-Identifier: Apache-2.0
"""The factory's cycle on a real PostgreSQL: pilots sent by demand, and our rows kept true."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glideflow.domain.identifiers import PilotId, TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.matching import Offer
from glideflow.domain.messages import Registration
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.shares import ShareConfig
from glideflow.domain.site import Site
from glideflow.domain.task import Submission, TaskSpec
from glideflow.errors import CondorError
from glideflow.launching.launcher import LaunchStatus
from glideflow.services import control, planning
from glideflow.services.board import Board
from glideflow.services.claims import claim_jobs
from glideflow.services.policies import Policies
from glideflow.services.provisioning import Provisioner
from glideflow.services.registration import RegistrationRefused, register
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, submit
from glideflow.settings import load_settings
from glideflow.store import jobs, pilots
from glideflow.store.engine import Database
from glideflow.system_policy import load_system_policy
from glideflow.testing.fake_launcher import FakeLauncher

SITE = Site(name="here", max_pilots=6, max_queued=6)
POLICIES = Policies(sites={"here": SITE}, system=load_system_policy(load_settings(Path("/nonexistent"))).rules)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, connections=3)
    yield opened
    opened.close()


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def provisioner(database: Database, launcher: FakeLauncher) -> Provisioner:
    return Provisioner(database, {"here": SITE}, POLICIES, {"here": launcher}, "https://localhost:1", start_seconds=600)


@pytest.fixture
def task(database: Database, tmp_path: Path) -> TaskId:
    return add_task(database, tmp_path, 4)


def add_task(database: Database, folder: Path, number: int) -> TaskId:
    place = Place(
        database=database, storage=Storage(folder / "s"), sandboxes=Storage(folder / "x"), sites={"here": SITE},
        max_jobs=1000,
    )  # fmt: skip
    spec = TaskSpec.model_validate({"schema_version": 1, "name": "demo", "command": "true", "inputs": {"jobs": number}})
    task_id = submit(place, Submission(spec=spec), Identity(method="test", subject="ada", vo="local"))
    planning.plan(place, task_id)
    return task_id


def states(database: Database) -> Counter[str]:
    with database.transaction() as connection:
        return Counter(row["state"] for row in pilots.page(connection, site=None, everything=True, limit=100))


def enter(database: Database, launcher: FakeLauncher, position: int = 0) -> PilotId:
    """Let a launched pilot start and register."""
    launch = launcher.launches[position]
    launcher.set_status(launch.pilot_id, LaunchStatus.RUNNING)
    register(
        database,
        Registration(
            pilot_id=launch.pilot_id, secret=launch.secret, site="here", node="n", version="0", python="3", cores=1,
            memory_mb=1000, disk_mb=1000, seconds_left=1000,
        ),
    )  # fmt: skip
    return launch.pilot_id


def claim(database: Database, pilot_id: PilotId) -> list[dict[str, Any]]:
    offer = Offer(
        pilot_id=pilot_id, site="here", node="n", want=1, cores=1, memory_mb=9000, disk_mb=9000, seconds=90000
    )  # fmt: skip
    with database.transaction() as connection:
        pilots.heard(connection, [{"id": pilot_id, "sequence": 1, "holding": [1]}])
        return claim_jobs(connection, Board(ShareConfig()), [offer])


def age(database: Database, column: str, seconds: int) -> None:
    """Let time pass for all pilots."""
    with database.transaction() as connection:
        connection.execute(f"UPDATE pilots SET {column} = {column} - {seconds} * interval '1 second'")


def test_pilots_are_sent_for_ready_jobs_and_not_twice(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    assert provisioner.cycle()["here"].n == 4
    assert provisioner.cycle()["here"].n == 0
    assert len(launcher.launches) == 4
    assert states(database) == {"submitted": 4}
    with database.transaction() as connection:
        assert "4 ready jobs" in pilots.decisions(connection)["here"]["reasons"][0]


def test_a_pilot_that_runs_and_never_registers_is_given_up_and_removed(
    database: Database, launcher: FakeLauncher, task: TaskId
) -> None:
    patient, hasty = (
        Provisioner(database, {"here": SITE}, POLICIES, {"here": launcher}, "https://localhost:1", start_seconds=limit)
        for limit in (600, 0)
    )
    patient.cycle()
    enter(database, launcher, 0)
    mute = launcher.launches[1].pilot_id
    launcher.set_status(mute, LaunchStatus.RUNNING)
    for _ in range(2):
        patient.cycle()
        assert states(database) == {"submitted": 3, "registered": 1}
    hasty.cycle()
    hasty.cycle()
    assert states(database)["failed"] == 1
    with database.transaction() as connection:
        ended = pilots.lock(connection, mute)
    assert ended is not None
    assert (ended["state"], ended["reason_code"]) == ("failed", "pilot_not_registered")
    assert "has not registered, 0 s are allowed: can its node reach https://localhost:1?" in ended["reason_text"]
    age(database, "ended_at", 61)
    hasty.cycle()
    assert launcher.removed[mute] == "it has ended"


def test_nothing_is_sent_without_demand(database: Database, launcher: FakeLauncher, provisioner: Provisioner) -> None:
    assert provisioner.cycle()["here"].reasons == ("no ready job is meant for the site",)
    assert launcher.launches == []


def test_an_unreachable_batch_system_sends_nothing_and_gives_nothing_up(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    age(database, "planned_at", 3600)
    launcher.failure = CondorError("the schedd does not answer")
    decision = provisioner.cycle()["here"]
    assert (decision.n, decision.reasons) == (0, ("nothing is sent: the schedd does not answer",))
    assert states(database) == {"submitted": 4}


def test_pilots_that_were_not_taken_are_failed_with_the_reason_and_sent_again(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CondorError("submit refused")

    with monkeypatch.context() as patch:
        patch.setattr(launcher, "launch", refuse)
        assert "submit refused" in provisioner.cycle()["here"].reasons[-1]
    assert states(database) == {"failed": 4}
    # Most recent pilots failed at once: one is sent to try.
    assert provisioner.cycle()["here"].n == 1


def test_a_pilot_whose_submission_was_not_noted_before_a_crash_is_found_again(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    with database.transaction() as connection:
        connection.execute("UPDATE pilots SET state = 'planned', batch_id = NULL")
    assert provisioner.cycle()["here"].n == 0
    assert states(database) == {"submitted": 4}
    with database.transaction() as connection:
        assert {row["batch_id"] for row in pilots.open_at(connection, "here")} == {"1.0", "1.1", "1.2", "1.3"}


def test_a_killed_pilots_job_is_given_to_others(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    pilot_id = enter(database, launcher)
    (taken,) = claim(database, pilot_id)
    launcher.vanish(pilot_id)
    provisioner.cycle()
    # Its good-bye may still be on its way.
    assert states(database)["registered"] == 1
    age(database, "last_seen_at", 60)
    provisioner.cycle()
    assert states(database)["vanished"] == 1
    with database.transaction() as connection:
        job = jobs.get(connection, taken["id"])
    assert job is not None
    assert (job["state"], job["reason_code"]) == ("ready", "pilot_lost")


def test_a_pilot_that_never_registered_is_failed_when_it_is_gone(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    launcher.vanish(launcher.launches[0].pilot_id)
    age(database, "planned_at", 120)
    provisioner.cycle()
    assert states(database)["failed"] == 1


def test_a_held_pilot_is_shown_as_held_and_removed_by_the_policy(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    pilot_id = enter(database, launcher)
    (taken,) = claim(database, pilot_id)
    launcher.hold(pilot_id, 3, 42, "pilot bootstrap failed")
    provisioner.cycle()
    assert pilot_id in launcher.removed
    assert states(database)["failed"] == 1
    with database.transaction() as connection:
        job = jobs.get(connection, taken["id"])
    assert job is not None
    assert job["state"] == "ready"


def test_a_pilot_that_ended_and_is_still_in_the_queue_is_removed_after_a_while(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    pilot_id = enter(database, launcher)
    with database.transaction() as connection:
        connection.execute("UPDATE pilots SET state = 'vanished', ended_at = now() WHERE id = %s", [pilot_id])
    provisioner.cycle()
    assert not launcher.removed
    age(database, "ended_at", 120)
    provisioner.cycle()
    assert list(launcher.removed) == [pilot_id]


def test_idle_pilots_that_are_silent_are_not_counted_on(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    for position in range(4):
        enter(database, launcher, position)
    assert provisioner.cycle()["here"].n == 0
    age(database, "last_seen_at", 90)
    assert provisioner.cycle()["here"].n == 4


def test_killed_pilots_do_not_count_against_their_site(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    with database.transaction() as connection:
        connection.execute("UPDATE pilots SET state = 'vanished', ended_at = now(), registered_at = now()")
    assert provisioner.cycle()["here"].n == 4


def test_a_killed_task_lets_its_queued_pilots_go(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    control.kill_task(database, task, control.user_reason(ReasonCode.KILLED, "ada", None))
    provisioner.cycle()
    assert not launcher.removed
    age(database, "planned_at", 60)
    provisioner.cycle()
    assert len(launcher.removed) == 4
    assert states(database) == {"removed": 4}


def test_a_pilot_that_was_given_up_cannot_register(
    database: Database, launcher: FakeLauncher, provisioner: Provisioner, task: TaskId
) -> None:
    provisioner.cycle()
    with database.transaction() as connection:
        connection.execute("UPDATE pilots SET state = 'removed'")
    with pytest.raises(RegistrationRefused):
        enter(database, launcher)
