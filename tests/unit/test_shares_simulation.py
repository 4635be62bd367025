# SPDX-License-Identifier: Apache-2.0
"""Days of a busy pool in virtual time, with the real matching: shares converge, nobody starves, limits hold."""

import heapq
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from glideflow.domain.demand import Demand, Leaf
from glideflow.domain.identifiers import DemandId, PilotId, TaskId
from glideflow.domain.matching import Offer, match
from glideflow.domain.shares import TURN_SECONDS, Account, Limits, Room, ShareConfig, Standing, used

HOUR = 3600.0
REFRESH = 300.0
A, B, C = ("a", "", "u"), ("b", "", "u"), ("c", "", "u")
CONFIG = ShareConfig.model_validate(
    {"half_life_hours": 24, "vos": {"a": {"share": 60}, "b": {"share": 30}, "c": {"share": 10}}}
)


@dataclass(kw_only=True)
class Task:
    """A task's jobs, from a time on."""

    leaf: Leaf
    seconds: float
    jobs: int = 10**9
    after: float = 0.0
    priority: int = 0
    cores: int = 1
    first_start: float | None = None

    def demand(self, number: int) -> Demand:
        return Demand(
            demand_id=DemandId(number), task_id=TaskId(number), leaf=self.leaf, stage="main", priority=self.priority,
            cores=self.cores, memory_mb=1, disk_mb=1, wall_seconds=1, sites=("here",),
        )  # fmt: skip


@dataclass(kw_only=True)
class Pool:
    """A site whose pilots take what the matching gives them; all times are virtual, all randomness has a seed."""

    config: ShareConfig
    tasks: Sequence[Task]
    cores: int
    usage: dict[Leaf, float] = field(default_factory=dict)
    now: float = 0.0
    running: list[int] = field(init=False)
    delivered: dict[Leaf, float] = field(default_factory=lambda: defaultdict(float))
    longest_wait: dict[Leaf, float] = field(default_factory=lambda: defaultdict(float))
    most_running: dict[Leaf, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.running = [0] * len(self.tasks)
        self._ends: list[tuple[float, int]] = []
        self._free = self.cores
        self._rng = random.Random(20)
        self._idle_since: dict[Leaf, float] = {}

    def held(self, leaf: Leaf) -> int:
        return sum(n * task.cores for n, task in zip(self.running, self.tasks, strict=True) if task.leaf == leaf)

    def run(self, hours: float) -> "Pool":
        """Let time pass, with a look at the usage each few minutes."""
        ends = self.now + hours * HOUR
        while self.now < ends:
            standing, room = self._look()
            until = self.now + REFRESH
            self._fill(standing, room)
            while self._ends and self._ends[0][0] < until:
                at, number = heapq.heappop(self._ends)
                self._pass(at)
                task = self.tasks[number]
                self.running[number] -= 1
                self._free += task.cores
                standing.charge(task.leaf, -task.cores)
                room.take(task.demand(number), -1)
                self._fill(standing, room)
            self._pass(until)
        return self

    def _ready(self) -> list[tuple[Demand, int]]:
        started = [task.after <= self.now for task in self.tasks]
        return [(task.demand(n), task.jobs if started[n] else 0) for n, task in enumerate(self.tasks)]

    def _look(self) -> tuple[Standing, Room]:
        accounts = {}
        for demand, ready in self._ready():
            held = self.held(demand.leaf)
            if held or not ready:
                self._idle_since[demand.leaf] = self.now
            waited = self.now - self._idle_since.setdefault(demand.leaf, self.now)
            self.longest_wait[demand.leaf] = max(self.longest_wait[demand.leaf], waited)
            known = accounts.get(demand.leaf, Account())
            accounts[demand.leaf] = Account(
                core_seconds=self.usage.get(demand.leaf, 0.0), cores=held, waited_seconds=waited,
                has_work=ready > 0 or known.has_work,
            )  # fmt: skip
        return Standing(self.config, accounts), Room(
            self.config, [(demand, self.running[demand.demand_id]) for demand, _ in self._ready()]
        )

    def _fill(self, standing: Standing, room: Room) -> None:
        if not self._free:
            return
        offer = Offer(
            pilot_id=PilotId("p"), site="here", node="n", want=self._free, cores=self._free, memory_mb=10**6,
            disk_mb=10**6, seconds=10**6,
        )  # fmt: skip
        for number, _ in match(self._ready(), [offer], standing, room):
            task = self.tasks[number]
            task.jobs -= 1
            task.first_start = self.now if task.first_start is None else task.first_start
            self.running[number] += 1
            self._free -= task.cores
            heapq.heappush(self._ends, (self.now + task.seconds * self._rng.uniform(0.8, 1.2), number))
            self.most_running[task.leaf] = max(self.most_running[task.leaf], self.held(task.leaf))

    def _pass(self, until: float) -> None:
        seconds, self.now = until - self.now, until
        for leaf in {task.leaf for task in self.tasks}:
            held = self.held(leaf)
            self.usage[leaf] = used(self.usage.get(leaf, 0.0), held, seconds, self.config.memory_seconds)
            self.delivered[leaf] += held * seconds

    def parts(self) -> dict[str, float]:
        """Each VO's part of what was delivered since the last call, and forget it."""
        total = sum(self.delivered.values())
        found = {leaf[0]: amount / total for leaf, amount in self.delivered.items()}
        self.delivered.clear()
        return found


def backlog() -> list[Task]:
    """More work than the pool can do, of short, middling and long jobs."""
    return [Task(leaf=A, seconds=1800), Task(leaf=B, seconds=3600), Task(leaf=C, seconds=900)]


FULL = 40 * CONFIG.memory_seconds
"""What 40 cores come to that one leaf has used for ever."""


@pytest.mark.parametrize("start", [{}, {A: FULL}, {C: FULL}, {A: 0.2 * FULL, B: 0.8 * FULL}], ids=str)
def test_delivered_core_seconds_converge_to_the_shares_from_any_start(start: Mapping[Leaf, float]) -> None:
    pool = Pool(config=CONFIG, tasks=backlog(), cores=40, usage=dict(start)).run(120)
    pool.parts()
    assert pool.run(24).parts() == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1}, abs=0.02)
    total = sum(pool.usage.values())
    assert {leaf[0]: amount / total for leaf, amount in pool.usage.items()} == pytest.approx(
        {"a": 0.6, "b": 0.3, "c": 0.1}, abs=0.02
    )


def test_shares_hold_at_each_level_of_the_tree() -> None:
    vo = {"share": 3, "groups": {"g": {"share": 2, "users": {"x": 4}}, "h": {"share": 1}}}
    config = ShareConfig.model_validate({"half_life_hours": 12, "vos": {"v": vo}})
    leaves = [("v", "g", "x"), ("v", "g", "y"), ("v", "h", "x"), ("w", "", "z")]
    pool = Pool(config=config, tasks=[Task(leaf=leaf, seconds=1200) for leaf in leaves], cores=60).run(24)
    total = sum(pool.delivered.values())
    expected = [0.75 * 2 / 3 * 4 / 5, 0.75 * 2 / 3 * 1 / 5, 0.75 / 3, 0.25]
    assert [pool.delivered[leaf] / total for leaf in leaves] == pytest.approx(expected, abs=0.02)


def test_others_use_what_an_idle_group_leaves_and_give_way_when_it_comes() -> None:
    tasks = backlog()
    tasks[2].after = 24 * HOUR
    pool = Pool(config=CONFIG, tasks=tasks, cores=40).run(24)
    assert pool.parts() == pytest.approx({"a": 2 / 3, "b": 1 / 3, "c": 0.0}, abs=0.02)
    pool.run(1)
    pool.parts()
    # It has used nothing yet, so it gets more than its share, and the others keep half of theirs.
    parts = pool.run(4).parts()
    assert parts["c"] > 0.15
    assert parts["a"] > 0.29
    assert parts["b"] > 0.14


def test_nobody_starves_in_a_small_pool_whatever_was_used_before() -> None:
    config = ShareConfig.model_validate({"half_life_hours": 168, "vos": {"a": {"share": 90}, "c": {"share": 10}}})
    users = [Task(leaf=("c", "", f"u{number}"), seconds=HOUR) for number in range(5)]
    history = {("c", "", "u0"): 8 * config.memory_seconds}
    tasks = [Task(leaf=A, seconds=HOUR), *users]
    pool = Pool(config=config, tasks=tasks, cores=8, usage=dict(history)).run(100)
    # Half of 10 % of 8 cores, for five users, is a core for one hour in 12.5 for each; then the turn of the VO comes.
    assert max(pool.longest_wait.values()) < 12.5 * TURN_SECONDS + 2 * HOUR
    assert all(pool.delivered[task.leaf] > 0 for task in tasks)


def test_a_small_urgent_task_starts_as_soon_as_a_core_is_free() -> None:
    urgent = Task(leaf=C, seconds=300, jobs=10, after=12 * HOUR, priority=900)
    usual = Task(leaf=("c", "", "v"), seconds=300, jobs=10, after=12 * HOUR)
    Pool(config=CONFIG, tasks=[*backlog(), urgent, usual], cores=40, usage={C: FULL}).run(12.2)
    # With 40 cores and jobs of half an hour a core is free about each minute.
    assert urgent.jobs == 0
    assert usual.jobs > 7
    assert urgent.first_start is not None
    assert urgent.first_start - 12 * HOUR < 120


def test_the_limit_of_a_user_holds_and_others_use_the_rest() -> None:
    config = CONFIG.model_copy(update={"limits": Limits(users={"limited": 7})})
    limited = ("a", "", "limited")
    pool = Pool(config=config, tasks=[Task(leaf=limited, seconds=700), *backlog()[1:]], cores=40).run(12)
    assert pool.most_running[limited] == 7
    assert pool.parts() == pytest.approx({"a": 7 / 40, "b": 33 / 40 * 0.75, "c": 33 / 40 * 0.25}, abs=0.03)
