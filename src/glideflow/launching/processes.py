# SPDX-License-Identifier: Apache-2.0
"""Which process is meant: a process id alone may belong to somebody else by now, with its start time it does not."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.02
_STAT_STATE, _STAT_START = 0, 19
"""Fields of /proc/PID/stat after the command's closing parenthesis: state and start time. Source: proc(5)."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of this machine, for good."""

    pid: int
    """Process id."""
    start_ticks: int
    """Start time in clock ticks since boot; unlike a wall time it does not move when the clock is set."""
    boot_id: str
    """Which boot of the machine."""

    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        stat = _stat(self.pid)
        return (
            stat is not None
            and stat[_STAT_STATE] not in "ZX"
            and int(stat[_STAT_START]) == self.start_ticks
            and _boot_id() == self.boot_id
        )

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal, when it still is this process.

        Args:
            number: The signal.
            group: To its whole process group, which it must lead.
        """
        if not self.is_alive():
            return
        try:
            if group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def wait_gone(self, seconds: float) -> bool:
        """Wait until it has ended; returns whether it has."""
        return wait_until(lambda: not self.is_alive(), seconds)


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a running process, None when there is no such process."""
    stat = _stat(pid)
    if stat is None or stat[_STAT_STATE] in "ZX":
        return None
    return ProcessIdentity(pid, int(stat[_STAT_START]), _boot_id())


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll a condition until it holds or the time, in seconds, is over; returns whether it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
