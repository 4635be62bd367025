# SPDX-License-Identifier: Apache-2.0
"""Grouping of exchanges: together where possible, alone where one is bad, never two of one pilot."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from glideflow.api.exchanges import ExchangeDesk
from glideflow.domain.identifiers import PilotId
from glideflow.domain.messages import Answer, Capacity, Exchange
from glideflow.errors import DatabaseUnavailable
from glideflow.services.dispatch import Call, PilotRefused


class Answers:
    """Answers groups as a test tells it, and remembers them."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.first_may_go = threading.Event()
        self.bad: set[str] = set()
        self.unknown: set[str] = set()
        self.down = False
        self.chosen_ones: set[str] = set()
        self.announced = 0

    def announce(self) -> None:
        self.announced += 1

    def chosen(self, calls: Sequence[Call]) -> set[PilotId]:
        return {call.pilot_id for call in calls if call.pilot_id in self.chosen_ones}

    def answer(self, calls: Sequence[Call]) -> list[Answer | PilotRefused]:
        self.groups.append([str(call.pilot_id) for call in calls])
        if len(self.groups) == 1:
            self.first_may_go.wait(5)
        if self.down:
            raise DatabaseUnavailable("gone")
        if any(call.pilot_id in self.bad for call in calls):
            raise ValueError("one of them is bad")
        return [PilotRefused("no") if call.pilot_id in self.unknown else Answer() for call in calls]


def call(name: str, wait_seconds: float = 0) -> Call:
    free = Capacity(cores=1, memory_mb=1, disk_mb=1, seconds=1)
    return Call(pilot_id=PilotId(name), exchange=Exchange(sequence=1, free=free, wait_seconds=wait_seconds))


async def never_gone() -> None:
    await asyncio.Event().wait()


async def ask_all(answers: Answers, names: Sequence[str]) -> list[Answer | BaseException]:
    """Ask for the first alone, and for the others while that one is being answered."""
    desk = ExchangeDesk(answers)  # type: ignore[arg-type]
    running = asyncio.create_task(desk.run())
    first = asyncio.create_task(desk.exchange(call(names[0]), never_gone))
    while not answers.groups:
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(desk.exchange(call(name), never_gone)) for name in names[1:]]
    await asyncio.sleep(0.05)
    answers.first_may_go.set()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    running.cancel()
    return results


def test_exchanges_that_come_together_share_a_transaction() -> None:
    answers = Answers()
    asyncio.run(ask_all(answers, ["a", "b", "c", "d"]))
    assert answers.groups == [["a"], ["b", "c", "d"]]


def test_two_exchanges_of_one_pilot_are_not_mixed() -> None:
    answers = Answers()
    asyncio.run(ask_all(answers, ["a", "b", "b", "c"]))
    assert answers.groups == [["a"], ["b", "c"], ["b"]]


def test_one_bad_exchange_does_not_fail_the_others() -> None:
    answers = Answers()
    answers.bad = {"c"}
    results = asyncio.run(ask_all(answers, ["a", "b", "c", "d"]))
    assert [type(result) for result in results] == [Answer, Answer, ValueError, Answer]


def test_a_refused_pilot_hears_it_and_the_others_are_served() -> None:
    answers = Answers()
    answers.unknown = {"b"}
    results = asyncio.run(ask_all(answers, ["a", "b", "c"]))
    assert [type(result) for result in results] == [Answer, PilotRefused, Answer]


def test_without_a_database_everybody_hears_it_at_once() -> None:
    answers = Answers()
    answers.down = True
    results = asyncio.run(ask_all(answers, ["a", "b", "c"]))
    assert all(isinstance(result, DatabaseUnavailable) for result in results)
    assert answers.groups == [["a"], ["b", "c"]]


async def two_wait(answers: Answers, then: Callable[[ExchangeDesk], None]) -> list[str]:
    """Let two pilots wait, do something, and return who was answered within half a second."""
    answers.first_may_go.set()
    desk = ExchangeDesk(answers)  # type: ignore[arg-type]
    running = asyncio.create_task(desk.run())
    waiting = {name: asyncio.create_task(desk.exchange(call(name, wait_seconds=60), never_gone)) for name in "ab"}
    while len([name for group in answers.groups for name in group]) < 2:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting.values())
    before = len(answers.groups)
    then(desk)
    while answers.announced == 0 or (len(answers.groups) == before and answers.chosen_ones):
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    running.cancel()
    for task in waiting.values():
        task.cancel()
    return [name for group in answers.groups[before:] for name in group]


def test_of_the_waiting_pilots_only_the_chosen_ones_ask_again() -> None:
    answers = Answers()
    answers.chosen_ones = {"b"}
    assert asyncio.run(two_wait(answers, ExchangeDesk.announce)) == ["b"]


def test_news_for_nobody_wakes_nobody() -> None:
    assert asyncio.run(two_wait(Answers(), ExchangeDesk.announce)) == []


def test_when_the_endpoint_stops_everybody_is_answered() -> None:
    answers = Answers()
    assert sorted(asyncio.run(two_wait(answers, ExchangeDesk.close))) == ["a", "b"]


@pytest.mark.parametrize("why", ["time", "gone"])
def test_a_waiting_pilot_is_answered_when_its_time_is_over_or_it_hung_up(why: str) -> None:
    async def story() -> Answer:
        answers = Answers()
        answers.first_may_go.set()
        desk = ExchangeDesk(answers)  # type: ignore[arg-type]
        running = asyncio.create_task(desk.run())
        gone = asyncio.Event()
        waiting = asyncio.create_task(desk.exchange(call("a", wait_seconds=0.05 if why == "time" else 60), gone.wait))
        if why == "gone":
            asyncio.get_running_loop().call_later(0.05, gone.set)
        answer = await asyncio.wait_for(waiting, 5)
        running.cancel()
        assert len(answers.groups) == 1
        return answer

    assert asyncio.run(story()) == Answer()
