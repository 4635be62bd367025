# SPDX-License-Identifier: Apache-2.0
"""Say which sites may run the jobs of a demand, and keep why."""

from collections.abc import Mapping
from typing import Any

from glideflow.domain.demand import Demand
from glideflow.domain.site import Site
from glideflow.domain.task import Resources
from glideflow.store import demands
from glideflow.store.engine import Channel, Connection, Database, notify


def demand_of(task: Mapping[str, Any], stage: str, resources: Resources) -> dict[str, Any]:
    """Return what the jobs of a stage ask for, as `store.demands.ensure` takes it."""
    return {"task_id": task["id"], "stage": stage, "priority": task["priority"], **resources.model_dump()}


def broker(connection: Connection, sites: Mapping[str, Site]) -> int:
    """Choose sites for the demands of which nobody has said yet where they may run; returns how many."""
    found = demands.unbrokered(connection)
    choices = []
    for demand, spec in found:
        reasons = {name: refusal(demand, spec.get("site"), site) for name, site in sites.items()}
        eligible = [name for name, reason in reasons.items() if reason is None]
        choices.append((demand.demand_id, eligible, {name: reason or "it fits" for name, reason in reasons.items()}))
    demands.save_brokerage(connection, choices)
    return len(found)


def broker_new(database: Database, sites: Mapping[str, Site]) -> int:
    """Choose sites for demands that were made without, and tell; returns how many."""
    with database.transaction() as connection:
        count = broker(connection, sites)
        if count:
            notify(connection, Channel.JOBS)
    return count


def refusal(demand: Demand, pinned: str | None, site: Site) -> str | None:
    """Say why a site may not run the jobs of a demand, or None."""
    if pinned not in (None, site.name):
        return f"the task is pinned to {pinned}"
    if site.name in demand.avoid_sites:
        return "its jobs failed there before"
    if not offers(site, demand):
        return "its pilots are smaller than what the job asks for"
    return None


def offers(site: Site, needs: Demand | Resources) -> bool:
    """Tell whether an empty pilot of a site could run a job."""
    return (
        needs.cores <= site.cores
        and needs.memory_mb <= site.memory_mb
        and needs.disk_mb <= site.disk_mb
        and needs.wall_seconds <= site.longest_job_seconds
    )
