# SPDX-License-Identifier: Apache-2.0
"""The schema's migrations; apart from the engine, because importing alembic takes longer than all the rest."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from glideflow.errors import DatabaseUnavailable, SettingsError
from glideflow.store.server import reach, words_of

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
        DatabaseUnavailable: PostgreSQL does not answer, or refuses.
        SettingsError: The database is of a newer version.
    """
    try:
        # Two processes may start at once: the advisory lock makes the second wait and find nothing to do.
        with psycopg.connect(reach(url), autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(7305817)")
            command.upgrade(_alembic(url), revision)
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"the database does not answer ({words_of(error)})") from error
    except DBAPIError as error:
        raise DatabaseUnavailable(f"the database refuses the new schema ({_cause(error)})") from error
    except CommandError as error:
        raise SettingsError(
            f"the database was migrated by a newer glideflow ({words_of(error)}): use that one, or restore a dump "
            "that was made before"
        ) from error


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
    except DBAPIError as error:
        raise DatabaseUnavailable(f"the database does not answer ({_cause(error)})") from error
    finally:
        engine.dispose()
    return current, ScriptDirectory.from_config(config).get_current_head()


def _cause(error: DBAPIError) -> str:
    """What the server said; around it SQLAlchemy puts the statement and a link to its documentation."""
    return words_of(error if error.orig is None else error.orig)
