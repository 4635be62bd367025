# SPDX-License-Identifier: Apache-2.0
"""Run the REST endpoint of a home: `python -m glideflow.api`."""

import logging
import socket
import sys
from types import FrameType

import uvicorn

from glideflow.api.app import create_endpoint
from glideflow.api.context import Context, make_context
from glideflow.errors import GlideflowError
from glideflow.instance.home import Home
from glideflow.settings import load_settings
from glideflow.store.engine import Database

_STOP_SECONDS = 5
_BACKLOG = 4096
"""Pilots that connect at once: after a restart, all of them."""


class Server(uvicorn.Server):
    """Uvicorn, but pilots that wait for work are answered at once when it stops."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop."""
        self._context.desk.close()
        super().handle_exit(sig, frame)


def main() -> int:
    """Serve until SIGTERM; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings()
        home = Home(settings)
        instance = home.known_instance()
        context = make_context(settings, home, instance, Database(instance.database_url))
    except GlideflowError as error:
        logging.getLogger(__name__).critical("the endpoint cannot start: %s", error)
        return 1
    config = uvicorn.Config(
        create_endpoint(context),
        ssl_certfile=str(home.server_cert),
        ssl_keyfile=str(home.server_key),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    with listener(settings.host, instance.rest_port, shared=settings.endpoints > 1) as socket_:
        Server(config, context).run(sockets=[socket_])
    context.database.close()
    return 0


def listener(host: str, port: int, *, shared: bool) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: Address.
        port: Port.
        shared: Whether other processes listen on the same port: the kernel spreads the connections over them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=shared)


if __name__ == "__main__":
    sys.exit(main())
