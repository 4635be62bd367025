# SPDX-License-Identifier: Apache-2.0
"""Fair shares as a tree of VO, group and user: who is served next, and who has as much as he may have.

The shares say how the cores are divided among those who have work; what somebody leaves, the others use. Of two
siblings of the tree the one is served that has used less for its share. What was used is forgotten with a half-life.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Annotated

from pydantic import Field

from glideflow.domain.demand import Demand, Leaf
from glideflow.domain.identifiers import TaskId
from glideflow.domain.model import Model

Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MostRunning = Annotated[int, Field(ge=1)]

KEPT = 0.5
"""Whoever has work keeps this part of its share while others catch up, whatever it used before."""
TURN_SECONDS = 3600.0
"""Whoever has a share of less than a core waits as if each of its jobs took so long."""
AHEAD = 1 / 40
"""A running core counts as if it went on for this part of the half-life: what was handed out counts at once."""
_FEW = 8
"""Fewer leaves than one in so many are compared with each other; among more of them the first in line is soon found."""


class GroupShares(Model):
    """The share of a group in its VO, and those of its users."""

    share: Share = 1.0
    """Its share, relative to those of the other groups of the VO."""
    default_share: Share = 1.0
    """The share of each user that is not named."""
    users: dict[str, Share] = Field(default_factory=dict)
    """Shares of users, by subject."""


class VoShares(GroupShares):
    """The share of a VO, and those of its groups."""

    share: Share = 1.0
    """Its share, relative to those of the other VOs."""
    default_share: Share = 1.0
    """The share of each group that is not named, of the tasks without a group together, and of each of their users."""
    groups: dict[str, GroupShares] = Field(default_factory=dict)
    """Shares of groups, by the `group` of the tasks."""
    users: dict[str, Share] = Field(default_factory=dict)
    """Shares of users in tasks without a group, by subject."""


class Limits(Model):
    """How many jobs may run at once; what is not given is not limited."""

    running_per_user: MostRunning | None = None
    """Most jobs of one user, over all VOs and groups."""
    running_per_task: MostRunning | None = None
    """Most jobs of one task; a task may ask for less with `max_running`."""
    users: dict[str, MostRunning] = Field(default_factory=dict)
    """Most jobs of single users, by subject, instead of `running_per_user`."""


class ShareConfig(Model):
    """The shares file."""

    half_life_hours: float = Field(default=168.0, gt=0, allow_inf_nan=False)
    """After this time what was used counts half."""
    urgent_priority: Annotated[int, Field(ge=-1000, le=1000)] | None = 900
    """Tasks of this priority or a higher one go before all shares; `null` for none."""
    default_share: Share = 1.0
    """The share of each VO that is not named."""
    vos: dict[str, VoShares] = Field(default_factory=dict)
    """Shares of VOs, by name."""
    limits: Limits = Field(default_factory=Limits)
    """How many jobs may run at once."""

    @property
    def memory_seconds(self) -> float:
        """What one core used all the time counts, in core-seconds."""
        return self.half_life_hours * 3600.0 / log(2)

    def is_urgent(self, priority: int) -> bool:
        """Tell whether a task of a priority goes before all shares."""
        return self.urgent_priority is not None and priority >= self.urgent_priority

    def shares(self, leaf: Leaf) -> tuple[float, float, float]:
        """Return the share of a leaf's VO, of the group in the VO, and of the user in the group."""
        vo, group, user = leaf
        its_vo = self.vos.get(vo)
        if its_vo is None:
            return self.default_share, 1.0, 1.0
        its_group = its_vo.groups.get(group)
        if its_group is None:
            users, other = (its_vo.users if group == "" else {}), its_vo.default_share
            return its_vo.share, its_vo.default_share, users.get(user, other)
        return its_vo.share, its_group.share, its_group.users.get(user, its_group.default_share)

    def named(self, path: Sequence[str]) -> dict[str, float]:
        """Return the shares of what is named below a node: VOs below `()`, groups below a VO, users below a group."""
        if not path:
            return {name: vo.share for name, vo in self.vos.items()}
        vo = self.vos.get(path[0], VoShares())
        if len(path) == 1:
            without = {"": vo.default_share} if vo.users else {}
            return {name: group.share for name, group in vo.groups.items()} | without
        return dict(vo.users if path[1] == "" else vo.groups.get(path[1], GroupShares()).users)

    def most_of_user(self, user: str) -> int | None:
        """Return how many jobs of a user may run at once; None for any number."""
        return self.limits.users.get(user, self.limits.running_per_user)

    def most_of_task(self, wished: int | None) -> int | None:
        """Return how many jobs of a task may run at once, given what the task says of it; None for any number."""
        given = [most for most in (wished, self.limits.running_per_task) if most is not None]
        return min(given, default=None)


def used(core_seconds: float, cores: float, seconds: float, memory_seconds: float) -> float:
    """Return what a leaf has used some time later, of which the older part is forgotten.

    Args:
        core_seconds: What it had used before.
        cores: The cores that its jobs held in between.
        seconds: The time in between.
        memory_seconds: Half-life over ln 2, seconds.
    """
    kept: float = 2.0 ** (-seconds / (memory_seconds * log(2)))
    return core_seconds * kept + cores * memory_seconds * (1.0 - kept)


@dataclass(frozen=True, kw_only=True)
class Account:
    """What is known of a leaf at one time."""

    core_seconds: float = 0.0
    """What its jobs have used, the older the less."""
    cores: int = 0
    """Cores that its jobs hold now."""
    waited_seconds: float = 0.0
    """How long it has had ready jobs and no running one."""
    has_work: bool = False
    """Whether it has ready jobs."""


@dataclass(kw_only=True, eq=False)
class Node:
    """A VO, a group or a user; the root is all of them."""

    name: str
    """Its name."""
    share: float
    """Its share, relative to its siblings'."""
    order: int
    """Place among all nodes: of equals, the first one is served."""
    leaf: Leaf | None = None
    """For a user: the leaf."""
    core_seconds: float = 0.0
    """What was used, below it too."""
    cores: int = 0
    """Cores that are held, below it too."""
    waited_seconds: float = 0.0
    """How long something below it has waited for a first job."""
    has_work: bool = False
    """Whether something below it has ready jobs."""
    children: dict[str, "Node"] = field(default_factory=dict)
    """By name."""


def make_tree(config: ShareConfig, accounts: Mapping[Leaf, Account]) -> Node:
    """Return the tree of all VOs, groups and users that are known, with what each has used.

    Args:
        config: The shares.
        accounts: What is known of each leaf; of leaves that are equal the first one will be served.
    """
    root = Node(name="", share=1.0, order=0)
    number = 0
    for leaf, account in accounts.items():
        node = root
        _add(node, account)
        for name, share in zip(leaf, config.shares(leaf), strict=True):
            child = node.children.get(name)
            if child is None:
                number += 1
                child = node.children[name] = Node(name=name, share=share, order=number)
            node = child
            _add(node, account)
        node.leaf = leaf
    return root


def _add(node: Node, account: Account) -> None:
    node.core_seconds += account.core_seconds
    node.cores += account.cores
    node.waited_seconds = max(node.waited_seconds, account.waited_seconds)
    node.has_work = node.has_work or account.has_work


_Rank = tuple[int, float, int]
"""Kept part or not, how much it has for its share, place among all: the lowest is served first."""


class _Turn:
    """A node with work among its siblings."""

    __slots__ = ("ahead_seconds", "cores", "kept_cores", "leaf", "order", "queue", "rank", "share", "used")

    def __init__(self, node: Node, kept_cores: float, ahead_seconds: float) -> None:
        self.leaf = node.leaf
        self.used = node.core_seconds
        self.cores = node.cores
        self.share = node.share
        self.order = node.order
        self.kept_cores = kept_cores
        self.ahead_seconds = ahead_seconds
        self.queue: list[tuple[_Rank, _Turn]] = []
        self.rank = self._rank()

    def _rank(self) -> _Rank:
        if self.cores + 1 <= self.kept_cores:
            return 0, (self.cores + 1) / self.kept_cores, self.order
        return 1, (self.used + self.ahead_seconds * self.cores) / self.share, self.order

    def charge(self, cores: int) -> None:
        # Jobs may end that another endpoint handed out since the numbers were read.
        self.cores = max(0, self.cores + cores)
        self.rank = self._rank()


class Standing:
    """Who is served next; an answer costs a few microseconds.

    Among siblings with work the one comes first that has used least for its share, what runs now included. Before
    that come those that hold less than half of their share of the cores in use: others that catch up do not displace
    them. Whoever's share is less than a core earns one by waiting.

    Args:
        config: The shares.
        accounts: What is known of each leaf, the one with the oldest demand first; those without work count for their
            group and VO.
    """

    def __init__(self, config: ShareConfig, accounts: Mapping[Leaf, Account]) -> None:
        self.config = config
        self._ahead_seconds = AHEAD * config.half_life_hours * 3600.0
        self._paths: dict[Leaf, tuple[_Turn, ...]] = {}
        tree = make_tree(config, accounts)
        self._vos: list[tuple[_Rank, _Turn]] = self._line_up(tree, tree.cores, ())

    def _line_up(self, parent: Node, cores: float, path: tuple[_Turn, ...]) -> list[tuple[_Rank, _Turn]]:
        """Return the parent's children with work, the one to be served first in front, each with its own.

        Args:
            parent: The parent.
            cores: What it holds, or should hold by its share if that is more.
            path: The nodes from the root to the parent.
        """
        working = [child for child in parent.children.values() if child.has_work]
        total = sum(child.share for child in working)
        turns = []
        for child in working:
            fair = cores * child.share / total
            waited = 0.0 if child.cores else child.waited_seconds
            turn = _Turn(child, KEPT * fair * (1.0 + waited / TURN_SECONDS), self._ahead_seconds)
            turns.append((turn.rank, turn))
            if child.leaf is not None:
                self._paths[child.leaf] = (*path, turn)
            else:
                turn.queue = self._line_up(child, max(child.cores, fair), (*path, turn))
        turns.sort()
        return turns

    def pick(self, leaves: Collection[Leaf]) -> Leaf:
        """Return the one of some leaves that is served next.

        Args:
            leaves: Leaves that have work; best a set or a dictionary.

        Raises:
            KeyError: None of them was known to have work.
        """
        if len(leaves) * _FEW < len(self._paths):
            return min(leaves, key=self._place)
        for _, vo in self._vos:
            for _, group in vo.queue:
                for _, user in group.queue:
                    if user.leaf in leaves and user.leaf is not None:
                        return user.leaf
        raise KeyError(f"no work was known of {sorted(leaves)}")

    def number(self, leaf: Leaf) -> tuple[int, int]:
        """Return the place of a leaf among those with work, 1 for the one served next, and how many they are."""
        place = self._place(leaf)
        return 1 + sum(self._place(other) < place for other in self._paths), len(self._paths)

    def _place(self, leaf: Leaf) -> tuple[_Rank, ...]:
        vo, group, user = self._paths[leaf]
        return vo.rank, group.rank, user.rank

    def charge(self, leaf: Leaf, cores: int) -> None:
        """Note that a leaf was given jobs.

        Args:
            leaf: The leaf; one that was not known to have work changes nothing.
            cores: Cores of the jobs; negative for jobs that ended.
        """
        queue = self._vos
        for turn in self._paths.get(leaf, ()):
            del queue[bisect_left(queue, (turn.rank,))]
            turn.charge(cores)
            insort(queue, (turn.rank, turn))
            queue = turn.queue


class Room:
    """How many more jobs may run under the limits per user and per task.

    Args:
        config: The limits.
        running: Demands, with the numbers of their running jobs.
    """

    def __init__(self, config: ShareConfig, running: Iterable[tuple[Demand, int]]) -> None:
        self._config = config
        self._users: dict[str, int] = {}
        self._tasks: dict[TaskId, int] = {}
        for demand, number in running:
            self.take(demand, number)

    def has(self, demand: Demand) -> bool:
        """Tell whether one more job of a demand may run."""
        *_, user = demand.leaf
        of_user, of_task = self._config.most_of_user(user), self._config.most_of_task(demand.max_running)
        return (of_user is None or self._users.get(user, 0) < of_user) and (
            of_task is None or self._tasks.get(demand.task_id, 0) < of_task
        )

    def reached(self, demand: Demand) -> str | None:
        """Say which limit keeps more jobs of a demand from running; None where there is room."""
        *_, user = demand.leaf
        of_user, of_task = self._config.most_of_user(user), self._config.most_of_task(demand.max_running)
        if of_user is not None and self._users.get(user, 0) >= of_user:
            return f"running jobs of {user}: {self._users[user]:,}, and the limit is {of_user:,}"
        if of_task is not None and self._tasks.get(demand.task_id, 0) >= of_task:
            return f"running jobs of the task: {self._tasks[demand.task_id]:,}, and the limit is {of_task:,}"
        return None

    def take(self, demand: Demand, number: int = 1) -> None:
        """Note that so many more jobs of a demand run; fewer where the number is negative."""
        *_, user = demand.leaf
        self._users[user] = self._users.get(user, 0) + number
        self._tasks[demand.task_id] = self._tasks.get(demand.task_id, 0) + number
