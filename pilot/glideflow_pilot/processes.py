# SPDX-License-Identifier: Apache-2.0
"""A payload's process group: started, listened to, ended as a whole, and nothing else on the node."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Optional

from glideflow_pilot.guard import Guard

READ_BYTES = 64 * 1024
# Longest time until a wait looks at its limits again.
LOOK_SECONDS = 1.0
# The same on kernels without process descriptors (before 5.3), where the end of a process wakes nobody.
BLIND_SECONDS = 0.05
# How long background processes of an ended command may go on after TERM.
LEFTOVER_SECONDS = 2.0
# How long a process that left the group may hold the output open after everything else was killed.
STRAY_SECONDS = 0.5

_MB = 1_000_000
_nothing = -1


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it used."""

    exit_code: Optional[int]
    signal: Optional[int]
    cpu_seconds: float
    max_rss_mb: float


class ProcessGroup:
    """One shell command in its own session."""

    def __init__(
        self,
        command: str,
        folder: Path,
        environment: Mapping[str, str],
        guard: Guard,
        sink: Callable[[memoryview], None],
    ) -> None:
        """Start it.

        Raises:
            OSError, ValueError: It could not be started.
        """
        self._guard, self._sink = guard, sink
        self._buffer = bytearray(READ_BYTES)
        self._lock = threading.Lock()
        self._kill_at: Optional[float] = None
        self._is_killed = False
        self._is_reaped = False
        self._pipe, writing = os.pipe()
        try:
            self._popen = subprocess.Popen(
                ["/bin/sh", "-c", command],
                cwd=folder,
                env=environment,
                stdin=_devnull(),
                stdout=writing,
                stderr=writing,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(writing)
        self.group = self._popen.pid
        guard.add(self.group)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._is_open = True
        self._descriptor = _process_descriptor(self.group)
        if self._descriptor is not None:
            self._poll.register(self._descriptor, select.POLLIN)

    def stop(self, grace_seconds: float) -> None:
        """Send TERM to the group, and KILL after the grace; for any thread, any number of times."""
        with self._lock:
            if self._kill_at is None and not self._is_reaped:
                self._kill_at = time.monotonic() + grace_seconds
                self._signal(signal.SIGTERM)

    def wait(self, ends_at: float, on_limit: Callable[[], None]) -> Ended:
        """Pass on the output until the command has ended and its whole group with it.

        Args:
            ends_at: Monotonic time of its limit.
            on_limit: Called once when it runs longer; it should call `stop`.
        """
        while not self._turn(min(LOOK_SECONDS, max(0.0, self._next_limit(ends_at) - time.monotonic()))):
            now = time.monotonic()
            if now >= ends_at:
                ends_at = float("inf")
                on_limit()
            if self._kill_at is not None and now >= self._kill_at and not self._is_killed:
                self._signal(signal.SIGKILL)
                self._is_killed = True
        self._end_group()
        return self._reap()

    def _next_limit(self, ends_at: float) -> float:
        if self._is_killed:
            return float("inf")
        return ends_at if self._kill_at is None else min(ends_at, self._kill_at)

    def _turn(self, seconds: float) -> bool:
        """Wait for output or the end; returns whether the command's own process has ended."""
        if self._descriptor is None:
            seconds = min(seconds, BLIND_SECONDS)
        ready = {descriptor for descriptor, _ in self._poll.poll(seconds * 1000)}
        if self._pipe in ready:
            self._read()
        if self._descriptor is not None and self._descriptor not in ready:
            return False
        return os.waitid(os.P_PID, self.group, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _read(self) -> None:
        # Into one buffer: a payload that prints a lot must not make the pilot allocate a lot.
        size = os.readv(self._pipe, [self._buffer])
        if size:
            self._sink(memoryview(self._buffer)[:size])
        else:
            self._is_open = False
            self._poll.unregister(self._pipe)

    def _end_group(self) -> None:
        """End what the command left in the background. Its own process is a zombie: the number is still ours."""
        if self._descriptor is not None:
            self._poll.unregister(self._descriptor)
        if self._kill_at is None:
            self._signal(signal.SIGTERM)
            self._drain(time.monotonic() + LEFTOVER_SECONDS)
        else:
            # TERM was sent, and is not sent twice: many programs take a second one for impatience. The shell died
            # of it at once; the program that it waited for still has its grace.
            while time.monotonic() < self._kill_at and _has_living_member(self.group):
                self._drain(time.monotonic() + BLIND_SECONDS)
                time.sleep(0 if self._is_open else BLIND_SECONDS)
        self._signal(signal.SIGKILL)
        self._drain(time.monotonic() + STRAY_SECONDS)

    def _drain(self, until: float) -> None:
        while self._is_open:
            left = until - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                return
            self._read()

    def _signal(self, number: int) -> None:
        # It may be gone, or under another account by now, which only its own rights may end.
        with contextlib.suppress(OSError):
            os.killpg(self.group, number)

    def _reap(self) -> Ended:
        self._guard.remove(self.group)
        with self._lock:
            _, status, usage = os.wait4(self.group, 0)
            self._is_reaped = True
        os.close(self._pipe)
        if self._descriptor is not None:
            os.close(self._descriptor)
        code = os.waitstatus_to_exitcode(status)
        self._popen.returncode = code
        return Ended(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
            max_rss_mb=round(usage.ru_maxrss * 1024 / _MB, 1),
        )


def _process_descriptor(process_id: int) -> Optional[int]:
    try:
        return os.pidfd_open(process_id)
    except (AttributeError, OSError):
        return None


def _has_living_member(group: int) -> bool:
    """Tell whether a process group has a process that is no zombie; only looks."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, _, its_group = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def _devnull() -> int:
    global _nothing
    if _nothing < 0:
        _nothing = os.open(os.devnull, os.O_RDONLY)
    return _nothing
