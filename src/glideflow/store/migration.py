# SPDX-License-Identifier: Apache-2.0
"""The schema's migrations; apart from the engine, because importing alembic takes longer than all the rest."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from glideflow.errors import DatabaseUnavailable

MIGRATIONS = Path(__file__).with_name("migrations")


def _alembic(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Bring a database's schema to this version's.

    Args:
        url: `postgresql://...` of a database that may be empty.
        revision: The newest revision to apply.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    try:
        # Two processes may start at once: the advisory lock makes the second wait and find nothing to do.
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(7305817)")
            command.upgrade(_alembic(url), revision)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"the database does not answer ({str(error).strip()})") from error


def schema_revision(url: str) -> tuple[str | None, str | None]:
    """Return the database's schema revision and the newest one known to this version.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    config = _alembic(url)
    engine = create_engine(config.attributes["url"], poolclass=NullPool)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except OperationalError as error:
        raise DatabaseUnavailable(f"the database does not answer ({str(error.orig).strip()})") from error
    finally:
        engine.dispose()
    return current, ScriptDirectory.from_config(config).get_current_head()
