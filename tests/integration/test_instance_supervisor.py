# SPDX-License-Identifier: Apache-2.0
"""The supervisor over made-up components: order, readiness, crashes, ends, two starts at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from glideflow.instance import supervisor
from glideflow.instance.control import InstanceFailed, bring_down, bring_up
from glideflow.instance.home import Home, lock_holder
from glideflow.instance.processes import give_way, listens, wait_until
from glideflow.instance.status import ComponentState, ComponentStatus, InstanceState, InstanceStatus, read_status
from glideflow.settings import Settings

DEADLINE_SECONDS = 30
SERVE = "import time\nprint('serving', flush=True)\ntime.sleep(600)"
BEAT = (
    "import os, pathlib, time\n"
    "file = pathlib.Path(os.environ['GLIDEFLOW_HOME'], 'run', 'beating.alive')\n"
    "while True: file.touch(); time.sleep(0.1)"
)
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + SERVE
PARENT = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "time.sleep(600)"
)


class Instance:
    """A home with made-up components."""

    def __init__(self, root: Path) -> None:
        self.home = Home(Settings(home=root / "home"))
        self.home.create()
        self._file = root / "components.json"
        self.argv = [sys.executable, "-m", "glideflow.testing.supervised", str(self.home.root), str(self._file)]

    def consists_of(self, *components: dict[str, Any]) -> None:
        self._file.write_text(json.dumps(components))

    def up(self) -> bool:
        return bring_up(self.home, self.argv, lambda status: None)

    def down(self) -> bool:
        return bring_down(self.home, lambda status: None)

    def status(self) -> InstanceStatus:
        return read_status(self.home)

    def part(self, name: str) -> ComponentStatus:
        return next(part for part in self.status().components if part.name == name)

    def pid(self, name: str) -> int:
        pid = self.part(name).pid
        assert pid is not None
        return pid

    def log(self, name: str) -> str:
        return (self.home.logs / f"{name}.log").read_text()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    made = Instance(tmp_path)
    yield made
    made.down()
    assert not _processes_of(made.home)


def _processes_of(home: Home) -> list[psutil.Process]:
    """Every process with this home in its environment, wherever it is in the process tree."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("GLIDEFLOW_HOME") == str(home.root):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _eventually(condition: Callable[[], bool]) -> None:
    assert wait_until(condition, DEADLINE_SECONDS)


def test_components_start_in_order_and_down_ends_them_all(instance: Instance) -> None:
    ready = instance.home.run / "first-is-ready"
    instance.consists_of(
        {"name": "second", "script": f"import os\nassert os.path.exists({str(ready)!r})\n{SERVE}", "after": ["first"]},
        {
            "name": "first",
            "script": f"import pathlib, time\ntime.sleep(0.3)\npathlib.Path({str(ready)!r}).touch()\n{SERVE}",
            "ready_file": str(ready),
        },
    )
    assert instance.up() is True
    assert instance.status().is_up()
    assert instance.part("second").restarts == 0
    pids = [instance.pid("first"), instance.pid("second")]
    assert instance.down() is True
    assert instance.status().state is InstanceState.STOPPED
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert instance.down() is False


def test_starting_twice_is_harmless(instance: Instance) -> None:
    instance.consists_of({"name": "server", "script": SERVE})
    assert instance.up() is True
    before = instance.pid("server")
    assert instance.up() is False
    assert instance.pid("server") == before


def test_of_several_simultaneous_starts_one_wins_and_all_see_it_running(instance: Instance) -> None:
    instance.consists_of({"name": "server", "script": SERVE})
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: instance.up(), range(4)))
    assert sorted(results) == [False, False, False, True]
    assert instance.log("server").count("serving") == 1


def test_a_component_that_does_one_thing_is_done_before_the_next_starts(instance: Instance) -> None:
    instance.consists_of(
        {"name": "schema", "script": "print('migrated')", "once": True},
        {"name": "server", "script": SERVE, "after": ["schema"]},
    )
    instance.up()
    assert instance.part("schema").state is ComponentState.DONE
    assert instance.part("schema").pid is None
    assert instance.log("schema") == "migrated\n"


def test_a_component_that_cannot_start_ends_all_and_its_last_words_are_told(instance: Instance) -> None:
    instance.consists_of(
        {"name": "good", "script": SERVE},
        {"name": "bad", "script": "raise SystemExit('port 80 is taken')", "after": ["good"]},
    )
    with pytest.raises(
        InstanceFailed, match=r"bad cannot be started: it ended with status 1: port 80 is taken"
    ) as caught:
        instance.up()
    assert caught.value.component == "bad"
    assert caught.value.log == ["port 80 is taken"] * supervisor.TRIES
    assert instance.status().state is InstanceState.FAILED
    assert lock_holder(instance.home.supervisor_lock) is None
    assert not _processes_of(instance.home)


def test_a_start_after_a_failed_one_is_not_confused_by_it(instance: Instance) -> None:
    instance.consists_of({"name": "server", "script": "raise SystemExit(1)"})
    with pytest.raises(InstanceFailed):
        instance.up()
    instance.consists_of({"name": "server", "script": SERVE})
    assert instance.up() is True
    assert instance.status().is_up()


def test_a_component_that_never_answers_is_said_so(instance: Instance) -> None:
    instance.consists_of(
        {"name": "mute", "script": SERVE, "ready_file": "/nonexistent/file", "start_seconds": 0.2},
    )
    with pytest.raises(InstanceFailed, match=r"it does not answer after 0\.2 s"):
        instance.up()


def test_a_program_that_does_not_exist_is_said_so(instance: Instance) -> None:
    with pytest.raises(InstanceFailed, match="before it could say why"):
        bring_up(instance.home, [sys.executable, "-c", "raise SystemExit('no such module')"], lambda status: None)


def test_a_crashed_component_is_restarted_and_the_others_are_left_alone(instance: Instance) -> None:
    instance.consists_of({"name": "first", "script": SERVE}, {"name": "second", "script": SERVE, "after": ["first"]})
    instance.up()
    first, second = instance.pid("first"), instance.pid("second")
    os.kill(first, signal.SIGKILL)
    _eventually(lambda: instance.part("first").pid not in {None, first} and instance.status().is_up())
    assert instance.part("first").restarts == 1
    assert instance.pid("second") == second
    assert "was ended by SIGKILL" in instance.log("supervisor")


def test_the_pauses_between_restarts_grow(instance: Instance) -> None:
    instance.consists_of({"name": "server", "script": SERVE})
    instance.up()
    for count in (1, 2):
        before = instance.pid("server")
        os.kill(before, signal.SIGKILL)
        _eventually(lambda before=before: instance.part("server").pid not in {None, before})  # type: ignore[misc]
        assert instance.part("server").restarts == count
    pauses = [
        line.rsplit("next start in ", 1)[1] for line in instance.log("supervisor").splitlines() if "next start" in line
    ]
    assert pauses == ["0.5 s", "1 s"]


def test_a_component_with_a_heartbeat_works_once_it_beats(instance: Instance) -> None:
    instance.home.alive_file("beating").touch()
    instance.consists_of({"name": "beating", "script": BEAT, "heartbeat": True})
    assert instance.up() is True


def test_a_component_that_ignores_term_is_killed_after_its_grace(instance: Instance) -> None:
    instance.consists_of({"name": "stubborn", "script": STUBBORN, "grace_seconds": 0.3})
    instance.up()
    _eventually(lambda: "deaf" in instance.log("stubborn"))
    pid = instance.pid("stubborn")
    began = time.monotonic()
    instance.down()
    assert time.monotonic() - began < 5
    assert not psutil.pid_exists(pid)


def test_down_ends_what_components_started_too(instance: Instance) -> None:
    instance.consists_of({"name": "parent", "script": PARENT, "with_descendants": True})
    instance.up()
    _eventually(lambda: len(psutil.Process(instance.pid("parent")).children()) == 2)
    assert len(_processes_of(instance.home)) == 4
    instance.down()
    assert not _processes_of(instance.home)


def test_kill_9_of_the_supervisor_takes_the_components_along_and_up_works_again(instance: Instance) -> None:
    instance.consists_of({"name": "first", "script": SERVE}, {"name": "second", "script": SERVE, "after": ["first"]})
    instance.up()
    holder = lock_holder(instance.home.supervisor_lock)
    assert holder
    os.kill(holder, signal.SIGKILL)
    _eventually(lambda: not _processes_of(instance.home))
    assert instance.status().state is InstanceState.STOPPED
    assert instance.up() is True


def test_up_ends_what_a_killed_supervisor_left_behind(instance: Instance) -> None:
    instance.consists_of({"name": "parent", "script": PARENT.replace(", start_new_session=True", "")})
    instance.up()
    parent = psutil.Process(instance.pid("parent"))
    _eventually(lambda: len(parent.children()) == 2)
    orphans = parent.children()
    holder = lock_holder(instance.home.supervisor_lock)
    assert holder
    os.kill(holder, signal.SIGKILL)
    _eventually(lambda: not parent.is_running() or parent.status() == psutil.STATUS_ZOMBIE)
    assert all(orphan.is_running() for orphan in orphans)
    instance.up()
    assert not any(orphan.is_running() for orphan in orphans)


def test_down_after_kill_9_clears_away(instance: Instance) -> None:
    instance.consists_of({"name": "parent", "script": PARENT.replace(", start_new_session=True", "")})
    instance.up()
    parent = psutil.Process(instance.pid("parent"))
    _eventually(lambda: len(parent.children()) == 2)
    holder = lock_holder(instance.home.supervisor_lock)
    assert holder
    os.kill(holder, signal.SIGKILL)
    _eventually(lambda: lock_holder(instance.home.supervisor_lock) is None)
    assert instance.down() is True
    assert not _processes_of(instance.home)


def test_down_while_it_is_starting_ends_the_start(instance: Instance) -> None:
    instance.consists_of({"name": "slow", "script": SERVE, "ready_file": "/nonexistent/file"})
    starting = subprocess.Popen(instance.argv, stderr=subprocess.DEVNULL)
    _eventually(lambda: bool(instance.status().components) and instance.part("slow").state is ComponentState.STARTING)
    assert instance.down() is True
    assert starting.wait(DEADLINE_SECONDS) == 0


def test_a_second_supervisor_ends_at_once_with_its_own_status(instance: Instance) -> None:
    instance.consists_of({"name": "server", "script": SERVE})
    instance.up()
    assert subprocess.run(instance.argv, check=False, timeout=DEADLINE_SECONDS).returncode == supervisor.BUSY
    assert instance.status().is_up()


def test_logs_are_rotated_while_their_writer_keeps_them_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_LIMIT_BYTES", 100)
    log = tmp_path / "server.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(6):
            writer.write(f"{number}".encode() * 100)
            supervisor.rotate(log)
        writer.write(b"new")
    assert log.read_text() == "new"
    kept = {path.name: path.read_text()[0] for path in tmp_path.iterdir() if path != log}
    assert kept == {"server.log.1": "5", "server.log.2": "4", "server.log.3": "3"}


def test_a_process_that_gives_way_takes_its_session_along() -> None:
    child = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        give_way(child.pid)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 10
        group = Path(f"/proc/{child.pid}/autogroup")
        assert not group.exists() or group.read_text(encoding="ascii").endswith("nice 10\n")
    finally:
        child.kill()
        child.wait()


def test_only_the_process_that_listens_counts_as_listening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(os.getpid(), port)
        child = subprocess.Popen(["sleep", "30"])
        try:
            assert not listens(child.pid, port)
        finally:
            child.kill()
            child.wait()
        assert not listens(child.pid, port)
