# SPDX-License-Identifier: Apache-2.0
"""Which jobs go to which pilots: how many of which demand each pilot gets."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from glideflow.domain.demand import Demand, Leaf
from glideflow.domain.identifiers import DemandId, PilotId
from glideflow.domain.shares import Room, Standing


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
    demands: Iterable[tuple[Demand, int]],
    offers: Sequence[Offer],
    standing: Standing,
    room: Room,
) -> list[tuple[DemandId, PilotId]]:
    """Give jobs to pilots, one by one: to whose turn it is, of his most urgent demand, to a pilot of its best site.

    Urgent demands come before all others, the most urgent first.

    Args:
        demands: Demands with their numbers of ready jobs, the oldest first.
        offers: Pilots that want work, the longest waiting first.
        standing: Whose turn it is; it is charged for what is given.
        room: The limits of running jobs; what is given is noted there.

    Returns:
        A pair for each job; no pilot gets more than it wants or has room for. Jobs and pilots may remain.
    """
    left: dict[str, list[Offer]] = defaultdict(list)
    for offer in offers:
        left[offer.site].append(offer)
    pairs: list[tuple[DemandId, PilotId]] = []
    for queues in _rounds(demands, standing):
        while left and queues:
            leaf = standing.pick(queues)
            demand, ready = queues[leaf][-1]
            found = _best_offer(demand, left) if room.has(demand) else None
            if found is not None:
                pairs.append((demand.demand_id, found.pilot_id))
                standing.charge(leaf, demand.cores)
                room.take(demand)
                _serve(left[found.site], demand, found)
                if not left[found.site]:
                    del left[found.site]
                queues[leaf][-1] = (demand, ready - 1)
            if found is None or ready == 1:
                queues[leaf].pop()
                if not queues[leaf]:
                    del queues[leaf]
    return pairs


def _best_offer(demand: Demand, left: Mapping[str, Sequence[Offer]]) -> Offer | None:
    """Return the first pilot that a job fits, of the best site that has one."""
    for site in demand.sites:
        for offer in left.get(site, ()):
            if fits(demand, offer):
                return offer
    return None


def _serve(offers: list[Offer], demand: Demand, offer: Offer) -> None:
    """Take a job's part from an offer; the pilot goes to the end, so that jobs spread over the pilots."""
    offers.remove(offer)
    rest = take(demand, offer)
    if rest.want > 0:
        offers.append(rest)


def _rounds(
    demands: Iterable[tuple[Demand, int]], standing: Standing
) -> Iterator[dict[Leaf, list[tuple[Demand, int]]]]:
    """Yield the queues of the urgent demands, for each priority one set, and then those of all others."""
    urgent: dict[int, list[tuple[Demand, int]]] = defaultdict(list)
    others: list[tuple[Demand, int]] = []
    for entry in demands:
        if entry[1] > 0:
            priority = entry[0].priority
            (urgent[priority] if standing.config.is_urgent(priority) else others).append(entry)
    for priority in sorted(urgent, reverse=True):
        yield _queues(urgent[priority])
    yield _queues(others)


def _queues(demands: Iterable[tuple[Demand, int]]) -> dict[Leaf, list[tuple[Demand, int]]]:
    """Return each leaf's demands, the one to be served first at the end."""
    queues: dict[Leaf, list[tuple[Demand, int]]] = defaultdict(list)
    for entry in demands:
        queues[entry[0].leaf].append(entry)
    for queue in queues.values():
        queue.sort(key=lambda entry: (entry[0].priority, -entry[0].demand_id))
    return dict(queues)
