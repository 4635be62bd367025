# SPDX-License-Identifier: Apache-2.0
"""Start and stop the supervisor of a home from another process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from glideflow.errors import ServiceError, SettingsError
from glideflow.instance.home import Home, lock_holder, locked
from glideflow.instance.postgres import EmbeddedPostgres
from glideflow.instance.processes import is_running, last_lines, wait_until
from glideflow.instance.status import InstanceState, InstanceStatus, read_status
from glideflow.instance.supervisor import BUSY, end_leftovers
from glideflow.settings import process_environment

UP_SECONDS = 900.0
DOWN_SECONDS = 120.0
_POLL_SECONDS = 0.1
_LOG_LINES = 15
_EXIT_SECONDS = 5.0

Watch = Callable[[InstanceStatus], None]


class InstanceFailed(ServiceError):
    """The instance could not be started or stopped."""

    code = "instance_failed"
    retryable = False

    def __init__(self, message: str, component: str = "", log: Sequence[str] = ()) -> None:
        self.component = component
        self.log = list(log)
        super().__init__(message)


def supervisor_arguments(home: Home, launcher: str | None, slots: int | None) -> list[str]:
    """Return the command line of a home's supervisor."""
    argv = [sys.executable, "-m", "glideflow.instance", "--home", str(home.root)]
    argv += [] if launcher is None else ["--launcher", launcher]
    return argv + ([] if slots is None else ["--slots", str(slots)])


def bring_up(home: Home, argv: Sequence[str], watch: Watch) -> bool:
    """Start the supervisor unless one runs, and wait until all components work.

    Args:
        home: The home; created.
        argv: Command line of the supervisor.
        watch: Called with the status about ten times a second.

    Returns:
        Whether this call started it; False when it ran already or another call was faster.

    Raises:
        InstanceFailed: A component could not be started; carries the last lines of its log.
    """
    if read_status(home).state is InstanceState.RUNNING:
        return False
    ours: subprocess.Popen[bytes] | None = None
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline:
        status = read_status(home)
        watch(status)
        if status.is_up():
            return ours is not None and status.pid == ours.pid
        if ours is not None and ours.poll() is not None:
            # Another supervisor was faster: wait for that one, and take its place should it fail.
            if ours.returncode != BUSY:
                raise _failure(home, read_status(home), ours.pid)
            ours = None
        elif ours is None and lock_holder(home.supervisor_lock) is None:
            ours = _spawn(home, argv)
        time.sleep(_POLL_SECONDS)
    raise InstanceFailed(f"the instance did not start within {UP_SECONDS:g} s; see the logs in {home.logs}")


def bring_down(home: Home, watch: Watch) -> bool:
    """Stop the supervisor and all components; returns whether there was anything to stop.

    Raises:
        SettingsError: The instance is another account's.
        InstanceFailed: It does not end.
    """
    holder = lock_holder(home.supervisor_lock)
    if holder is None:
        return _clear_away(home)
    asked: set[int] = set()
    deadline = time.monotonic() + DOWN_SECONDS
    while holder is not None and time.monotonic() < deadline:
        watch(read_status(home))
        # It is 0 for the moment in which a supervisor has the lock and has not noted itself.
        if holder and holder not in asked:
            _ask_to_end(holder)
            asked.add(holder)
        time.sleep(_POLL_SECONDS)
        holder = lock_holder(home.supervisor_lock)
    if holder is not None or not wait_until(lambda: not any(map(is_running, asked)), _EXIT_SECONDS):
        raise InstanceFailed(f"process {holder or asked} does not end; see {home.logs / 'supervisor.log'}")
    return True


def _clear_away(home: Home) -> bool:
    """End what a killed supervisor left; its children are ending by themselves already."""
    if not home.run.is_dir():
        return False
    with locked(home.supervisor_lock):
        count = end_leftovers(home)
        EmbeddedPostgres(home.postgres, 0).end_leftovers()
    return count > 0


def _ask_to_end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise SettingsError(f"process {pid} belongs to another account, only that one can stop it") from error


def _spawn(home: Home, argv: Sequence[str]) -> subprocess.Popen[bytes]:
    with (home.logs / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            argv,
            cwd=home.root,
            env=process_environment(GLIDEFLOW_HOME=str(home.root)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It outlives the command; where it does not outlive this process, somebody must take note of its end.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def _failure(home: Home, status: InstanceStatus, pid: int) -> InstanceFailed:
    log = last_lines(home.logs / f"{status.failed or 'supervisor'}.log", _LOG_LINES)
    if status.state is InstanceState.FAILED and status.pid == pid:
        return InstanceFailed(status.message, status.failed, log if status.failed else ())
    return InstanceFailed("the supervisor ended before it could say why", "supervisor", log)
