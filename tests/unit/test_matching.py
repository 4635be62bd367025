# SPDX-License-Identifier: Apache-2.0
"""How many jobs of which demand each pilot gets."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.demand import Demand, Leaf
from glideflow.domain.identifiers import DemandId, PilotId, TaskId
from glideflow.domain.matching import FirstComeFirstServed, Offer, match


def demand(number: int, cores: int = 1, wall_seconds: int = 100, **more: Any) -> Demand:
    return Demand(
        demand_id=DemandId(number), task_id=TaskId(number), stage="main", cores=cores,
        memory_mb=100 * cores, disk_mb=10, wall_seconds=wall_seconds,
        **{"leaf": ("vo", "", "ada"), "priority": 0, "sites": ("here",), **more},
    )  # fmt: skip


def offer(name: str, cores: int = 4, want: int = 4, seconds: float = 1000) -> Offer:
    return Offer(
        pilot_id=PilotId(name), site="here", node="n1", want=want, cores=cores, memory_mb=100 * cores, disk_mb=1000,
        seconds=seconds,
    )  # fmt: skip


def given_to(demands: list[tuple[Demand, int]], offers: list[Offer]) -> list[tuple[int, str]]:
    return [(int(key), str(pilot)) for key, pilot in match(demands, offers, FirstComeFirstServed())]


def test_jobs_spread_over_the_pilots() -> None:
    assert given_to([(demand(1), 3)], [offer("a"), offer("b")]) == [(1, "a"), (1, "b"), (1, "a")]


def test_the_most_urgent_demand_comes_first_and_then_the_oldest() -> None:
    demands = [(demand(1), 1), (demand(2, priority=5), 1), (demand(3, priority=5), 1)]
    assert given_to(demands, [offer("a")]) == [(2, "a"), (3, "a"), (1, "a")]


def test_a_demand_that_does_not_fit_does_not_stop_the_next() -> None:
    assert given_to([(demand(1, cores=8), 5), (demand(2), 1)], [offer("a")]) == [(2, "a")]


def test_a_demand_that_may_not_run_at_the_site_or_on_the_node_is_left() -> None:
    demands = [(demand(1, sites=("there",)), 1), (demand(2, avoid_nodes=("n1",)), 1), (demand(3), 1)]
    assert given_to(demands, [offer("a")]) == [(3, "a")]


def test_a_job_that_cannot_finish_in_time_is_left() -> None:
    assert given_to([(demand(1, wall_seconds=2000), 1)], [offer("a")]) == []


def test_a_demand_without_ready_jobs_gives_none() -> None:
    assert given_to([(demand(1), 0)], [offer("a")]) == []


class Turns:
    """A standing that serves the one that was charged least."""

    def __init__(self) -> None:
        self.charged: Counter[str] = Counter()

    def pick(self, leaves: Collection[Leaf]) -> Leaf:
        return min(leaves, key=lambda leaf: (self.charged[leaf[2]], leaf))

    def charge(self, leaf: Leaf, core_seconds: float) -> None:
        self.charged[leaf[2]] += int(core_seconds)


def test_the_standing_says_whose_turn_it_is_and_is_charged_for_each_job() -> None:
    turns = Turns()
    demands = [(demand(1, cores=2, leaf=("vo", "", "ada")), 9), (demand(2, leaf=("vo", "", "bob")), 9)]
    pairs = match(demands, [offer("a", cores=6, want=6)], turns)
    assert [int(key) for key, _ in pairs] == [1, 2, 2, 1]
    assert turns.charged == {"ada": 400, "bob": 200}


sizes = st.integers(min_value=1, max_value=8)
rooms = st.lists(st.tuples(sizes, st.integers(0, 6)), min_size=1, max_size=6)


@given(kinds=st.lists(st.tuples(sizes, st.integers(1, 20)), max_size=10), rooms=rooms)
def test_no_pilot_gets_more_than_it_has_or_wants_and_no_demand_more_than_its_jobs(
    kinds: list[tuple[int, int]], rooms: list[tuple[int, int]]
) -> None:
    demands = [(demand(number, cores=size), ready) for number, (size, ready) in enumerate(kinds)]
    offers = [offer(str(at), cores=size, want=want) for at, (size, want) in enumerate(rooms)]
    pairs = given_to(demands, offers)
    cores = {number: size for number, (size, _) in enumerate(kinds)}
    for at, (room, want) in enumerate(rooms):
        mine = [number for number, pilot in pairs if pilot == str(at)]
        assert sum(cores[number] for number in mine) <= room
        assert len(mine) <= want
    assert all(count <= kinds[number][1] for number, count in Counter(number for number, _ in pairs).items())
    # What is left fits nowhere.
    left = [size for number, (size, ready) in enumerate(kinds) if sum(n == number for n, _ in pairs) < ready]
    free = [
        room - sum(cores[n] for n, pilot in pairs if pilot == str(at))
        for at, (room, want) in enumerate(rooms)
        if sum(pilot == str(at) for _, pilot in pairs) < want
    ]
    assert not left or not free or min(left) > max(free)
