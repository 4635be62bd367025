# SPDX-License-Identifier: Apache-2.0
"""The flows process: it survives being killed, stops cleanly, and loses nothing while Prefect is away."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from glideflow_flows.flow_runs import FlowRuns
from glideflow_flows.relay import Relay
from glideflow_flows.serving import deployment_name
from prefect import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect_instance import HOST, Instance, flow_processes, kill_hard, until

from glideflow.errors import PrefectUnavailable
from glideflow.instance.ports import free_port
from glideflow.services import orchestration

pytest_plugins = ("prefect_fixtures",)
pytestmark = pytest.mark.prefect

PLAIN = "schema_version: 1\nname: plain\ncommand: 'true'\ninputs: {jobs: 3}\n"


@contextmanager
def serving(instance: Instance) -> Iterator[subprocess.Popen[bytes]]:
    """Run the flows process until the end of the block, and wait until it serves."""
    before = len(instance.flows_log.read_text()) if instance.flows_log.exists() else 0
    with instance.flows() as process:
        instance.wait_until_serving(process, before)
        yield process


def test_flows_process_killed_hard_takes_its_flow_runs_with_it_and_the_next_one_goes_on(
    instance: Instance, tmp_path: Path
) -> None:
    with serving(instance) as first:
        suspended = instance.submit(tmp_path, PLAIN)
        instance.wait_for_flow(suspended, "Suspended")
        running = instance.submit(tmp_path, PLAIN)
        run = instance.wait_for_flow(running, "Running")
        orphans = until(lambda: flow_processes(first))
        kill_hard(first)
        until(lambda: not any(orphan.is_running() for orphan in orphans), 30)
    for task_id in (suspended, running):
        instance.end_jobs(task_id)
    with serving(instance):
        instance.wait_for_flow(suspended, "Completed")
        assert instance.wait_for_flow(running, "Completed").id == run.id


def test_sigterm_ends_the_process_quickly_and_cancels_no_flow_run(instance: Instance, tmp_path: Path) -> None:
    with serving(instance) as process:
        task_id = instance.submit(tmp_path, PLAIN)
        run = instance.wait_for_flow(task_id, "Running")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert not any(child.is_running() for child in children)
    assert instance.client.task(task_id)["state"] == "running"
    assert instance.flow_run(task_id).state_name not in ("Cancelled", "Cancelling")
    with serving(instance):
        instance.end_jobs(task_id)
        assert instance.wait_for_flow(task_id, "Completed").id == run.id


def test_task_submitted_while_prefect_is_down_gets_its_flow_run_later(instance: Instance, tmp_path: Path) -> None:
    task_id = instance.submit(tmp_path, PLAIN)
    nowhere = f"http://{HOST}:{free_port(HOST, ())}/api"
    with temporary_settings({PREFECT_API_URL: nowhere, PREFECT_CLIENT_MAX_RETRIES: 0}):
        runs = FlowRuns(uuid4(), "glideflow")
        with runs.client, pytest.raises(PrefectUnavailable):
            Relay(instance.database, runs).carry_all()
    [entry] = [e for e in orchestration.pending(instance.database) if e.task_id == task_id]
    assert (entry.action, entry.tries) == ("start", 1)
    instance.end_jobs(task_id)
    with serving(instance):
        instance.wait_for_flow(task_id, "Completed")


def test_deployment_that_prefect_lost_ends_the_process_so_that_it_registers_again(
    instance: Instance, tmp_path: Path
) -> None:
    with serving(instance) as process:
        with get_client(sync_client=True) as client:
            [deployment] = [d for d in client.read_deployments() if d.name == deployment_name("glideflow")]
            client.delete_deployment(deployment.id)
        task_id = instance.submit(tmp_path, PLAIN)
        assert process.wait(30) == 1
    instance.end_jobs(task_id)
    with serving(instance):
        instance.wait_for_flow(task_id, "Completed")


def test_package_is_light_to_import_and_found_by_prefect() -> None:
    script = """
import sys, glideflow_flows
assert not {"prefect", "htcondor2", "psycopg"} & set(sys.modules)
from glideflow_flows import run_task
assert run_task.name == "glideflow" and "htcondor2" not in sys.modules
from importlib.metadata import entry_points
[found] = [e for e in entry_points(group="prefect.collections") if e.name == "glideflow"]
assert found.load() is glideflow_flows
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
