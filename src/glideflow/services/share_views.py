# SPDX-License-Identifier: Apache-2.0
"""How VOs, groups and users stand: the tree for `glideflow shares`, and a job's place for `explain`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glideflow.domain.demand import Demand, Leaf
from glideflow.domain.shares import Node, Room, ShareConfig, Standing, make_tree
from glideflow.services.shares import Work, accounts, amounts
from glideflow.store import demands
from glideflow.store.engine import Connection, Database

View = dict[str, Any]
KINDS = ("vo", "group", "user")


def share_page(database: Database, config: ShareConfig) -> View:
    """Return the tree of shares with what each node may have, has used and holds.

    Args:
        database: The store.
        config: The shares.
    """
    with database.snapshot() as connection:
        work = demands.with_work(connection)
        tree = make_tree(config, accounts(work, amounts(connection, config), {}))
    return {
        "half_life_hours": config.half_life_hours,
        "urgent_priority": config.urgent_priority,
        "limits": config.limits.model_dump(),
        "items": list(_nodes(config, tree, _jobs(work), (), 1.0, tree.core_seconds)),
    }


def _jobs(work: Sequence[Work]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the numbers of running and ready jobs of each node, by its path."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for demand, ready, active in work:
        for end in (1, 2, 3):
            before = found.get(demand.leaf[:end], (0, 0))
            found[demand.leaf[:end]] = (before[0] + active, before[1] + ready)
    return found


def _nodes(
    config: ShareConfig,
    parent: Node,
    jobs: Mapping[tuple[str, ...], tuple[int, int]],
    path: tuple[str, ...],
    target: float,
    total: float,
) -> Iterator[View]:
    """Yield what is below a node; `target` is the part of all cores that the node may have."""
    named = config.named(path)
    known = {name: Node(name=name, share=share, order=0) for name, share in named.items()} | parent.children
    working = sum(child.share for child in known.values() if child.has_work)
    for name, child in sorted(known.items()):
        here = (*path, name)
        part = target * child.share / working if child.has_work else None
        running, ready = jobs.get(here, (0, 0))
        below = _nodes(config, child, jobs, here, part or 0.0, total) if len(here) < len(KINDS) else ()
        yield {
            "kind": KINDS[len(path)],
            "name": name,
            "share": child.share,
            "target": part,
            "used": child.core_seconds / total if total else 0.0,
            "core_seconds": child.core_seconds,
            "cores": child.cores,
            "running": running,
            "ready": ready,
            "items": list(below),
        }


def place_in_shares(connection: Connection, config: ShareConfig, demand: Demand) -> Iterator[str]:
    """Say in sentences where the ready jobs of a demand stand among those of others.

    Args:
        connection: The caller's transaction.
        config: The shares and limits.
        demand: The demand; it has ready jobs.
    """
    work = demands.with_work(connection)
    known = accounts(work, amounts(connection, config), {})
    reached = Room(config, ((one, active) for one, _, active in work)).reached(demand)
    if reached:
        yield f"It waits until another job ends: {reached}."
    if config.is_urgent(demand.priority):
        yield f"Its priority, {demand.priority}, is urgent: it goes before all shares."
    elif demand.leaf in known and known[demand.leaf].has_work:
        yield from _standing(make_tree(config, known), demand.leaf)
        number, every = Standing(config, known).number(demand.leaf)
        if every > 1:
            yield f"Its owner is number {number} of {every} with ready jobs; each job that is handed out changes that."


def _standing(tree: Node, leaf: Leaf) -> Iterator[str]:
    levels = []
    parent = tree
    for kind, name in zip(KINDS, leaf, strict=True):
        child = parent.children[name]
        working = [one for one in parent.children.values() if one.has_work]
        if len(working) > 1:
            share = child.share / sum(one.share for one in working)
            used = sum(one.core_seconds for one in working)
            has = f"{child.core_seconds / used:.0%}" if used else "nothing yet"
            named = f"{kind} {name}" if name else "what has no group"
            levels.append(f"{named} may have {share:.0%} and has used {has}, with {child.cores} cores running now")
        parent = child
    if levels:
        yield f"By the shares, {'; in it '.join(levels)}."
    else:
        yield "Nobody else has ready jobs, so that shares do not matter now."
