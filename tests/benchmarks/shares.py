# SPDX-License-Identifier: Apache-2.0
"""What fair shares cost on the hot path: `python tests/benchmarks/shares.py`; needs no instance."""

import random
import statistics
import time
from collections.abc import Callable

from glideflow.domain.demand import Leaf
from glideflow.domain.shares import Account, ShareConfig, Standing

ROUNDS = 200
PICKS = 64
"""As many as exchanges share a transaction."""
SHAPES = [(1, 1, 300), (5, 6, 10), (300, 1, 1), (3, 100, 1), (1, 1, 1000)]


def accounts(vos: int, groups: int, users: int) -> dict[Leaf, Account]:
    """Make up so many VOs with groups of users that all have work."""
    rng = random.Random(3)
    return {
        (f"vo{vo}", f"group{group}", f"user{user}"): Account(
            core_seconds=rng.random() * 1e6, cores=rng.randrange(40), has_work=True
        )
        for vo in range(vos)
        for group in range(groups)
        for user in range(users)
    }


def median_us(work: Callable[[], object]) -> float:
    """Return the median time of a call, in microseconds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def main() -> None:
    """Print a table."""
    config = ShareConfig()
    print(f"| VOs x groups x users | prepare, µs | {PICKS} picks among all, µs | {PICKS} picks among 20, µs |")
    print("|---|---|---|---|")
    for shape in SHAPES:
        known = accounts(*shape)
        some = set(random.Random(1).sample(list(known), 20))
        standing = Standing(config, known)

        def serve(leaves: set[Leaf], standing: Standing = standing) -> None:
            for _ in range(PICKS):
                standing.charge(standing.pick(leaves), 1)

        figures = [
            median_us(lambda known=known: Standing(config, known)),
            median_us(lambda leaves=set(known): serve(leaves)),
            median_us(lambda leaves=some: serve(leaves)),
        ]
        print(f"| {' x '.join(map(str, shape))} | {' | '.join(f'{figure:.0f}' for figure in figures)} |")


if __name__ == "__main__":
    main()
