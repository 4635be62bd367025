# SPDX-License-Identifier: Apache-2.0
"""When to try again: back-off with a cap, patience with a server that is down, and one end for all when leaving."""

from __future__ import annotations

import random
import threading
import time
from typing import Callable, Optional, TypeVar

from glideflow_pilot.endpoint import Refused, Unreachable

T = TypeVar("T")

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 5.0
# Answers of a server that works but is in trouble; more tries than that help nobody.
TRIES = 5
# What a proxy says for a server that is down.
_DOWN = (502, 503, 504)


class Abandoned(Exception):
    """The attempt was stopped while it waited for the network."""


class Backoff:
    """Growing pauses, spread so that many pilots do not come back at the same moment."""

    def __init__(self) -> None:
        """Start with the shortest pause."""
        self._next = FIRST_SECONDS

    def pause(self) -> float:
        """Return the next pause, seconds."""
        pause = self._next
        self._next = min(LONGEST_SECONDS, pause * 2)
        return pause * random.uniform(0.75, 1.25)


class Patience:
    """How long to keep trying; shared by all threads, because all end with the pilot."""

    def __init__(self) -> None:
        """Be patient until told otherwise."""
        self.retry_seconds = 600.0
        """How long a server may be down."""
        self.leave_at = float("inf")
        """Monotonic time after which nothing is tried again."""

    def persist(self, action: Callable[[], T], halt: threading.Event, foreign: bool = False) -> T:
        """Run an action until it succeeds or trying again is pointless.

        Args:
            action: Raises `Unreachable` or `Refused` when it fails.
            halt: Set when the attempt is stopped.
            foreign: The server is not ours: its absence is the job's failure, not a reason to wait for long.

        Returns:
            What the action returned.

        Raises:
            Unreachable: Not reachable for as long as the patience lasts.
            Refused: A final answer, or a transient one too often.
            Abandoned: `halt` was set.
        """
        backoff, tries, began = Backoff(), 0, time.monotonic()
        while True:
            if halt.is_set():
                raise Abandoned
            tries += 1
            trouble: Optional[Exception] = None
            try:
                return action()
            except Refused as error:
                is_down = error.status in _DOWN and not foreign
                if not error.is_transient or (not is_down and tries >= TRIES):
                    raise
                trouble = error
            except Unreachable as error:
                if foreign and tries >= TRIES:
                    raise
                trouble = error
            pause = backoff.pause()
            now = time.monotonic() + pause
            if now > began + self.retry_seconds or now > self.leave_at:
                raise trouble
            halt.wait(pause)
