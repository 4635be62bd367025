# SPDX-License-Identifier: Apache-2.0
"""Start and end the child processes of an instance: each leads a session of its own and ends with its parent."""

import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

PR_SET_PDEATHSIG = 1
PRIVATE_UMASK = 0o077
_POLL_SECONDS = 0.02
_NICE = 10


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to start, and as whom."""

    argv: Sequence[str]
    """Program and arguments."""
    folder: Path
    """Working directory; entered before the change of account, so its parents may be closed to that account."""
    environment: Mapping[str, str] = field(repr=False)
    """The whole environment of the process."""
    account: pwd.struct_passwd | None = None
    """The account to run as, for a parent that is root; None keeps the parent's."""
    pass_fds: tuple[int, ...] = ()
    """Open files that the process inherits."""

    def identity(self) -> dict[str, object]:
        """Return the arguments of `subprocess` that change the account."""
        if self.account is None:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}


def run(command: Command, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end and return its outputs; a failure is not raised.

    Raises:
        subprocess.TimeoutExpired: It took longer.
    """
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command.argv,
        cwd=command.folder,
        env=dict(command.environment),
        pass_fds=command.pass_fds,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
        **command.identity(),
    )


def start(command: Command, log: Path, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, with its output appended to a file.

    Call it from a thread that lives as long as the process shall: the kernel sends the death signal when the
    starting *thread* ends.

    Args:
        command: What to start.
        log: File for output and errors.
        death_signal: What the process gets when its parent is gone, even by `kill -9`.

    Raises:
        OSError: The program cannot be started.
    """
    with log.open("ab") as output:
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            command.argv,
            cwd=command.folder,
            env=dict(command.environment),
            pass_fds=command.pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=PRIVATE_UMASK,
            # A change of account clears the death signal, so it is set after it: preexec_fn runs last.
            preexec_fn=_die_with(os.getpid(), death_signal),
            **command.identity(),
        )


_libc = ctypes.CDLL(None, use_errno=True)


def _die_with(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    number = int(death_signal)

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def members(sessions: Iterable[int]) -> list[psutil.Process]:
    """Return the living processes of some sessions."""
    wanted = set(sessions)
    inside = [process for process in psutil.process_iter() if session_of(process.pid) in wanted]
    return [process for process in inside if is_running(process.pid)]


def session_of(pid: int) -> int | None:
    """Return the session of a process, or None when it is gone."""
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def is_running(pid: int) -> bool:
    """Tell whether there is such a process; a zombie does not run."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end_session(
    leader: subprocess.Popen[bytes], first: signal.Signals, grace_seconds: float, *, all_at_once: bool = False
) -> None:
    """End a process that `start` started and everything in its session; returns when all are gone.

    Args:
        leader: The process.
        first: The signal to begin with.
        grace_seconds: How long to wait before KILL.
        all_at_once: Whether the first signal also goes to the leader's children.
    """
    if all_at_once:
        signal_all(members([leader.pid]), first)
    elif leader.poll() is None:
        leader.send_signal(first)
    wait_until(lambda: leader.poll() is not None, grace_seconds)
    rest = members([leader.pid])
    signal_all(rest, signal.SIGKILL)
    leader.wait()
    psutil.wait_procs(rest, timeout=grace_seconds)


def end_processes(processes: Sequence[psutil.Process], first: signal.Signals, grace_seconds: float) -> None:
    """End processes that are no children of this one: a signal, time to react, then KILL."""
    signal_all(processes, first)
    _, rest = psutil.wait_procs(processes, timeout=grace_seconds)
    signal_all(rest, signal.SIGKILL)
    psutil.wait_procs(rest, timeout=grace_seconds)


def signal_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each; those that are gone are no error."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask again and again until a condition holds; returns whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def last_lines(log: Path, count: int = 15) -> list[str]:
    """Return the last lines of a log, at most 64 KiB of them; none when there is no log."""
    try:
        with log.open("rb") as file:
            _seek_from_end(file, 65536)
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def _seek_from_end(file: IO[bytes], size_bytes: int) -> None:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - size_bytes))


def give_way(pid: int) -> None:
    """Let a process, and what it starts, wait for others when the processors are busy.

    Args:
        pid: The leader of a session. Linux schedules sessions as groups, in which niceness counts only among the
            members, so that the group as a whole is made nice too (sched(7), "The autogroup feature").
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICE), encoding="ascii")


def listens(pid: int, port: int) -> bool:
    """Tell whether a process, or one that it started, listens on a TCP port."""
    try:
        process = psutil.Process(pid)
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for each in (process, *process.children(recursive=True))
            for connection in each.net_connections("tcp")
        )
    except psutil.Error:
        return False
