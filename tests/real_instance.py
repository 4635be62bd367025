# SPDX-License-Identifier: Apache-2.0
"""A whole instance as users have it: `glideflow up` with its private HTCondor pool, driven by the command line."""

import io
import json
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from glideflow.cli import run as run_command_line
from glideflow.client import Client
from glideflow.instance.home import Home
from glideflow.instance.processes import is_running
from glideflow.settings import load_settings, process_environment

PATIENCE_SECONDS = 150.0
"""Longest wait for anything: ten times of what it takes on a quiet machine."""
RESOURCES = "{memory_mb: 200, disk_mb: 50, wall_seconds: 300}"
T = TypeVar("T")
Json = dict[str, Any]


def until(question: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Ask until the answer is true, and return it; fail when it does not come in time."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        time.sleep(0.1)
    return answer


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    err: str

    @classmethod
    def of(cls, process: "subprocess.Popen[str]", seconds: float = 300) -> "Answer":
        """Wait for the end of a command."""
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
        return cls(process.returncode, out, err)

    def json(self) -> Any:
        """Return its output as JSON."""
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """Return all it said in one line."""
        return " ".join(f"{self.out} {self.err}".split())


class Instance:
    """One home and what runs for it."""

    def __init__(self, root: Path, settings: str = "") -> None:
        root.mkdir(exist_ok=True)
        if not (root / "glideflow.yaml").exists():
            (root / "glideflow.yaml").write_text(settings)
        self.settings = load_settings(root)
        self.home = Home(self.settings)
        self.starts: list[Answer] = []
        """What the commands said that started it; none when it ran already."""

    # -- the command line -------------------------------------------------------------------------------------------

    def start(self, *words: str, folder: Path | None = None) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        program = Path(sys.executable).with_name("glideflow")
        environment = process_environment(GLIDEFLOW_HOME=str(self.home.root))
        return subprocess.Popen(
            [program, *words], cwd=folder or self.home.root, env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str, status: int = 0, folder: Path | None = None, seconds: float = 300) -> Answer:
        """Run a command as a process of its own; its exit status must be as said."""
        answer = Answer.of(self.start(*words, folder=folder), seconds)
        assert answer.status == status, f"glideflow {' '.join(words)}: {answer}"
        return answer

    def say(self, *words: str, status: int = 0) -> Answer:
        """Run a command in this process, which is quicker; its exit status must be as said."""
        # With bytes below, as the real ones have.
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setenv("GLIDEFLOW_HOME", str(self.home.root))
            try:
                code = run_command_line(words)
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        answer = Answer(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]
        assert answer.status == status, f"glideflow {' '.join(words)}: {answer}"
        return answer

    def ask(self, *words: str) -> Any:
        """Return what a command says with --json."""
        return self.say(*words, "--json").json()

    def submit(self, folder: Path, text: str, *options: str) -> int:
        """Submit a task file with this text; returns the task's number."""
        folder.mkdir(exist_ok=True)
        path = folder / "task.yaml"
        path.write_text(textwrap.dedent(text))
        return int(self.ask("submit", str(path), *options)["id"])

    # -- what became of it ------------------------------------------------------------------------------------------

    def task(self, number: int) -> Json:
        """Return a task as it is now."""
        with Client.from_settings(self.settings) as client:
            return client.task(number)

    def ended(self, number: int, state: str = "done") -> Json:
        """Wait until a task has ended, in this state; its jobs and events are shown when it does not."""
        try:
            task = until(lambda: (task := self.task(number))["ended_at"] and task)
        except AssertionError:
            print(self.say("jobs", str(number)).out, self.say("pilots", "--all").out, self.say("sites").out)
            raise
        assert task["state"] == state, (task, self.say("jobs", str(number)).out)
        return dict(task)

    def jobs(self, number: int, *states: str) -> list[Json]:
        """Return the jobs of a task, those in some states only."""
        return [job for job in self.ask("jobs", str(number)) if not states or job["state"] in states]

    def moves(self, task: int, kind: str, to: str) -> list[str]:
        """Return what of a kind reached a state, by the task's event log: one entry for each time."""
        answer = httpx.get(
            f"{self.info.rest_url}/v1/events",
            params={"task": task, "kind": kind, "limit": 1000},
            headers={"Authorization": f"Bearer {self.home.read_token()}"},
            verify=ssl.create_default_context(cafile=self.home.ca_file),
        )
        events = answer.raise_for_status().json()["items"]
        return [event["subject"] for event in events if event["new_state"] == to]

    def each_done_once(self, task: int) -> bool:
        """Tell whether the event log of a task has each job's end, and each once."""
        done, found = self.moves(task, "job", "done"), self.task(task)
        return len(done) == len(set(done)) == found["jobs"]["total"] + bool(found["merge"])

    def prefect(self, path: str, **body: Any) -> Any:
        """Ask the Prefect server: GET without a body, else POST."""
        url = f"{self.info.prefect_api_url}/{path}"
        answer = httpx.post(url, json=body, timeout=30) if body else httpx.get(url, timeout=30)
        return answer.raise_for_status().json()

    def flow_run(self, task: int) -> Json:
        """Return the flow run of a task, once there is one."""
        number = until(lambda: self.task(task)["flow_run_id"])
        return dict(self.prefect(f"flow_runs/{number}"))

    def flow_ended(self, task: int, state: str) -> Json:
        """Wait until the flow run of a task is in a final state, this one."""
        final = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
        run = until(lambda: (run := self.flow_run(task))["state"]["type"] in final and run)
        assert run["state"]["type"] == state, run["state"]
        return dict(run)

    def flow_runs(self, task: int) -> list[Json]:
        """Return all flow runs that carry a task's tag."""
        return list(self.prefect("flow_runs/filter", flow_runs={"tags": {"all_": [f"task:{task}"]}}))

    # -- its processes ----------------------------------------------------------------------------------------------

    @property
    def info(self) -> Any:
        """Return the addresses of what runs."""
        info = self.home.read_instance()
        assert info is not None
        return info

    def processes(self) -> dict[str, int]:
        """Return the process of each component, and of the supervisor."""
        status = json.loads(self.home.status_file.read_text())
        found = {part["name"]: part["pid"] for part in status["components"] if part["pid"]}
        return {"supervisor": status["pid"], **found}

    def all_work(self) -> bool:
        """Tell whether all components work."""
        status = json.loads(self.home.status_file.read_text())
        return status["state"] == "running" and all(part["state"] in ("ready", "done") for part in status["components"])

    @contextmanager
    def frozen(self, component: str) -> Iterator[None]:
        """Let a component's processes answer nothing for the duration of a block."""
        family = family_of(self.processes()[component])
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                process.resume()

    def pilots(self) -> dict[str, psutil.Process]:
        """Return the running pilots of this instance, by their identifiers; those inside the pool, too."""
        found: dict[str, psutil.Process] = {}
        for process in sorted(psutil.process_iter(["cmdline", "create_time"]), key=lambda p: p.info["create_time"]):
            words = process.info["cmdline"] or []
            if "--pilot-id" in words and self.info.rest_url in words:
                # Of a pilot and what it forked, the pilot.
                found.setdefault(words[words.index("--pilot-id") + 1], process)
        return found


def family_of(pid: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def kill_hard(processes: list[psutil.Process]) -> None:
    """End processes without giving them a chance, the first one first."""
    for process in processes:
        if is_running(process.pid):
            os.kill(process.pid, signal.SIGKILL)
    until(lambda: not any(is_running(process.pid) for process in processes))
