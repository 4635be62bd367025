# SPDX-License-Identifier: Apache-2.0
"""The board: which demands have ready jobs, kept in memory between the transactions that take them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glideflow.domain.demand import Demand, Leaf
from glideflow.domain.identifiers import DemandId, PilotId
from glideflow.domain.matching import Offer, match
from glideflow.domain.shares import Room, ShareConfig, Standing
from glideflow.services.shares import Work, accounts, amounts
from glideflow.store import demands
from glideflow.store.engine import Connection

OLDEST_SECONDS = 1.0
"""What is older is read again: other endpoints take jobs, too."""
_OLDEST_USAGE_SECONDS = 10.0


@dataclass
class _Entry:
    demand: Demand
    ready: int


class Board:
    """The demands with ready jobs, as they were when they were read, less what was taken since.

    The numbers are good enough to choose by; what is really there is decided by the locks of the jobs' rows.

    Args:
        shares: The shares and limits.
    """

    def __init__(self, shares: ShareConfig) -> None:
        self.shares = shares
        self._entries: dict[DemandId, _Entry] = {}
        self._standing = Standing(shares, {})
        self._room = Room(shares, ())
        self._usage: dict[Leaf, float] = {}
        self._usage_read_at = -_OLDEST_USAGE_SECONDS
        self._waiting_since: dict[Leaf, float] = {}
        self._read_at = -OLDEST_SECONDS
        self._news = True

    def announce(self) -> None:
        """Note that jobs became ready; may be called by any thread."""
        self._news = True

    def refresh(self, connection: Connection) -> None:
        """Read the demands again, if that was long ago or something is new."""
        now = time.monotonic()
        if now - self._read_at < OLDEST_SECONDS and not self._news:
            return
        self._news = False
        self._read_at = now
        work = demands.with_work(connection)
        self._entries = {demand.demand_id: _Entry(demand, ready) for demand, ready, _ in work}
        self._room = Room(self.shares, ((demand, active) for demand, _, active in work))
        if now - self._usage_read_at > _OLDEST_USAGE_SECONDS:
            self._usage, self._usage_read_at = amounts(connection, self.shares), now
        self._note_waiting(work, now)
        waited = {leaf: now - since for leaf, since in self._waiting_since.items()}
        self._standing = Standing(self.shares, accounts(work, self._usage, waited))

    def _note_waiting(self, work: Sequence[Work], now: float) -> None:
        """Keep since when leaves have had ready jobs and no running one."""
        busy = {demand.leaf for demand, _, active in work if active}
        self._waiting_since = {
            demand.leaf: self._waiting_since.get(demand.leaf, now)
            for demand, ready, _ in work
            if ready and demand.leaf not in busy
        }

    def choose(self, offers: Sequence[Offer]) -> list[tuple[DemandId, PilotId]]:
        """Choose jobs for pilots.

        Args:
            offers: The pilots, the longest waiting first.

        Returns:
            A demand and a pilot for each job.
        """
        ready = ((entry.demand, entry.ready) for entry in self._entries.values())
        return match(ready, offers, self._standing, self._room)

    def demand(self, demand_id: DemandId) -> Demand:
        """Return a demand that was chosen."""
        return self._entries[demand_id].demand

    def took(self, counts: Mapping[DemandId, int], asked: Mapping[DemandId, int]) -> None:
        """Note how many jobs were taken of how many that were asked for; less means that there are no more."""
        for key, number in asked.items():
            entry = self._entries[key]
            missing = number - counts.get(key, 0)
            entry.ready = 0 if missing else entry.ready - number
            self._release(entry.demand, missing)

    def ended(self, counts: Mapping[DemandId, int]) -> None:
        """Note that so many jobs of demands do not run any more: others of the same user may."""
        for key, number in counts.items():
            entry = self._entries.get(key)
            if entry is not None:
                self._release(entry.demand, number)

    def _release(self, demand: Demand, number: int) -> None:
        self._room.take(demand, -number)
        self._standing.charge(demand.leaf, -number * demand.cores)
