# SPDX-License-Identifier: Apache-2.0
"""Services that are away while tasks wait or run: it is said which and what to do, and nothing is lost."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from real_instance import PATIENCE_SECONDS, RESOURCES, Instance, kill_hard, until

from glideflow.testing.tokens import write_condor_token

pytest_plugins = ("instance_fixtures",)
pytestmark = [pytest.mark.pool, pytest.mark.prefect]

OUTAGE_SECONDS = 60
WAITING = f"{{schema_version: 1, name: waits, command: echo, resources: {RESOURCES}}}"
"""A task that any warm pilot could take."""


@contextmanager
def no_pilots(instance: Instance) -> Iterator[None]:
    """End the pilots that are there, so that a task needs a new one."""
    ids = {pilot["batch_id"] for pilot in instance.ask("pilots", "--site", "local") if pilot["batch_id"]}
    if ids:
        instance.run("pool", "exec", "--", "condor_rm", *sorted(ids))
    until(lambda: not instance.pilots() and not instance.ask("pilots", "--site", "local"))
    yield


def all_say(instance: Instance, task: int, *words: str) -> bool:
    """Tell whether explain and sites both have some words; not before the task has its jobs."""
    if instance.task(task)["state"] in ("submitted", "planning"):
        return False
    said = [instance.say("explain", f"{task}.0").words, instance.say("sites").words]
    return all(word in text for word in words for text in said)


def failed_check(instance: Instance, name: str) -> str:
    """Return what the doctor says of a part that does not work."""
    checks = instance.say("doctor", "--json", status=1).json()
    [check] = [check for check in checks if check["name"] == name]
    assert check["result"] == "failed"
    return f"{check['sentence']} {check['remedy']}"


def test_a_task_waits_for_a_pool_that_is_down(instance: Instance, tmp_path: Path) -> None:
    with no_pilots(instance):
        instance.run("pool", "down")
        number = instance.submit(tmp_path, WAITING)
        try:
            until(lambda: all_say(instance, number, "schedd of the private pool does not answer", "glideflow pool up"))
            assert "glideflow pool up" in failed_check(instance, "schedd")
            assert instance.task(number)["state"] == "running"
        finally:
            instance.run("pool", "up")
    instance.ended(number)


@pytest.mark.parametrize("fault", ["readable by others", "expired"])
def test_a_bad_token_is_named_with_its_remedy(instance: Instance, tmp_path: Path, fault: str) -> None:
    token = instance.home.pool / "tokens.d" / "pool"
    remedy = f"chmod 600 {token}" if fault == "readable by others" else "glideflow pool up"
    with no_pilots(instance):
        shutil.copy2(token, tmp_path / "kept")
        try:
            if fault == "readable by others":
                token.chmod(0o644)
            else:
                write_condor_token(token, seconds=-3600)
            number = instance.submit(tmp_path, WAITING)
            until(lambda: all_say(instance, number, str(token), remedy))
            said = failed_check(instance, "schedd")
            assert str(token) in said
            assert remedy in said
        finally:
            # What the remedies do; either would also do for the other fault.
            if fault == "readable by others":
                token.chmod(0o600)
            else:
                instance.run("pool", "up")
    instance.ended(number)


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_task_does_not_need_prefect_to_be_accepted_and_to_run(instance: Instance, tmp_path: Path, how: str) -> None:
    def submit_and_run() -> int:
        number = instance.submit(tmp_path, WAITING)
        until(lambda: instance.task(number)["jobs"]["done"] == 1)
        return number

    if how == "killed":
        import psutil

        kill_hard([psutil.Process(instance.processes()["prefect"])])
        number = submit_and_run()
    else:
        with instance.frozen("prefect"):
            number = submit_and_run()
            assert instance.task(number)["flow_run_id"] is None
    instance.ended(number)
    assert len(instance.flow_runs(number)) == 1
    instance.flow_ended(number, "COMPLETED")
    until(instance.all_work)


def test_a_silent_endpoint_costs_no_job(instance: Instance, tmp_path: Path) -> None:
    task = f"""
    schema_version: 1
    name: outlives
    command: echo begins; sleep 10; echo ends | tee end.txt
    inputs: {{jobs: 3}}
    outputs: {{end: {{file: end.txt}}}}
    resources: {RESOURCES}
    """
    number = instance.submit(tmp_path, task)
    until(lambda: len(instance.jobs(number, "running")) == 3)
    began = time.monotonic()
    with instance.frozen("endpoint"):
        answer = instance.run("tasks", status=1, seconds=PATIENCE_SECONDS)
        assert "does not answer" in answer.err
        until(lambda: time.monotonic() - began > OUTAGE_SECONDS)
    instance.ended(number)
    assert [job["attempts"] for job in instance.jobs(number)] == [1, 1, 1]
    assert instance.each_done_once(number)
    assert instance.say("log", f"{number}.2").out == "begins\nends\n"


def test_two_starts_at_once_make_one_instance(instance: Instance) -> None:
    if not instance.starts:
        pytest.skip("the instance ran already")
    assert [answer.status for answer in instance.starts] == [0, 0]
    assert sorted("runs already" in answer.out for answer in instance.starts) == [False, True]
