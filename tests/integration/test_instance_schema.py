# SPDX-License-Identifier: Apache-2.0
"""The step `schema` of each start: databases that are missing, migrations, a site's own server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from glideflow.instance.home import Home
from glideflow.instance.plan import prepare
from glideflow.instance.postgres import EmbeddedPostgres
from glideflow.settings import Settings, process_environment
from glideflow.store.migration import schema_revision


def _schema(home: Home) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glideflow.instance.schema"],
        env=process_environment(GLIDEFLOW_HOME=str(home.root)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def site(postgres_url: str) -> Iterator[str]:
    """A site's own database, without the second one that Prefect needs."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE institute")
        yield postgres_url.removesuffix("/postgres") + "/institute"
        connection.execute("DROP DATABASE institute WITH (FORCE)")


def test_the_embedded_server_gets_both_databases_and_the_newest_schema(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    home = Home(settings)
    info = prepare(settings, home)
    server = EmbeddedPostgres(home.postgres, int(info.database_url.rsplit(":", 1)[1].split("/")[0]), durable=False)
    with server.running(home.logs / "postgres.log"):
        for _ in range(2):
            done = _schema(home)
            assert done.returncode == 0, done.stderr
        current, newest = schema_revision(info.database_url)
        assert current == newest
        assert {"glideflow", "prefect"} <= set(server.query("SELECT datname FROM pg_database").split())


def test_a_site_with_its_own_prefect_server_needs_one_database(site: str, tmp_path: Path) -> None:
    (tmp_path / "glideflow.yaml").write_text(f"database_url: {site}\nprefect_api_url: http://prefect.example.org/api\n")
    settings = Settings(home=tmp_path, database_url=site, prefect_api_url="http://prefect.example.org/api")
    home = Home(settings)
    prepare(settings, home)
    done = _schema(home)
    assert done.returncode == 0, done.stderr


def test_a_home_that_was_never_prepared_is_said_so(tmp_path: Path) -> None:
    home = Home(Settings(home=tmp_path))
    home.create()
    assert "glideflow up" in _schema(home).stderr
