# SPDX-License-Identifier: Apache-2.0
"""One task of a million jobs: how long it takes to write them all, and what the endpoint needs for that."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from harness import Result, Target
from place import Place

from glideflow.client import Client
from glideflow.domain.task import Submission, TaskSpec
from glideflow.errors import EndpointUnavailable
from glideflow.instance.certificates import ensure_certificates
from glideflow.instance.home import Home, InstanceInfo
from glideflow.instance.ports import free_port
from glideflow.instance.postgres import HOST, EmbeddedPostgres
from glideflow.settings import load_settings, process_environment
from glideflow.store.migration import migrate
from glideflow.submission import LocalSubmission

TITLE = "Planning: one task of 1,000,000 jobs"
HOW = """
A REST endpoint alone on an embedded PostgreSQL with its default durability; nobody takes the jobs, and
`ready_jobs_per_task` is so large that all of them are written at once (usually the endpoint writes 20,000 ahead of the
pilots). From the request that submits the task until the last job is written, with the time of the first 1,000, after
which pilots have work; and by how much the endpoint's resident memory was larger at its peak than before.
"""
JOBS = 1_000_000
TARGET_SECONDS = 120.0
TARGET_MB = 100.0
_LONGEST_SECONDS = 900.0
_KILOBYTES = 1000
FILES = """
    WITH task AS (
        INSERT INTO tasks (name, owner, vo, state, priority, spec, source, sandbox)
        VALUES ('old', 'bench', 'local', 'done', 0, '{"retries": 0}', '', '[]') RETURNING id
    ), demand AS (
        INSERT INTO demands (task_id, stage, priority, cores, memory_mb, disk_mb, wall_seconds)
        SELECT id, 'main', 0, 1, 1, 1, 1 FROM task RETURNING id
    ), job AS (
        INSERT INTO jobs (task_id, stage, index, state, slices, demand_id)
        SELECT task.id, 'main', 0, 'done', '[]', demand.id FROM task, demand RETURNING id
    ), pilot AS (
        INSERT INTO pilots (id, site, state, secret_hash) VALUES ('bench', 'local', 'ended', '') RETURNING id
    ), attempt AS (
        INSERT INTO attempts (job_id, task_id, pilot_id, number)
        SELECT job.id, task.id, pilot.id, 1 FROM job, task, pilot RETURNING id
    ), dataset AS (INSERT INTO datasets (name, owner) VALUES ('bench', 'bench') RETURNING id)
    INSERT INTO files (dataset_id, task_id, job_id, attempt_id, output, name, url, size_bytes, sha256, events)
    SELECT dataset.id, task.id, job.id, attempt.id, 'o' || n, 'f' || n, '/storage/tasks/1/1/f' || n, 1000,
        repeat('0', 64), 100
    FROM dataset, task, job, attempt, generate_series(1, %s) n
"""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one task cost."""

    first_seconds: float
    seconds: float
    grown_mb: float


def measure(place: Place) -> Result:
    """Write the jobs of a task without inputs, and of one that reads as many files."""
    jobs = round(JOBS * place.factor)
    rows, targets = [], []
    for name, inputs in (("no inputs", {"jobs": jobs}), ("a file of a dataset each", {"dataset": "bench"})):
        with ExitStack() as stack:
            endpoint = stack.enter_context(running_endpoint(jobs))
            if "dataset" in inputs:
                with psycopg.connect(endpoint.database_url) as connection:
                    connection.execute(FILES, [jobs])
            figures = endpoint.run(inputs, jobs)
        place.say(f"{name}: {figures}")
        rows.append((name, *_cells(figures, jobs)))
        holds = figures.seconds < TARGET_SECONDS and figures.grown_mb < TARGET_MB
        text = f"{name}: below {TARGET_SECONDS:.0f} s, and below {TARGET_MB:.0f} MB more memory"
        value = f"{figures.seconds:.0f} s and {figures.grown_mb:.0f} MB"
        targets.append(Target(text=text, value=value, holds=holds))
    columns = (f"{jobs:,} jobs", "first 1,000 written", "all written", "jobs/s", "memory of the endpoint")
    return Result(columns=columns, rows=rows, targets=targets)


def _cells(figures: Figures, jobs: int) -> tuple[str, ...]:
    rate = f"{jobs / figures.seconds:,.0f}"
    return f"{figures.first_seconds:.2f} s", f"{figures.seconds:.0f} s", rate, f"+{figures.grown_mb:.0f} MB"


class Endpoint:
    """A REST endpoint as a process of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", client: Client, database_url: str) -> None:
        self._process = process
        self._client = client
        self.database_url = database_url

    def run(self, inputs: dict[str, Any], jobs: int) -> Figures:
        """Submit one task and wait until its jobs are written."""
        spec = TaskSpec.model_validate({"schema_version": 1, "name": "large", "command": "true", "inputs": inputs})
        before = self._memory_mb("VmRSS")
        began = time.monotonic()
        task = self._client.submit(LocalSubmission(submission=Submission(spec=spec), uploads=[]))["id"]
        times = []
        for number in (min(1000, jobs), jobs):
            wait(lambda wanted=number: self._client.task(task)["jobs"]["ready"] >= wanted)
            times.append(time.monotonic() - began)
        grown = self._memory_mb("VmHWM") - before
        return Figures(first_seconds=times[0], seconds=times[1], grown_mb=grown)

    def _memory_mb(self, key: str) -> float:
        for line in Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024 / _KILOBYTES**2
        raise RuntimeError(f"/proc has no {key}")


def wait(holds: Callable[[], bool]) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It never did.
    """
    ends = time.monotonic() + _LONGEST_SECONDS
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError("the jobs were not written in time")
        time.sleep(0.1)


@contextmanager
def running_endpoint(ready_jobs: int) -> Iterator[Endpoint]:
    """Run an endpoint on a PostgreSQL of its own, in a folder that goes away.

    Args:
        ready_jobs: How many jobs of a task it writes ahead.
    """
    with tempfile.TemporaryDirectory(prefix="glideflow-bench-") as name:
        folder = Path(name)
        server = EmbeddedPostgres(folder / "postgres", free_port(HOST, ()), "glideflow-bench", durable=True)
        server.initialise()
        with server.running(folder / "log"):
            home = Home(load_settings(folder / "home"))
            home.create()
            ensure_certificates(home, HOST)
            port, url = free_port(HOST, ()), server.url("postgres")
            migrate(url)
            home.write_instance(
                InstanceInfo(
                    rest_url=f"https://{HOST}:{port}",
                    prefect_api_url="",
                    prefect_ui_url="http://prefect.invalid",
                    database_url=url,
                    rest_port=port,
                )
            )
            environment = process_environment(
                GLIDEFLOW_HOME=str(home.root), GLIDEFLOW_READY_JOBS_PER_TASK=str(ready_jobs)
            )
            with (folder / "endpoint.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "glideflow.api"], env=environment, stdout=log, stderr=log
                )
            try:
                with Client.from_settings(load_settings(home.root)) as client:
                    wait(lambda: _answers(client, process))
                    client.tasks(limit=1)
                    yield Endpoint(process, client, url)
            finally:
                process.terminate()
                process.wait(timeout=30)


def _answers(client: Client, process: "subprocess.Popen[bytes]") -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the endpoint ended with {os.waitstatus_to_exitcode(process.returncode)}")
    try:
        client.whoami()
    except EndpointUnavailable:
        return False
    return True
