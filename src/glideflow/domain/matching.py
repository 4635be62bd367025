# SPDX-License-Identifier: Apache-2.0
"""Which job goes to which pilot."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from glideflow.domain.identifiers import JobId, PilotId


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a ready job needs."""

    job_id: JobId
    cores: int
    memory_mb: int
    disk_mb: int
    wall_seconds: int
    pinned_site: str | None = None


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a pilot has free and how many jobs it wants."""

    pilot_id: PilotId
    site: str
    want: int
    cores: int
    memory_mb: int
    disk_mb: int
    seconds: float


def fits(job: Demand, offer: Offer) -> bool:
    """Tell whether a job fits what a pilot has left."""
    return (
        offer.want > 0
        and job.cores <= offer.cores
        and job.memory_mb <= offer.memory_mb
        and job.disk_mb <= offer.disk_mb
        and job.wall_seconds <= offer.seconds
        and job.pinned_site in (None, offer.site)
    )


def take(job: Demand, offer: Offer) -> Offer:
    """Return what a pilot has left after taking a job."""
    return replace(
        offer,
        want=offer.want - 1,
        cores=offer.cores - job.cores,
        memory_mb=offer.memory_mb - job.memory_mb,
        disk_mb=offer.disk_mb - job.disk_mb,
    )


def match(jobs: Iterable[Demand], offers: Sequence[Offer]) -> list[tuple[JobId, PilotId]]:
    """Give each job, in the order of the queue, to the first pilot that it fits.

    Args:
        jobs: Ready jobs, the most urgent first.
        offers: Pilots that want work, the longest waiting first.

    Returns:
        Pairs of job and pilot; no pilot gets more than it wants or has room for. Jobs and pilots may remain.
    """
    left = list(offers)
    pairs: list[tuple[JobId, PilotId]] = []
    for job in jobs:
        position = next((at for at, offer in enumerate(left) if fits(job, offer)), None)
        if position is None:
            continue
        pairs.append((job.job_id, left[position].pilot_id))
        # The served pilot goes to the end: jobs spread over the pilots.
        left.append(take(job, left.pop(position)))
        left = [offer for offer in left if offer.want > 0]
        if not left:
            break
    return pairs
