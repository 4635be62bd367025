# SPDX-License-Identifier: Apache-2.0
"""Say which sites may run the jobs of demands, and keep why.

New demands are brokered with the transaction that makes them, or within a second; all open ones in each cycle of the
factory, which knows what the sites have free. Handing out jobs only reads the result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import ceil
from typing import Any

from glideflow.domain.brokerage import Choice, Needs, SiteState, spread
from glideflow.domain.identifiers import TaskId
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.site import Site
from glideflow.domain.task import Resources
from glideflow.services import site_states
from glideflow.store import demands, files, inputs, jobs, tasks
from glideflow.store.engine import Channel, Connection, Database, notify

_KEPT_SECONDS = 10.0
"""Reasons that say the same with other figures are written again after this time."""
_OWN_STORAGE = "/storage/"

Row = Mapping[str, Any]


def demand_of(task: Row, stage: str, resources: Resources) -> dict[str, Any]:
    """Return what the jobs of a stage ask for, as `store.demands.ensure` takes it."""
    return {"task_id": task["id"], "stage": stage, "priority": task["priority"], **resources.model_dump()}


def broker(connection: Connection, sites: Mapping[str, Site]) -> int:
    """Choose sites for the demands of which nobody has said yet where they may run; returns how many."""
    found = demands.to_broker(connection, new=True)
    if found:
        _broker(connection, found, site_states.states(connection, sites))
    return len(found)


def broker_new(database: Database, sites: Mapping[str, Site]) -> int:
    """Choose sites for demands that were made without, and tell; returns how many."""
    with database.transaction() as connection:
        count = broker(connection, sites)
        if count:
            notify(connection, Channel.JOBS)
    return count


def broker_all(connection: Connection, states: Mapping[str, SiteState]) -> None:
    """Choose sites for all demands with open jobs, the most urgent and oldest first.

    Args:
        connection: The caller's transaction.
        states: The sites; the ready jobs are promised to them, each to one.
    """
    found = demands.to_broker(connection, new=False)
    if _broker(connection, found, states):
        notify(connection, Channel.JOBS)


def outlook(connection: Connection, sites: Mapping[str, Site]) -> dict[str, SiteState]:
    """Return the sites with the ready jobs of all open demands promised to them, and change nothing."""
    states = site_states.states(connection, sites)
    for one in demands.to_broker(connection, new=False):
        # Where the input is does not matter for how busy the sites are together.
        spread(_needs(connection, one, {}), one.row["ready"], states)
    return states


def _broker(connection: Connection, found: Sequence[demands.Brokered], states: Mapping[str, SiteState]) -> bool:
    """Choose sites and keep what changed; returns whether a demand may run at a site where it could not before."""
    near = _near(connection, (one.row for one in found), [state.site for state in states.values()])
    saved, gained = [], False
    for one in found:
        needs = _needs(connection, one, near)
        choices = spread(needs, one.row["ready"], states)
        chosen = [choice.site for choice in choices if choice.code is ReasonCode.SITE_CHOSEN]
        if _has_changed(one, choices, chosen):
            saved.append((one.demand.demand_id, chosen, [asdict(choice) for choice in choices]))
        gained = gained or not set(chosen) <= set(one.demand.sites)
    demands.save_brokerage(connection, saved)
    return gained


def _has_changed(one: demands.Brokered, choices: Sequence[Choice], chosen: Sequence[str]) -> bool:
    if one.row["brokerage"] is None or one.row["age_seconds"] > _KEPT_SECONDS:
        return True
    before = [(said["site"], said["code"]) for said in one.row["brokerage"]]
    return before != [(choice.site, choice.code) for choice in choices]


def _needs(connection: Connection, one: demands.Brokered, near: Mapping[int, Mapping[str, float]]) -> Needs:
    row, task_id = one.row, TaskId(one.demand.task_id)
    if one.demand.stage == jobs.MERGE:
        merged = files.size_of_outputs(connection, task_id, row["merge_input"])
        input_mb: int | None = ceil(merged / 1e6)
    else:
        input_mb = row["job_input_mb"]
    return Needs(
        demand=one.demand,
        pinned_site=row["site"],
        requires=frozenset(row["requires"] or ()),
        input_mb=input_mb,
        near=near.get(task_id, {}) if one.demand.stage == jobs.MAIN else {},
    )


def _near(connection: Connection, rows: Iterable[Row], sites: Sequence[Site]) -> dict[int, dict[str, float]]:
    """Return which part of the input of each task is near which site; worked out once for each task and prefix."""
    prefixes = sorted({prefix for site in sites for prefix in site.near})
    if not prefixes:
        return {}
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        task_id = row["task_id"]
        if task_id not in found:
            known = dict(row["input_near"])
            missing = [prefix for prefix in prefixes if prefix not in known]
            if missing:
                known |= inputs.parts_below(connection, TaskId(task_id), missing)
                tasks.keep_near(connection, TaskId(task_id), known)
            found[task_id] = {site.name: min(1.0, sum(known[prefix] for prefix in site.near)) for site in sites}
    return found
