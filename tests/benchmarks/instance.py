# SPDX-License-Identifier: Apache-2.0
"""An instance for benchmarks: a home and a private HTCondor pool of its own, started by the product's own commands."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from glideflow.client import Client
from glideflow.condor.private_pool import PrivatePool
from glideflow.domain.task import Submission, TaskSpec
from glideflow.errors import PoolError
from glideflow.instance.home import Home
from glideflow.settings import load_settings, process_environment
from glideflow.submission import LocalSubmission

COMMAND = Path(sys.executable).with_name("glideflow")
LONGEST_SECONDS = 900.0
_SETTLE_SECONDS = 2.0


class Instance:
    """A running instance with its pool, its only user this benchmark."""

    def __init__(self, home: Path, slots: int) -> None:
        settings = load_settings(home)
        self.slots = slots
        self.home = Home(settings)
        self.pool = PrivatePool(settings, self.home)
        self.client = Client.from_settings(settings)
        # The first request opens the connection: not a part of any figure.
        self.client.whoami()

    def submit(self, name: str, jobs: int) -> dict[str, Any]:
        """Submit a task of jobs that run `true`."""
        spec = TaskSpec.model_validate({"schema_version": 1, "name": name, "command": "true", "inputs": {"jobs": jobs}})
        return self.client.submit(LocalSubmission(submission=Submission(spec=spec), uploads=[]))

    def wait_done(self, task: dict[str, Any], jobs: int, pause_seconds: float = 0.05) -> float:
        """Wait until so many jobs of a task are done; returns the time at which that was seen, monotonic."""
        wait(lambda: self.client.task(task["id"])["jobs"]["done"] >= jobs, f"{jobs} jobs of {task}", pause_seconds)
        return time.monotonic()

    def make_cold(self) -> None:
        """End all pilots and plain jobs and give all claims back: the pool is as if nobody had used it for long."""
        # It fails when there is none.
        with suppress(PoolError):
            self.pool.run(["condor_rm", "-all"])
        wait(lambda: not self.client.pilots() and not self.queued(), "pilots and jobs are gone", 0.1)
        # Otherwise the next job would take over the last one's idle claim.
        self.pool.run(["condor_vacate", "-all", "-fast"], as_root=True)
        wait(lambda: "slot1_" not in self.pool.run(["condor_status", "-af", "Name"]), "all slots are free", 0.1)
        time.sleep(_SETTLE_SECONDS)

    def make_warm(self) -> None:
        """Have as many idle pilots as the pool has slots."""
        while len(self.client.pilots()) < self.slots or any(p["state"] != "registered" for p in self.client.pilots()):
            self.wait_done(self.submit("warm-up", 4 * self.slots), 4 * self.slots)
            time.sleep(_SETTLE_SECONDS)
        self.wait_flows()

    def wait_flows(self) -> None:
        """Wait until Prefect has seen the end of all tasks: its processes take a share of the machine."""
        wait(lambda: all(task["ended_at"] for task in self.client.tasks(limit=20)), "all tasks have ended", 0.2)
        time.sleep(_SETTLE_SECONDS)

    def queued(self) -> int:
        """Return how many jobs are in HTCondor's queue and have not ended."""
        return len(self.pool.run(["condor_q", "-allusers", "-af", "ClusterId"]).split())


@contextmanager
def running_instance(slots: int) -> Iterator[Instance]:
    """Run an instance in a home that goes away."""
    folder = Path(tempfile.mkdtemp(prefix="glideflow-bench-"))
    home = folder / "home"
    try:
        _glideflow(home, "up", "--slots", str(slots))
        instance = Instance(home, slots)
        if instance.pool.status().kind != "private":
            raise PoolError("HTCondor is configured on this machine: benchmarks want a private pool, which they own")
        with instance.client:
            yield instance
    finally:
        _glideflow(home, "down")
        _glideflow(home, "pool", "down", "--purge")
        shutil.rmtree(folder, ignore_errors=True)


def _glideflow(home: Path, *arguments: str) -> None:
    subprocess.run([COMMAND, *arguments], env=process_environment(GLIDEFLOW_HOME=str(home)), check=True)


def wait(done: Callable[[], bool], what: str, pause_seconds: float) -> None:
    """Ask until it is true.

    Raises:
        TimeoutError: It never was.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {LONGEST_SECONDS:.0f} s still not: {what}")
        time.sleep(pause_seconds)
