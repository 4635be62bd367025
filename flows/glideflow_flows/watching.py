# SPDX-License-Identifier: Apache-2.0
"""Waiting for the jobs of a task: a moment in the process, then suspended without one, or polling as a subflow."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import uuid4

import httpx
from prefect import get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectException
from prefect.flow_runs import suspend_flow_run

from glideflow.domain.states import FINAL_TASKS
from glideflow.errors import ServiceError
from glideflow.settings import load_settings
from glideflow_flows.artifacts import Artifacts
from glideflow_flows.connection import endpoint

GRACE_SECONDS = 4.0
"""A stage that ends within this time is awaited in the process: suspending and resuming takes about as long."""
FIRST_POLL_SECONDS = 0.2
SLOWEST_POLL_SECONDS = 5.0
SHOW_SECONDS = 2.0
PATIENCE_SECONDS = [1.0, 2.0, 4.0, 8.0, 15.0, 30.0]

R = TypeVar("R")


class Watch:
    """Follows one task for one flow run.

    Args:
        run: The flow run.
        task_id: The task.
        suspends: Whether waiting may end this process; somebody must then resume the run.
    """

    def __init__(self, run: FlowRun, task_id: int, *, suspends: bool) -> None:
        self._run = run
        self._task_id = task_id
        self._suspends = suspends
        self._shown_at = 0.0
        self._task_ended = False

    def wait(self, stage: str) -> bool:
        """Wait until all jobs of a stage have ended, or the task has.

        Args:
            stage: `main` or `merge`.

        Returns:
            Whether the task goes on; one that was killed does not.
        """
        while not self._poll(stage):
            try:
                # Never the same key twice: Prefect passes a suspension whose key it has seen, and a run may have been
                # resumed too early.
                suspend_flow_run(timeout=None, key=f"{stage}-{uuid4()}")
            except RuntimeError as error:
                # The run was cancelled just now, and its task is being killed: the next looks show it.
                get_run_logger().info("%s", error)
        return not self._task_ended

    def _poll(self, stage: str) -> bool:
        """Ask until the stage has ended (True), or until it is time to suspend (False)."""
        started = time.monotonic()
        while True:
            if self._has_ended(stage):
                return True
            waited = time.monotonic() - started
            if self._suspends and waited > GRACE_SECONDS:
                return False
            time.sleep(min(max(FIRST_POLL_SECONDS, waited / 10), SLOWEST_POLL_SECONDS))

    def _has_ended(self, stage: str) -> bool:
        try:
            progress = endpoint().progress(self._task_id)
        except ServiceError as error:
            if not error.retryable:
                raise
            get_run_logger().warning("Still waiting for the jobs: %s", error)
            return False
        past = stage == "main" and progress["stage"] == "merge"
        self._task_ended = progress["task"]["state"] in FINAL_TASKS
        ended = past or progress["ended"] or self._task_ended
        if ended or time.monotonic() - self._shown_at > SHOW_SECONDS:
            self.show(progress)
        return ended

    def show(self, progress: Mapping[str, Any]) -> None:
        """Bring the artifacts up to date; a failure costs a line in the log, nothing else."""
        self._shown_at = time.monotonic()
        try:
            with get_client(sync_client=True) as client:
                artifacts = Artifacts(client, self._run.id, self._task_id, load_settings().instance)
                artifacts.show_progress(progress)
        except (httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("The progress could not be shown: %s", error)


def patiently(ask: Callable[[], R]) -> R:
    """Ask the endpoint, again when it does not answer, for about a minute.

    Args:
        ask: What to call.

    Raises:
        GlideflowError: What the last call raised.
    """
    for seconds in PATIENCE_SECONDS:
        try:
            return ask()
        except ServiceError as error:
            if not error.retryable:
                raise
            get_run_logger().warning("%s", error)
        time.sleep(seconds)
    return ask()


def introduce(client: SyncPrefectClient, run: FlowRun, task: Mapping[str, Any]) -> None:
    """Give a flow run the task's name and tags, unless it has them.

    Args:
        client: Client of the Prefect server.
        run: The flow run.
        task: The task as the endpoint shows it.
    """
    name, tags = run_name(task["name"], task["id"]), run_tags(task["id"], task["vo"], task["owner"])
    if run.name != name or not set(tags) <= set(run.tags):
        client.update_flow_run(run.id, name=name, tags=sorted({*run.tags, *tags}))


def run_name(task_name: str, task_id: int) -> str:
    """Return the name of a task's flow run."""
    return f"{task_name} #{task_id}"


def run_tags(task_id: int, vo: str, owner: str) -> list[str]:
    """Return the tags of a task's flow run."""
    return [f"task:{task_id}", f"vo:{vo}", f"owner:{owner}"]


def end_with_server() -> None:
    """End this flow process when the process that serves the flows is gone, however it went.

    A new one runs the same flow run again: two processes must not drive it at once.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
