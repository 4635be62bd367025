# SPDX-License-Identifier: Apache-2.0
"""The real pilot and the real REST endpoint, on a real PostgreSQL: no double on either side."""

import hashlib
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pilot_endpoint import PilotProcess

from glideflow.domain.identifiers import PilotId
from glideflow.identity.secrets import hashed
from glideflow.launching.archive import pilot_archive
from glideflow.settings import load_settings
from glideflow.store import pilots
from glideflow.testing.endpoint import RunningEndpoint, run_endpoint

# More for a measurement than for a test.
JOBS = int(os.environ.get("GLIDEFLOW_TEST_JOBS", "60"))


@dataclass
class Instance:
    """An endpoint, a user's session, and pilots."""

    endpoint: RunningEndpoint
    user: httpx.Client
    folder: Path
    pilots: list[PilotProcess] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.endpoint.url

    @property
    def ca_file(self) -> Path:
        return self.endpoint.home.ca_file

    def start_pilot(self, *words: str) -> PilotProcess:
        """Start a pilot of 2 cores."""
        pilot_id, secret = f"pilot-number-{len(self.pilots)}", f"secret-{len(self.pilots)}"
        with self.endpoint.context.database.transaction() as connection:
            pilots.plan(connection, "local", {PilotId(pilot_id): hashed(secret)})
        size = ("--cores", "2", "--memory-mb", "2000", "--disk-mb", "2000")
        pilot = PilotProcess(
            self, pilot_archive(), self.folder / pilot_id, *size, *words, pilot_id=pilot_id, secret=secret
        )
        self.pilots.append(pilot)
        return pilot

    def submit(self, spec: dict[str, Any], **files: Any) -> int:
        """Submit a task; returns its id."""
        resources = {"cores": 1, "memory_mb": 100, "disk_mb": 100, "wall_seconds": 60}
        document = {"schema_version": 1, "name": "t", "retries": 0, "resources": resources, **spec}
        answer = self.user.post("/v1/tasks", json={"spec": document, **files})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def wait(self, task: int, seconds: float = 60) -> dict[str, Any]:
        """Wait until all jobs of a task have ended; returns its progress."""
        until = time.monotonic() + seconds
        while not (progress := self.user.get(f"/v1/tasks/{task}/progress").json())["ended"]:
            assert time.monotonic() < until, f"{progress}; {[pilot.stderr[-2000:] for pilot in self.pilots]}"
            time.sleep(0.02)
        return dict(progress)

    def job(self, task: int) -> dict[str, Any]:
        """Return the only job of a task."""
        items = self.user.get(f"/v1/tasks/{task}/jobs").json()["items"]
        return dict(items[0]) if items else {"state": None}


@pytest.fixture
def instance(tmp_path: Path, database_url: str) -> Iterator[Instance]:
    with ExitStack() as stack:
        endpoint = stack.enter_context(run_endpoint(load_settings(tmp_path / "home"), database_url))
        trust = ssl.create_default_context(cafile=str(endpoint.home.ca_file))
        headers = {"authorization": f"Bearer {endpoint.home.read_token()}"}
        user = stack.enter_context(httpx.Client(base_url=endpoint.url, verify=trust, headers=headers, timeout=20))
        made = Instance(endpoint, user, tmp_path)
        yield made
        for pilot in made.pilots:
            pilot.end()


def test_files_travel_both_ways_and_are_verified(instance: Instance) -> None:
    script, data = b"#!/bin/sh\nwc -l < \"$1\" | tr -d ' ' > count.txt\n", b"a\nb\nc\n"
    digests = [hashlib.sha256(content).hexdigest() for content in (script, data)]
    assert instance.user.put(f"/v1/sandboxes/{digests[0]}", content=script).is_success
    url = f"/storage/inputs/{digests[1]}/my data 100%.txt"
    assert instance.user.put(httpx.URL(instance.url, path=url), content=data).is_success
    instance.start_pilot()
    task = instance.submit(
        {
            "command": "./count.sh {inputs}",
            "inputs": {"files": ["my data 100%.txt"]},
            "outputs": {"count": {"file": "count.txt"}},
        },
        inputs=[{"name": "my data 100%.txt", "url": url, "size_bytes": 6, "sha256": digests[1]}],
        sandbox=[{"name": "count.sh", "sha256": digests[0], "size_bytes": len(script), "executable": True}],
    )
    assert instance.wait(task)["by_state"].get("done") == 1, instance.job(task)
    output = instance.user.get(f"/v1/tasks/{task}/outputs").json()["items"][0]
    assert instance.user.get(output["url"]).content == b"3\n"


def test_failed_command_is_explained_and_its_log_can_be_read(instance: Instance) -> None:
    instance.start_pilot()
    task = instance.submit({"command": "echo because; exit 3"})
    instance.wait(task)
    job = instance.job(task)
    assert job["state"] == "failed"
    assert job["exit_code"] == 3
    assert instance.user.get(f"/v1/jobs/{job['id']}/log").text == "because\n"


def test_output_that_is_too_large_ends_the_job_at_once_and_says_so(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(instance.endpoint.context.settings), "max_file_mb", 1)
    instance.start_pilot()
    command = "head -c 1000001 /dev/zero > big"
    task = instance.submit({"command": command, "outputs": {"big": {"file": "big"}}, "retries": 3})
    assert instance.wait(task)["by_state"] == {"failed": 1}
    job = instance.job(task)
    assert job["reason"]["code"] == "output_too_large"
    assert "output big has 1000001 bytes" in job["reason"]["text"]
    explained = instance.user.get(f"/v1/jobs/{job['id']}/explain").text
    assert "System rule output-too-large: the job fails at once" in explained


def test_killed_job_ends_on_the_node(instance: Instance) -> None:
    pilot = instance.start_pilot()
    task = instance.submit({"command": "touch here; sleep 300"})
    until = time.monotonic() + 20
    while instance.job(task)["state"] != "running":
        assert time.monotonic() < until, pilot.stderr
        time.sleep(0.05)
    began = time.monotonic()
    instance.user.post(f"/v1/jobs/{instance.job(task)['id']}/kill")
    while list(pilot.root.glob("attempt-*")):
        assert time.monotonic() < began + 30
        time.sleep(0.05)
    assert instance.job(task)["state"] == "cancelled"


def test_stopped_pilot_gives_its_job_back_at_once(instance: Instance) -> None:
    first = instance.start_pilot()
    task = instance.submit({"command": f"test -e {instance.folder}/again || sleep 300", "retries": 2})
    until = time.monotonic() + 20
    while instance.job(task)["state"] != "running":
        assert time.monotonic() < until, first.stderr
        time.sleep(0.05)
    first.end()
    assert first.process.returncode == 0
    (instance.folder / "again").touch()
    instance.start_pilot()
    assert instance.wait(task)["by_state"].get("done") == 1


def test_many_short_jobs_are_run_once_each(instance: Instance) -> None:
    processes = [instance.start_pilot() for _ in range(2)]
    until = time.monotonic() + 20
    while any("Registered" not in process.stderr for process in processes):
        assert time.monotonic() < until
        time.sleep(0.02)
    began, busy = time.monotonic(), time.process_time()
    task = instance.submit({"inputs": {"jobs": JOBS}, "command": "true"})
    progress = instance.wait(task, 120)
    seconds = time.monotonic() - began
    print(f"{JOBS} jobs in {seconds:.2f} s: {JOBS / seconds:.0f} a second; {_cpu_sentence(processes, busy)}")
    assert progress["by_state"] == {"done": JOBS}
    lines = [line for process in processes for line in process.stderr.splitlines() if "succeeded" in line]
    assert len({line.split(" job ")[1].split()[0] for line in lines}) == len(lines) == JOBS


def _cpu_sentence(processes: list[PilotProcess], busy: float) -> str:
    """Say how much processor time a job cost here (endpoint and this test) and in the pilots with their payloads."""
    ticks = 0
    for process in processes:
        ticks += sum(map(int, Path(f"/proc/{process.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]))
    pilots_ms = ticks / os.sysconf("SC_CLK_TCK") / JOBS * 1000
    endpoint_ms = (time.process_time() - busy) / JOBS * 1000
    return f"processor time per job: endpoint {endpoint_ms:.1f} ms, pilots {pilots_ms:.1f} ms"
