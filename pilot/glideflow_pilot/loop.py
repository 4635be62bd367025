# SPDX-License-Identifier: Apache-2.0
"""The main thread: talks `exchange`, starts payloads, obeys commands, and decides when to leave."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from glideflow_pilot import reasons
from glideflow_pilot.capacity import Capacity
from glideflow_pilot.endpoint import ANSWER_SECONDS, Refused, Unreachable
from glideflow_pilot.orders import Order, read_order
from glideflow_pilot.payload import Payload, Tools
from glideflow_pilot.reasons import Failure, Reason
from glideflow_pilot.retries import Backoff

# A payload that ends sooner is not reported as running first.
RUNNING_REPORT_SECONDS = 0.3
# How often a pilot that is partly busy asks for more: the first and the longest pause.
FIRST_POLL_SECONDS = 0.5
LONGEST_POLL_SECONDS = 2.0
# After the first of several payloads ended, the others' ends are awaited so long, to share one exchange.
GATHER_SECONDS = 0.003
# An idle server should answer late, not early; if it does not, it is not asked more often than this.
IDLE_PAUSE_SECONDS = 0.5
# From KILL to the last report, upload and good-bye.
FAREWELL_SECONDS = 5.0
NOTICE_SECONDS = 3.0
MOST_ORDERS = 1000

_NEVER = float("inf")


@dataclass(frozen=True)
class Settings:
    """What the server said at registration."""

    heartbeat_seconds: float
    long_poll_seconds: float
    idle_seconds: float
    grace_seconds: float
    log_interval_seconds: float
    log_limit_bytes: int
    file_limit_bytes: int
    retry_seconds: float


class Loop:
    """Runs from registration to good-bye."""

    def __init__(self, settings: Settings, capacity: Capacity, tools: Tools) -> None:
        """Start idle."""
        self._settings, self._capacity, self._tools = settings, capacity, tools
        self._endpoint, self._log, self._outbox = tools.endpoint, tools.log, tools.outbox
        self._events: queue.SimpleQueue[Tuple[str, Any]] = queue.SimpleQueue()
        self._payloads: Dict[int, Payload] = {}
        self._unannounced: Dict[int, Payload] = {}
        self._sequence = 0
        self._due_at = 0.0
        self._is_news = False
        self._is_signalled = False
        self._hurried = 0
        self._poll_seconds = FIRST_POLL_SECONDS
        self._idle_since = time.monotonic()
        self._down_since: Optional[float] = None
        self._retry: Optional[Tuple[Optional[Dict[str, Any]], float]] = None
        self._backoff = Backoff()
        self._leaving: Optional[Reason] = None
        self._leave_by = _NEVER
        self._exit_code = 0

    def interrupt(self, name: str) -> None:
        """Leave because of a signal; called by the signal handler."""
        self._is_signalled = True
        self._events.put(("signal", name))
        self._endpoint.exchanges.interrupt()

    def running(self) -> List[Payload]:
        """Return the payloads; for the courier of the logs."""
        return list(self._payloads.values())

    def run(self) -> int:
        """Work until it is time to leave; returns the exit status."""
        while not self._is_over():
            self._take_events(self._next_at() - time.monotonic())
            now = time.monotonic()
            self._check_limits(now)
            if not self._is_over() and now >= self._next_at():
                self._exchange(now)
        self._say_goodbye()
        return self._exit_code

    # --- what happens in the pilot

    def _next_at(self) -> float:
        """Return the monotonic time of the next exchange."""
        if self._retry is not None:
            return self._retry[1]
        if self._is_news:
            return 0.0
        announce_at = min((p.began_at for p in self._unannounced.values()), default=_NEVER) + RUNNING_REPORT_SECONDS
        return min(self._due_at, announce_at, self._leave_by)

    def _take_events(self, seconds: float) -> None:
        """Wait for the first event, then a moment for those that come with it."""
        if not self._take_event(max(0.0, seconds)):
            return
        until = time.monotonic() + GATHER_SECONDS
        while self._payloads and self._take_event(max(0.0, until - time.monotonic())):
            pass
        while self._take_event(0.0):
            pass

    def _take_event(self, seconds: float) -> bool:
        try:
            kind, subject = self._events.get(seconds > 0, seconds)
        except queue.Empty:
            return False
        if kind == "signal":
            self._leave_now(subject)
        else:
            self._take_end(*subject)
        return True

    def _take_end(self, payload: Payload, report: Dict[str, Any]) -> None:
        order = payload.order
        del self._payloads[order.attempt_id]
        self._unannounced.pop(order.attempt_id, None)
        self._capacity.give_back(order)
        self._outbox.add(report)
        self._is_news = True
        self._idle_since = time.monotonic()
        why = "" if report["reason"] is None else f": {report['reason']['text']}"
        self._log.say(f"{order.label} {report['outcome']} after {report['usage']['wall_seconds']:.1f} s{why}.")

    def _check_limits(self, now: float) -> None:
        if self._leave_by < _NEVER:
            return
        if self._down_since is not None and now - self._down_since > self._settings.retry_seconds:
            text = f"the server was not reachable for {now - self._down_since:.0f} s"
            self._exit_code = 1
            self._stop(reasons.reason(reasons.PILOT_DRAINED, text), FAREWELL_SECONDS)
        elif self._capacity.seconds_left() <= 0:
            self._stop(reasons.reason(reasons.PILOT_DEADLINE, "the pilot reached the end of its slot"))
        elif self._leaving is None and self._is_idle and now - self._idle_since >= self._settings.idle_seconds:
            text = f"the pilot found no work for {self._settings.idle_seconds:g} s"
            self._leaving = reasons.reason(reasons.PILOT_IDLE, text)

    @property
    def _is_idle(self) -> bool:
        return not self._payloads and not self._outbox

    def _is_over(self) -> bool:
        if self._leaving is None:
            return False
        return self._is_idle or time.monotonic() > self._leave_by

    # --- the exchange

    def _exchange(self, now: float) -> None:
        body = (self._retry and self._retry[0]) or self._question(now)
        asked_at = time.monotonic()
        try:
            seconds = body["wait_seconds"] + ANSWER_SECONDS
            if self._leave_by < _NEVER:
                seconds = max(0.5, min(seconds, self._leave_by - now))
            answer = self._endpoint.call("POST", "/pilot/v1/exchange", body, seconds)
        except Unreachable as error:
            self._put_off(body, str(error))
            return
        except Refused as error:
            if error.status in (401, 403):
                self._give_up(str(error))
            else:
                self._put_off(None, str(error))
            return
        if self._down_since is not None:
            self._log.say(f"The server answers again after {time.monotonic() - self._down_since:.0f} s.")
        self._down_since, self._retry, self._backoff = None, None, Backoff()
        self._take_answer(answer, body, time.monotonic() - asked_at)

    def _question(self, now: float) -> Dict[str, Any]:
        for attempt_id, payload in list(self._unannounced.items()):
            if payload.started_at is not None and now - payload.began_at >= RUNNING_REPORT_SECONDS:
                started_at = reasons.utc(payload.started_at)
                self._outbox.add({"attempt_id": attempt_id, "state": "running", "started_at": started_at})
                del self._unannounced[attempt_id]
        self._is_news = False
        self._sequence += 1
        free = self._capacity.free()
        wants = self._leaving is None and free["memory_mb"] > 0 and free["disk_mb"] > 0
        return {
            "sequence": self._sequence,
            "draining": self._leaving is not None,
            "want": min(int(free["cores"]), MOST_ORDERS) if wants else 0,
            "wait_seconds": self._patience_for_work(now) if wants and self._is_idle else 0,
            "free": free,
            "holding": sorted(self._outbox.attempts().union(self._payloads)),
            "reports": self._outbox.pending(),
        }

    def _patience_for_work(self, now: float) -> float:
        """Return how long the server may keep the question of an idle pilot open, seconds."""
        idle_left = self._idle_since + self._settings.idle_seconds - now
        return round(max(0.0, min(self._settings.long_poll_seconds, idle_left, self._capacity.seconds_left())), 3)

    def _put_off(self, body: Optional[Dict[str, Any]], trouble: str) -> None:
        """Ask again later: the same question, unless the server did not like it or the pilot begins to leave."""
        if self._is_signalled and self._leave_by == _NEVER:
            # Interrupted on purpose; the signal waits among the events.
            self._retry = None
            return
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
            self._log.say(f"The server cannot be asked: {trouble}; trying again.")
        again_at = now + self._backoff.pause()
        self._retry = (body, again_at)

    def _take_answer(self, answer: Dict[str, Any], body: Dict[str, Any], seconds: float) -> None:
        for receipt in answer.get("receipts", ()):
            if not receipt.get("accepted", True):
                self._log.say(f"The server refused a report of attempt {receipt['attempt_id']}: {receipt.get('text')}.")
            self._outbox.receipt(int(receipt["attempt_id"]), int(receipt["sequence"]))
        for document in answer.get("jobs", ()):
            self._take_order(document)
        for command in answer.get("commands", ()):
            self._obey(command)
        now = time.monotonic()
        if self._is_idle:
            # Ask again at once, unless the server has the habit of answering at once, too.
            is_hurried = body["wait_seconds"] > 0 and seconds < min(IDLE_PAUSE_SECONDS, body["wait_seconds"])
            self._hurried = self._hurried + 1 if is_hurried else 0
            self._due_at = now + min(IDLE_PAUSE_SECONDS, 0.05 * self._hurried)
            return
        is_asking = self._leaving is None and self._capacity.cores > 0
        self._poll_seconds = (
            FIRST_POLL_SECONDS
            if answer.get("jobs") or body["reports"]
            else min(LONGEST_POLL_SECONDS, self._poll_seconds * 1.5)
        )
        pause = self._poll_seconds if is_asking or self._outbox else self._settings.heartbeat_seconds
        self._due_at = now + min(pause, self._settings.heartbeat_seconds)

    def _take_order(self, document: Dict[str, Any]) -> None:
        try:
            order = read_order(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._log.say(f"An order of the server cannot be read ({type(error).__name__}: {error}); it is left out.")
            return
        if order.attempt_id in self._payloads or order.attempt_id in self._outbox.attempts():
            return
        objection = "the pilot is leaving" if self._leaving is not None else self._capacity.objection(order)
        if objection is not None:
            self._refuse(order, objection)
            return
        payload = Payload(order, self._tools, self._on_end)
        self._capacity.take(order)
        self._payloads[order.attempt_id] = self._unannounced[order.attempt_id] = payload
        payload.start()

    def _refuse(self, order: Order, objection: str) -> None:
        self._log.say(f"{order.label} was refused: {objection}.")
        code = reasons.PILOT_REFUSED if self._leaving is None else reasons.PILOT_DRAINED
        now = reasons.now_utc()
        report = {"attempt_id": order.attempt_id, "state": "finished", "outcome": "refused", "started_at": None}
        report.update(ended_at=now, exit_code=None, signal=None, reason=reasons.reason(code, objection), outputs=[])
        report.update(usage={"wall_seconds": 0, "cpu_seconds": 0, "max_rss_mb": 0}, log_bytes=0)
        self._outbox.keep(report)
        self._outbox.add(report)
        self._is_news = True

    def _on_end(self, payload: Payload, report: Dict[str, Any]) -> None:
        self._events.put(("end", (payload, report)))

    def _obey(self, command: Dict[str, Any]) -> None:
        kind, why = command.get("command"), command.get("reason")
        if kind == "kill":
            payload = self._payloads.get(int(command["attempt_id"]))
            if payload is not None:
                text = reasons.text_of(why, "killed by a command of the server")
                failure = Failure(reasons.KILLED, text, outcome="killed")
                failure.reason.update({key: str(value) for key, value in (why or {}).items()})
                payload.stop(failure, self._settings.grace_seconds)
        elif kind == "drain" and self._leaving is None:
            self._leaving = reasons.reason(reasons.PILOT_DRAINED, reasons.text_of(why, "told to drain"), "server")
            self._log.say(f"Taking no more jobs: {self._leaving['text']}.")

    # --- leaving

    def _leave_now(self, signal_name: str) -> None:
        if self._leave_by < _NEVER:
            return
        text = f"the pilot was told to stop by {signal_name}"
        self._stop(reasons.reason(reasons.PILOT_DRAINED, text, "site"), notify=True)

    def _stop(self, why: Reason, farewell_seconds: float = FAREWELL_SECONDS, notify: bool = False) -> None:
        """Leave: end the payloads, and report them as long as there is time."""
        self._leaving = why
        self._log.say(f"Leaving: {why['text']}.")
        grace = self._settings.grace_seconds
        self._leave_by = self._tools.patience.leave_at = time.monotonic() + grace + farewell_seconds
        self._retry = None
        if notify and self._payloads:
            self._notify()
        failure = Failure(reasons.PILOT_DRAINED, f"{why['text']} while the job ran", source=why["source"])
        for payload in self._payloads.values():
            payload.stop(failure, grace, spare_outputs=True)

    def _notify(self) -> None:
        """Tell the server before the payloads end, so that it plans without this pilot."""
        question = self._question(time.monotonic())
        try:
            answer = self._endpoint.call("POST", "/pilot/v1/exchange", question, NOTICE_SECONDS)
        except (Unreachable, Refused) as error:
            self._log.say(f"The server could not be told: {error}.")
            return
        self._take_answer(answer, question, NOTICE_SECONDS)

    def _give_up(self, trouble: str) -> None:
        """The server does not want this pilot: its attempts are no longer its own."""
        self._log.say(f"The server does not accept this pilot any more ({trouble}); ending its payloads and leaving.")
        reason = reasons.reason(reasons.PILOT_REFUSED, "the server does not accept this pilot any more")
        grace = min(FAREWELL_SECONDS, self._settings.grace_seconds)
        for payload in self._payloads.values():
            payload.stop(Failure(reasons.PILOT_REFUSED, reason["text"]), grace)
        self._leaving = reason
        self._tools.patience.leave_at = time.monotonic()
        until = time.monotonic() + grace + FAREWELL_SECONDS
        while self._payloads and time.monotonic() < until:
            self._take_event(until - time.monotonic())
        self._leave_by = 0.0
        self._outbox.clear()

    def _say_goodbye(self) -> None:
        left = self._leaving or reasons.reason(reasons.PILOT_DRAINED, "the pilot ended")
        if left["code"] == reasons.PILOT_REFUSED:
            return
        self._log.say(f"Good-bye: {left['text']}.")
        document = {"reason": left, "log": self._log.tail()}
        try:
            self._endpoint.call("POST", "/pilot/v1/goodbye", document, NOTICE_SECONDS)
        except (Unreachable, Refused) as error:
            self._log.say(f"The good-bye did not reach the server: {error}.")
