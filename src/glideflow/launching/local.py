# SPDX-License-Identifier: Apache-2.0
"""Pilots as plain processes of this machine, for trying out without HTCondor.

Each is the leader of a session of its own and outlives the process that started it. Its folder holds `process.json`,
by which any later process finds it again; a process id counts only together with its start time.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from glideflow.domain.identifiers import PilotId
from glideflow.domain.site import Site
from glideflow.errors import ServiceError
from glideflow.launching.archive import pilot_archive
from glideflow.launching.launcher import HomePaths, LaunchedPilot, LaunchStatus, PilotLaunch, SettledPilot
from glideflow.launching.processes import ProcessIdentity, identify
from glideflow.settings import Settings, process_environment

_NOTE = "process.json"
_SECRET = "secret"
_OUTPUT = "pilot.out"
_ERRORS = "pilot.err"
_LAST_WORDS = 2000

_children: list[subprocess.Popen[bytes]] = []
"""Pilots that this process started: they have to be waited for, or they stay as zombies. Of the process, not of a
launcher, because they outlive launchers."""
_children_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What `process.json` holds."""

    pilot_id: str
    site: str
    instance: str
    pid: int
    start_ticks: int
    boot_id: str

    @property
    def process(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.start_ticks, self.boot_id)


class LocalLauncher:
    """Starts, lists and ends pilots on this machine."""

    def __init__(self, settings: Settings, home: HomePaths, *, archive: Callable[[], Path] | None = None) -> None:
        """Name the instance; nothing is started.

        Args:
            settings: Settings of the instance.
            home: Its home.
            archive: Returns the pilot as one executable file; without it, the product's.
        """
        self._instance = settings.instance
        self._pilots = home.pilots
        self._ca_file = home.ca_file
        self._archive = archive or pilot_archive

    def launch(self, site: Site, pilots: Sequence[PilotLaunch]) -> Mapping[PilotId, str]:
        """Start pilots.

        Returns:
            The process id of each that was started, as text.

        Raises:
            ServiceError: None could be started.
        """
        archive = self._archive() if pilots else Path()
        started: dict[PilotId, str] = {}
        for pilot in pilots:
            try:
                started[pilot.pilot_id] = str(self._start(site, pilot, archive).pid)
            except OSError as error:
                if not started:
                    raise ServiceError(f"pilot {pilot.pilot_id} could not be started as a process: {error}") from error
                break
        return started

    def poll(self, site: Site) -> Mapping[PilotId, LaunchedPilot]:
        """List the pilots of this instance at a site whose processes still run."""
        _reap()
        return {
            PilotId(note.pilot_id): LaunchedPilot(
                pilot_id=PilotId(note.pilot_id), batch_id=str(note.pid), status=LaunchStatus.RUNNING
            )
            for note in self._notes(site)
            if note.process.is_alive()
        }

    def remove(self, site: Site, pilot_ids: Sequence[PilotId], reason: str) -> None:
        """End pilots: TERM now, and KILL for their process groups after the site's `vacate_seconds`."""
        wanted = set(pilot_ids)
        processes = [note.process for note in self._notes(site) if note.pilot_id in wanted]
        for process in processes:
            process.send(signal.SIGTERM)
        _reap()
        alive = [process for process in processes if process.is_alive()]
        if alive:
            timer = threading.Timer(site.vacate_seconds, _kill, [alive])
            timer.daemon = True
            timer.start()

    def settle(self, site: Site) -> Sequence[SettledPilot]:
        """Report the pilots that ended with something to say, once; the folders of the others are removed."""
        _reap()
        settled = []
        for note in self._notes(site):
            if note.process.is_alive():
                continue
            folder = self._pilots / note.pilot_id
            (folder / _NOTE).unlink(missing_ok=True)
            (folder / _SECRET).unlink(missing_ok=True)
            words = _last_words(folder / _ERRORS)
            if not words:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            text = f"the pilot's process ended and wrote: {words.splitlines()[-1]}"
            settled.append(SettledPilot(pilot_id=PilotId(note.pilot_id), removed=True, text=text, output=folder))
        return settled

    def close(self) -> None:
        """Nothing runs for the launcher itself."""

    def _start(self, site: Site, pilot: PilotLaunch, archive: Path) -> ProcessIdentity:
        folder = self._pilots / pilot.pilot_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = folder / _SECRET
        with open(secret, "w", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(pilot.secret + "\n")
        command = [
            sys.executable, str(archive), "--server", pilot.server_url, "--pilot-id", pilot.pilot_id,
            "--site", site.name, "--ca", str(self._ca_file), "--secret-file", str(secret), "--scratch", str(folder),
            "--cores", str(site.cores), "--memory-mb", str(site.memory_mb), "--disk-mb", str(site.disk_mb),
            "--wall-seconds", str(site.wall_seconds),
        ]  # fmt: skip
        with (folder / _OUTPUT).open("ab") as output, (folder / _ERRORS).open("ab") as errors:
            child = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True,
                env=_environment(),
            )  # fmt: skip
        with _children_lock:
            _children.append(child)
        process = identify(child.pid)
        if process is None:
            raise ServiceError(f"pilot {pilot.pilot_id} ended at once: {_last_words(folder / _ERRORS)}")
        note = _Note(pilot_id=pilot.pilot_id, site=site.name, instance=self._instance, **asdict(process))
        draft = folder / f"{_NOTE}.new"
        draft.write_text(json.dumps(asdict(note)) + "\n", encoding="utf-8")
        draft.rename(folder / _NOTE)
        return process

    def _notes(self, site: Site) -> list[_Note]:
        notes = []
        for path in sorted(self._pilots.glob(f"*/{_NOTE}")):
            try:
                note = _Note(**json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            if note.site == site.name and note.instance == self._instance:
                notes.append(note)
        return notes


def _environment() -> dict[str, str]:
    """Return a payload's environment without what is glideflow's own: its settings would reach the users' commands."""
    own = ("GLIDEFLOW_", "PREFECT_", "PYTHON")
    return {key: value for key, value in process_environment().items() if not key.startswith(own)}


def _reap() -> None:
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None]


def _kill(processes: Sequence[ProcessIdentity]) -> None:
    for process in processes:
        process.send(signal.SIGKILL, group=True)


def _last_words(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:].strip()
    except OSError:
        return ""
