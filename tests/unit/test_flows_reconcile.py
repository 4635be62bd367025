# SPDX-License-Identifier: Apache-2.0
"""What the reconciler decides about a task and its flow run."""

from typing import Any
from uuid import uuid4

import pytest
from glideflow_flows.reconcile import ADOPT_SECONDS, Action, decide
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import (
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
    Scheduled,
    Suspended,
)

from glideflow.services.orchestration import OpenTask


def task(*, stage_ended: bool = False) -> OpenTask:
    """An open task."""
    return OpenTask(
        task_id=7,
        task_name="zpeak",
        owner="ada",
        vo="local",
        state="running",
        stage_ended=stage_ended,
        flow_run_id=str(uuid4()),
        generation=1,
    )


def run(state: State[Any]) -> FlowRun:
    """A flow run in some state."""
    return FlowRun(flow_id=uuid4(), state=state)


def test_unknown_flow_run_is_made_again() -> None:
    assert decide(task(), None, ours=False, idle_seconds=0) is Action.START


@pytest.mark.parametrize("state", [Running(), Pending(), Scheduled()])
def test_flow_run_with_work_to_do_is_left_alone(state: State[Any]) -> None:
    assert decide(task(stage_ended=True), run(state), ours=True, idle_seconds=1e6) is Action.NOTHING


@pytest.mark.parametrize(("stage_ended", "action"), [(True, Action.RESUME), (False, Action.NOTHING)])
def test_suspended_flow_run_is_resumed_when_its_jobs_have_ended(stage_ended: bool, action: Action) -> None:
    assert decide(task(stage_ended=stage_ended), run(Suspended()), ours=True, idle_seconds=0) is action


@pytest.mark.parametrize("state", [Cancelled(), Cancelling()])
def test_flow_run_cancelled_by_a_person_kills_the_task(state: State[Any]) -> None:
    assert decide(task(), run(state), ours=True, idle_seconds=0) is Action.KILL


@pytest.mark.parametrize("state", [Crashed(), Failed()])
def test_broken_flow_run_of_ours_runs_again(state: State[Any]) -> None:
    assert decide(task(), run(state), ours=True, idle_seconds=0) is Action.RUN_AGAIN


@pytest.mark.parametrize("state", [Crashed(), Failed(), Completed()])
def test_task_whose_users_flow_ended_without_it_is_adopted(state: State[Any]) -> None:
    assert decide(task(), run(state), ours=False, idle_seconds=0) is Action.START


@pytest.mark.parametrize(
    ("idle_seconds", "action"), [(ADOPT_SECONDS - 1, Action.NOTHING), (ADOPT_SECONDS + 1, Action.START)]
)
def test_task_of_a_users_flow_that_does_nothing_for_long_is_adopted(idle_seconds: float, action: Action) -> None:
    assert decide(task(stage_ended=True), run(Running()), ours=False, idle_seconds=idle_seconds) is action
