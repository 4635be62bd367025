# SPDX-License-Identifier: Apache-2.0
"""Connections to PostgreSQL: transactions and notifications."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from glideflow.errors import DatabaseUnavailable, UserError
from glideflow.store.server import ask_server, reach, words_of

Connection = psycopg.Connection[DictRow]

_LISTEN_SECONDS = 1.0
_TRUST_SECONDS = 1.0
"""A connection that worked is taken again without a question for so long."""
_DOUBT_SECONDS = 3.0
"""Who waited for a connection for so long asks whether the server is there at all."""
_BUSY_SECONDS = 30.0
"""Longest wait for a connection while the server is there."""
_RECONNECT_SECONDS = 2.0
"""The pool tries for so long by itself, and then whenever somebody asks; with its default of five minutes its pauses
grow so much that a server which is back would be found a minute later."""
_REMEDY = ": see `glideflow doctor`"


class Channel(StrEnum):
    """What processes tell each other through PostgreSQL's NOTIFY."""

    JOBS = "glideflow_jobs"
    """Jobs became ready."""
    COMMANDS = "glideflow_commands"
    """A pilot should hear a command."""
    OUTBOX = "glideflow_outbox"
    """Prefect should hear of a task."""
    PLANS = "glideflow_plans"
    """A task may be planned, or go on being planned."""


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
        self._connections = connections
        self._pool: ConnectionPool[_Pooled] = ConnectionPool(
            reach(url),
            min_size=1,
            max_size=connections,
            reconnect_timeout=_RECONNECT_SECONDS,
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
            connection = self._take()
            try:
                with connection:
                    yield connection
            finally:
                self._pool.putconn(connection)
        except psycopg.DataError as error:
            raise UserError(f"a value cannot be stored: {words_of(error)}") from error
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"the database does not answer ({words_of(error)}){_REMEDY}") from error
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
            raise DatabaseUnavailable(f"the database refuses ({words_of(error)}){_REMEDY}") from error

    def _take(self) -> _Pooled:
        """Take a connection out of the pool; when the server is gone, say so without a long wait.

        Raises:
            DatabaseUnavailable: There is none to be had; the message has the server's words.
        """
        try:
            return self._pool.getconn(_DOUBT_SECONDS)
        except PoolTimeout:
            self._ask()
        try:
            return self._pool.getconn(_BUSY_SECONDS - _DOUBT_SECONDS)
        except PoolTimeout as error:
            raise DatabaseUnavailable(
                f"all {self._connections} connections to the database were busy for {_BUSY_SECONDS:g} s"
            ) from error

    def _ask(self) -> None:
        try:
            ask_server(self._url)
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(f"{error}{_REMEDY}") from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give a connection for reading whose queries all see the database as it is at the first of them.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer.
        """
        with self.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection

    @contextmanager
    def trial(self) -> Iterator[Connection]:
        """Give a connection whose changes are all undone at the end.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer.
            UserError: A value that PostgreSQL's types cannot hold.
        """
        with self.transaction() as connection:
            try:
                yield connection
            finally:
                connection.rollback()

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
                with psycopg.connect(reach(self._url), autocommit=True) as connection:
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
