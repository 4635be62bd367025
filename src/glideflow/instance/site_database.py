# SPDX-License-Identifier: Apache-2.0
"""A site's own PostgreSQL (setting `database_url`): its two databases, and whether they can be used."""

from urllib.parse import parse_qsl, urlencode, urlsplit

from glideflow.errors import DatabaseUnavailable, SettingsError
from glideflow.store.server import ServerFacts, ask_server

OLDEST_POSTGRES = 15
PREFECT_SUFFIX = "_prefect"
PREFECT_EXTENSION = "pg_trgm"
"""Prefect's migrations make indexes with it."""
ENCODING = "UTF8"
_PLACE = frozenset({"host", "port"})
"""Options of a URL that say where the server is: the folder of a socket, for example."""
_NOT_PREFECT = frozenset({"application_name", "connect_timeout", "options"})
"""Options that Prefect's driver sets itself or does not know."""


def prefect_url(url: str) -> str:
    """Return the URL of the database beside a site's own that serves Prefect."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path + PREFECT_SUFFIX).geturl()


def for_asyncpg(url: str) -> tuple[str, dict[str, str]]:
    """Translate a URL for Prefect's driver, which refuses options such as `sslmode` in it.

    Args:
        url: A URL for psycopg.

    Returns:
        The URL, and environment variables with its options: asyncpg reads those of libpq.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    kept = urlencode({name: value for name, value in options.items() if name in _PLACE}, safe="/")
    variables = {
        f"PG{name.replace('_', '').upper()}": value
        for name, value in options.items()
        if name not in _PLACE | _NOT_PREFECT
    }
    return parts._replace(scheme="postgresql+asyncpg", query=kept).geturl(), variables


def check_site_databases(url: str, prefect_database_url: str) -> ServerFacts:
    """Refuse a site's own databases that cannot be used, before anything is started.

    Args:
        url: The setting `database_url`.
        prefect_database_url: The database of the Prefect server; empty when that is another's.

    Returns:
        What the server says of itself and of the first.

    Raises:
        SettingsError: The server is too old, or the role lacks a right; the message says what to do.
        DatabaseUnavailable: It does not answer or refuses the login, or a database is missing.
    """
    found = _check(url, "database_url")
    if prefect_database_url:
        facts = _check(prefect_database_url, f"database_url, with {PREFECT_SUFFIX} added to the database's name,")
        if PREFECT_EXTENSION not in facts.extensions:
            raise SettingsError(
                f"database {facts.name}: Prefect needs the extension {PREFECT_EXTENSION} there, and the role "
                f"{facts.role} cannot make it: as an administrator, run `CREATE EXTENSION {PREFECT_EXTENSION}` in it "
                "(it comes with PostgreSQL's package of contributed modules)"
            )
    return found


def _check(url: str, name: str) -> ServerFacts:
    try:
        facts = ask_server(url)
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"{name} cannot be used: {error}") from error
    problem = _problem(facts)
    if problem:
        raise SettingsError(f"{name} cannot be used: {problem}")
    return facts


def _problem(facts: ServerFacts) -> str | None:
    if facts.major < OLDEST_POSTGRES:
        return f"it is a PostgreSQL {facts.major}, and glideflow needs {OLDEST_POSTGRES} or newer"
    if facts.encoding != ENCODING:
        return (
            f"the database {facts.name} stores text as {facts.encoding}: make it anew with "
            f"`CREATE DATABASE {facts.name} OWNER {facts.role} ENCODING '{ENCODING}' TEMPLATE template0`"
        )
    if facts.foreign_owner:
        return (
            f"tables of the database {facts.name} belong to the role {facts.foreign_owner}, and we are "
            f"{facts.role}: run `REASSIGN OWNED BY {facts.foreign_owner} TO {facts.role}` in it, or name that role"
        )
    if not facts.may_make_tables:
        return (
            f"the role {facts.role} may not make tables in the database {facts.name}: as an administrator, run "
            f"`ALTER DATABASE {facts.name} OWNER TO {facts.role}`"
        )
    return None
