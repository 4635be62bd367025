# SPDX-License-Identifier: Apache-2.0
"""A one-machine HTCondor pool of one home, for machines that have none.

    pool/pool.json       which process it is, its port and slots
    pool/client_config   HTCondor configuration of its clients; pool/tokens.d holds their token (0600)
    pool/state           what the daemons write: queue, spool, logs, scratch folders of the jobs
    pool/pool.log        what the first process said before HTCondor's own logs begin

Several homes can have a pool at a time: each has its own port, state and namespaces.
"""

import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from glideflow.condor import pool_config, pool_root, tokens
from glideflow.condor.connection import CLIENT_CONFIG, TOKENS, configured_connection, private_connection
from glideflow.condor.gateway import Gateway
from glideflow.condor.pool_namespace import end_namespace, enter_command, find_namespace, run_inside, start_namespace
from glideflow.condor.pool_root import Progress
from glideflow.errors import CondorError, PoolError
from glideflow.launching.launcher import HomePaths
from glideflow.launching.processes import ProcessIdentity
from glideflow.settings import Settings

TOKEN_SECONDS = 7 * 86_400
_RENEW_SECONDS = 86_400
_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_REMOVE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class PoolStatus:
    """Which pool serves the home, and whether it answers."""

    kind: str
    """`private`, `configured`, or `none`."""
    running: bool
    """Whether it answers."""
    text: str
    """The same as a sentence, with what to do."""
    address: str | None = None
    """Address of the collector."""
    pid: int | None = None
    """First process of the private pool."""
    slots: int | None = None
    """Cores that the private pool advertises."""
    started_at: datetime | None = None
    """When the private pool was started."""
    identity: str | None = None
    """Who we are at the schedd."""


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What `pool.json` holds."""

    pid: int
    start_ticks: int
    boot_id: str
    port: int
    slots: int
    started_at: str

    @property
    def init(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.start_ticks, self.boot_id)


class PrivatePool:
    """The private pool of one home."""

    def __init__(self, settings: Settings, home: HomePaths) -> None:
        """Name the pool; nothing is started.

        Args:
            settings: Cache, suite, slots and the setting of a configured pool.
            home: The home; its `pool` folder belongs to this class.
        """
        self.settings = settings
        self.folder = home.pool
        self.state = home.pool / "state"
        self.token_file = home.pool / TOKENS / "pool"
        self._note_file = home.pool / "pool.json"

    def up(self, slots: int | None = None, progress: Progress = lambda text: None) -> PoolStatus:
        """Start the pool, or say that one runs already.

        A configured pool that answers is used instead. A pool that died is started again with its queue.

        Args:
            slots: Cores to advertise; a running pool with another number is started again. None: the setting.
            progress: Called with a sentence at each step.

        Returns:
            The pool that serves the home now.

        Raises:
            PoolError: It cannot be built or started here; the message says what to do.
        """
        configured = self._configured(progress)
        if configured is not None:
            return configured
        self._make_folder()
        with self._locked():
            note = self._living()
            if note is not None and (slots is None or slots == note.slots):
                progress(f"the private pool runs already, with {note.slots} slots")
            else:
                if note is not None:
                    progress(f"starting the private pool again, with {slots} slots instead of {note.slots}")
                self._end_all()
                note = self._start(slots or self.settings.pool_slots, progress)
            self._make_token(note)
            self._wait_ready(note)
        return self.status()

    def down(self, *, purge: bool = False) -> bool:
        """End every process of the private pool, and nothing else.

        Args:
            purge: Delete its queue and logs too.

        Returns:
            Whether anything ran.
        """
        if not self.folder.is_dir():
            return False
        with self._locked():
            self._remove_pilots()
            ran = self._end_all()
            if purge:
                self._note_file.unlink(missing_ok=True)
                (self.folder / CLIENT_CONFIG).unlink(missing_ok=True)
                self.token_file.unlink(missing_ok=True)
                pool_root.remove_tree(self.state)
        return ran

    def status(self) -> PoolStatus:
        """Ask the pool that serves this home."""
        note = self._living()
        if note is None:
            return self._status_without_private()
        address = f"127.0.0.1:{note.port}"
        found = PoolStatus(
            kind="private",
            running=False,
            text=f"the private pool runs with {note.slots} slots at {address}",
            address=address,
            pid=note.pid,
            slots=note.slots,
            started_at=datetime.fromisoformat(note.started_at),
        )
        try:
            with self._gateway() as gateway:
                return replace(found, running=True, identity=gateway.ping())
        except CondorError as error:
            return replace(found, text=f"the private pool is up, but {error}")

    def exec(self, argv: list[str], *, as_root: bool = False) -> int:
        """Run a command inside the pool's root, with this process's standard streams.

        Args:
            argv: Program and arguments, for example `["condor_q"]`.
            as_root: As the pool's administrator instead of the account of the pilots.

        Returns:
            Its exit status.

        Raises:
            PoolError: The pool does not run.
        """
        note = self._living()
        if note is None:
            raise PoolError("the private pool does not run: start it with `glideflow pool up`")
        return subprocess.run(enter_command(note.init, argv, as_root=as_root), check=False).returncode

    def run(self, argv: list[str], *, as_root: bool = False, data: bytes = b"") -> str:
        """Run a command inside the pool's root and return its standard output.

        Args:
            argv: Program and arguments, as found inside the root.
            as_root: As the pool's administrator instead of the account of the pilots.
            data: What it reads from its standard input.

        Raises:
            PoolError: The pool does not run, or the command failed.
        """
        note = self._living()
        if note is None:
            raise PoolError("the private pool does not run: start it with `glideflow pool up`")
        return run_inside(note.init, argv, as_root=as_root, data=data)

    def is_running(self) -> bool:
        """Whether the private pool's processes are there; it is not asked."""
        return self._living() is not None

    def client_environment(self) -> dict[str, str]:
        """Return the environment of a client process of this pool."""
        return private_connection(self.folder).environment

    def renew_token(self) -> None:
        """Make a new token, valid for a week.

        Raises:
            PoolError: The pool does not run.
        """
        note = self._living()
        if note is None:
            raise PoolError("the private pool does not run: start it with `glideflow pool up`")
        self._make_token(note)

    def renew_token_when_old(self) -> None:
        """Make a new token when the present one ends within a day; without a running pool nothing happens."""
        note = self._living()
        if note is None:
            return
        try:
            left = tokens.seconds_left(self.token_file)
        except (OSError, ValueError):
            return
        if left is not None and left < _RENEW_SECONDS:
            self._make_token(note)

    # -- starting ---------------------------------------------------------------------------------------------------

    def _configured(self, progress: Progress) -> PoolStatus | None:
        """Return the configured pool when it answers; None when a private one is wanted."""
        status = self._ask_configured()
        if status is None:
            return None
        if status.running:
            progress(status.text)
            return status
        if self.settings.condor_collector is not None:
            raise PoolError(f"the setting condor_collector names a pool, but {status.text}")
        progress(f"HTCondor is configured on this machine, but {status.text}: taking a private pool")
        return None

    def _ask_configured(self) -> PoolStatus | None:
        connection = configured_connection(self.settings)
        if connection is None:
            return None
        address = self.settings.condor_collector
        try:
            with Gateway(connection, self.settings.condor_timeout_seconds) as gateway:
                identity = gateway.ping()
        except CondorError as error:
            return PoolStatus(kind="configured", running=False, text=str(error), address=address)
        text = f"using {connection.pool} as {identity}"
        return PoolStatus(kind="configured", running=True, text=text, address=address, identity=identity)

    def _status_without_private(self) -> PoolStatus:
        if self.settings.condor_collector is None and (self.folder / CLIENT_CONFIG).exists():
            return PoolStatus(
                kind="private", running=False, text="the private pool does not run: start it with `glideflow pool up`"
            )
        return self._ask_configured() or PoolStatus(
            kind="none", running=False, text="there is no HTCondor pool: start a private one with `glideflow pool up`"
        )

    def _start(self, slots: int, progress: Progress) -> _Note:
        root = pool_root.ensure_root(self.settings, progress)
        port = self._choose_port()
        config = self.state / "condor_config"
        config.write_text(pool_config.daemon_config(port, slots), encoding="utf-8")
        # The pool's own accounts read it, whatever this user's umask says of new files.
        config.chmod(0o644)
        client = pool_config.client_config(port, self.folder / TOKENS)
        (self.folder / CLIENT_CONFIG).write_text(client, encoding="utf-8")
        progress(f"starting the private pool with {slots} slots at 127.0.0.1:{port}")
        init = start_namespace(root, self.state, self.folder / "pool.log")
        note = _Note(**asdict(init), port=port, slots=slots, started_at=datetime.now(UTC).isoformat())
        draft = self._note_file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(note), indent=1) + "\n", encoding="utf-8")
        draft.rename(self._note_file)
        return note

    def _choose_port(self) -> int:
        """Take the port of last time, so that clients that still run find the pool again; else a free one."""
        note = self._read_note()
        for wanted in (note.port if note else 0, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", wanted))
                except OSError:
                    continue
                return int(probe.getsockname()[1])
        raise PoolError("there is no free TCP port on the loopback interface")

    def _make_token(self, note: _Note) -> None:
        """Make the token that clients outside log in with; the signing key never leaves the pool's root."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._has_key(note):
            if time.monotonic() > deadline or not note.init.is_alive():
                raise PoolError(
                    f"the private pool made no signing key; see {self.folder / 'pool.log'} and {self.state}/log"
                )
            time.sleep(_POLL_SECONDS)
        create = ["condor_token_create", "-identity", pool_config.IDENTITY, "-lifetime", str(TOKEN_SECONDS)]
        draft = self.token_file.with_name(".pool.new")
        with open(draft, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            run_inside(note.init, [*create, "-authz", "READ", "-authz", "WRITE"], as_root=True, output=file)
        draft.rename(self.token_file)

    def _has_key(self, note: _Note) -> bool:
        try:
            run_inside(note.init, ["test", "-s", "/pool/passwords.d/POOL"], as_root=True)
        except PoolError:
            return False
        return True

    def _wait_ready(self, note: _Note) -> None:
        """Wait until the schedd lets us in and the slots are known."""
        deadline = time.monotonic() + _START_SECONDS
        with self._gateway() as gateway:
            while True:
                try:
                    gateway.ping()
                    if run_inside(note.init, ["condor_status", "-af", "Name"]).strip():
                        return
                    why = "its slots do not show up"
                except (CondorError, PoolError) as error:
                    why = str(error)
                if time.monotonic() > deadline or not note.init.is_alive():
                    raise PoolError(f"the private pool did not start: {why}; see {self.state}/log")
                time.sleep(_POLL_SECONDS)

    def _gateway(self) -> Gateway:
        return Gateway(private_connection(self.folder), self.settings.condor_timeout_seconds)

    # -- what is there ----------------------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        try:
            for folder in (self.folder, self.folder / TOKENS):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The pool's own accounts pass through it.
            self.state.mkdir(mode=0o711, exist_ok=True)
            self.state.chmod(0o711)
        except OSError as error:
            raise PoolError(f"the folder {self.folder} of the private pool cannot be made: {error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "pool.lock").open("w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_note(self) -> _Note | None:
        try:
            return _Note(**json.loads(self._note_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _living(self) -> _Note | None:
        note = self._read_note()
        return note if note is not None and note.init.is_alive() else None

    def _remove_pilots(self) -> None:
        """Take the pilots out of the queue: they die with the pool, and the next life would take them for running."""
        note = self._living()
        if note is None:
            return
        with suppress(PoolError):
            argv = ["condor_rm", "-constraint", "GlideflowPilotId =!= undefined"]
            run_inside(note.init, argv, as_root=True, seconds=_REMOVE_SECONDS)

    def _end_all(self) -> bool:
        note = self._living()
        inits = set(find_namespace(self.state)) | ({note.init} if note else set())
        for init in inits:
            end_namespace(init)
        return bool(inits)
