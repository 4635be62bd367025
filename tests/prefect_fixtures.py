# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests with a real Prefect server, a real endpoint and the real flows process.

A test module that wants them has `pytest_plugins = ("prefect_fixtures",)`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings
from prefect_instance import HOST, Instance, answers, running, until

from glideflow.client import Client
from glideflow.errors import GlideflowError
from glideflow.instance.components import PREFECT_SERVER_SETTINGS
from glideflow.instance.ports import free_port


@pytest.fixture(scope="session")
def prefect_url(clean_environ: None, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API URL of a Prefect server on PostgreSQL; this process's Prefect client speaks to it, too."""
    folder = tmp_path_factory.mktemp("prefect")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE prefect_test")
    database = postgres_url.rsplit("/", maxsplit=1)[0] + "/prefect_test"
    port = free_port(HOST, ())
    url = f"http://{HOST}:{port}/api"
    environment = {
        **PREFECT_SERVER_SETTINGS,
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.replace("postgresql://", "postgresql+asyncpg://"),
    }
    argv = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    ours = {PREFECT_API_URL: url, PREFECT_HOME: folder, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}
    with running(argv, folder / "server.log", **environment):
        until(lambda: answers(f"{url}/health"), 120)
        with temporary_settings(ours):
            yield url


@pytest.fixture(scope="module")
def instance(
    request: pytest.FixtureRequest,
    prefect_url: str,
    postgres_url: str,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Instance]:
    """A home with a running endpoint; the tests run the flows. A module may set `RECONCILE_SECONDS`."""
    folder = tmp_path_factory.mktemp("instance")
    name = f"flows_{os.getpid()}_{abs(hash(folder)) % 10**6}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY")  # type: ignore[arg-type]
    made = Instance(
        folder / "home",
        postgres_url.rsplit("/", maxsplit=1)[0] + f"/{name}",
        prefect_url,
        reconcile_seconds=getattr(request.module, "RECONCILE_SECONDS", 3),
    )
    with made.endpoint():
        until(lambda: _is_up(made.client))
        yield made
    made.close()


def _is_up(client: Client) -> bool:
    try:
        return bool(client.health()["status"] == "ok")
    except GlideflowError:
        return False


@pytest.fixture(scope="module")
def served(instance: Instance) -> Iterator[subprocess.Popen[bytes]]:
    """The flows process of the instance."""
    start = len(instance.flows_log.read_text()) if instance.flows_log.exists() else 0
    with instance.flows() as process:
        until(instance.flows_log.exists)
        instance.wait_until_serving(process, start)
        yield process
