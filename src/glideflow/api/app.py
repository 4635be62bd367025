# SPDX-License-Identifier: Apache-2.0
"""The application: routes, error answers, and what runs beside them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from glideflow import __version__
from glideflow.api import failures, pilots, problems, storage, users
from glideflow.api.context import Context
from glideflow.api.hot_path import HotPath
from glideflow.api.housekeeping import Housekeeping


def create_endpoint(context: Context) -> HotPath:
    """Return the REST endpoint as it is served.

    Args:
        context: Its parts.
    """
    return HotPath(create_app(context), context)


def create_app(context: Context) -> FastAPI:
    """Return the application with all routes.

    Args:
        context: Its parts.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        desk = asyncio.create_task(context.desk.run())
        housekeeping = Housekeeping(context)
        housekeeping.start()
        try:
            yield
        finally:
            await asyncio.to_thread(housekeeping.stop)
            desk.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await desk

    app = FastAPIOffline(
        title="glideflow",
        version=__version__,
        description="Tasks, jobs and pilots of one glideflow instance.",
        lifespan=lifespan,
    )
    app.state.context = context
    problems.install(app)
    for routes in (users.router, failures.router, pilots.router, storage.router):
        app.include_router(routes)
    return app
