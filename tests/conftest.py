# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a clean environment, a real PostgreSQL and an empty database in it."""

import itertools
import os
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from glideflow.store.migration import migrate
from glideflow.testing.postgres import temporary_postgres

TEMPLATE = "glideflow_template"
FOREIGN_PREFIXES = ("GLIDEFLOW_", "_CONDOR_", "CONDOR_", "PREFECT_", "PG")
KEPT_PREFIX = "GLIDEFLOW_TEST_"

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def clean_environ() -> Iterator[None]:
    """Let no test see the instance, the pool or the Prefect server of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(FOREIGN_PREFIXES) and not name.startswith(KEPT_PREFIX):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """One server for the whole session, as the URL of its database `postgres`."""
    with temporary_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> str:
    """The name of a database with the current schema, to be copied."""
    _execute(postgres_url, "CREATE DATABASE {}", TEMPLATE)
    migrate(database_in(postgres_url, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """A database of the test's own, with the current schema and no rows."""
    name = f"test_{next(_numbers)}"
    _execute(postgres_url, "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template_database)
    yield database_in(postgres_url, name)
    _execute(postgres_url, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """A database of the test's own without any table."""
    name = f"empty_{next(_numbers)}"
    _execute(postgres_url, "CREATE DATABASE {}", name)
    yield database_in(postgres_url, name)
    _execute(postgres_url, "DROP DATABASE {} WITH (FORCE)", name)


def database_in(server_url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    return server_url.rsplit("/", maxsplit=1)[0] + f"/{name}"


def _execute(url: str, statement: str, *names: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
