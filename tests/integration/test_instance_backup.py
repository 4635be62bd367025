# SPDX-License-Identifier: Apache-2.0
"""Dump and restore: of the embedded cluster and of a site's own databases, and what is refused."""

import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from glideflow.errors import DatabaseUnavailable, NotFound, UserError
from glideflow.instance.backup import NAMES, RestoreRefused, dump, restore
from glideflow.instance.home import Home, locked
from glideflow.instance.ports import free_port
from glideflow.instance.postgres import HOST, EmbeddedPostgres
from glideflow.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def home(settings: Settings) -> Home:
    """A home that was up once, with a row in each database."""
    made = Home(settings)
    made.create()
    _query(made, "CREATE TABLE word AS SELECT 'first' AS text", first=True)
    return made


def _query(home: Home, statement: str, *, first: bool = False) -> list[str]:
    server = EmbeddedPostgres(home.postgres, free_port(HOST, ()), durable=False)
    server.initialise()
    with server.running(home.logs / "postgres.log"):
        if first:
            server.create_databases()
        return [server.query(statement, name).strip() for name in NAMES]


def test_what_was_dumped_comes_back_and_the_present_is_put_aside(home: Home, settings: Settings) -> None:
    file = home.root.parent / "first.dump"
    assert dump(settings, home, file) == ["glideflow", "prefect"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    _query(home, "UPDATE word SET text = 'second'")
    aside = restore(settings, home, file, force=True)
    assert _query(home, "SELECT text FROM word") == ["first", "first"]
    assert aside is not None
    kept = EmbeddedPostgres(aside, free_port(HOST, ()), durable=False)
    with kept.running(home.logs / "kept.log"):
        assert kept.query("SELECT text FROM word", "glideflow").strip() == "second"
    assert sorted(path.name for path in home.root.parent.iterdir()) == ["first.dump", "home"]


def test_a_dump_is_restored_into_a_new_home(home: Home, settings: Settings, tmp_path: Path) -> None:
    dump(settings, home, tmp_path / "file")
    other = Settings(home=tmp_path / "other")
    assert restore(other, Home(other), tmp_path / "file") is None
    assert _query(Home(other), "SELECT text FROM word") == ["first", "first"]


def test_nothing_is_restored_over_a_database_without_force(home: Home, settings: Settings, tmp_path: Path) -> None:
    dump(settings, home, tmp_path / "file")
    with pytest.raises(RestoreRefused, match="--force"):
        restore(settings, home, tmp_path / "file")


def test_nothing_is_restored_while_the_instance_runs(home: Home, settings: Settings, tmp_path: Path) -> None:
    dump(settings, home, tmp_path / "file")
    with locked(home.supervisor_lock), pytest.raises(RestoreRefused, match="glideflow down"):
        restore(settings, home, tmp_path / "file", force=True)


def test_a_restore_that_fails_brings_the_previous_database_back(home: Home, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "file"
    dump(settings, home, file)
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path / "parts", filter="data")
    (tmp_path / "parts" / "prefect").write_bytes(b"PGDMP and then nothing")
    with tarfile.open(tmp_path / "broken", "w") as archive:
        for part in (tmp_path / "parts").iterdir():
            archive.add(part, arcname=part.name)
    with pytest.raises(DatabaseUnavailable, match="pg_restore failed"):
        restore(settings, home, tmp_path / "broken", force=True)
    assert _query(home, "SELECT text FROM word") == ["first", "first"]
    assert not list(home.root.glob("postgres.before*"))


def test_a_file_that_is_no_dump_changes_nothing(home: Home, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something else")
    with pytest.raises(UserError, match="is no dump of glideflow"):
        restore(settings, home, tmp_path / "file", force=True)
    with pytest.raises(NotFound, match="there is no file"):
        restore(settings, home, tmp_path / "nothing", force=True)
    assert _query(home, "SELECT text FROM word") == ["first", "first"]


def test_a_dump_overwrites_nothing_and_needs_a_database(home: Home, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        dump(settings, home, tmp_path / "file")
    empty = Settings(home=tmp_path / "empty")
    Home(empty).create()
    with pytest.raises(NotFound, match="glideflow up"):
        dump(empty, Home(empty), tmp_path / "other")
    with pytest.raises(UserError, match="cannot be written"):
        dump(settings, home, tmp_path / "no" / "folder")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.fixture
def site_url(postgres_url: str) -> Iterator[str]:
    """A site's own database, and the one beside it for Prefect."""
    names = ("site", "site_prefect", "fresh", "fresh_prefect")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in names:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        yield postgres_url.removesuffix("/postgres") + "/site"
        for name in names:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]


def test_a_site_s_own_databases_are_dumped_and_restored_into_empty_ones(site_url: str, tmp_path: Path) -> None:
    for url in (site_url, site_url + "_prefect"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE word AS SELECT current_database()::text AS text")
    settings = Settings(home=tmp_path / "home", database_url=site_url)
    home = Home(settings)
    home.create()
    dump(settings, home, tmp_path / "file")
    with pytest.raises(RestoreRefused, match="the database site has tables already"):
        restore(settings, home, tmp_path / "file", force=True)
    fresh_url = site_url.removesuffix("site") + "fresh"
    fresh = Settings(home=tmp_path / "home", database_url=fresh_url)
    assert restore(fresh, Home(fresh), tmp_path / "file") is None
    with psycopg.connect(fresh_url + "_prefect") as connection:
        assert connection.execute("SELECT text FROM word").fetchone() == ("site_prefect",)
