# SPDX-License-Identifier: Apache-2.0
"""Pilots as plain processes: found again by anybody, ended by their start time only."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from glideflow.domain.identifiers import PilotId
from glideflow.domain.site import Site
from glideflow.errors import ServiceError
from glideflow.launching.launcher import HomePaths, LaunchStatus, PilotLaunch
from glideflow.launching.local import LocalLauncher
from glideflow.launching.processes import ProcessIdentity, identify, wait_until
from glideflow.settings import Settings

SITE = Site(name="here", launcher="local", vacate_seconds=1)
SECONDS = 20.0

PATIENT = "import sys, time; print(sys.argv, flush=True); time.sleep(600)"
PARENT = (
    "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
)

Make = Callable[[str], LocalLauncher]


@pytest.fixture
def home(tmp_path: Path) -> HomePaths:
    """A home with the folders that matter here."""
    return SimpleNamespace(pilots=tmp_path / "pilots", pool=tmp_path / "pool", ca_file=tmp_path / "ca.pem")


@pytest.fixture
def make(tmp_path: Path, home: HomePaths) -> Iterator[Make]:
    """Return a launcher whose pilots run the given program; whatever is left at the end is killed and reaped."""

    def launcher(program: str) -> LocalLauncher:
        archive = tmp_path / "pilot.py"
        archive.write_text(program)
        return LocalLauncher(Settings(home=tmp_path), home, archive=lambda: archive)

    yield launcher
    for path in home.pilots.glob("*/process.json"):
        note = json.loads(path.read_text())
        left = ProcessIdentity(note["pid"], note["start_ticks"], note["boot_id"])
        left.send(signal.SIGKILL, group=True)
        assert left.wait_gone(SECONDS)
    # A launcher reaps its ended children when it is asked for them.
    assert not LocalLauncher(Settings(home=tmp_path), home).poll(SITE)


def pilot(name: str = "p1") -> PilotLaunch:
    """A pilot to start."""
    return PilotLaunch(pilot_id=PilotId(name), secret="s3cret", server_url="https://127.0.0.1:8443")


def output(home: HomePaths, name: str = "p1") -> str:
    """What a pilot wrote, as soon as it has."""
    path = home.pilots / name / "pilot.out"
    assert wait_until(lambda: path.exists() and bool(path.read_text()), SECONDS)
    return path.read_text()


def test_a_pilot_runs_in_its_own_session_and_folder_with_its_secret_in_a_file(make: Make, home: HomePaths) -> None:
    launcher = make(PATIENT)
    started = launcher.launch(SITE, [pilot()])
    pid = int(started[PilotId("p1")])
    arguments = output(home)
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").resolve() == home.pilots / "p1"
    secret = home.pilots / "p1" / "secret"
    assert secret.read_text() == "s3cret\n"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in arguments
    assert f"'--secret-file', '{secret}'" in arguments


def test_another_process_of_the_same_home_finds_and_ends_it(make: Make, home: HomePaths) -> None:
    started = make(PATIENT).launch(SITE, [pilot()])
    other = make(PATIENT)
    found = other.poll(SITE)[PilotId("p1")]
    assert (found.status, found.batch_id) == (LaunchStatus.RUNNING, started[PilotId("p1")])
    other.remove(SITE, [PilotId("p1")], "test")
    assert wait_until(lambda: not other.poll(SITE), SECONDS)


def test_pilots_of_another_site_or_instance_are_not_listed(make: Make, home: HomePaths, tmp_path: Path) -> None:
    make(PATIENT).launch(SITE, [pilot()])
    assert not make(PATIENT).poll(Site(name="there"))
    assert not LocalLauncher(Settings(home=tmp_path, instance="other"), home).poll(SITE)


def test_a_pilot_that_ignores_term_is_killed_with_all_it_started(make: Make, home: HomePaths) -> None:
    launcher = make(PARENT)
    launcher.launch(SITE, [pilot()])
    child = identify(int(output(home)))
    assert child is not None
    launcher.remove(SITE, [PilotId("p1")], "test")
    assert wait_until(lambda: not launcher.poll(SITE), SECONDS)
    assert child.wait_gone(SECONDS)


def test_a_foreign_process_with_the_same_id_is_left_alone(make: Make, home: HomePaths) -> None:
    launcher = make(PATIENT)
    launcher.launch(SITE, [pilot()])
    note_file = home.pilots / "p1" / "process.json"
    note = json.loads(note_file.read_text())
    with subprocess.Popen([sys.executable, "-c", PATIENT], stdout=subprocess.DEVNULL) as bystander:
        # The clock that start times are taken from ticks a hundred times a second: both may have started in one tick.
        note_file.write_text(json.dumps({**note, "pid": bystander.pid, "start_ticks": note["start_ticks"] - 1}))
        try:
            assert not launcher.poll(SITE)
            launcher.remove(SITE, [PilotId("p1")], "test")
            assert bystander.poll() is None
        finally:
            bystander.kill()
            note_file.write_text(json.dumps(note))


def test_removing_what_is_gone_is_no_error(make: Make) -> None:
    launcher = make("pass")
    launcher.launch(SITE, [pilot()])
    assert wait_until(lambda: not launcher.poll(SITE), SECONDS)
    launcher.remove(SITE, [PilotId("p1"), PilotId("never")], "test")


def test_a_pilot_that_crashed_is_reported_once_with_its_last_line(make: Make, home: HomePaths) -> None:
    launcher = make("raise SystemExit('no python here')")
    launcher.launch(SITE, [pilot()])
    assert wait_until(lambda: not launcher.poll(SITE), SECONDS)
    (settled,) = launcher.settle(SITE)
    assert settled.removed
    assert settled.text == "the pilot's process ended and wrote: no python here"
    assert settled.output == home.pilots / "p1"
    assert not (home.pilots / "p1" / "secret").exists()
    assert not launcher.settle(SITE)


def test_a_pilot_that_ended_well_leaves_no_folder(make: Make, home: HomePaths) -> None:
    launcher = make("pass")
    launcher.launch(SITE, [pilot()])
    assert wait_until(lambda: not launcher.poll(SITE), SECONDS)
    assert not launcher.settle(SITE)
    assert not (home.pilots / "p1").exists()


def test_settings_of_the_instance_do_not_reach_the_pilot(
    make: Make, home: HomePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIDEFLOW_DATABASE_URL", "postgresql://u:password@h/d")
    launcher = make(
        "import os; print([key for key in os.environ if key.startswith('GLIDEFLOW')] or 'none', flush=True)"
    )
    launcher.launch(SITE, [pilot()])
    assert output(home) == "none\n"


def test_no_pilot_started_is_an_error_that_names_it(make: Make, home: HomePaths) -> None:
    home.pilots.parent.joinpath("pilots").write_text("a file, not a folder")
    with pytest.raises(ServiceError, match="pilot p1 could not be started"):
        make(PATIENT).launch(SITE, [pilot()])
    home.pilots.unlink()


def test_nothing_to_launch_starts_nothing(make: Make) -> None:
    assert make(PATIENT).launch(SITE, []) == {}
