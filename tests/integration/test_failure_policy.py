# SPDX-License-Identifier: Apache-2.0
"""Failure policies of task, site and system, applied to reports of pilots on a real PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dispatch_world import FakePilot, World

from glideflow.domain.failure_rules import Rule
from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.messages import Outcome
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.shares import ShareConfig
from glideflow.domain.site import Site
from glideflow.services import brokerage, control, settlement, views
from glideflow.services.explain import explain
from glideflow.services.watchdog import wake_delayed
from glideflow.store import demands

AWAY = Rule.model_validate({"name": "away", "match": {"exit_codes": [65]}, "fail": True})
SITES = {
    "north": Site(name="north", memory_mb=4000, failure_policy=[AWAY]),
    "south": Site(name="south", memory_mb=4000),
}
ONE, TWO = JobId(1), JobId(2)


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database_url, tmp_path, SITES)
    yield made
    made.close()


@pytest.fixture
def pilot(world: World) -> FakePilot:
    return world.pilot("north", "n1")


def claim(world: World, pilot: FakePilot) -> int | None:
    """Let a pilot ask for a job, and return the attempt."""
    brokerage.broker_new(world.database, SITES)
    world.announce()
    before = set(pilot.holding)
    world.exchange(pilot, want=1)
    return next(iter(pilot.holding.keys() - before), None)


def fail(world: World, pilot: FakePilot, **said: Any) -> None:
    """Let a pilot take a job and report that it failed."""
    attempt = claim(world, pilot)
    assert attempt is not None
    world.end(pilot, attempt, Outcome.FAILED, **said)


def demand(world: World, job: JobId) -> dict[str, Any]:
    """What a job asks for now."""
    with world.database.transaction() as connection:
        row = connection.execute("SELECT demand_id FROM jobs WHERE id = %s", [job]).fetchone() or {}
        (found,) = demands.read(connection, [row["demand_id"]]).values()
    return vars(found)


def explained(world: World, job: JobId) -> dict[str, Any]:
    """What the product says of a job."""
    return explain(world.database, ShareConfig(), job, datetime.now(UTC))


def test_an_attempt_keeps_what_the_pilot_said_and_the_rule_that_fired(world: World, pilot: FakePilot) -> None:
    flaky = {"name": "flaky", "match": {"text": "(?i)connection reset"}, "retry": {"times": 1}}
    world.submit(failure_policy=[flaky])
    fail(world, pilot, exit_code=7, text="Connection RESET by peer " + "x" * 1900)
    found = explained(world, ONE)
    (attempt,) = found["attempts"]
    assert (attempt["exit_code"], attempt["signal"], attempt["rule"]) == (7, None, "task/flaky")
    assert (attempt["reason"]["code"], len(attempt["reason"]["text"])) == ("payload_exit", 1925)
    assert attempt["verdict"] == "Rule flaky of the task: the job runs again 2 s later (retry 1 of 1)."
    assert found["sentences"][0].endswith(f"x. {attempt['verdict']}")
    assert "before the next attempt, until " in found["sentences"][1]
    with world.database.transaction() as connection:
        connection.execute("UPDATE jobs SET not_before = now()")
    wake_delayed(world.database)
    fail(world, pilot, code="payload_signal", signal=9, exit_code=None, text="connection reset")
    found = explained(world, ONE)
    assert (found["job"]["state"], found["attempts"][1]["signal"]) == ("failed", 9)
    assert found["sentences"][0] == "It was tried 2 times."
    assert found["sentences"][2:4] == [
        "It failed for good: connection reset [payload_signal, said by the payload].",
        "Rule flaky of the task: the job fails, it was run again once already.",
    ]


def test_the_rules_of_the_site_where_it_failed_come_between_those_of_task_and_system(
    world: World, pilot: FakePilot
) -> None:
    world.submit(inputs={"jobs": 2})
    fail(world, pilot, exit_code=65)
    fail(world, world.pilot("south"), exit_code=65)
    found = [explained(world, job) for job in (ONE, TWO)]
    assert [(one["job"]["state"], one["attempts"][0]["rule"]) for one in found] == [
        ("failed", "site north/away"),
        ("waiting", "system/any-failure"),
    ]


def test_a_job_that_needs_more_memory_moves_to_another_demand_and_gets_it(world: World, pilot: FakePilot) -> None:
    retry = {"times": 5, "delay_seconds": 0, "memory_factor": 2, "max_memory_mb": 9000}
    oom = {"name": "oom", "match": {"signals": ["SIGKILL"]}, "retry": retry}
    task = world.submit(failure_policy=[oom], inputs={"jobs": 2}, resources={"memory_mb": 1500})
    fail(world, pilot, exit_code=137)
    assert [demand(world, job)["memory_mb"] for job in (ONE, TWO)] == [3000, 1500]
    for _ in range(3):
        fail(world, pilot, exit_code=137)
    # Both share a demand again, and no pilot of any site has more than 4000 MB.
    assert [demand(world, job)["memory_mb"] for job in (ONE, TWO)] == [4000, 4000]
    assert demand(world, ONE)["demand_id"] == demand(world, TWO)["demand_id"]
    attempt = claim(world, pilot)
    assert attempt is not None
    assert pilot.holding[attempt].memory_mb == 4000
    world.end(pilot, attempt, Outcome.FAILED, exit_code=137)
    job = next(job for job in (ONE, TWO) if views.job(world.database, job)["state"] == "failed")
    verdict = explained(world, job)["attempts"][2]["verdict"]
    assert "since it had 4000 MB of memory, the most that the rule and the sites allow" in verdict
    with world.database.transaction() as connection:
        assert len(demands.of_task(connection, task)) == 3


@pytest.mark.parametrize(
    ("where", "takers", "nodes", "sites"), [("node", ["n2", "n3"], ("n1",), ()), ("site", ["n3"], (), ("north",))]
)
def test_a_job_is_not_given_to_where_it_failed(
    world: World, pilot: FakePilot, where: str, takers: list[str], nodes: tuple[str, ...], sites: tuple[str, ...]
) -> None:
    others = {"n2": world.pilot("north", "n2"), "n3": world.pilot("south", "n3")}
    retry = {"times": 3, "delay_seconds": 0, "elsewhere": where}
    world.submit(failure_policy=[{"name": "away", "match": {"reasons": ["payload_exit"]}, "retry": retry}])
    fail(world, pilot)
    assert (demand(world, ONE)["avoid_nodes"], demand(world, ONE)["avoid_sites"]) == (nodes, sites)
    took = []
    for node, one in {"n1": pilot, **others}.items():
        attempt = claim(world, one)
        if attempt is not None:
            took.append(node)
            # It goes back, and it cost nothing.
            world.end(one, attempt, Outcome.REFUSED)
    assert took == takers
    control.kill_task(world.database, TaskId(1), control.user_reason(ReasonCode.KILLED, "ada", None))
    control.retry_task(world.database, TaskId(1), control.user_reason(ReasonCode.RETRY_REQUESTED, "ada", None))
    assert claim(world, world.pilot("north", "n1")) is not None


def test_lost_pilots_cost_no_retry_and_are_judged_by_the_same_rules(world: World, pilot: FakePilot) -> None:
    world.submit(retries=0)
    for _ in range(2):
        lost = world.pilot("north")
        assert claim(world, lost) is not None
        with world.database.transaction() as connection:
            reason = Reason(code=ReasonCode.PILOT_LOST, text="silent", source=Source.SERVER)
            settlement.give_up(connection, world.policies, [lost.id], reason)
    found = explained(world, ONE)
    assert found["job"]["state"] == "ready"
    assert [attempt["rule"] for attempt in found["attempts"]] == ["system/pilot", "system/pilot"]
    fail(world, pilot)
    assert views.job(world.database, ONE)["state"] == "failed"


def test_a_mixed_batch_sends_each_job_to_where_its_rule_says(world: World) -> None:
    stop = {"name": "stop", "match": {"exit_codes": [1]}, "fail": True}
    task = world.submit(failure_policy=[stop], inputs={"jobs": 3})
    pilots = [world.pilot("south") for _ in range(3)]
    for pilot, code in zip(pilots, (1, 2, 65), strict=True):
        attempt = claim(world, pilot)
        assert attempt is not None
        world.report_end(pilot, attempt, Outcome.FAILED, exit_code=code)
    world.endpoints[0].answer([pilot.call() for pilot in pilots])
    found = views.job_page(world.database, task, state=None, stage=None, cursor=0, limit=9)["items"]
    assert [job["state"] for job in found] == ["failed", "waiting", "waiting"]


def test_a_user_who_runs_a_job_again_gives_it_all_its_retries_back(world: World, pilot: FakePilot) -> None:
    world.submit(failure_policy=[{"name": "once", "retry": {"times": 1, "delay_seconds": 0}}])
    for _ in range(2):
        fail(world, pilot)
    assert views.job(world.database, ONE)["state"] == "failed"
    control.retry_job(world.database, ONE, control.user_reason(ReasonCode.RETRY_REQUESTED, "ada", None))
    fail(world, pilot)
    assert explained(world, ONE)["attempts"][2]["verdict"].endswith("(retry 1 of 1).")


def test_a_job_that_was_paused_while_it_ran_stays_paused_when_it_fails(world: World, pilot: FakePilot) -> None:
    grow = {"times": 3, "delay_seconds": 0, "memory_factor": 2, "max_memory_mb": 4000}
    world.submit(failure_policy=[{"name": "grow", "retry": grow}])
    attempt = claim(world, pilot)
    assert attempt is not None
    control.pause_job(world.database, ONE, control.user_reason(ReasonCode.PAUSED, "ada", None))
    world.end(pilot, attempt, Outcome.FAILED)
    assert demand(world, ONE)["memory_mb"] == 2000
    assert claim(world, pilot) is None
    control.resume_job(world.database, ONE, control.user_reason(ReasonCode.RESUMED, "ada", None))
    assert claim(world, pilot) is not None
