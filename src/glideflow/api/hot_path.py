# SPDX-License-Identifier: Apache-2.0
"""The route of exchanges, before the framework: routing and its middleware took two thirds of the endpoint's time."""

from collections.abc import Awaitable, Callable

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glideflow.api.authentication import bearer_of
from glideflow.api.context import Context
from glideflow.api.problems import problem, problem_of
from glideflow.domain.messages import Exchange
from glideflow.services.dispatch import Call

PATH = "/pilot/v1/exchange"
LONGEST_EXCHANGE = 8_000_000
"""Bytes; a pilot of a thousand cores that reports all its jobs at once says less."""


class HotPath:
    """Answers exchanges by itself and leaves every other request to the application.

    Args:
        app: The application; it documents the route.
        context: The endpoint's parts.
    """

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks for it."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            response = await self._exchange(Request(scope), receive)
        except Exception as error:  # noqa: BLE001 - every error is answered with a problem document
            response = problem_of(Request(scope), error)
        await response(scope, receive, send)

    async def _exchange(self, request: Request, receive: Receive) -> Response:
        bearer = bearer_of(request)
        body = await _body(receive)
        if body is None:
            return problem(413, "too_large", f"an exchange has at most {LONGEST_EXCHANGE} bytes: send fewer reports")
        keys = self._context.keys
        pilot = keys.remembered(bearer)
        if pilot is None:
            pilot = await run_in_threadpool(keys.authenticate, bearer)
        try:
            message = Exchange.model_validate_json(body)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        answer = await self._context.desk.exchange(Call(pilot_id=pilot, exchange=message), _until_gone(receive))
        return Response(answer.model_dump_json(), media_type="application/json")


async def _body(receive: Receive) -> bytes | None:
    """Read a request's body; None when it is too long."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message: Message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > LONGEST_EXCHANGE:
            return None
        parts.append(part)
        more = bool(message.get("more_body"))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _until_gone(receive: Receive) -> Callable[[], Awaitable[object]]:
    async def wait() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    return wait
