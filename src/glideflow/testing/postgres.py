# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL for tests: the same server as the product's, in a folder that goes away."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glideflow.instance.ports import free_port
from glideflow.instance.postgres import HOST, EmbeddedPostgres


@contextmanager
def temporary_postgres() -> Iterator[str]:
    """Run a server without fsync for the duration of a block; about 0.6 s.

    Yields:
        The psycopg URL, with the rights to make databases, of its database `postgres`.

    Raises:
        DatabaseUnavailable: It did not start.
    """
    with tempfile.TemporaryDirectory(prefix="glideflow-postgres-") as folder:
        server = EmbeddedPostgres(Path(folder), free_port(HOST, ()), "glideflow-test", durable=False)
        server.initialise()
        with server.running(Path(folder) / "log"):
            yield server.url("postgres")
