# SPDX-License-Identifier: Apache-2.0
"""Start, enter and end the namespaces of one private pool."""

import atexit
import signal
import subprocess
from pathlib import Path
from typing import IO

import psutil

from glideflow.condor.pool_root import PILOT_UID, is_root, user_namespace
from glideflow.errors import PoolError
from glideflow.launching.processes import ProcessIdentity, identify, wait_until
from glideflow.settings import process_environment

_INIT_SCRIPT = Path(__file__).with_name("pool_init.sh")
_INIT_SECONDS = 20.0
_QUIT_SECONDS = 8.0
_KILL_SECONDS = 10.0

_outer: list[subprocess.Popen[bytes]] = []
"""The `unshare` commands that this process started. They outlive it; while it lives, it has to wait for them."""


@atexit.register
def _take_note_of_ends() -> None:
    """Ask once more how they ended: another process may have ended the pool, and Python warns otherwise."""
    for process in _outer:
        process.poll()


_INSIDE = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "CONDOR_CONFIG=/pool/condor_config"


def start_namespace(root: Path, state: Path, log: Path) -> ProcessIdentity:
    """Start the pool's daemons in namespaces of their own, in a session that outlives this process.

    Args:
        root: Root file system, from `ensure_root`.
        state: The pool's own folder, with `condor_config`.
        log: Takes what the first process says.

    Returns:
        The first process of the namespaces; when it ends, everything in them ends.

    Raises:
        PoolError: It did not start.
    """
    command = ["unshare", *user_namespace(), "--mount", "--pid", "--fork", *_init_command(root, state)]
    with log.open("wb") as words:
        outer = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True, cwd="/"
        )
    _outer[:] = [*(process for process in _outer if process.poll() is None), outer]
    found: list[ProcessIdentity] = []

    def init_runs() -> bool:
        if outer.poll() is not None:
            raise PoolError(f"the private pool did not start: {_words(log) or f'exit status {outer.returncode}'}")
        found[:] = _inits(outer.pid)
        return bool(found)

    if not wait_until(init_runs, _INIT_SECONDS):
        outer.kill()
        raise PoolError(f"the private pool did not start within {_INIT_SECONDS:.0f} s; see {log}")
    return found[0]


def find_namespace(state: Path) -> list[ProcessIdentity]:
    """Return the first processes of namespaces that serve this state folder, however they were started.

    A command that was killed before it noted the pool leaves one behind; its command line names the folder.
    """
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[:1] == ["unshare"] and words[-1] == str(state) and str(_INIT_SCRIPT) in words:
            found += _inits(process.pid)
    return found


def enter_command(init: ProcessIdentity, argv: list[str], *, as_root: bool = False) -> list[str]:
    """Return the command that runs `argv` inside the namespaces.

    Args:
        init: First process of the namespaces.
        argv: Program and arguments, as found inside the root.
        as_root: As the pool's administrator instead of the account of the pilots.
    """
    account = [] if as_root else ["-S", str(PILOT_UID), "-G", str(PILOT_UID)]
    home = "/root" if as_root else "/home/pilot"
    return [
        "nsenter", "-t", str(init.pid), *([] if is_root() else ["-U"]), "-m", "-p", "-r", "-w", *account,
        "env", "-i", f"--chdir={home}", f"HOME={home}", f"TERM={process_environment().get('TERM', 'dumb')}", *_INSIDE,
        *argv,
    ]  # fmt: skip


def run_inside(
    init: ProcessIdentity,
    argv: list[str],
    *,
    as_root: bool = False,
    data: bytes = b"",
    output: IO[str] | None = None,
    seconds: float = 30.0,
) -> str:
    """Run a program inside the namespaces and return its standard output.

    Args:
        init: First process of the namespaces.
        argv: Program and arguments, as found inside the root.
        as_root: As the pool's administrator instead of the account of the pilots.
        data: What it reads from its standard input.
        output: Takes the standard output instead; then an empty text is returned.
        seconds: How long it may take.

    Raises:
        PoolError: It failed, or took too long.
    """
    command = enter_command(init, argv, as_root=as_root)
    try:
        run = subprocess.run(
            command, input=data, stdout=output or subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=seconds
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PoolError(f"`{argv[0]}` inside the private pool: {error}") from error
    if run.returncode != 0:
        raise PoolError(f"`{argv[0]}` inside the private pool failed: {_text(run.stderr).strip()}")
    return _text(run.stdout or b"")


def end_namespace(init: ProcessIdentity) -> None:
    """End every process of the namespaces, and with them the mounts.

    Raises:
        PoolError: They are still there.
    """
    # QUIT is HTCondor's fast shutdown; killing the first process ends all others, so it is only faster to ask.
    holder = _holder(init)
    init.send(signal.SIGQUIT)
    if not init.wait_gone(_QUIT_SECONDS):
        init.send(signal.SIGKILL)
    if not init.wait_gone(_KILL_SECONDS):
        raise PoolError(f"process {init.pid} of the private pool does not end, even by KILL")
    if holder is not None:
        # The command that made the namespaces ends by itself now.
        holder.wait_gone(_KILL_SECONDS)


def _init_command(root: Path, state: Path) -> list[str]:
    return ["sh", str(_INIT_SCRIPT), str(root), str(state)]


def _text(words: bytes) -> str:
    return words.decode("utf-8", errors="replace")


def _holder(init: ProcessIdentity) -> ProcessIdentity | None:
    """Return the `unshare` that waits for the first process."""
    try:
        parent = psutil.Process(init.pid).parent()
        if parent is not None and parent.cmdline()[:1] == ["unshare"]:
            return identify(parent.pid)
    except psutil.Error:
        pass
    return None


def _inits(outer: int) -> list[ProcessIdentity]:
    """Return the first process of the namespaces that an `unshare` made, once there is one.

    Not its every child: for an ordinary user it starts another one first, which asks newuidmap for the accounts.
    """
    try:
        children = [child.pid for child in psutil.Process(outer).children()]
    except psutil.Error:
        return []
    return [inner for inner in map(identify, filter(_is_first, children)) if inner is not None]


def _is_first(pid: int) -> bool:
    """Whether a process is number 1 in the innermost namespace that it is in."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines)


def _words(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:])
