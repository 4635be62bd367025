# SPDX-License-Identifier: Apache-2.0
"""One component as the supervisor runs it: started, looked at, started again after a crash, ended."""

import logging
import signal
import subprocess
import time
from datetime import UTC, datetime

import psutil

from glideflow.errors import GlideflowError
from glideflow.instance.components import Component
from glideflow.instance.home import Home
from glideflow.instance.processes import end_processes, end_session, give_way, last_lines, listens, start
from glideflow.instance.status import ComponentState, ComponentStatus

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Time between a crash and the next start, by the number of crashes in a row."""
STABLE_SECONDS = 60.0
"""A component that worked for this long begins with the shortest pause again."""
SILENT_SECONDS = 120.0
"""A component without a sign of life for longer hangs."""
_ASK_SECONDS = 0.1

_log = logging.getLogger(__name__)


class Child:
    """The process of one component.

    Args:
        component: What to run.
        home: Where its log and its sign of life are.
    """

    def __init__(self, component: Component, home: Home) -> None:
        self.component = component
        self.name = component.name
        self.log = home.logs / f"{component.name}.log"
        self.state = ComponentState.WAITING
        self.failures = 0
        """Crashes in a row."""
        self.detail = ""
        """Why it does not work, in words."""
        self._alive_file = home.alive_file(component.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._starts = 0
        self._started_at: str | None = None
        self._started = 0.0
        self._next_start = 0.0
        self._next_question = 0.0
        self._last_sign: tuple[float, float] = (0.0, 0.0)

    def status(self) -> ComponentStatus:
        """Return what is to be told of it."""
        return ComponentStatus(
            name=self.name,
            state=self.state,
            pid=self._pid,
            port=self.component.port,
            started_at=self._started_at,
            restarts=max(0, self._starts - 1),
            detail=self.detail,
        )

    def works(self) -> bool:
        """Tell whether those that come after it may start."""
        return self.state in {ComponentState.READY, ComponentState.DONE}

    def can_start(self) -> bool:
        """Tell whether it has no process and its pause is over."""
        return self.state in {ComponentState.WAITING, ComponentState.CRASHED} and time.monotonic() >= self._next_start

    def start(self) -> None:
        """Start its process; a failure counts as a crash."""
        self._starts += 1
        self._started = time.monotonic()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._alive_file.unlink(missing_ok=True)
        try:
            self.component.clean_up()
            self._process = start(self.component.command(), self.log, self.component.death_signal)
        except (OSError, GlideflowError) as error:
            self._crashed(str(error))
            return
        self._pid = self._process.pid
        if self.component.gives_way:
            give_way(self._pid)
        self.state = ComponentState.STARTING
        _log.info("%s: started as process %d", self.name, self._pid)

    def look(self) -> None:
        """Notice that it works, has ended, takes too long or hangs."""
        if self._process is None:
            return
        code = self._process.poll()
        if code is not None:
            self._ended(code)
        elif self.state is ComponentState.STARTING:
            self._look_at_start()
        elif self.component.heartbeat:
            self._look_at_heartbeat()
        if self.failures and self.works() and time.monotonic() - self._started > STABLE_SECONDS:
            self.failures = 0

    def _look_at_start(self) -> None:
        now = time.monotonic()
        if now < self._next_question or self.component.once:
            return
        self._next_question = now + _ASK_SECONDS
        if self._is_ready():
            self.state = ComponentState.READY
            self.detail = ""
            self._last_sign = (0.0, now)
            _log.info("%s: works after %.1f s", self.name, now - self._started)
        elif now - self._started > self.component.start_seconds:
            self.end()
            self._crashed(f"it does not answer after {self.component.start_seconds:g} s")

    def _is_ready(self) -> bool:
        if self.component.heartbeat and not self._alive_file.exists():
            return False
        # Another instance that was faster to take the port answers, too.
        port = self.component.port
        ours = port is None or self._process is None or listens(self._process.pid, port)
        return ours and self.component.is_ready()

    def _look_at_heartbeat(self) -> None:
        """Compare the file with what it was, not with the clock: the clock may be set, the machine may have slept."""
        changed, seen = self._last_sign
        current = self._alive_file.stat().st_mtime if self._alive_file.exists() else changed
        now = time.monotonic()
        if current != changed:
            self._last_sign = (current, now)
        elif now - seen > SILENT_SECONDS:
            self.end()
            self._crashed(f"it gave no sign of life for {SILENT_SECONDS:g} s")

    def _ended(self, code: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            # What it started in its session has lost its parent.
            end_session(process, signal.SIGTERM, self.component.grace_seconds, all_at_once=True)
        self._pid = None
        if self.component.once and code == 0:
            self.state = ComponentState.DONE
            self.detail = ""
            _log.info("%s: done after %.1f s", self.name, time.monotonic() - self._started)
            return
        how = f"ended with status {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        words = last_lines(self.log, 1)
        self._crashed(f"it {how}" + (f": {words[0][-300:]}" if words else ""))

    def _crashed(self, words: str) -> None:
        pause = PAUSES_SECONDS[min(self.failures, len(PAUSES_SECONDS) - 1)]
        self.failures += 1
        self.state = ComponentState.CRASHED
        self.detail = words
        self._next_start = time.monotonic() + pause
        _log.warning("%s: %s; next start in %g s", self.name, words, pause)

    def end(self) -> None:
        """End its process and everything that belongs to it; returns when all are gone."""
        process, self._process = self._process, None
        self._pid = None
        if self.state is not ComponentState.DONE:
            self.state = ComponentState.STOPPED
        if process is None:
            return
        began = time.monotonic()
        family = _descendants(process.pid) if self.component.with_descendants else []
        end_session(process, self.component.stop_signal, self.component.grace_seconds)
        end_processes(family, signal.SIGTERM, self.component.grace_seconds)
        _log.info("%s: ended after %.1f s, status %s", self.name, time.monotonic() - began, process.returncode)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
