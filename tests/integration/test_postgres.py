# SPDX-License-Identifier: Apache-2.0
"""The embedded PostgreSQL: made, started, reached, ended, and what it refuses."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from glideflow.errors import DatabaseUnavailable, SettingsError
from glideflow.instance import postgres_programs
from glideflow.instance.ports import free_port, port_is_free
from glideflow.instance.postgres import HOST, EmbeddedPostgres
from glideflow.instance.processes import start, wait_until
from glideflow.testing.postgres import temporary_postgres

DEADLINE_SECONDS = 30
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root only: the server runs as an account of its own")


@pytest.fixture
def server(tmp_path: Path) -> EmbeddedPostgres:
    made = EmbeddedPostgres(tmp_path / "postgres", free_port(HOST, ()), durable=False)
    made.initialise()
    return made


@pytest.fixture
def running(server: EmbeddedPostgres, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with server.running(tmp_path / "log"):
        yield server


def _postgres_processes(server: EmbeddedPostgres) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["name"]) if server._serves(process)]


def test_a_database_is_made_and_takes_rows(running: EmbeddedPostgres) -> None:
    running.create_databases()
    running.create_databases()
    with psycopg.connect(running.url("prefect")) as connection:
        connection.execute("CREATE EXTENSION pg_trgm")
        connection.execute("CREATE TABLE words (word text)")
        connection.execute("INSERT INTO words VALUES ('Überlingen')")
        assert connection.execute("SELECT upper(word) FROM words").fetchone() == ("ÜBERLINGEN",)


def test_rows_survive_a_restart(server: EmbeddedPostgres, tmp_path: Path) -> None:
    with server.running(tmp_path / "log"):
        server.query("CREATE TABLE numbers AS SELECT generate_series(1, 100) AS n")
    assert server.initialise() is False
    with server.running(tmp_path / "log"):
        assert server.query("SELECT sum(n) FROM numbers").strip() == "5050"
    assert not _postgres_processes(server)


def test_the_server_listens_on_loopback_only_and_wants_the_password(running: EmbeddedPostgres) -> None:
    listening = {
        connection.laddr.ip
        for process in _postgres_processes(running)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {HOST}
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://glideflow:wrong@{HOST}:{running.port}/postgres")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://glideflow@{HOST}:{running.port}/postgres")


def test_the_password_is_private_and_in_no_command_line(running: EmbeddedPostgres) -> None:
    assert stat.S_IMODE(running.password_file.stat().st_mode) == 0o600
    for process in _postgres_processes(running):
        assert running.password() not in " ".join(process.cmdline())


@as_root
def test_under_root_the_server_has_an_account_of_its_own_and_the_folders_stay_closed(
    running: EmbeddedPostgres,
) -> None:
    assert {process.username() for process in _postgres_processes(running)} == {"glideflow-postgres"}
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700
    assert running.folder.stat().st_uid == 0


@as_root
def test_where_other_accounts_cannot_reach_the_programs_a_copy_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Path(tempfile.mkdtemp(prefix="glideflow-test-"))
    copies.chmod(0o755)
    monkeypatch.setattr(postgres_programs, "open_to_all", lambda packages: False)
    monkeypatch.setattr(postgres_programs, "SHARED_INSTALLATIONS", copies)
    try:
        server = EmbeddedPostgres(tmp_path / "postgres", free_port(HOST, ()), durable=False)
        server.initialise()
        assert str(copies) in server.command().argv[0]
        with server.running(tmp_path / "log"):
            assert server.query("SELECT 1").strip() == "1"
        assert len(list(copies.iterdir())) == 1
    finally:
        shutil.rmtree(copies)


def test_programs_that_only_their_owner_may_reach_are_not_open_to_all() -> None:
    packages = Path(tempfile.mkdtemp(prefix="glideflow-test-"))
    try:
        programs = packages / postgres_programs.PROGRAMS
        programs.mkdir(parents=True)
        (packages / postgres_programs.LIBRARIES).mkdir()
        (programs / "postgres").touch(mode=0o755)
        assert not postgres_programs.open_to_all(packages)
        packages.chmod(0o755)
        assert postgres_programs.open_to_all(packages)
        programs.chmod(0o700)
        assert not postgres_programs.open_to_all(packages)
    finally:
        shutil.rmtree(packages)


def test_an_interrupted_first_start_is_begun_anew(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", free_port(HOST, ()), durable=False)
    (server.folder / "data.new").mkdir(parents=True)
    (server.folder / "data.new" / "PG_VERSION").write_text("18")
    assert server.initialise() is True
    with server.running(tmp_path / "log"):
        assert server.query("SELECT 1").strip() == "1"


def test_a_cluster_of_another_major_version_says_how_to_move_it(server: EmbeddedPostgres) -> None:
    (server.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(SettingsError, match=r"made by PostgreSQL 15.*database dump.*database restore"):
        server.initialise()


@as_root
def test_a_cluster_of_another_account_is_refused(server: EmbeddedPostgres) -> None:
    os.chown(server.data, 12345, 12345)
    with pytest.raises(SettingsError, match="belongs to the account with number 12345"):
        server.initialise()


def test_a_taken_port_is_said_in_the_server_s_words(server: EmbeddedPostgres, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((HOST, server.port))
        other.listen()
        with pytest.raises(DatabaseUnavailable, match="did not start"), server.running(tmp_path / "log"):
            pass


def test_a_refused_statement_is_an_error_in_one_line(running: EmbeddedPostgres) -> None:
    with pytest.raises(DatabaseUnavailable, match='relation "nothing" does not exist') as caught:
        running.query("SELECT * FROM nothing")
    assert "\n" not in str(caught.value)


def test_after_kill_9_of_the_server_the_committed_rows_are_there(server: EmbeddedPostgres, tmp_path: Path) -> None:
    server = EmbeddedPostgres(server.folder, server.port)
    log = tmp_path / "log"
    process = start(server.command(), log, signal.SIGINT)
    assert wait_until(server.is_ready, DEADLINE_SECONDS)
    server.query("CREATE TABLE kept AS SELECT 42 AS n")
    process.kill()
    process.wait()
    assert (server.data / "postmaster.pid").exists()
    server.end_leftovers()
    with server.running(log):
        assert server.query("SELECT n FROM kept").strip() == "42"


def test_a_stale_note_with_the_number_of_a_living_stranger_does_not_hinder(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    stranger = os.getpid()
    (server.data / "postmaster.pid").write_text(f"{stranger}\n/proc/self/cwd\n1\n{server.port}\n\n{HOST}\n0 0\nready\n")
    server.end_leftovers()
    with server.running(tmp_path / "log"):
        assert server.query("SELECT 1").strip() == "1"
    assert psutil.pid_exists(stranger)


def test_an_orphan_of_a_dead_parent_is_ended(server: EmbeddedPostgres, tmp_path: Path) -> None:
    orphan = subprocess.Popen(
        server.command().argv,
        cwd=server.data,
        env=dict(server.command().environment),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **server.command().identity(),  # type: ignore[call-overload]
    )
    assert wait_until(server.is_ready, DEADLINE_SECONDS)
    server.end_leftovers()
    orphan.wait(DEADLINE_SECONDS)
    assert not _postgres_processes(server)


def test_the_server_ends_with_its_parent_even_after_kill_9(server: EmbeddedPostgres, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\n"
            "from glideflow.instance.postgres import EmbeddedPostgres\n"
            "server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), int(sys.argv[2]), durable=False)\n"
            "with server.running(pathlib.Path(sys.argv[3])): print('up', flush=True); sys.stdin.read()",
            str(server.folder),
            str(server.port),
            str(tmp_path / "log"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    parent.kill()
    parent.communicate()
    assert wait_until(lambda: not _postgres_processes(server), DEADLINE_SECONDS)
    assert "shut down" in (tmp_path / "log").read_text()


def test_a_temporary_server_leaves_nothing_behind() -> None:
    with temporary_postgres() as url, psycopg.connect(url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
        assert row == ("/proc/self/cwd",)
        port = int(url.rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    assert port_is_free(HOST, port)
