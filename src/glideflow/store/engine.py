# SPDX-License-Identifier: Apache-2.0
"""Connections to PostgreSQL: transactions and notifications."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from glideflow.errors import DatabaseUnavailable, UserError

Connection = psycopg.Connection[DictRow]

_LISTEN_SECONDS = 1.0
_TRUST_SECONDS = 1.0
"""A connection that worked is taken again without a question for so long."""


class Channel(StrEnum):
    """What processes tell each other through PostgreSQL's NOTIFY."""

    JOBS = "glideflow_jobs"
    """Jobs became ready."""
    COMMANDS = "glideflow_commands"
    """A pilot should hear a command."""
    OUTBOX = "glideflow_outbox"
    """Prefect should hear of a task."""


class _Pooled(psycopg.Connection[DictRow]):
    """A connection of the pool."""

    checked_at = 0.0
    """When it was last seen to work, monotonic."""


def _check(connection: _Pooled) -> None:
    """Let the pool replace a connection that broke while nobody used it.

    Raises:
        OperationalError: It broke.
    """
    now = time.monotonic()
    if now - connection.checked_at > _TRUST_SECONDS:
        ConnectionPool.check_connection(connection)
        connection.checked_at = now


class Database:
    """A pool of connections to one PostgreSQL database.

    Args:
        url: `postgresql://user:password@host:port/name`.
        connections: Most connections open at once.
    """

    def __init__(self, url: str, connections: int = 8) -> None:
        self._url = url
        self._pool: ConnectionPool[_Pooled] = ConnectionPool(
            url,
            min_size=1,
            max_size=connections,
            timeout=30.0,
            open=False,
            connection_class=_Pooled,
            kwargs={"row_factory": dict_row},
            check=_check,
        )
        self._pool.open()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection in a transaction: committed at the end, rolled back by an exception.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer, or went away in the middle; nothing was changed.
            UserError: A value that PostgreSQL's types cannot hold; nothing was changed.
        """
        try:
            with self._pool.connection() as connection:
                yield connection
        except psycopg.DataError as error:
            raise UserError(f"a value cannot be stored: {str(error).strip()}") from error
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise DatabaseUnavailable(
                f"the database does not answer ({str(error).strip()}): see `glideflow doctor`"
            ) from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a connection for reading whose queries all see the database as it is at the first of them.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer.
        """
        with self.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection

    def listen(self, channels: Sequence[Channel], stop: threading.Event) -> Iterator[Channel | None]:
        """Yield the channel of each notification, and None about once a second when there is none.

        A lost connection is replaced; since notifications may have been missed then, None is yielded too, and
        callers look for work at each None.

        Args:
            channels: What to listen to.
            stop: Ends the iteration within about a second once set.
        """
        while not stop.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True) as connection:
                    for channel in channels:
                        connection.execute(f"LISTEN {channel.value}")
                    while not stop.is_set():
                        yield None
                        for notice in connection.notifies(timeout=_LISTEN_SECONDS, stop_after=1):
                            yield Channel(notice.channel)
            except psycopg.OperationalError:
                yield None
                stop.wait(_LISTEN_SECONDS)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


def notify(connection: Connection, channel: Channel) -> None:
    """Wake the listeners of a channel when the transaction commits."""
    connection.execute("SELECT pg_notify(%s, '')", [channel.value])


def server_version(connection: Connection) -> dict[str, Any]:
    """Return PostgreSQL's version number, for example 180006, and its clock."""
    row = connection.execute("SELECT current_setting('server_version_num')::int AS version, now() AS now").fetchone()
    return dict(row or {})


def ask_server(url: str, timeout_seconds: int = 5) -> dict[str, Any]:
    """Connect once and return what `server_version` does.

    Raises:
        DatabaseUnavailable: No connection; the message has the server's words, for example that there is no such
            database.
    """
    try:
        with psycopg.connect(url, connect_timeout=timeout_seconds, row_factory=dict_row) as connection:
            return server_version(connection)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"the database does not answer ({str(error).strip()})") from error
