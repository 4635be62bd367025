# SPDX-License-Identifier: Apache-2.0
"""The PostgreSQL server behind a URL: how it is reached, and what it lets us do."""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import class_row

from glideflow.errors import DatabaseUnavailable

_REACH: dict[str, int] = {
    "connect_timeout": 5,
    # A host that went away without a word is noticed after a minute; the kernel alone would take hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Seconds, and the last one milliseconds; what the URL says wins."""

_FACTS = """
SELECT current_setting('server_version_num')::int / 10000 AS major,
       clock_timestamp() AS now,
       current_user AS role,
       current_database() AS name,
       current_setting('server_encoding') AS encoding,
       coalesce(current_schema(), '') AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_make_tables,
       (SELECT tableowner FROM pg_tables
        WHERE schemaname = current_schema() AND tablename = 'alembic_version'
          AND NOT pg_has_role(tableowner, 'USAGE')) AS foreign_owner,
       (SELECT array_agg(DISTINCT extension.name)
        FROM pg_available_extension_versions AS extension
        JOIN pg_roles AS me ON me.rolname = current_user
        WHERE extension.installed OR me.rolsuper
           OR extension.trusted AND has_database_privilege(current_database(), 'CREATE')) AS extensions
"""


@dataclass(frozen=True)
class ServerFacts:
    """What a server says of itself, and of one of its databases, to one role."""

    major: int
    """Major version of PostgreSQL."""
    now: datetime
    """Its clock."""
    role: str
    """Who we are there."""
    name: str
    """The database."""
    encoding: str
    """How the database stores text."""
    schema: str
    """Where tables are made; empty when the search path names no schema that there is."""
    may_make_tables: bool
    """Whether the role may make tables there."""
    foreign_owner: str | None
    """The role that owns what was migrated before, when ours has no share in it."""
    extensions: list[str]
    """The extensions that the role can use or make."""


def reach(url: str) -> str:
    """Return how to connect: the URL, with limits on how long a host that is gone is waited for."""
    return make_conninfo(url, **{name: value for name, value in _REACH.items() if name not in conninfo_to_dict(url)})


def words_of(error: BaseException) -> str:
    """Return in one line what the server, or the driver, said."""
    return " ".join(str(error).split())


def ask_server(url: str) -> ServerFacts:
    """Connect once and return what the server says.

    Raises:
        DatabaseUnavailable: No connection, or the server refuses; the message has its words, for example that there
            is no such database.
    """
    try:
        with psycopg.connect(reach(url), client_encoding="UTF8", row_factory=class_row(ServerFacts)) as connection:
            facts = connection.execute(_FACTS).fetchone()
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"the database does not answer ({words_of(error)})") from error
    if facts is None:
        raise DatabaseUnavailable("the database does not answer")
    return facts
