# SPDX-License-Identifier: Apache-2.0
"""Connections to a server that goes away, comes back, is busy or refuses."""

import threading
import time
from pathlib import Path

import psycopg
import pytest

from glideflow.errors import DatabaseUnavailable
from glideflow.instance.ports import free_port
from glideflow.instance.postgres import HOST, EmbeddedPostgres
from glideflow.store import engine
from glideflow.store.engine import Database
from glideflow.store.server import reach


def _works(database: Database) -> None:
    with database.transaction() as connection:
        assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_a_server_that_goes_away_is_said_soon_and_used_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_TRUST_SECONDS", 0.0)
    monkeypatch.setattr(engine, "_DOUBT_SECONDS", 0.3)
    monkeypatch.setattr(engine, "_RECONNECT_SECONDS", 0.2)
    server = EmbeddedPostgres(tmp_path / "postgres", free_port(HOST, ()), durable=False)
    server.initialise()
    with server.running(tmp_path / "log"):
        database = Database(server.url("postgres"), connections=2)
        with database.transaction() as connection:
            _works(database)
            server.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name <> 'psql'")
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        # A connection that broke while nobody used it costs nobody anything.
        _works(database)
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=r"Connection refused.*: see `glideflow doctor`$") as caught:
            _works(database)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - began < 5
    with server.running(tmp_path / "log"):
        _works(database)
    database.close()


def test_a_pool_that_is_busy_is_not_taken_for_a_server_that_is_gone(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_DOUBT_SECONDS", 0.1)
    monkeypatch.setattr(engine, "_BUSY_SECONDS", 0.5)
    database = Database(empty_database_url, connections=1)
    with database.transaction(), pytest.raises(DatabaseUnavailable, match=r"all 1 connections .* were busy for 0\.5 s"):
        _works(database)
    monkeypatch.setattr(engine, "_BUSY_SECONDS", 20.0)
    with database.transaction():
        waiting = threading.Thread(target=_works, args=(database,))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive()
    database.close()


def test_a_statement_that_the_server_refuses_is_a_sentence(empty_database_url: str) -> None:
    database = Database(empty_database_url, connections=1)
    refused = pytest.raises(
        DatabaseUnavailable, match=r"^the database refuses \(cannot execute CREATE TABLE .*doctor`$"
    )
    with refused, database.snapshot() as connection:
        connection.execute("CREATE TABLE words (word text)")
    _works(database)
    database.close()


def test_what_the_url_says_of_waiting_wins() -> None:
    assert "connect_timeout=5" in reach("postgresql://h/n")
    assert "connect_timeout=60" in reach("postgresql://h/n?connect_timeout=60")
