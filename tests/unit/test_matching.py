# SPDX-License-Identifier: Apache-2.0
"""How many jobs of which demand each pilot gets."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.demand import Demand
from glideflow.domain.identifiers import DemandId, PilotId, TaskId
from glideflow.domain.matching import Offer, match
from glideflow.domain.shares import Account, Limits, Room, ShareConfig, Standing

EQUAL = ShareConfig()


def demand(number: int, cores: int = 1, wall_seconds: int = 100, **more: Any) -> Demand:
    return Demand(
        demand_id=DemandId(number), task_id=TaskId(number), stage="main", cores=cores,
        memory_mb=100 * cores, disk_mb=10, wall_seconds=wall_seconds,
        **{"leaf": ("vo", "", "ada"), "priority": 0, "sites": ("here",), **more},
    )  # fmt: skip


def offer(name: str, cores: int = 4, want: int = 4, seconds: float = 1000, site: str = "here") -> Offer:
    return Offer(
        pilot_id=PilotId(name), site=site, node="n1", want=want, cores=cores, memory_mb=100 * cores, disk_mb=1000,
        seconds=seconds,
    )  # fmt: skip


def given_to(
    demands: list[tuple[Demand, int]],
    offers: list[Offer],
    *,
    config: ShareConfig = EQUAL,
    running: int = 0,
) -> list[tuple[int, str]]:
    """Match with equal shares, unless the configuration says otherwise, and so many running jobs of each demand."""
    accounts = {one.leaf: Account(has_work=True) for one, _ in demands}
    room = Room(config, [(one, running) for one, _ in demands])
    pairs = match(demands, offers, Standing(config, accounts), room)
    return [(int(key), str(pilot)) for key, pilot in pairs]


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


ADA, BOB = ("vo", "", "ada"), ("vo", "", "bob")


def test_users_take_turns_by_the_cores_that_they_were_given() -> None:
    demands = [(demand(1, cores=2, leaf=ADA), 9), (demand(2, leaf=BOB), 9)]
    assert [key for key, _ in given_to(demands, [offer("a", cores=6, want=6)])] == [1, 2, 2, 1]


def test_an_urgent_demand_comes_before_all_shares() -> None:
    demands = [(demand(1, leaf=BOB), 2), (demand(2, leaf=ADA), 2), (demand(3, leaf=ADA, priority=900), 2)]
    assert [key for key, _ in given_to(demands, [offer("a")])] == [3, 3, 1, 1]
    calm = ShareConfig(urgent_priority=None)
    assert [key for key, _ in given_to(demands, [offer("a")], config=calm)] == [1, 3, 1, 3]


def test_of_urgent_demands_the_most_urgent_comes_first_whoever_it_belongs_to() -> None:
    demands = [(demand(1, leaf=BOB, priority=900), 1), (demand(2, leaf=ADA, priority=1000), 2)]
    assert [key for key, _ in given_to(demands, [offer("a")])] == [2, 2, 1]


def test_no_more_jobs_of_a_user_run_than_the_limit_allows() -> None:
    config = ShareConfig(limits=Limits(running_per_user=3, users={"bob": 4}))
    demands = [(demand(1, leaf=ADA), 9), (demand(2, leaf=("other", "x", "ada")), 9), (demand(3, leaf=BOB), 9)]
    assert Counter(key for key, _ in given_to(demands, [offer("a", 99, 99)], config=config)) == {1: 1, 2: 2, 3: 4}
    assert given_to(demands[:2], [offer("a", 99, 99)], config=config, running=2) == []


def test_no_more_jobs_of_a_task_run_than_it_or_the_operator_allows() -> None:
    config = ShareConfig(limits=Limits(running_per_task=3))
    demands = [(demand(1, max_running=2), 9), (demand(2, max_running=5), 9), (demand(3), 9)]
    assert Counter(key for key, _ in given_to(demands, [offer("a", 99, 99)], config=config)) == {1: 2, 2: 3, 3: 3}


def test_a_job_goes_to_a_pilot_of_its_best_site() -> None:
    two = demand(1, sites=("there", "here"))
    assert given_to([(two, 3)], [offer("a"), offer("b", want=2, site="there")]) == [(1, "b"), (1, "b"), (1, "a")]


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
