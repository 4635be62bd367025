# SPDX-License-Identifier: Apache-2.0
"""When the pilot tries again and when it does not."""

import threading
import time
from collections.abc import Callable

import pytest
from glideflow_pilot import retries
from glideflow_pilot.endpoint import Refused, Unreachable
from glideflow_pilot.retries import Abandoned, Backoff, Patience


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(retries, "LONGEST_SECONDS", 0.002)


def failing(error: Exception, times: int) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def action() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return action, calls


@pytest.mark.parametrize("error", [Unreachable("gone"), Refused(503, ""), Refused(502, "")])
def test_server_that_is_down_is_waited_for(error: Exception) -> None:
    action, calls = failing(error, 20)
    assert Patience().persist(action, threading.Event()) == "done"
    assert len(calls) == 21


def test_patience_has_an_end() -> None:
    patience = Patience()
    patience.retry_seconds = 0.05
    action, _ = failing(Unreachable("gone"), 10**9)
    with pytest.raises(Unreachable):
        patience.persist(action, threading.Event())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413])
def test_final_answer_is_not_asked_for_again(status: int) -> None:
    action, calls = failing(Refused(status, "no"), 1)
    with pytest.raises(Refused):
        Patience().persist(action, threading.Event())
    assert len(calls) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 507])
def test_transient_answer_is_asked_for_again_a_few_times(status: int) -> None:
    action, calls = failing(Refused(status, ""), 10**9)
    with pytest.raises(Refused):
        Patience().persist(action, threading.Event())
    assert len(calls) == retries.TRIES
    action, _ = failing(Refused(status, ""), 2)
    assert Patience().persist(action, threading.Event()) == "done"


@pytest.mark.parametrize("error", [Unreachable("gone"), Refused(503, "")])
def test_foreign_server_is_not_waited_for(error: Exception) -> None:
    action, calls = failing(error, 10**9)
    with pytest.raises((Unreachable, Refused)):
        Patience().persist(action, threading.Event(), foreign=True)
    assert len(calls) == retries.TRIES


def test_stopped_attempt_tries_nothing_more() -> None:
    halt = threading.Event()
    halt.set()
    with pytest.raises(Abandoned):
        Patience().persist(lambda: "done", halt)


def test_leaving_pilot_tries_nothing_beyond_its_time() -> None:
    patience = Patience()
    patience.leave_at = time.monotonic()
    action, calls = failing(Unreachable("gone"), 10**9)
    with pytest.raises(Unreachable):
        patience.persist(action, threading.Event())
    assert len(calls) == 1


def test_pauses_grow_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(retries, "LONGEST_SECONDS", 5.0)
    backoff = Backoff()
    pauses = [backoff.pause() for _ in range(12)]
    assert 0.15 <= pauses[0] <= 0.25
    assert all(3.7 <= pause <= 6.3 for pause in pauses[6:])
