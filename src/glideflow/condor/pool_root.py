# SPDX-License-Identifier: Apache-2.0
"""The root file system of the private pool: HTCondor and Python from Debian, built once and shared by all homes.

It is only ever mounted read-only; what a pool writes is in its home. The first build fetches about 100 MB and takes
20 to 30 seconds.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from glideflow.errors import PoolError
from glideflow.settings import Settings, process_environment

Progress = Callable[[str], None]

PILOT_UID = 59000
CONDOR_UID = 59001
"""Accounts inside the root. Fixed, and from a range that no host's real accounts use: without a user namespace the
numbers are the host's too."""

_RECIPE = 1
"""Part of the folder's name: raise it when the recipe changes, so that an old root is not taken for a new one."""
_ACCOUNTS = (
    f'printf "condor:x:{CONDOR_UID}:{CONDOR_UID}::/var/lib/condor:/usr/sbin/nologin\\n'
    f'pilot:x:{PILOT_UID}:{PILOT_UID}::/home/pilot:/bin/sh\\n" >> "$1/etc/passwd"; '
    f'printf "condor:x:{CONDOR_UID}:\\npilot:x:{PILOT_UID}:\\n" >> "$1/etc/group"'
)
_FOLDERS = 'mkdir -p "$1/pool" "$1/home/pilot" && rm -rf "$1/var/cache/apt/archives/partial" "$1/var/lib/apt/lists"'
_BUILD_SECONDS = 1800
_LAST_LINES = 8
_LOCAL_LAUNCHER = "or do without HTCondor: `glideflow up --launcher local`"


def is_root() -> bool:
    """Whether this process may make namespaces without a user namespace."""
    return os.geteuid() == 0


def user_namespace() -> list[str]:
    """Return the options of `unshare` that an ordinary user needs; none for root."""
    return [] if is_root() else ["--map-auto", "--map-root-user"]


def ensure_root(settings: Settings, progress: Progress) -> Path:
    """Return the root of the private pool, built when the cache has none.

    Args:
        settings: `cache` and `pool_suite` are used.
        progress: Called with a sentence at each step.

    Raises:
        PoolError: It cannot be built here; the message says what to install.
    """
    folder = settings.cache / "pool-roots"
    root = folder / f"{settings.pool_suite}-{_RECIPE}-{os.geteuid()}"
    check_namespaces()
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(root.with_suffix(".lock"), progress):
        if not root.is_dir():
            _ensure_tools(progress)
            progress(f"building the root of the private pool (Debian {settings.pool_suite}, HTCondor) in {root}")
            _build(root, settings.pool_suite)
    return root


def check_namespaces() -> None:
    """Check that this account may make the namespaces of a private pool.

    Raises:
        PoolError: It may not; with what the administrator can do.
    """
    command = ["unshare", *user_namespace(), "--mount", "--pid", "--fork", "true"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PoolError(
            f"the private pool needs the command unshare of util-linux: {error}; {_LOCAL_LAUNCHER}"
        ) from error
    if run.returncode == 0:
        return
    why = run.stderr.strip() or f"exit status {run.returncode}"
    if is_root():
        raise PoolError(
            f"the private pool needs mount and process namespaces, and this machine refuses them ({why}): "
            f"in a container, give it CAP_SYS_ADMIN; set condor_collector to use an existing pool; {_LOCAL_LAUNCHER}"
        )
    raise PoolError(
        f"the private pool needs user namespaces, and this account has none ({why}). The administrator can help with "
        "`apt-get install uidmap mmdebstrap`, `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "
        f"{_account()}` and, where it is 0, `sysctl kernel.unprivileged_userns_clone=1`; {_LOCAL_LAUNCHER}"
    )


def remove_tree(folder: Path) -> None:
    """Delete a folder that may hold files of the pool's accounts."""
    if not folder.exists():
        return
    if is_root():
        shutil.rmtree(folder)
        return
    subprocess.run(["unshare", *user_namespace(), "rm", "-rf", "--", str(folder)], check=False, timeout=300)


def _account() -> str:
    return process_environment().get("USER", str(os.getuid()))


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Keep a second builder waiting until the first one is done."""
    with path.open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process builds the root of the private pool: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure_tools(progress: Progress) -> None:
    if shutil.which("mmdebstrap"):
        return
    install = "apt-get install --yes --no-install-recommends mmdebstrap debian-archive-keyring"
    if shutil.which("apt-get") is None:
        raise PoolError(
            "the private pool is built with mmdebstrap, which this machine lacks: install it, install HTCondor "
            f"and set condor_collector, {_LOCAL_LAUNCHER}"
        )
    if not is_root():
        raise PoolError(
            f"the private pool is built with mmdebstrap, which this machine lacks: ask the administrator for "
            f"`{install} uidmap`, {_LOCAL_LAUNCHER}"
        )
    progress("installing mmdebstrap with apt-get")
    for command in ("apt-get update", install):
        environment = process_environment(DEBIAN_FRONTEND="noninteractive")
        run = subprocess.run(command.split(), capture_output=True, text=True, check=False, env=environment)
        # A stale list of packages is no obstacle when the package is found anyway.
        if run.returncode != 0 and command == install:
            raise PoolError(f"`{command}` failed: {_tail(run.stderr)}; install mmdebstrap, {_LOCAL_LAUNCHER}")


def _build(root: Path, suite: str) -> None:
    """Build next to the final place and rename: an interrupted build never looks complete."""
    draft = root.with_name(f"{root.name}.building")
    remove_tree(draft)
    draft.mkdir()
    builder = [
        "mmdebstrap", "--quiet", f"--mode={'root' if is_root() else 'unshare'}", "--variant=apt",
        "--include=minicondor,python3", f"--essential-hook={_ACCOUNTS}", f"--customize-hook={_FOLDERS}",
    ]  # fmt: skip
    unpack = ["unshare", *user_namespace(), "tar", "-C", str(draft), "--exclude=./dev/*", "-xpf", "-"]
    try:
        _pipe([*builder, suite, "-"], unpack)
    except PoolError:
        remove_tree(draft)
        raise
    draft.rename(root)


def _pipe(builder: list[str], unpack: list[str]) -> None:
    """Run `builder | unpack`: in a user namespace of mmdebstrap's own the files would get other owners than in ours."""
    with tempfile.TemporaryFile() as words:
        with subprocess.Popen(builder, stdout=subprocess.PIPE, stderr=words, cwd="/") as first:
            second = subprocess.Popen(unpack, stdin=first.stdout, stderr=words, cwd="/")
            if first.stdout is not None:
                first.stdout.close()
            try:
                codes = (first.wait(_BUILD_SECONDS), second.wait(_BUILD_SECONDS))
            except subprocess.TimeoutExpired as error:
                first.kill()
                second.kill()
                second.wait()
                raise PoolError(
                    f"building the private pool took longer than {_BUILD_SECONDS} s: check the network"
                ) from error
        if any(codes):
            words.seek(0)
            said = _tail(words.read().decode(errors="replace"))
            raise PoolError(
                f"mmdebstrap could not build the root of the private pool: {said}; "
                f"check that Debian's mirror is reachable, {_LOCAL_LAUNCHER}"
            )


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-_LAST_LINES:])
