# SPDX-License-Identifier: Apache-2.0
"""The histogram of a task's failures and the rules in force, on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dispatch_world import World

from glideflow.domain.failure_rules import Rule
from glideflow.domain.identifiers import TaskId
from glideflow.domain.messages import Outcome
from glideflow.domain.site import Site
from glideflow.errors import NotFound
from glideflow.services import brokerage
from glideflow.services.failures import histogram
from glideflow.services.policies import rules_in_force
from glideflow.store import tally

SLEEPER = Rule.model_validate({"name": "mount", "fail": True, "active": False})
SITES = {"here": Site(name="here", failure_policy=[SLEEPER]), "there": Site(name="there")}


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database_url, tmp_path, SITES)
    yield made
    made.close()


@pytest.fixture
def task(world: World) -> TaskId:
    """A task of six jobs, of which five failed in three ways at two sites."""
    task = world.submit(inputs={"jobs": 6}, retries=0)
    brokerage.broker_new(world.database, SITES)
    here, there = world.pilot("here", "n1"), world.pilot("there", "n2")
    for pilot, codes in ((here, (3, 3, 4)), (there, (3, 5))):
        for code in codes:
            world.announce()
            world.exchange(pilot, want=1)
            (attempt,) = pilot.holding
            world.end(pilot, attempt, Outcome.FAILED, exit_code=code, text=f"exit code {code} on {pilot.id}")
    return task


@pytest.mark.parametrize("folded", [False, True])
def test_failed_jobs_are_counted_by_reason_exit_code_and_site(world: World, task: TaskId, folded: bool) -> None:
    if folded:
        with world.database.transaction() as connection:
            tally.fold(connection)
    found = histogram(world.database, task)
    assert (found["failed"], found["by"]) == (5, ["reason", "exit_code", "site"])
    counted = [(item["code"], item["exit_code"], item["site"], item["count"]) for item in found["items"]]
    assert counted[0] == ("payload_exit", 3, "here", 2)
    assert sorted(counted[1:], key=str) == [
        ("payload_exit", 3, "there", 1),
        ("payload_exit", 4, "here", 1),
        ("payload_exit", 5, "there", 1),
    ]
    for item in found["items"]:
        assert item["text"].startswith(f"exit code {item['exit_code']} on ")
        assert world.state("jobs", item["job_id"]) == "failed"


def test_dimensions_can_be_chosen_and_repeated_ones_count_once(world: World, task: TaskId) -> None:
    found = histogram(world.database, task, ["node", "node"])
    assert [(item["node"], item["count"]) for item in found["items"]] == [("n1", 3), ("n2", 2)]
    assert set(found["items"][0]) == {"node", "count", "job_id", "text"}
    both = histogram(world.database, task, ["site", "node"])
    assert [(item["site"], item["node"], item["count"]) for item in both["items"]] == [
        ("here", "n1", 3),
        ("there", "n2", 2),
    ]


def test_a_task_whose_jobs_were_all_run_again_has_no_failures(world: World, task: TaskId) -> None:
    world.rows("UPDATE jobs SET state = 'ready' WHERE state = 'failed' RETURNING id")
    assert (histogram(world.database, task)["failed"], histogram(world.database, task)["items"]) == (0, [])
    with pytest.raises(NotFound, match="there is no task 99"):
        histogram(world.database, TaskId(99))


def test_the_rules_in_force_are_those_of_the_task_its_sites_and_the_system(world: World) -> None:
    task = world.submit(failure_policy=[{"name": "oom", "fail": True}], retries=4, tolerance={"failed_jobs": 3})
    found = rules_in_force(world.database, world.policies, task)
    system = [f"system/{rule.name}" for rule in world.policies.system]
    keys = ["task/oom", "site here/mount", *system]
    assert [rule["key"] for rule in found["rules"]] == keys
    assert [rule["active"] for rule in found["rules"]] == [True, False, *(True for _ in system)]
    assert (found["retries"], found["tolerance"]) == (4, {"failed_jobs": 3, "end": "partly_done"})
    pinned = rules_in_force(world.database, world.policies, world.submit(site="there"))
    assert [rule["key"] for rule in pinned["rules"]] == keys[2:]
    assert [rule["key"] for rule in rules_in_force(world.database, world.policies, None)["rules"]] == keys[1:]
    with pytest.raises(NotFound, match="there is no task 99"):
        rules_in_force(world.database, world.policies, TaskId(99))
