# SPDX-License-Identifier: Apache-2.0
"""Processes that are killed in the middle of a task: it goes on, and each job is done exactly once."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from real_instance import RESOURCES, Instance, family_of, kill_hard, until

pytest_plugins = ("instance_fixtures",)
pytestmark = [pytest.mark.pool, pytest.mark.prefect]

TASK = f"""
schema_version: 1
name: survives
command: sleep {{{{seconds}}}}; echo {{index}} > part.txt
inputs: {{jobs: 12}}
outputs: {{part: {{file: part.txt}}}}
resources: {RESOURCES}
merge:
  command: cat {{inputs}} > all.txt
  outputs: {{all: {{file: all.txt}}}}
  resources: {RESOURCES}
"""


def submit(instance: Instance, folder: Path, seconds: float) -> int:
    """Submit a task of 12 jobs that take so long each, and return when some run."""
    number = instance.submit(folder, TASK.replace("{{seconds}}", str(seconds)))
    until(lambda: instance.jobs(number, "running"))
    return number


def merged(instance: Instance, task: int, folder: Path) -> list[int]:
    """Return what the merge job read."""
    instance.say("outputs", str(task), "--to", str(folder / "results"))
    return sorted(map(int, (folder / "results" / "all.txt").read_text().split()))


def flow_processes(instance: Instance) -> list[psutil.Process]:
    """Return the processes of flow runs."""
    server = psutil.Process(instance.processes()["flows"])
    return [child for child in server.children() if "spawn_main" in " ".join(child.cmdline())]


def test_after_kill_9_of_everything_up_continues(instance: Instance, tmp_path: Path) -> None:
    number = submit(instance, tmp_path, 2)
    run = instance.flow_run(number)["id"]
    before = instance.processes()
    everything = [process for pid in before.values() for process in family_of(pid)]
    kill_hard(list(dict.fromkeys(everything)))
    assert "does not answer" in instance.run("tasks", status=1).err
    assert "stopped" in instance.run("status", status=1).words
    instance.run("up")
    assert not set(before.values()) & set(instance.processes().values())
    instance.ended(number)
    assert instance.each_done_once(number)
    assert [found["id"] for found in instance.flow_runs(number)] == [run]
    instance.flow_ended(number, "COMPLETED")
    assert merged(instance, number, tmp_path) == list(range(12))


def test_a_flow_whose_process_is_killed_goes_on(instance: Instance, tmp_path: Path) -> None:
    number = instance.submit(tmp_path, TASK.replace("{{seconds}}", "1"))
    kill_hard(until(lambda: flow_processes(instance)))
    instance.ended(number)
    assert len(instance.flow_runs(number)) == 1
    instance.flow_ended(number, "COMPLETED")
    assert instance.each_done_once(number)
    assert merged(instance, number, tmp_path) == list(range(12))


def test_the_jobs_of_a_killed_pilot_run_elsewhere(instance: Instance, tmp_path: Path) -> None:
    number = submit(instance, tmp_path, 5)
    [attempt] = instance.ask("explain", str(instance.jobs(number, "running")[0]["id"]))["attempts"]
    victim = instance.pilots()[attempt["pilot_id"]]
    os.kill(victim.pid, signal.SIGKILL)
    instance.ended(number)
    explained = instance.ask("explain", str(attempt_job(instance, number, attempt["pilot_id"])))
    assert [tried["state"] for tried in explained["attempts"]] == ["lost", "done"]
    assert "pilot" in " ".join(explained["sentences"])
    assert instance.each_done_once(number)
    assert merged(instance, number, tmp_path) == list(range(12))


def attempt_job(instance: Instance, task: int, pilot: str) -> int:
    """Return the job of a task that a pilot lost."""
    for job in instance.jobs(task):
        if job["attempts"] > 1 and instance.ask("explain", str(job["id"]))["attempts"][0]["pilot_id"] == pilot:
            return int(job["id"])
    raise AssertionError(f"pilot {pilot} lost no job of task {task}")


@pytest.mark.parametrize("who", ["glideflow kill", "Prefect's cancel"])
def test_a_cancelled_task_ends_its_jobs_and_frees_the_pilots(instance: Instance, tmp_path: Path, who: str) -> None:
    number = submit(instance, tmp_path, 287.25)
    run = instance.flow_run(number)["id"]
    until(lambda: sleepers(287.25))
    began = time.monotonic()
    if who == "glideflow kill":
        instance.say("kill", str(number), "--reason", "wrong numbers")
    else:
        state = {"type": "CANCELLING", "name": "Cancelling"}
        instance.prefect(f"flow_runs/{run}/set_state", state=state)
    task = instance.ended(number, "cancelled")
    assert ("wrong numbers" if who == "glideflow kill" else "cancelled in Prefect") in task["reason"]["text"]
    assert not instance.jobs(number, "running", "ready", "claimed", "done")
    until(lambda: not sleepers(287.25))
    until(lambda: not any(pilot["running"] for pilot in instance.ask("pilots")))
    instance.flow_ended(number, "CANCELLED")
    # Three on a quiet machine.
    assert time.monotonic() - began < 10


def sleepers(seconds: float) -> list[int]:
    """Return the commands that sleep for so long."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", str(seconds)]]
