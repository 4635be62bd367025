# SPDX-License-Identifier: Apache-2.0
"""The hot path's two tricks: exchanges that arrive together share a transaction, and idle pilots wait for a bell."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from glideflow.domain.messages import Answer
from glideflow.errors import GlideflowError, ServiceError
from glideflow.services.dispatch import Call, Dispatcher, PilotRefused

logger = logging.getLogger(__name__)

_LARGEST_GROUP = 64
_Waiting = tuple[Call, "asyncio.Future[Answer]"]


class Bell:
    """Wakes everybody who waits, from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = asyncio.Event()
        self.closed = False

    def start(self) -> None:
        """Bind the bell to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def ticket(self) -> asyncio.Event:
        """Return the event of the next ring; take it before looking for work, so that no ring is missed."""
        return self._next

    def ring(self) -> None:
        """Wake all ticket holders."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    def close(self) -> None:
        """Wake all ticket holders for the last time: the endpoint stops."""
        self.closed = True
        self.ring()


class ExchangeDesk:
    """Groups exchanges into transactions, one at a time; those that arrive meanwhile make the next group.

    Args:
        dispatcher: Answers a group.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self.bell = Bell()

    def announce(self) -> None:
        """Wake the waiting pilots for jobs that became ready; may be called by any thread."""
        self._dispatcher.announce()
        self.bell.ring()

    async def run(self) -> None:
        """Answer groups until cancelled."""
        self.bell.start()
        while True:
            group = await self._next_group()
            await self._answer(group)

    async def exchange(self, call: Call, gone: Callable[[], Awaitable[bool]]) -> Answer:
        """Answer one pilot; with nothing to say, wait as long as the pilot likes for work or commands.

        Args:
            call: The pilot's words.
            gone: Tells whether the pilot hung up.

        Raises:
            PilotRefused: It is not current.
            DatabaseUnavailable: Nothing was changed.
        """
        ends = time.monotonic() + call.exchange.wait_seconds
        while True:
            ticket = self.bell.ticket()
            answer = await self._ask(call)
            left = ends - time.monotonic()
            if answer.jobs or answer.commands or answer.receipts or left <= 0 or self.bell.closed:
                return answer
            try:
                await asyncio.wait_for(ticket.wait(), left)
            except TimeoutError:
                return answer
            if await gone():
                return answer

    async def _ask(self, call: Call) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        await self._queue.put((call, future))
        return await future

    async def _next_group(self) -> list[_Waiting]:
        """Take what waits, but two calls of one pilot never together."""
        group = [await self._queue.get()]
        pilots = {group[0][0].pilot_id}
        again: list[_Waiting] = []
        while len(group) < _LARGEST_GROUP and not self._queue.empty():
            waiting = self._queue.get_nowait()
            (again if waiting[0].pilot_id in pilots else group).append(waiting)
            pilots.add(waiting[0].pilot_id)
        for waiting in again:
            self._queue.put_nowait(waiting)
        return group

    async def _answer(self, group: list[_Waiting]) -> None:
        try:
            answers = await asyncio.to_thread(self._dispatcher.answer, [call for call, _ in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, ServiceError):
                # One bad exchange must not fail the others: each is tried alone.
                for waiting in group:
                    await self._answer([waiting])
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
