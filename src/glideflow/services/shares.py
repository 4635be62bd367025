# SPDX-License-Identifier: Apache-2.0
"""Count what VOs, groups and users use, and tell how they stand.

The cores that jobs hold are read every few seconds from the counts of jobs, which costs the same for a million jobs as
for ten, and added up over time. What runs counts while it runs.
"""

from collections.abc import Iterable, Mapping

from glideflow.domain.demand import Demand, Leaf
from glideflow.domain.shares import Account, ShareConfig, used
from glideflow.store import demands, usage
from glideflow.store.engine import Connection, Database

COUNT_SECONDS = 10.0
"""Between two counts."""
_LONGEST_SECONDS = 600.0
"""Nobody counted for longer: what ran before is not known, so only this time is taken for what runs now."""

Work = tuple[Demand, int, int]
"""A demand with its numbers of ready and of running jobs."""


def count_usage(database: Database, config: ShareConfig) -> bool:
    """Add what was used since the last count; returns False when that was just now, or another process does it.

    Args:
        database: The store.
        config: The shares, for the half-life.
    """
    with database.transaction() as connection:
        seconds = usage.seconds_since_count(connection)
        if seconds is None or seconds < COUNT_SECONDS / 2:
            return False
        counted = min(seconds, _LONGEST_SECONDS)
        known, memory = usage.read(connection), config.memory_seconds
        fresh = {}
        for leaf, cores in _cores(demands.with_work(connection)).items():
            amount, age = known.get(leaf, (0.0, counted))
            before = used(amount, 0, max(age - counted, 0.0), memory)
            fresh[leaf] = used(before, cores, counted, memory)
        usage.save(connection, fresh)
    return True


def _cores(work: Iterable[Work]) -> dict[Leaf, int]:
    """Return the cores that each leaf's jobs hold, where there are any."""
    held: dict[Leaf, int] = {}
    for demand, _, active in work:
        if active:
            held[demand.leaf] = held.get(demand.leaf, 0) + active * demand.cores
    return held


def amounts(connection: Connection, config: ShareConfig) -> dict[Leaf, float]:
    """Return what each leaf has used, as it counts now."""
    memory = config.memory_seconds
    return {leaf: used(amount, 0, age, memory) for leaf, (amount, age) in usage.read(connection).items()}


def accounts(
    work: Iterable[Work], core_seconds: Mapping[Leaf, float], waited_seconds: Mapping[Leaf, float]
) -> dict[Leaf, Account]:
    """Return what is known of each leaf, those with work first, the one with the oldest demand in front.

    Args:
        work: Demands with ready or running jobs, the oldest first.
        core_seconds: What leaves have used.
        waited_seconds: How long leaves have waited for a first job.
    """
    every = list(work)
    held = _cores(every)
    found = {
        demand.leaf: Account(
            core_seconds=core_seconds.get(demand.leaf, 0.0),
            cores=held.get(demand.leaf, 0),
            waited_seconds=waited_seconds.get(demand.leaf, 0.0),
            has_work=True,
        )
        for demand, ready, _ in every
        if ready
    }
    for leaf in (*held, *core_seconds):
        if leaf not in found:
            found[leaf] = Account(core_seconds=core_seconds.get(leaf, 0.0), cores=held.get(leaf, 0))
    return found
