# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests with a whole instance: one for the session, started and ended by the command line.

A test module that wants them has `pytest_plugins = ("instance_fixtures",)`.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from real_instance import Answer, Instance

SETTINGS = """\
instance: tests
vo: testers
pool_slots: 8
# Quicker than the defaults, so that tests wait less; how long a silent pilot is waited for stays as it is.
heartbeat_seconds: 2
provision_seconds: 2
reconcile_seconds: 3
# A file with so many lines is still quick to make.
max_jobs_per_task: 100000
"""
# The second site takes only tasks that ask for little memory: those about its full disk.
SITES = """\
sites:
  - {name: local, launcher: htcondor, max_pilots: 8}
  - {name: small, launcher: local, max_pilots: 1, memory_mb: 50, disk_mb: 20, idle_seconds: 5}
"""
SMALL_DISK = "size=30m,mode=0700"


@pytest.fixture(scope="session")
def instance(clean_environ: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance with its private pool, started by two commands at once.

    With `GLIDEFLOW_TEST_INSTANCE_HOME` set, the running one of that home, which is left as it is.
    """
    running = os.environ.get("GLIDEFLOW_TEST_INSTANCE_HOME")
    if running:
        yield Instance(Path(running))
        return
    instance = Instance(tmp_path_factory.mktemp("instance"), SETTINGS)
    (instance.home.root / "sites.yaml").write_text(SITES)
    instance.home.create()
    with small_disk(instance):
        try:
            starts = [instance.start("up") for _ in range(2)]
            instance.starts = [Answer.of(start, seconds=600) for start in starts]
            yield instance
        finally:
            instance.run("down")
            instance.run("pool", "down", "--purge")


@contextmanager
def small_disk(instance: Instance) -> Iterator[None]:
    """Put the pilots of plain processes on a disk of their own, where this account may mount one, and end them."""
    folder = instance.home.pilots
    command = ["mount", "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", folder]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield
    finally:
        for note in folder.glob("*/process.json"):
            end_session(int(json.loads(note.read_text())["pid"]), folder)
        if mounted:
            subprocess.run(["umount", folder], check=True)


def end_session(pid: int, folder: Path) -> None:
    """End a pilot that works in a folder, and what it started."""
    if psutil.pid_exists(pid) and str(folder) in psutil.Process(pid).cwd():
        for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            process.kill()
