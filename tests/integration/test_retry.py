# SPDX-License-Identifier: Apache-2.0
"""Retries as differences: which jobs run again with which numbers, on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dispatch_world import FakePilot, World

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.messages import Outcome
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.retrying import Changes, select
from glideflow.domain.site import Site
from glideflow.errors import IllegalTransition, UserError
from glideflow.services import brokerage, completion, control, views
from glideflow.services.policies import rules_in_force
from glideflow.services.retry import Wish
from glideflow.store import demands

SITES = {"here": Site(name="here", memory_mb=8000)}
AGAIN = control.user_reason(ReasonCode.RETRY_REQUESTED, "ada", "the server is back")
KILL = control.user_reason(ReasonCode.KILLED, "ada", None)


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database_url, tmp_path, SITES)
    yield made
    made.close()


def run(world: World, pilot: FakePilot, codes: dict[int, str]) -> dict[int, Any]:
    """Let a pilot run all that is ready, fail jobs with codes of reasons by their numbers, and return the orders."""
    brokerage.broker_new(world.database, SITES)
    world.announce()
    world.exchange(pilot, want=20)
    orders = {order.document["index"]: order for order in pilot.holding.values()}
    for attempt, order in sorted(pilot.holding.items()):
        code = codes.get(order.document["index"])
        if code is None:
            world.end(pilot, attempt)
        else:
            world.end(pilot, attempt, Outcome.FAILED, code=code)
    return orders


@pytest.fixture
def pilot(world: World) -> FakePilot:
    return world.pilot()


@pytest.fixture
def task(world: World, pilot: FakePilot) -> TaskId:
    """A failed task of six jobs: 0 and 1 are done, 2 and 3 ran out of disk, 4 exited, 5 was cancelled."""
    task = world.submit(inputs={"jobs": 6}, outputs={"o": {"file": "{index}"}}, retries=0)
    control.kill_job(world.database, JobId(6), KILL)
    run(world, pilot, {2: "disk_full", 3: "disk_full", 4: "payload_exit"})
    completion.finish(world.database, task)
    return task


def wish(*only: str, **changes: Any) -> Wish:
    return Wish(selection=select(only), changes=Changes.model_validate(changes), sites=SITES)


def snapshot(world: World) -> list[list[dict[str, Any]]]:
    """All that a retry could change."""
    tables = ("tasks", "jobs", "demands", "outbox", "files", "events")
    return [world.rows(f"SELECT * FROM {table} ORDER BY id") for table in tables]


@pytest.mark.parametrize(
    ("only", "states", "left"),
    [
        ((), {"failed": 3, "cancelled": 1}, 0),
        (("failed",), {"failed": 3}, 1),
        (("cancelled",), {"cancelled": 1}, 3),
        (("disk_full",), {"failed": 2}, 2),
        (("disk_full", "killed"), {"failed": 2, "cancelled": 1}, 1),
        (("stage_in_failed",), {}, 4),
    ],
)
def test_a_dry_run_says_which_jobs_would_run_and_changes_nothing(
    world: World, task: TaskId, only: tuple[str, ...], states: dict[str, int], left: int
) -> None:
    before = snapshot(world)
    plan = control.preview_retry_task(world.database, task, wish(*only, resources={"memory_mb": 4000}))
    assert snapshot(world) == before
    assert (plan["by_state"], plan["left"], plan["done"], plan["files"]) == (states, left, 2, 2)
    assert [job["state"] for job in plan["jobs"]].count("failed") == states.get("failed", 0)
    total = sum(states.values())
    assert plan["changes"] == ([{"key": "memory_mb", "old": 1000, "new": 4000, "jobs": total}] if total else [])


def test_a_retry_does_what_its_dry_run_said_and_a_second_one_nothing(
    world: World, pilot: FakePilot, task: TaskId
) -> None:
    wanted = wish("disk_full", resources={"disk_mb": 3000, "memory_mb": 2000}, priority=7)
    said = control.preview_retry_task(world.database, task, wanted)
    done = control.retry_task(world.database, task, AGAIN, wanted)
    assert (done.total, done.changed) == (said["total"], said["changes"])
    view = views.task(world.database, task)
    assert (view["state"], view["jobs"]["ready"], view["jobs"]["failed"], view["jobs"]["done"]) == ("running", 2, 1, 2)
    before = snapshot(world)
    assert control.retry_task(world.database, task, AGAIN, wanted).total == 0
    assert snapshot(world) == before
    orders = run(world, pilot, {})
    assert {index: (order.disk_mb, order.memory_mb) for index, order in orders.items()} == {
        2: (3000, 2000),
        3: (3000, 2000),
    }
    assert completion.finish(world.database, task) == "failed"
    assert len(views.outputs(world.database, task)["items"]) == 4
    events = world.rows("SELECT reason_text FROM events WHERE kind = 'task' AND new_state = 'running' ORDER BY id")
    assert events[-1]["reason_text"] == (
        "asked to run again by ada: the server is back (with memory_mb 2000, disk_mb 3000, priority 7)"
    )


def test_jobs_that_asked_for_different_numbers_get_the_new_one_together(world: World, task: TaskId) -> None:
    control.retry_task(world.database, task, AGAIN, wish("disk_full", resources={"memory_mb": 3000}))
    control.kill_task(world.database, task, KILL)
    plan = control.preview_retry_task(world.database, task, wish(resources={"memory_mb": 3000}, priority=0))
    # Those that have 3000 already, and all that have priority 0, are not told of.
    assert plan["changes"] == [{"key": "memory_mb", "old": 1000, "new": 3000, "jobs": 2}]
    control.retry_task(world.database, task, AGAIN, wish(resources={"memory_mb": 3000}))
    asked = world.rows(
        "SELECT DISTINCT memory_mb FROM demands d JOIN jobs j ON j.demand_id = d.id WHERE state = 'ready'"
    )
    assert asked == [{"memory_mb": 3000}]


def test_retries_and_rules_of_the_task_change_with_it(world: World, pilot: FakePilot, task: TaskId) -> None:
    rule = {"name": "never", "match": {"reasons": ["disk_full"]}, "fail": True}
    wanted = wish("failed", retries=3, failure_policy=[rule])
    plan = control.preview_retry_task(world.database, task, wanted)
    assert [(change["key"], change["old"]) for change in plan["changes"]] == [("retries", 0), ("failure_policy", [])]
    control.retry_task(world.database, task, AGAIN, wanted)
    found = rules_in_force(world.database, world.policies, task)
    assert (found["retries"], found["rules"][0]["key"]) == (3, "task/never")
    run(world, pilot, {2: "disk_full", 3: "payload_exit"})
    assert [views.job(world.database, JobId(job))["state"] for job in (3, 4, 5)] == ["failed", "waiting", "done"]
    assert world.rows("SELECT source FROM tasks") == [{"source": ""}]


def test_nothing_of_the_task_changes_when_no_job_runs_again(world: World, task: TaskId) -> None:
    before = snapshot(world)
    assert control.retry_task(world.database, task, AGAIN, wish("stage_in_failed", retries=9)).total == 0
    assert snapshot(world) == before


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"resources": {"memory_mb": 9000}},
            "no site may run the jobs with these numbers \\(here: its pilots are too s",
        ),
        ({"resources": {"cores": 64}}, "cores 1, and a job asks for 64"),
    ],
)
def test_numbers_that_no_site_has_are_refused_before_anything_changes(
    world: World, task: TaskId, changes: dict[str, Any], why: str
) -> None:
    before = snapshot(world)
    for order in (
        lambda: control.preview_retry_task(world.database, task, wish(**changes)),
        lambda: control.retry_task(world.database, task, AGAIN, wish(**changes)),
        lambda: control.retry_job(world.database, JobId(3), AGAIN, wish(**changes)),
    ):
        with pytest.raises(UserError, match=why):
            order()
    assert snapshot(world) == before


def test_one_job_gets_numbers_of_its_own(world: World, pilot: FakePilot, task: TaskId) -> None:
    wanted = wish(resources={"memory_mb": 5000})
    plan = control.preview_retry_job(world.database, JobId(3), wanted)
    assert (plan["total"], plan["left"], plan["jobs"][0]["id"]) == (1, 3, 3)
    assert plan["changes"] == [{"key": "memory_mb", "old": 1000, "new": 5000, "jobs": 1}]
    control.retry_job(world.database, JobId(3), AGAIN, wanted)
    with pytest.raises(IllegalTransition, match="job 3 cannot go from ready to ready"):
        control.retry_job(world.database, JobId(3), AGAIN, wanted)
    assert {index: order.memory_mb for index, order in run(world, pilot, {}).items()} == {2: 5000}
    with pytest.raises(UserError, match="`retries` hold for a whole task: leave `--job` out"):
        control.retry_job(world.database, JobId(4), AGAIN, wish(retries=3))


def test_a_merge_job_is_not_run_again_while_its_jobs_run(world: World, pilot: FakePilot) -> None:
    task = world.submit(
        inputs={"jobs": 3}, outputs={"o": {"file": "{index}"}}, retries=0, tolerance={"failed_jobs": 1},
        merge={"command": "cat {inputs}"},
    )  # fmt: skip
    run(world, pilot, {1: "payload_exit"})
    merge = completion.merge(world.database, SITES, task)
    assert merge is not None
    run(world, pilot, {0: "payload_exit"})
    completion.finish(world.database, task)
    assert control.preview_retry_task(world.database, task, wish())["merge"] == "follows"
    control.retry_job(world.database, JobId(2), AGAIN)
    with pytest.raises(IllegalTransition, match="whose task has jobs that have not ended"):
        control.retry_job(world.database, merge, AGAIN)
    run(world, pilot, {1: "payload_exit"})
    control.retry_job(world.database, merge, AGAIN)
    assert len(run(world, pilot, {})) == 1
    completion.merge(world.database, SITES, task)
    assert completion.finish(world.database, task) == "partly_done"


def test_what_was_not_written_yet_gets_the_new_numbers_too(world: World, pilot: FakePilot) -> None:
    task = world.submit(inputs={"jobs": 4}, retries=0)
    with world.database.transaction() as connection:
        # As a large task is when it is killed early.
        connection.execute("DELETE FROM jobs WHERE index >= 2")
        connection.execute("UPDATE tasks SET jobs_written = 2")
    control.kill_task(world.database, task, KILL)
    wanted = wish(resources={"memory_mb": 2500}, priority=3)
    assert control.preview_retry_task(world.database, task, wanted)["unwritten"] == 2
    control.retry_task(world.database, task, AGAIN, wanted)
    row = world.rows("SELECT spec->'resources'->>'memory_mb' AS memory, priority FROM tasks")[0]
    assert row == {"memory": "2500", "priority": 3}
    with world.database.transaction() as connection:
        (_, changed) = demands.of_task(connection, task)
    assert (changed["memory_mb"], changed["priority"]) == (2500, 3)


def test_a_task_without_jobs_takes_no_new_numbers(world: World) -> None:
    task = world.submit(inputs={"jobs": 4}, planned=False)
    control.kill_task(world.database, task, KILL)
    with pytest.raises(UserError, match="has no jobs yet whose numbers could change: submit it again"):
        control.retry_task(world.database, task, AGAIN, wish(resources={"memory_mb": 2000}))
    assert views.task(world.database, task)["state"] == "cancelled"
    assert control.retry_task(world.database, task, AGAIN).total == 0
    assert views.task(world.database, task)["state"] == "submitted"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("faild", "did you mean `failed`?"),
        ("disk_ful", "did you mean `disk_full`?"),
        ("zzz", "the reasons are those of"),
    ],
)
def test_an_unknown_word_after_only_is_refused(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        select([name])
    assert str(caught.value).startswith(f"only `{name}`: give `failed`, `cancelled` or the code of a reason; ")
    assert hint in str(caught.value)
