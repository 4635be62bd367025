# SPDX-License-Identifier: Apache-2.0
"""An instance with the real endpoint and the real flows process, of which the test is the only pilot."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import TaskRunSort

from glideflow.client import Client
from glideflow.domain.identifiers import TaskId
from glideflow.instance.certificates import ensure_certificates
from glideflow.instance.home import Home, InstanceInfo
from glideflow.instance.ports import free_port
from glideflow.services import completion
from glideflow.services.storage import Storage
from glideflow.settings import load_settings, process_environment
from glideflow.store.engine import Database
from glideflow.submission import resolve
from glideflow.task_file import read_task_file

HOST = "127.0.0.1"
T = TypeVar("T")


def until(question: Callable[[], T], seconds: float = 150.0) -> T:
    """Ask until the answer is true, and return it; fail when it does not come in time."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        time.sleep(0.1)
    return answer


@contextmanager
def running(argv: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the duration of a block, and end it with its children."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=output, cwd=log.parent, env=process_environment(**environment)
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for member in family:
                if member.is_running():
                    member.kill()


def answers(url: str) -> bool:
    """Tell whether a server answers."""
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


class Instance:
    """A home with endpoint and flows, of which the test is the only pilot."""

    def __init__(self, folder: Path, database_url: str, prefect_api_url: str, *, reconcile_seconds: float) -> None:
        folder.mkdir()
        (folder / "glideflow.yaml").write_text(f"reconcile_seconds: {reconcile_seconds}\nlauncher: local\n")
        self.settings = load_settings(folder)
        self.home = Home(self.settings)
        self.home.create()
        ensure_certificates(self.home, HOST)
        port = free_port(HOST, ())
        info = InstanceInfo(
            rest_url=f"https://{HOST}:{port}",
            prefect_api_url=prefect_api_url,
            prefect_ui_url=prefect_api_url.removesuffix("/api"),
            database_url=database_url,
            rest_port=port,
        )
        self.home.write_instance(info)
        self.database = Database(database_url)
        self.client = Client.from_settings(self.settings)
        self.prefect: SyncPrefectClient = get_client(sync_client=True).__enter__()
        self.flows_log = self.home.logs / "flows.log"

    def close(self) -> None:
        """Close all connections."""
        self.prefect.__exit__(None, None, None)
        self.client.close()
        self.database.close()

    def endpoint(self) -> Any:
        """Run the endpoint for the duration of a block."""
        return self._module("glideflow.api", self.home.logs / "endpoint.log")

    def flows(self) -> Any:
        """Run the flows process for the duration of a block."""
        return self._module("glideflow_flows", self.flows_log)

    def _module(self, name: str, log: Path) -> Any:
        return running([sys.executable, "-m", name], log, GLIDEFLOW_HOME=str(self.home.root))

    def wait_until_serving(self, process: subprocess.Popen[bytes], text_before: int = 0) -> None:
        """Wait until a flows process takes flow runs."""

        def serves() -> bool:
            assert process.poll() is None, self.flows_log.read_text()
            return "serving deployment" in self.flows_log.read_text()[text_before:]

        until(serves)

    def submit(self, folder: Path, text: str, *overrides: str) -> int:
        """Submit a task file."""
        path = folder / "task.yaml"
        path.write_text(text)
        return int(self.client.submit(resolve(read_task_file(path, list(overrides))))["id"])

    def end_jobs(self, task_id: int, *, failed: int = 0) -> None:
        """Play the pilots: end all open jobs of a task, the first ones as failed."""
        until(lambda: self.client.progress(task_id)["total"])
        with self.database.transaction() as connection:
            rows = connection.execute(
                "SELECT id FROM jobs WHERE task_id = %s AND state NOT IN ('done', 'failed', 'cancelled') ORDER BY id",
                [task_id],
            ).fetchall()
            for number, row in enumerate(rows):
                broken = number < failed
                connection.execute(
                    """
                    UPDATE jobs SET state = %s, site = 'local', ended_at = now(), exit_code = %s,
                        reason_code = %s, reason_text = %s, reason_source = %s WHERE id = %s
                    """,
                    ["failed", 3, "payload_exit", "the command ended with exit code 3", "payload", row["id"]]
                    if broken
                    else ["done", 0, None, None, None, row["id"]],
                )
        completion.announce_ended_stages(self.database, [TaskId(task_id)])

    def add_output(self, task_id: int, name: str, file: str, content: bytes) -> None:
        """Play the pilot of the merge job: store one output of it."""
        until(lambda: self.client.task(task_id)["merge"])
        job_id = self.client.task(task_id)["merge"]["job_id"]
        path = f"tasks/{task_id}/{file}"
        with Storage(self.home.storage).receive(path) as incoming:
            incoming.write(content)
            stored = incoming.complete(None)
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO pilots (id, site, secret_hash) VALUES (%s, 'local', '')", [f"pilot-{task_id}-{name}"]
            )
            attempt = connection.execute(
                """
                INSERT INTO attempts (job_id, task_id, pilot_id, number)
                SELECT %s, %s, %s, 1 + count(*) FROM attempts WHERE job_id = %s RETURNING id
                """,
                [job_id, task_id, f"pilot-{task_id}-{name}", job_id],
            ).fetchone()
            dataset = connection.execute(
                "INSERT INTO datasets (name, owner) VALUES (%s, 'test') RETURNING id", [f"dataset-{task_id}-{name}"]
            ).fetchone()
            assert attempt is not None
            assert dataset is not None
            connection.execute(
                """
                INSERT INTO files (dataset_id, task_id, job_id, attempt_id, output, name, url, size_bytes, sha256)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
                """,
                [dataset["id"], task_id, job_id, attempt["id"], name, file, f"/storage/{path}", stored.size_bytes,
                 stored.sha256],
            )  # fmt: skip

    def flow_run(self, task_id: int) -> FlowRun:
        """Return the flow run that drives a task, once it is known."""
        found = until(lambda: self.client.task(task_id)["flow_run_id"])
        return self.prefect.read_flow_run(UUID(found))

    def wait_for_flow(self, task_id: int, *names: str, seconds: float = 150.0) -> FlowRun:
        """Wait until a task's flow run is in one of some states."""

        def reached() -> FlowRun | None:
            run = self.flow_run(task_id)
            return run if run.state and run.state.name in names else None

        try:
            return until(reached, seconds)  # type: ignore[return-value]
        except AssertionError:
            print(self.flow_run(task_id).state, self.flows_log.read_text()[-5000:])
            raise

    def task_runs(self, run: FlowRun) -> list[TaskRun]:
        """Return the task runs of a flow run, in the order of their start, when all have ended."""

        def ended() -> list[TaskRun]:
            runs = self.prefect.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
                sort=TaskRunSort.ID_DESC,
                limit=200,
            )
            return runs if runs and all(r.state and r.state.is_final() for r in runs) else []

        until(lambda: any(r.name == "finish" for r in ended()))
        return sorted(ended(), key=lambda r: str(r.start_time))

    def artifacts(self, run: FlowRun) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a flow run by key."""
        body = {"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
        found = self.prefect.request("POST", "/artifacts/filter", json=body).json()
        keys = [item["key"] for item in found if item["key"]]
        assert len(keys) == len(set(keys)), f"more than one artifact of a key: {keys}"
        return {item["key"]: item for item in found if item["key"]}


def flow_processes(server: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes of flow runs below a flows process."""
    found = []
    for process in psutil.Process(server.pid).children():
        # One that ends between the two looks is none.
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_hard(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    """End a process without giving it a chance."""
    os.kill(process.pid, signal.SIGKILL)
