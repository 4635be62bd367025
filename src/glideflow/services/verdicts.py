# SPDX-License-Identifier: Apache-2.0
"""Apply failure policies to attempts that ended without success: gather what counts, let the domain judge, keep it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glideflow.domain.demand import Demand
from glideflow.domain.failure_policy import Failure, History, Layer, Room, Surroundings, Verdict, judge
from glideflow.domain.identifiers import DemandId
from glideflow.domain.reasons import Reason
from glideflow.services.policies import Policies, rules_of
from glideflow.store import attempts, demands, jobs, pilots, tasks
from glideflow.store.engine import Connection

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """An attempt that ended without success."""

    row: Row
    """The attempt with its job, as locked."""
    reason: Reason
    """Why."""
    exit_code: int | None = None
    signal: int | None = None
    started_at: str | None = None
    """When its command started, if the pilot said so."""


def judge_attempts(connection: Connection, policies: Policies, failed: Sequence[Failed]) -> list[tuple[Failed, Row]]:
    """Decide what becomes of jobs whose attempts ended without success, and note on each attempt which rule fired.

    Args:
        connection: The caller's transaction.
        policies: The rules of sites and system; those of the tasks are read.
        failed: The attempts, which are locked. Their jobs are locked here: a user may order something meanwhile.

    Returns:
        Each attempt with its job's next `state`, and the values of `store.jobs.settle`.
    """
    rows = {row["id"]: row for row in jobs.lock(connection, (item.row["job_id"] for item in failed))}
    asked = demands.read(connection, {row["demand_id"] for row in rows.values()})
    written = tasks.policies(connection, {row["task_id"] for row in rows.values()})
    nodes: dict[DemandId, list[str]] = {}
    verdicts: dict[int, Verdict] = {}
    for item in failed:
        job = rows[item.row["job_id"]]
        task, demand = written[job["task_id"]], asked[job["demand_id"]]
        layers = policies.layers(rules_of(task["failure_policy"]), job["site"])
        if _asks_for_nodes(layers) and demand.demand_id not in nodes:
            nodes[demand.demand_id] = pilots.nodes(connection, demand.sites)
        around = _surroundings(policies, demand, nodes.get(demand.demand_id, ()))
        verdicts[job["id"]] = judge(layers, _failure(item, job), _history(job, demand, task["retries"]), around)
    decided = [(item, verdicts[item.row["job_id"]]) for item in failed]
    notes = [{"id": item.row["id"], "rule": verdict.rule, "verdict": verdict.text} for item, verdict in decided]
    attempts.note_verdicts(connection, notes)
    moved = _next_demands(connection, {key: asked[row["demand_id"]] for key, row in rows.items()}, verdicts)
    return [(item, _values(verdict, moved.get(item.row["job_id"]))) for item, verdict in decided]


def _asks_for_nodes(layers: Iterable[Layer]) -> bool:
    return any(rule.retry and rule.retry.elsewhere == "node" for layer in layers for rule in layer.rules)


def _failure(item: Failed, job: Row) -> Failure:
    return Failure(reason=item.reason, exit_code=item.exit_code, signal=item.signal, site=job["site"], node=job["node"])


def _history(job: Row, demand: Demand, retries: int) -> History:
    return History(
        retries=retries,
        failures=job["failures"],
        counts=job["rule_counts"] or {},
        memory_mb=demand.memory_mb,
        wall_seconds=demand.wall_seconds,
        avoid_sites=demand.avoid_sites,
        avoid_nodes=demand.avoid_nodes,
    )


def _surroundings(policies: Policies, demand: Demand, nodes: Collection[str]) -> Surroundings:
    sites = [policies.sites[name] for name in demand.sites if name in policies.sites]
    rooms = {site.name: Room(memory_mb=site.memory_mb, wall_seconds=int(site.longest_job_seconds)) for site in sites}
    return Surroundings(rooms=rooms, nodes=frozenset(nodes))


def _next_demands(
    connection: Connection, asked: Mapping[int, Demand], verdicts: Mapping[int, Verdict]
) -> dict[int, DemandId]:
    """Return the demands of the jobs that ask for something else from now on."""
    wanted: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for job, verdict in verdicts.items():
        demand = asked[job]
        new = (verdict.memory_mb, verdict.wall_seconds, verdict.avoid_sites, verdict.avoid_nodes)
        if new != (demand.memory_mb, demand.wall_seconds, demand.avoid_sites, demand.avoid_nodes):
            wanted[demand.demand_id, *new].append(job)
    made: dict[int, DemandId] = {}
    # In one order everywhere, so that two transactions do not wait for each other.
    for (demand_id, memory_mb, wall_seconds, sites, nodes), members in sorted(wanted.items()):
        numbers = {"memory_mb": memory_mb, "wall_seconds": wall_seconds}
        places = {"avoid_sites": list(sites), "avoid_nodes": list(nodes)}
        made |= dict.fromkeys(members, demands.change(connection, demand_id, numbers | places))
    return made


def _values(verdict: Verdict, demand_id: DemandId | None) -> Row:
    return {
        "state": verdict.state,
        "failures": verdict.failures,
        "rule_counts": dict(verdict.counts) or None,
        "delay": verdict.delay_seconds,
        "demand_id": demand_id,
    }
