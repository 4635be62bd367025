# SPDX-License-Identifier: Apache-2.0
"""The home of one instance: where each file is, who may read it, and what `up` noted there for everybody else."""

import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from glideflow.errors import NotFound, ServiceError, SettingsError
from glideflow.settings import Settings

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
TOKEN_BYTES = 32
_LOCK_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class InstanceInfo:
    """What `up` chose and every other process of the home needs; `instance.json`, mode 0600."""

    rest_url: str
    """Base URL of the REST endpoint, without a slash at the end."""
    prefect_api_url: str
    """API URL of the Prefect server, ending in `/api`."""
    prefect_ui_url: str
    """Where a browser finds the Prefect server."""
    database_url: str
    """PostgreSQL URL with the password, for psycopg."""
    rest_port: int = 0
    """Port on which the endpoint listens."""
    prefect_port: int = 0
    """Port of the Prefect server; 0 when it is another's."""
    prefect_database_url: str = ""
    """PostgreSQL URL of the Prefect server's own database; empty when the server is another's."""
    launcher: str = ""
    """The launcher last chosen with `up --launcher`; empty when it was left to the settings."""
    slots: int = 0
    """The slots last chosen with `up --slots`; 0 when they were left to the settings."""

    def __repr__(self) -> str:
        """Show the URLs without the database's password."""
        return f"InstanceInfo(rest_url={self.rest_url!r}, prefect_api_url={self.prefect_api_url!r})"


class AlreadyLocked(ServiceError):
    """Another process holds the lock."""

    code = "already_locked"

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        super().__init__(f"process {pid or '?'} holds {path}; wait for it, or stop it with `glideflow down`")


class Home:
    """Paths below one home, and its few shared files."""

    def __init__(self, settings: Settings) -> None:
        """Name the paths; nothing is created or read.

        Args:
            settings: Settings whose `home` is absolute, as `load_settings` returns them.
        """
        self.settings = settings
        self.root = settings.home
        self.instance_file = self.root / "instance.json"
        self.token_file = settings.token_file or self.root / "token"
        self.ca = self.root / "ca"
        self.ca_file = settings.ca_file or self.ca / "ca.pem"
        self.ca_key = self.ca / "ca.key"
        self.server_cert = self.ca / "server.pem"
        self.server_key = self.ca / "server.key"
        self.logs = self.root / "logs"
        self.run = self.root / "run"
        self.sandboxes = self.root / "sandboxes"
        self.storage = self.root / "storage"
        self.attempt_logs = self.root / "attempt-logs"
        self.pilots = self.root / "pilots"
        self.pool = self.root / "pool"
        self.postgres = self.root / "postgres"
        self.prefect = self.root / "prefect"
        self.flow_results = self.prefect / "storage"
        self.status_file = self.run / "status.json"
        self.supervisor_lock = self.run / "supervisor.lock"

    def create(self) -> None:
        """Make the folders (mode 0700) and the token (0600) that are missing; what exists stays as it is.

        Raises:
            SettingsError: The home is not a folder that this account can write to.
        """
        try:
            self.root.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            for folder in self._folders():
                folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            if not self.token_file.exists():
                self._create_token()
        except OSError as error:
            raise SettingsError(
                f"the home {self.root} cannot be used: {error}; choose another one with GLIDEFLOW_HOME"
            ) from error

    def _folders(self) -> tuple[Path, ...]:
        return (
            self.ca, self.logs, self.run, self.sandboxes, self.storage, self.attempt_logs,
            self.pilots, self.pool, self.postgres, self.prefect,
        )  # fmt: skip

    def _create_token(self) -> None:
        """Link the complete file into place: of two that start together, one wins, and no reader sees half of it."""
        draft = self.token_file.with_name(f".token.{secrets.token_hex(4)}")
        write_private(draft, secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        try:
            self.token_file.hardlink_to(draft)
        except FileExistsError:
            return
        finally:
            draft.unlink()

    def read_token(self) -> str:
        """Return the bearer token of the home's owner.

        Raises:
            NotFound: There is none yet.
            SettingsError: It cannot be read, or other accounts could read it too.
        """
        try:
            mode = self.token_file.stat().st_mode
            token = self.token_file.read_text(encoding="ascii").strip()
        except FileNotFoundError as error:
            raise NotFound("token", self.token_file, "start the instance once with `glideflow up`") from error
        except OSError as error:
            raise SettingsError(f"the token {self.token_file} cannot be read: {error.strerror}") from error
        if stat.S_IMODE(mode) & 0o077:
            raise SettingsError(
                f"the token {self.token_file} has mode {stat.S_IMODE(mode):04o}, so others could read it: "
                f"run `chmod 600 {self.token_file}`"
            )
        return token

    def read_instance(self) -> InstanceInfo | None:
        """Return what the last `up` noted, or None when this home was never started.

        Raises:
            SettingsError: The file is damaged.
        """
        try:
            document = json.loads(self.instance_file.read_text(encoding="utf-8"))
            known = {field.name for field in fields(InstanceInfo)}
            return InstanceInfo(**{key: value for key, value in document.items() if key in known})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SettingsError(
                f"{self.instance_file} cannot be read ({error}); `glideflow down`, remove the file, `glideflow up`"
            ) from error

    def known_instance(self) -> InstanceInfo:
        """Return what the last `up` noted, for processes that cannot work without it.

        Raises:
            NotFound: This home was never started.
            SettingsError: The file is damaged.
        """
        info = self.read_instance()
        if info is None:
            raise NotFound("instance in", self.root, "start it with `glideflow up`")
        return info

    def write_instance(self, info: InstanceInfo) -> None:
        """Note what was chosen, at once and completely; mode 0600 because the database URL has a password."""
        write_private(self.instance_file, json.dumps(asdict(info), indent=2) + "\n")

    def alive_file(self, component: str) -> Path:
        """Return the file whose modification time is the last sign of life of a component."""
        return self.run / f"{component}.alive"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; readers see the old text or the new one, never a part.

    Args:
        path: The file; its folder exists.
        text: All of its text.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


@contextmanager
def locked(path: Path, wait_seconds: float = 1.0) -> Iterator[None]:
    """Hold an exclusive lock on a file, which notes the holder's process id; it ends with this process at the latest.

    Args:
        path: The file; made when it is missing.
        wait_seconds: How long to try; longer than a look by `lock_holder` takes.

    Raises:
        AlreadyLocked: Another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    deadline = time.monotonic() + wait_seconds
    try:
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise AlreadyLocked(path, _noted_pid(path))
            time.sleep(_LOCK_POLL_SECONDS)
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def lock_holder(path: Path) -> int | None:
    """Return the process that holds a lock (0 when it has not noted itself yet), or None when the lock is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # The file's text alone proves nothing: its writer may be long dead.
        return None if _try_lock(descriptor, fcntl.LOCK_SH) else _noted_pid(path) or 0
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _noted_pid(path: Path) -> int | None:
    text = path.read_text(encoding="ascii").strip()
    return int(text) if text.isdigit() else None
