# SPDX-License-Identifier: Apache-2.0
"""The supervisor: starts the components in order, restarts what crashes, ends all in reverse order.

It has one thread, because the kernel ties a child's death signal to the thread that started it.
"""

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil

from glideflow.errors import GlideflowError
from glideflow.instance.child import Child
from glideflow.instance.components import Component
from glideflow.instance.home import AlreadyLocked, Home, locked
from glideflow.instance.processes import PRIVATE_UMASK, end_processes, members
from glideflow.instance.status import InstanceState, InstanceStatus, last_status, write_status

LOG_LIMIT_BYTES = 20_000_000
LOGS_KEPT = 3
BUSY = os.EX_TEMPFAIL
"""Exit status: another supervisor has this home."""
TRIES = 3
"""How often a component is tried at the start of the instance."""
_BUSY_SECONDS = 0.05
_QUIET_SECONDS = 0.5
_LEFTOVER_GRACE_SECONDS = 15.0

_log = logging.getLogger(__name__)


class StartFailed(GlideflowError):
    """A component could not be started."""

    code = "start_failed"

    def __init__(self, component: str, words: str) -> None:
        self.component = component
        super().__init__(f"{component} cannot be started: {words}")


class Supervisor:
    """Runs the components of one home; for the holder of its supervisor lock.

    Args:
        home: Where logs, status and signs of life are.
        components: In the order of their start.
    """

    def __init__(self, home: Home, components: Sequence[Component]) -> None:
        self._home = home
        self._children = [Child(component, home) for component in components]
        self._by_name = {child.name: child for child in self._children}
        self._status = InstanceStatus(
            state=InstanceState.STARTING, pid=os.getpid(), started_at=datetime.now(UTC).isoformat(timespec="seconds")
        )
        self._written: InstanceStatus | None = None
        self._stop = False
        self._wake = threading.Event()

    def run(self) -> bool:
        """Run until TERM or INT; returns False when a component could not be started."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, self._on_child)
        failed: StartFailed | None = None
        try:
            while not self._stop:
                self._look()
                self._wake.wait(_QUIET_SECONDS if self._all_work() else _BUSY_SECONDS)
                self._wake.clear()
        except StartFailed as error:
            _log.error("%s", error)
            failed = error
        self._end_all(failed)
        return failed is None

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        self._wake.set()

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        self._wake.set()

    def _all_work(self) -> bool:
        return all(child.works() for child in self._children)

    def _look(self) -> None:
        """One round: notice ends and signs of life, start what can be started."""
        for child in self._children:
            child.look()
            # At the start a person waits for the answer; later what is missing may come back, so we try for ever.
            if self._status.state is InstanceState.STARTING and child.failures >= TRIES:
                raise StartFailed(child.name, child.detail)
            if child.can_start() and all(self._by_name[name].works() for name in child.component.after):
                child.start()
            rotate(child.log)
            if self._stop:
                return
        rotate(self._home.logs / "supervisor.log")
        if self._status.state is InstanceState.STARTING and self._all_work():
            _log.info("all components work")
            self._tell(InstanceState.RUNNING)
        else:
            self._tell(self._status.state)

    def _end_all(self, failed: StartFailed | None) -> None:
        self._tell(InstanceState.STOPPING)
        for child in reversed(self._children):
            child.end()
            self._tell(InstanceState.STOPPING)
        if failed is None:
            self._tell(InstanceState.STOPPED)
        else:
            self._tell(InstanceState.FAILED, str(failed), failed.component)

    def _tell(self, state: InstanceState, message: str = "", failed: str = "") -> None:
        parts = [child.status() for child in self._children]
        self._status = InstanceStatus(
            state=state,
            pid=self._status.pid,
            started_at=self._status.started_at,
            message=message,
            failed=failed,
            components=parts,
        )
        if self._status != self._written:
            write_status(self._home, self._status)
            self._written = self._status


def supervise(home: Home, components: Callable[[], Sequence[Component]]) -> int:
    """Supervise components under the home's lock until asked to end.

    Args:
        home: The home; its folders exist.
        components: Prepares the start and names the components; called under the lock.

    Returns:
        The exit status: 0 after an orderly end, 1 when the start failed, `BUSY` when there is another supervisor.
    """
    os.umask(PRIVATE_UMASK)
    try:
        with locked(home.supervisor_lock):
            end_leftovers(home)
            write_status(home, InstanceStatus(state=InstanceState.STARTING, pid=os.getpid()))
            try:
                supervisor = Supervisor(home, components())
            except GlideflowError as error:
                write_status(home, InstanceStatus(state=InstanceState.FAILED, pid=os.getpid(), message=str(error)))
                raise
            return 0 if supervisor.run() else 1
    except AlreadyLocked:
        return BUSY
    except GlideflowError as error:
        _log.error("%s", error)
        return 1


def end_leftovers(home: Home) -> int:
    """End what the last supervisor of a home left when it was killed; for the holder of its lock.

    Returns:
        How many processes there were.
    """
    status = last_status(home)
    sessions = [part.pid for part in status.components if part.pid is not None] if status else []
    left = [process for process in members(sessions) if _belongs_to(process, home)]
    if left:
        _log.warning("ending %d processes that a killed supervisor left", len(left))
        end_processes(left, signal.SIGTERM, _LEFTOVER_GRACE_SECONDS)
    return len(left)


def _belongs_to(process: psutil.Process, home: Home) -> bool:
    """The number of an ended session may be another program's by now; the environment tells."""
    try:
        return process.environ().get("GLIDEFLOW_HOME") == str(home.root)
    except psutil.Error:
        return False


def rotate(log: Path) -> None:
    """Keep a log below its limit: copy it aside and empty it, since its writer keeps it open for appending."""
    if not log.exists() or log.stat().st_size < LOG_LIMIT_BYTES:
        return
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)
