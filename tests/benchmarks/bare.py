# SPDX-License-Identifier: Apache-2.0
"""An instance whose one site sends no pilots: what pilots would say, simulated ones say. See `load.py`."""

import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from instance import COMMAND, wait

from glideflow.client import Client
from glideflow.domain.task import Submission, TaskSpec
from glideflow.instance.home import Home
from glideflow.settings import load_settings, process_environment
from glideflow.submission import LocalSubmission

SITES = """
sites:
  - name: bench
    launcher: local
    max_pilots: 0
    cores: 8
    memory_mb: 16000
    disk_mb: 16000
"""
ALL_AHEAD = "ready_jobs_per_task: 2000000\n"
"""Settings with which all jobs of a task are written before they are needed."""
LOAD = Path(__file__).with_name("load.py")
_SETTLE_SECONDS = 3.0
_QUIET = 0.05
"""Part of one core that quiet servers may use."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Processor time between two looks, seconds."""

    endpoint: float
    postgres: float


class Bare:
    """A running instance without pilots.

    Args:
        home: Its home.
    """

    def __init__(self, home: Path) -> None:
        settings = load_settings(home)
        self.home = Home(settings)
        self.client = Client.from_settings(settings)
        self.client.whoami()
        self._http = httpx.Client(
            base_url=self.home.known_instance().rest_url,
            verify=ssl.create_default_context(cafile=str(self.home.ca / "ca.pem")),
            headers={"Authorization": f"Bearer {self.home.token_file.read_text().strip()}"},
        )

    def get(self, path: str) -> Any:
        """Ask the endpoint something."""
        return self._http.get(path).raise_for_status().json()

    def submit(self, name: str, jobs: int) -> int:
        """Submit a task of jobs; returns its number as soon as it is accepted."""
        spec = TaskSpec.model_validate({"schema_version": 1, "name": name, "command": "true", "inputs": {"jobs": jobs}})
        return int(self.client.submit(LocalSubmission(submission=Submission(spec=spec), uploads=[]))["id"])

    def wait_planned(self, task: int, jobs: int) -> None:
        """Wait until all jobs of a task are written; those that are not count as waiting."""
        wait(
            lambda: sum(self.counts(task).values()) - self.counts(task)["waiting"] >= jobs,
            f"{jobs} jobs of task {task}",
            0.2,
        )

    def counts(self, task: int) -> dict[str, int]:
        """Return a task's jobs by state."""
        counts = dict(self.client.task(task)["jobs"])
        del counts["total"]
        return counts

    def fill(self, ready: int) -> None:
        """Have so many ready jobs, by one more task where there are fewer."""
        there = sum(task["jobs"]["ready"] for task in self.client.tasks(limit=20))
        if there < ready:
            self.wait_planned(self.submit(f"fill-{ready}", ready - there), ready - there)
        self.settle()

    def settle(self) -> None:
        """Let what was started end: flows that begin, and PostgreSQL's vacuum of what was written."""

        def quiet() -> bool:
            before = self.cost()
            time.sleep(_SETTLE_SECONDS)
            after = self.cost()
            busy = after.endpoint + after.postgres - before.endpoint - before.postgres
            return busy < _QUIET * _SETTLE_SECONDS

        wait(quiet, "the servers are quiet", 0)

    def load(self, *, pilots: int, seconds: float, period_seconds: float = 0.0, jobs: int = 0) -> Mapping[str, Any]:
        """Let simulated pilots exchange, where a number is given only until so many jobs are finished.

        Returns:
            What they have seen, as `load.Figures`.
        """
        argv = [sys.executable, str(LOAD), str(self.home.root), "--pilots", str(pilots), "--seconds", str(seconds)]
        argv += ["--period", str(period_seconds), "--jobs", str(jobs)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
        return dict(json.loads(done.stdout))

    def processes(self) -> tuple[psutil.Process, list[psutil.Process]]:
        """Return the endpoint's process, and those of PostgreSQL."""
        supervisor = psutil.Process(int(self.home.supervisor_lock.read_text()))
        every = supervisor.children(recursive=True)
        (endpoint,) = [process for process in every if "glideflow.api" in process.cmdline()]
        return endpoint, [process for process in every if process.name() == "postgres"]

    def cost(self) -> Cost:
        """Return the processor time that the parts have used so far."""
        endpoint, postgres = self.processes()
        return Cost(endpoint=_busy(endpoint), postgres=sum(map(_busy, postgres)))

    def endpoint_rss_mb(self) -> float:
        """Return the endpoint's memory, MB."""
        return float(self.processes()[0].memory_info().rss) / 1e6


def _busy(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@contextmanager
def bare_instance(settings: str = ALL_AHEAD) -> Iterator[Bare]:
    """Run an instance in a home that goes away.

    Args:
        settings: The text of its `glideflow.yaml`.
    """
    folder = Path(tempfile.mkdtemp(prefix="glideflow-bench-"))
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "sites.yaml").write_text(SITES)
    (home / "glideflow.yaml").write_text(settings)
    environment = process_environment(GLIDEFLOW_HOME=str(home))
    try:
        subprocess.run([COMMAND, "up"], env=environment, check=True)
        bare = Bare(home)
        with bare.client:
            yield bare
    finally:
        subprocess.run([COMMAND, "down"], env=environment, check=True)
        shutil.rmtree(folder, ignore_errors=True)


def percentile(values: list[float], part: float) -> float:
    """Return the value below which so many percent of some values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part / 100))]
