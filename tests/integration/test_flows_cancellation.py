# SPDX-License-Identifier: Apache-2.0
"""A task that ends early, by `glideflow kill` or by Prefect's cancel, in every phase of its flow run."""

import subprocess
import time
from pathlib import Path

import pytest
from glideflow_flows.flow_runs import FlowRuns
from glideflow_flows.reconcile import Reconciler
from prefect.states import Cancelling
from prefect_instance import Instance, flow_processes, until

pytest_plugins = ("prefect_fixtures",)
pytestmark = pytest.mark.prefect

RECONCILE_SECONDS = 30
"""Nothing here may wait for the comparison of everything."""
PLAIN = "schema_version: 1\nname: plain\ncommand: 'true'\ninputs: {jobs: 250}\n"
SLACK = 3.0
"""Times of a quiet machine are multiplied with it: others may work on this one."""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


def is_in(instance: Instance, task_id: int, *types: str) -> bool:
    """Tell whether a task's flow run is in one of some types of state."""
    state = instance.flow_run(task_id).state
    return state is not None and state.type.value in types


def cancel_in_prefect(instance: Instance, task_id: int, *, force: bool = False) -> None:
    """Do what the button of Prefect's UI does; that of its second version forces."""
    instance.prefect.set_flow_run_state(instance.flow_run(task_id).id, Cancelling(), force=force)


def kill(instance: Instance, task_id: int) -> None:
    """Do what `glideflow kill` does."""
    instance.client.kill_task(task_id, "not needed any more")


@pytest.mark.parametrize(("phase", "seconds"), [("PENDING", 3.0), ("RUNNING", 3.0), ("PAUSED", 2.0)])
def test_both_sides_end_within_seconds_with_the_reason_and_stay_so(
    instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path, phase: str, seconds: float
) -> None:
    cancelled, killed = both = [instance.submit(tmp_path, PLAIN) for _ in range(2)]
    for task_id in both:
        until(lambda n=task_id: is_in(instance, n, phase))  # type: ignore[misc]
    began = time.monotonic()
    cancel_in_prefect(instance, cancelled)
    kill(instance, killed)
    until(
        lambda: all(instance.client.task(n)["state"] == "cancelled" and is_in(instance, n, "CANCELLED") for n in both)
    )
    assert time.monotonic() - began < SLACK * seconds
    until(lambda: not flow_processes(served))
    for task_id in both:
        assert is_in(instance, task_id, "CANCELLED")
        assert instance.client.task(task_id)["jobs"]["cancelled"] == 250
    assert instance.client.task(cancelled)["reason"]["text"] == "its flow run was cancelled in Prefect"
    state = instance.flow_run(killed).state
    assert state is not None
    assert "not needed any more" in str(state.message)


def test_whatever_a_flow_run_is_doing_it_ends_as_its_task_does(
    instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Tasks half a second apart: at one moment two are being resumed, and others suspend, run, start or wait."""
    tasks = []
    for _ in range(10):
        began = time.monotonic()
        tasks.append(instance.submit(tmp_path, PLAIN))
        until(lambda at=began: time.monotonic() - at > 0.5)  # type: ignore[misc]
    resumed = tasks[:2]
    until(lambda: is_in(instance, tasks[1], "PAUSED"))
    for task_id in resumed:
        instance.end_jobs(task_id)
    for number, task_id in enumerate(tasks):
        (kill, cancel_in_prefect)[number % 2](instance, task_id)
    until(lambda: not flow_processes(served) and all(is_in(instance, n, *FINAL) for n in tasks))
    for task_id in tasks:
        if instance.client.task(task_id)["state"] == "cancelled":
            assert is_in(instance, task_id, "CANCELLED")
        else:
            # The last job ended before: a cancel in Prefect that comes too late is shown there and changes nothing.
            assert task_id in resumed
            assert instance.client.task(task_id)["state"] == "done"
            assert is_in(instance, task_id, "CANCELLED", "COMPLETED")


def test_run_cancelled_after_its_task_has_ended_does_not_stay_cancelling(
    instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    task_id = instance.submit(tmp_path, PLAIN)
    kill(instance, task_id)
    run = instance.flow_run(task_id)
    assert run.deployment_id is not None
    until(lambda: is_in(instance, task_id, "CANCELLED") and not flow_processes(served))
    cancel_in_prefect(instance, task_id, force=True)
    assert is_in(instance, task_id, "CANCELLING")
    runs = FlowRuns(run.deployment_id, "glideflow")
    with runs.client:
        Reconciler(instance.database, runs, instance="glideflow", seconds=0).compare(everything=True)
    assert is_in(instance, task_id, "CANCELLED")
