# SPDX-License-Identifier: Apache-2.0
"""Tasks that tolerate failed jobs: how they merge, end and run again, on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dispatch_world import SITES, FakePilot, World

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.messages import Outcome
from glideflow.domain.reasons import ReasonCode
from glideflow.services import brokerage, completion, control, views

KILL = control.user_reason(ReasonCode.KILLED, "ada", None)
AGAIN = control.user_reason(ReasonCode.RETRY_REQUESTED, "ada", None)
MERGED: dict[str, Any] = {
    "inputs": {"jobs": 5},
    "outputs": {"part": {"file": "{index}"}},
    "merge": {"command": "cat {inputs} > all", "outputs": {"all": {"file": "all"}}},
    "retries": 0,
}


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database_url, tmp_path)
    yield made
    made.close()


def run(world: World, pilot: FakePilot, *failing: int) -> list[str]:
    """Let a pilot run all that is ready, fail the jobs with some numbers, and return the commands."""
    brokerage.broker_new(world.database, SITES)
    world.announce()
    world.exchange(pilot, want=20)
    commands = []
    for attempt, order in sorted(pilot.holding.items()):
        commands.append(order.command)
        world.end(pilot, attempt, Outcome.FAILED if order.document["index"] in failing else Outcome.SUCCEEDED)
    return commands


def end(world: World, task: TaskId) -> dict[str, Any]:
    """Finish a task as its flow does."""
    completion.finish(world.database, task)
    return views.task(world.database, task)


@pytest.mark.parametrize(
    ("tolerance", "state", "text"),
    [
        (None, "failed", "2 of 5 jobs failed, 2 of them like job "),
        ({"failed_jobs": 1}, "failed", "2 of 5 jobs failed, more than the 1 that the task tolerates, 2 of them like "),
        ({"failed_jobs": 2}, "partly_done", "2 of 5 jobs failed, not more than the 2 that the task tolerates, 2 of "),
        ({"failed_percent": 40}, "partly_done", "2 of 5 jobs failed, not more than the 2 that the task tolerates"),
        ({"failed_percent": 39.9}, "failed", "2 of 5 jobs failed, more than the 1 that the task tolerates"),
        ({"failed_jobs": 2, "end": "failed"}, "failed", "2 of 5 jobs failed, not more than the 2 that the task "),
    ],
)
def test_a_task_ends_as_its_tolerance_says(
    world: World, tolerance: dict[str, Any] | None, state: str, text: str
) -> None:
    task = world.submit(inputs={"jobs": 5}, retries=0, **({"tolerance": tolerance} if tolerance else {}))
    run(world, world.pilot(), 1, 3)
    found = end(world, task)
    assert (found["state"], found["reason"]["code"]) == (state, "jobs_failed")
    assert found["reason"]["text"].startswith(text)


def test_a_task_of_which_no_job_failed_is_done(world: World) -> None:
    task = world.submit(inputs={"jobs": 5}, tolerance={"failed_percent": 50})
    run(world, world.pilot())
    found = end(world, task)
    assert (found["state"], found["reason"]) == ("done", None)


@pytest.mark.parametrize("everything", [False, True])
def test_cancelled_jobs_and_a_task_without_any_done_are_not_tolerated(world: World, everything: bool) -> None:
    task = world.submit(inputs={"jobs": 5}, tolerance={"failed_percent": 100}, retries=0)
    if not everything:
        control.kill_job(world.database, JobId(5), KILL)
    run(world, world.pilot(), *(range(5) if everything else ()))
    found = end(world, task)
    assert found["state"] == "failed"
    assert found["reason"]["text"].startswith("5 of 5 jobs failed" if everything else "1 of 5 jobs were cancelled")


@pytest.mark.parametrize("how", ["partly_done", "failed"])
def test_the_merge_reads_what_the_done_jobs_made_and_the_retried_ones_later(world: World, how: str) -> None:
    task = world.submit(**MERGED, tolerance={"failed_jobs": 2, "end": how})
    pilot = world.pilot()
    run(world, pilot, 1, 3)
    first = completion.merge(world.database, SITES, task)
    assert completion.merge(world.database, SITES, task) == first
    assert run(world, pilot) == ["cat 0-0 2-2 4-4 > all"]
    assert end(world, task)["state"] == how
    control.retry_task(world.database, task, AGAIN)
    assert views.task(world.database, task)["merge"] == {"job_id": first, "state": "done"}
    assert len(run(world, pilot, 3)) == 2
    second = completion.merge(world.database, SITES, task)
    assert second != first
    assert completion.merge(world.database, SITES, task) == second
    assert run(world, pilot) == ["cat 0-0 1-1 2-2 4-4 > all"]
    found = end(world, task)
    assert (found["state"], found["merge"]) == (how, {"job_id": second, "state": "done"})
    assert views.job(world.database, views.job_id_of(world.database, "demo.merge"))["id"] == second
    made = [item for item in views.outputs(world.database, task)["items"] if item["stage"] == "merge"]
    assert [item["job_id"] for item in made] == [second]
    # Nothing new to read: the merge stays.
    control.retry_task(world.database, task, AGAIN)
    run(world, pilot, 3)
    assert completion.merge(world.database, SITES, task) == second
    assert end(world, task)["state"] == how


def test_a_failed_merge_waits_for_the_jobs_that_are_run_again_with_it(world: World) -> None:
    task = world.submit(**MERGED, tolerance={"failed_jobs": 2})
    pilot = world.pilot()
    run(world, pilot, 1)
    job = completion.merge(world.database, SITES, task)
    run(world, pilot, 0)
    assert end(world, task)["reason"]["code"] == "merge_failed"
    assert control.retry_task(world.database, task, AGAIN).total == 1
    assert run(world, pilot) == ["true"]
    assert completion.merge(world.database, SITES, task) == job
    assert run(world, pilot) == ["cat 0-0 1-1 2-2 3-3 4-4 > all"]
    assert end(world, task)["state"] == "done"
