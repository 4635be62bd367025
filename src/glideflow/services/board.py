# SPDX-License-Identifier: Apache-2.0
"""The board: which demands have ready jobs, kept in memory between the transactions that take them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glideflow.domain.demand import Demand
from glideflow.domain.identifiers import DemandId, PilotId
from glideflow.domain.matching import FirstComeFirstServed, Offer, match
from glideflow.store import demands
from glideflow.store.engine import Connection

OLDEST_SECONDS = 1.0
"""What is older is read again: other endpoints take jobs, too."""


@dataclass
class _Entry:
    demand: Demand
    ready: int


class Board:
    """The demands with ready jobs, as they were when they were read, less what was taken since.

    The numbers are good enough to choose by; what is really there is decided by the locks of the jobs' rows.
    """

    def __init__(self) -> None:
        self._entries: dict[DemandId, _Entry] = {}
        self._read_at = -OLDEST_SECONDS
        self._news = True

    def announce(self) -> None:
        """Note that jobs became ready; may be called by any thread."""
        self._news = True

    def refresh(self, connection: Connection) -> None:
        """Read the demands again, if that was long ago or something is new."""
        if time.monotonic() - self._read_at < OLDEST_SECONDS and not self._news:
            return
        self._news = False
        self._read_at = time.monotonic()
        self._entries = {
            demand.demand_id: _Entry(demand, ready) for demand, ready, _ in demands.with_work(connection) if ready
        }

    def choose(self, offers: Sequence[Offer]) -> list[tuple[DemandId, PilotId]]:
        """Choose jobs for pilots.

        Args:
            offers: The pilots, the longest waiting first.

        Returns:
            A demand and a pilot for each job.
        """
        ready = ((entry.demand, entry.ready) for entry in self._entries.values())
        return match(ready, offers, FirstComeFirstServed())

    def demand(self, demand_id: DemandId) -> Demand:
        """Return a demand that was chosen."""
        return self._entries[demand_id].demand

    def took(self, counts: Mapping[DemandId, int], asked: Mapping[DemandId, int]) -> None:
        """Note how many jobs were taken of how many that were asked for; less means that there are no more."""
        for key, number in asked.items():
            entry = self._entries[key]
            entry.ready = entry.ready - number if counts.get(key, 0) == number else 0
