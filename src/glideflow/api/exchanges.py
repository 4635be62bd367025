# SPDX-License-Identifier: Apache-2.0
"""The hot path's two tricks: exchanges that arrive together share a transaction, and idle pilots wait for news."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from glideflow.domain.identifiers import PilotId
from glideflow.domain.messages import Answer
from glideflow.errors import GlideflowError, ServiceError
from glideflow.services.dispatch import Call, Dispatcher, PilotRefused

logger = logging.getLogger(__name__)

_LARGEST_GROUP = 64
_Asked = tuple[Call, "asyncio.Future[Answer]"]


@dataclass(eq=False)
class _Waiter:
    """A pilot that has nothing to do."""

    call: Call
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be something for it."""


class ExchangeDesk:
    """Groups exchanges into transactions, one at a time; those that arrive meanwhile make the next group.

    Args:
        dispatcher: Answers a group.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._queue: asyncio.Queue[_Asked] = asyncio.Queue()
        self._waiters: dict[PilotId, _Waiter] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._closed = False

    def announce(self) -> None:
        """Tell that jobs became ready or that pilots have commands; may be called by any thread."""
        self._dispatcher.announce()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def close(self) -> None:
        """Answer all waiting pilots: the endpoint stops. May be called by any thread."""
        self._closed = True
        self.announce()

    async def run(self) -> None:
        """Answer groups, and wake waiting pilots, until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._serve())
            tasks.create_task(self._spread_news())

    async def exchange(self, call: Call, hung_up: Callable[[], Awaitable[object]]) -> Answer:
        """Answer one pilot; with nothing to say, wait as long as the pilot likes for work or commands.

        Args:
            call: The pilot's words.
            hung_up: Returns when the pilot has closed its connection.

        Raises:
            PilotRefused: It is not current.
            DatabaseUnavailable: Nothing was changed.
        """
        if not call.exchange.wait_seconds:
            return await self._ask(call)
        ends = time.monotonic() + call.exchange.wait_seconds
        waiter = _Waiter(call)
        # Before the question, so that no news between answer and waiting is missed.
        self._waiters[call.pilot_id] = waiter
        gone: asyncio.Future[object] | None = None
        try:
            while True:
                waiter.news.clear()
                answer = await self._ask(call)
                left = ends - time.monotonic()
                if answer.jobs or answer.commands or answer.receipts or left <= 0 or self._closed:
                    return answer
                gone = gone or asyncio.ensure_future(hung_up())
                news = asyncio.ensure_future(waiter.news.wait())
                await asyncio.wait((news, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if gone.done() or not waiter.news.is_set():
                    return answer
        finally:
            if gone is not None:
                gone.cancel()
            if self._waiters.get(call.pilot_id) is waiter:
                del self._waiters[call.pilot_id]

    async def _ask(self, call: Call) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((call, future))
        return await future

    async def _spread_news(self) -> None:
        """Wake those waiting pilots that would get something: of ten thousand, one for one job."""
        while True:
            await self._news.wait()
            self._news.clear()
            waiters = dict(self._waiters)
            try:
                chosen = set(waiters) if self._closed else await self._chosen(waiters)
            except ServiceError:
                # They ask again by themselves when their time is over.
                continue
            for pilot_id in chosen:
                waiters[pilot_id].news.set()

    async def _chosen(self, waiters: dict[PilotId, _Waiter]) -> set[PilotId]:
        if not waiters:
            return set()
        return await asyncio.to_thread(self._dispatcher.chosen, [waiter.call for waiter in waiters.values()])

    async def _serve(self) -> None:
        while True:
            group = await self._next_group()
            await self._answer(group)

    async def _next_group(self) -> list[_Asked]:
        """Take what waits, but two calls of one pilot never together."""
        group = [await self._queue.get()]
        pilots = {group[0][0].pilot_id}
        again: list[_Asked] = []
        while len(group) < _LARGEST_GROUP and not self._queue.empty():
            asked = self._queue.get_nowait()
            (again if asked[0].pilot_id in pilots else group).append(asked)
            pilots.add(asked[0].pilot_id)
        for asked in again:
            self._queue.put_nowait(asked)
        return group

    async def _answer(self, group: list[_Asked]) -> None:
        try:
            answers = await asyncio.to_thread(self._dispatcher.answer, [call for call, _ in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, ServiceError):
                # One bad exchange must not fail the others: each is tried alone.
                for asked in group:
                    await self._answer([asked])
                return
            if not isinstance(error, GlideflowError):
                logger.exception("exchange of pilot %s failed", group[0][0].pilot_id)
            answers = []
            for _, future in group:
                if not future.cancelled():
                    future.set_exception(error)
        for (_, future), answer in zip(group, answers, strict=False):
            if future.cancelled():
                continue
            if isinstance(answer, PilotRefused):
                future.set_exception(answer)
            else:
                future.set_result(answer)
