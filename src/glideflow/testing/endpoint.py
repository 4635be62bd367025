# SPDX-License-Identifier: Apache-2.0
"""A real REST endpoint in a thread of a test, over HTTPS, on a database of the test's choice."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from glideflow.api.app import create_endpoint
from glideflow.api.context import Context, make_context
from glideflow.instance.certificates import ensure_certificates
from glideflow.instance.home import Home, InstanceInfo
from glideflow.settings import Settings
from glideflow.store.engine import Database

_START_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class RunningEndpoint:
    """An endpoint that answers."""

    settings: Settings
    home: Home
    context: Context
    url: str


@contextlib.contextmanager
def run_endpoint(settings: Settings, database_url: str) -> Iterator[RunningEndpoint]:
    """Run an endpoint until the block ends.

    Args:
        settings: With a home of the test's own; it is created.
        database_url: A migrated database.

    Raises:
        TimeoutError: It did not start.
    """
    home = Home(settings)
    home.create()
    ensure_certificates(home, settings.host)
    with socket.create_server((settings.host, settings.port)) as listener:
        port = listener.getsockname()[1]
        info = InstanceInfo(
            rest_url=f"https://{settings.host}:{port}",
            prefect_api_url="",
            prefect_ui_url="http://prefect.invalid",
            database_url=database_url,
            rest_port=port,
        )
        home.write_instance(info)
        database = Database(database_url)
        context = make_context(settings, home, info, database)
        config = uvicorn.Config(
            create_endpoint(context),
            ssl_certfile=str(home.server_cert),
            ssl_keyfile=str(home.server_key),
            log_config=None,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=_serve, args=(server, listener), daemon=True)
        thread.start()
        try:
            _wait(server, thread)
            yield RunningEndpoint(settings=settings, home=home, context=context, url=info.rest_url)
        finally:
            context.desk.close()
            server.should_exit = True
            thread.join()
            database.close()


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # Signals belong to the main thread, so the server must not install handlers.
    asyncio.run(server._serve(sockets=[listener]))


def _wait(server: uvicorn.Server, thread: threading.Thread) -> None:
    done = threading.Event()
    waited = 0.0
    while not server.started:
        if waited > _START_SECONDS or not thread.is_alive():
            raise TimeoutError(f"the endpoint did not start within {_START_SECONDS} s")
        done.wait(0.01)
        waited += 0.01
