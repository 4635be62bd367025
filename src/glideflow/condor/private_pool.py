# SPDX-License-Identifier: Apache-2.0
"""A one-machine HTCondor pool of one home, for machines that have none.

    pool/pool.json       which process it is, its port and slots
    pool/client_config   HTCondor configuration of its clients; pool/tokens.d holds their token (0600)
    pool/state           what the daemons write: queue, spool, logs, scratch folders of the jobs
    pool/pool.log        what the first process said before HTCondor's own logs begin

Several homes can have a pool at a time: each has its own port, state and namespaces.
"""

import fcntl
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime

from glideflow.condor import pool_config, pool_root
from glideflow.condor.connection import CLIENT_CONFIG, TOKENS, private_connection
from glideflow.condor.gateway import Gateway
from glideflow.condor.pool_namespace import end_namespace, enter_command, find_namespace, run_inside, start_namespace
from glideflow.condor.pool_note import PoolNote, read_note
from glideflow.condor.pool_root import Progress
from glideflow.condor.pool_status import PoolStatus, ask_configured
from glideflow.condor.pool_token import is_old, make_token
from glideflow.errors import CondorError, PoolError
from glideflow.launching.launcher import HomePaths
from glideflow.settings import Settings

NOT_RUNNING = "the private pool does not run: start it with `glideflow pool up`"
_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_REMOVE_SECONDS = 5.0


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
        found = PoolStatus(
            kind="private",
            running=False,
            text=f"the private pool runs with {note.slots} slots at {note.address}",
            address=note.address,
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
        note = self._running()
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
        note = self._running()
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
        note = self._running()
        self._make_token(note)

    def renew_token_when_old(self) -> None:
        """Make a new token when the present one ends within a day; without a running pool nothing happens."""
        note = self._living()
        if note is not None and is_old(self.token_file):
            self._make_token(note)

    # -- starting ---------------------------------------------------------------------------------------------------

    def _configured(self, progress: Progress) -> PoolStatus | None:
        """Return the configured pool when it answers; None when a private one is wanted."""
        status = ask_configured(self.settings)
        if status is None:
            return None
        if status.running:
            progress(status.text)
            return status
        if self.settings.condor_collector is not None:
            raise PoolError(f"the setting condor_collector names a pool, but {status.text}")
        progress(f"HTCondor is configured on this machine, but {status.text}: taking a private pool")
        return None

    def _status_without_private(self) -> PoolStatus:
        if self.settings.condor_collector is None and (self.folder / CLIENT_CONFIG).exists():
            return PoolStatus(kind="private", running=False, text=NOT_RUNNING)
        return ask_configured(self.settings) or PoolStatus(
            kind="none", running=False, text="there is no HTCondor pool: start a private one with `glideflow pool up`"
        )

    def _start(self, slots: int, progress: Progress) -> PoolNote:
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
        note = PoolNote(**asdict(init), port=port, slots=slots, started_at=datetime.now(UTC).isoformat())
        note.save(self._note_file)
        return note

    def _choose_port(self) -> int:
        """Take the port of last time, so that clients that still run find the pool again; else a free one."""
        note = read_note(self._note_file)
        for wanted in (note.port if note else 0, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", wanted))
                except OSError:
                    continue
                return int(probe.getsockname()[1])
        raise PoolError("there is no free TCP port on the loopback interface")

    def _make_token(self, note: PoolNote) -> None:
        make_token(note.init, self.token_file, f"{self.folder / 'pool.log'} and {self.state}/log")

    def _wait_ready(self, note: PoolNote) -> None:
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

    def _running(self) -> PoolNote:
        note = self._living()
        if note is None:
            raise PoolError(NOT_RUNNING)
        return note

    def _living(self) -> PoolNote | None:
        note = read_note(self._note_file)
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
