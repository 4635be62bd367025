# SPDX-License-Identifier: Apache-2.0
"""The real components, with pilots as plain processes: kill -9 of one and of all, two starts at once, a backup."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from glideflow.instance.home import Home, lock_holder
from glideflow.instance.postgres import EmbeddedPostgres
from glideflow.instance.processes import wait_until
from glideflow.instance.status import ComponentStatus, InstanceStatus, read_status
from glideflow.settings import Settings, process_environment

DEADLINE_SECONDS = 120
UP = ("up", "--launcher", "local", "--slots", "1")


def _glideflow(home: Home, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("glideflow"), *words],
        env=process_environment(GLIDEFLOW_HOME=str(home.root)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _run(home: Home, *words: str, status: int = 0) -> str:
    process = _glideflow(home, *words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


@pytest.fixture(scope="module")
def home(clean_environ: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home whose instance runs before each test, though perhaps with another process tree."""
    made = Home(Settings(home=tmp_path_factory.mktemp("instance")))
    yield made
    _run(made, "down")
    assert not _ours(made)


@pytest.fixture(autouse=True)
def running(home: Home) -> None:
    """Two starts at once where nothing runs yet: one wins, both report success."""
    if read_status(home).is_up():
        return
    starts = [_glideflow(home, *UP) for _ in range(2)]
    outputs = [start.communicate(timeout=300)[0] for start in starts]
    assert [start.returncode for start in starts] == [0, 0], outputs


def _ours(home: Home) -> list[psutil.Process]:
    """The processes of the instance; local pilots, which are to outlive it, are told the endpoint but not the home."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            inside = process.environ().get("GLIDEFLOW_HOME") == str(home.root)
            if inside or (process.info["name"] == "postgres" and process.cwd() == str(home.postgres / "data")):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _part(status: InstanceStatus, name: str) -> ComponentStatus:
    return next(part for part in status.components if part.name == name)


def test_one_process_tree_runs_and_the_doctor_is_content(home: Home) -> None:
    assert len([process for process in _ours(home) if "glideflow.instance" in process.cmdline()]) == 1
    checks = json.loads(_run(home, "doctor", "--json"))
    assert not [check for check in checks if check["result"] == "failed"]
    status = json.loads(_run(home, "status", "--json"))
    assert status["state"] == "running"


def test_after_kill_9_of_everything_up_brings_the_same_back(home: Home) -> None:
    before = home.read_instance()
    assert before is not None
    server = EmbeddedPostgres(home.postgres, int(before.database_url.rsplit(":", 1)[1].split("/")[0]))
    server.query("CREATE TABLE IF NOT EXISTS kept (n int); INSERT INTO kept VALUES (42)", "glideflow")
    for process in _ours(home):
        process.kill()
    assert wait_until(lambda: lock_holder(home.supervisor_lock) is None, DEADLINE_SECONDS)
    assert "stopped" in _run(home, "status", status=1)
    _run(home, *UP)
    after = home.read_instance()
    assert after is not None
    # Pilots that are out there know the endpoint by this address.
    assert after.rest_url == before.rest_url
    assert server.query("SELECT n FROM kept", "glideflow").split()[0] == "42"


@pytest.mark.parametrize("name", ["postgres", "prefect", "endpoint", "factory"])
def test_a_killed_component_is_started_again(home: Home, name: str) -> None:
    victim = _part(read_status(home), name).pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    assert wait_until(
        lambda: _part(read_status(home), name).pid not in {None, victim} and read_status(home).is_up(), DEADLINE_SECONDS
    ), read_status(home)


def test_a_dump_is_made_while_the_instance_runs_and_not_restored_over_it(home: Home, tmp_path: Path) -> None:
    assert "glideflow and prefect" in _run(home, "database", "dump", str(tmp_path / "file"))
    assert "glideflow down" in _run(home, "database", "restore", "--force", str(tmp_path / "file"), status=2)


def test_up_leaves_a_running_instance_alone(home: Home) -> None:
    before = _part(read_status(home), "postgres").pid
    assert "runs already" in _run(home, "up")
    assert _part(read_status(home), "postgres").pid == before


def test_down_ends_every_process(home: Home) -> None:
    _run(home, "down")
    assert not _ours(home)
    assert "no instance running" in _run(home, "down")
