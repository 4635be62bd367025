# SPDX-License-Identifier: Apache-2.0
"""Which jobs go to which pilots: how many of which demand each pilot gets."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from glideflow.domain.demand import Demand, Leaf
from glideflow.domain.identifiers import DemandId, PilotId


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a pilot has free and how many jobs it wants."""

    pilot_id: PilotId
    site: str
    node: str
    want: int
    cores: int
    memory_mb: int
    disk_mb: int
    seconds: float


class Standing(Protocol):
    """Whose turn it is."""

    def pick(self, leaves: Collection[Leaf]) -> Leaf:
        """Return the one of some leaves that is served next."""

    def charge(self, leaf: Leaf, core_seconds: float) -> None:
        """Note what a leaf was given."""


class FirstComeFirstServed:
    """A standing that knows no shares: the oldest demand first."""

    def pick(self, leaves: Collection[Leaf]) -> Leaf:
        """Return the first one."""
        return next(iter(leaves))

    def charge(self, leaf: Leaf, core_seconds: float) -> None:
        """Note nothing."""


def fits(demand: Demand, offer: Offer) -> bool:
    """Tell whether a job fits what a pilot has left, and may run there."""
    return (
        offer.want > 0
        and demand.cores <= offer.cores
        and demand.memory_mb <= offer.memory_mb
        and demand.disk_mb <= offer.disk_mb
        and demand.wall_seconds <= offer.seconds
        and offer.site in demand.sites
        and offer.node not in demand.avoid_nodes
    )


def take(demand: Demand, offer: Offer) -> Offer:
    """Return what a pilot has left after taking a job."""
    return replace(
        offer,
        want=offer.want - 1,
        cores=offer.cores - demand.cores,
        memory_mb=offer.memory_mb - demand.memory_mb,
        disk_mb=offer.disk_mb - demand.disk_mb,
    )


def match(
    demands: Iterable[tuple[Demand, int]], offers: Sequence[Offer], standing: Standing
) -> list[tuple[DemandId, PilotId]]:
    """Give jobs to pilots, one by one: to whose turn it is, of his most urgent demand, to the first pilot that fits.

    Args:
        demands: Demands with their numbers of ready jobs, the oldest first.
        offers: Pilots that want work, the longest waiting first.
        standing: Whose turn it is; it is charged for what is given.

    Returns:
        A pair for each job; no pilot gets more than it wants or has room for. Jobs and pilots may remain.
    """
    left = list(offers)
    queues = _queues(demands)
    pairs: list[tuple[DemandId, PilotId]] = []
    while left and queues:
        leaf = standing.pick(queues)
        demand, ready = queues[leaf][-1]
        at = next((at for at, offer in enumerate(left) if fits(demand, offer)), None)
        if at is not None:
            offer = left.pop(at)
            pairs.append((demand.demand_id, offer.pilot_id))
            standing.charge(leaf, demand.cores * demand.wall_seconds)
            rest = take(demand, offer)
            if rest.want > 0:
                # The served pilot goes to the end: jobs spread over the pilots.
                left.append(rest)
            queues[leaf][-1] = (demand, ready - 1)
        if at is None or ready == 1:
            queues[leaf].pop()
            if not queues[leaf]:
                del queues[leaf]
    return pairs


def _queues(demands: Iterable[tuple[Demand, int]]) -> dict[Leaf, list[tuple[Demand, int]]]:
    """Return each leaf's demands, the one to be served first at the end."""
    queues: dict[Leaf, list[tuple[Demand, int]]] = defaultdict(list)
    for demand, ready in demands:
        if ready > 0:
            queues[demand.leaf].append((demand, ready))
    for queue in queues.values():
        queue.sort(key=lambda entry: (entry[0].priority, -entry[0].demand_id))
    return dict(queues)
