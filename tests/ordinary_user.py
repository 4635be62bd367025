# SPDX-License-Identifier: Apache-2.0
"""An ordinary account to run commands as, for tests that run as root, as they do in CI.

The account exists only in a mount namespace of each command, with a line in /etc/subuid and /etc/subgid, so that the
machine's own accounts stay as they are. There the interpreter, the environment and the checkout can be read, also
where they are below root's own folder.
"""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from glideflow.condor.pool_root import check_namespaces
from glideflow.errors import PoolError
from glideflow.settings import load_settings, process_environment

NAME = "glider"
ID = 54321
SUBORDINATE = "1000000:65536"
CHECKOUT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
_SCRIPT = CHECKOUT / "tests" / "as_ordinary_user.sh"
_NAMESPACES = ("unshare", "--map-auto", "--map-root-user", "--mount", "--pid", "--fork", "true")
_TOOLS = {"mmdebstrap": "mmdebstrap", "newuidmap": "uidmap"}


class OrdinaryUser:
    """Runs commands as somebody who is not root.

    Args:
        home: A folder of that account's.
        command: What comes before each command; nothing for tests that do not run as root.
    """

    def __init__(self, home: Path, command: Sequence[str | Path] = ()) -> None:
        self.home = home
        self._command = command

    def run(self, *argv: str | Path, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a command in its home and return what it said."""
        return subprocess.run(
            [*self._command, *argv],
            cwd=None if self._command else self.home,
            env=process_environment(GLIDEFLOW_HOME=str(self.home / "instance")),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def glideflow(self, *words: str) -> str:
        """Run a command of ours, which must end well, and return its output."""
        done = self.run(PROGRAMS / "glideflow", *words)
        assert done.returncode == 0, (words, done)
        return done.stdout


@contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """Give an ordinary user with a new home; skips the test where such users have no user namespaces."""
    with tempfile.TemporaryDirectory(prefix="glideflow-test-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            _install_tools()
            folder.chmod(0o755)
            user = _account(folder)
            done = user.run(*_NAMESPACES)
            why = done.stderr if done.returncode else ""
        else:
            user, why = OrdinaryUser(folder), _refusal()
        if why:
            pytest.skip(f"ordinary users have no user namespaces here: {' '.join(why.split())}")
        yield user


def _refusal() -> str:
    try:
        check_namespaces()
    except PoolError as error:
        return str(error)
    return ""


def _install_tools() -> None:
    """Do what the how-to page asks of the administrator of a machine with such users."""
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", "-qq", *words], check=True, stdout=subprocess.DEVNULL)


def _account(folder: Path) -> OrdinaryUser:
    """Describe the account for the script, with a private home and a cache that outlives the test."""
    home, etc = folder / "home", folder / "etc"
    etc.mkdir()
    for name, line in (
        ("passwd", f"{NAME}:x:{ID}:{ID}::{home}:/bin/sh"),
        ("group", f"{NAME}:x:{ID}:"),
        ("subuid", f"{NAME}:{SUBORDINATE}"),
        ("subgid", f"{NAME}:{SUBORDINATE}"),
    ):
        present = Path("/etc", name)
        (etc / name).write_text((present.read_text() if present.exists() else "") + line + "\n")
    opened = folder / "opened"
    trees = [Path(sys.base_prefix), Path(sys.prefix), CHECKOUT]
    opened.write_text("".join(f"{closed}:{tree}\n" for tree in trees for closed in _closed(tree)))
    cache = load_settings(folder).cache / "ordinary-user"
    for own in (cache, home, home / ".cache", home / ".cache" / "glideflow"):
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(own, ID, ID)
    script = [_SCRIPT, etc, str(ID), NAME, home, cache, opened]
    return OrdinaryUser(home, ["unshare", "--mount", "sh", *script])


def _closed(tree: Path) -> list[Path]:
    """The outermost folder around a tree that only its owner may enter."""
    closed = [above for above in tree.parents if not above.stat().st_mode & stat.S_IXOTH]
    return closed[-1:]
