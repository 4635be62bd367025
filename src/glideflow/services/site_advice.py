# SPDX-License-Identifier: Apache-2.0
"""What can be said of the sites of a task when it is submitted: that none will ever run it, or that it will wait."""

from collections.abc import Iterator, Mapping

from glideflow.domain.brokerage import Needs, SiteState, refusal
from glideflow.domain.demand import Demand
from glideflow.domain.identifiers import DemandId, TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.site import Site
from glideflow.domain.task import Resources, TaskSpec
from glideflow.services.brokerage import outlook
from glideflow.store import jobs
from glideflow.store.engine import Connection

_SHORTEST_SECONDS = 10.0
"""A rate is not worked out from less."""


def problems(sites: Mapping[str, Site], spec: TaskSpec, identity: Identity) -> Iterator[str]:
    """Say why no site will ever run a task, as long as the sites file is as it is.

    Args:
        sites: The sites by name.
        spec: The task.
        identity: Whose it is.
    """
    if spec.site is not None and spec.site not in sites:
        yield f"key `site`: there is no site {spec.site}; there are {', '.join(sorted(sites))}"
        return
    asked = [sites[spec.site]] if spec.site else list(sites.values())
    parts = [("", spec.resources)] + ([("merge.", spec.merge.resources)] if spec.merge else [])
    for place, resources in parts:
        needs = _needs(spec, resources, identity)
        refused = {site.name: refusal(needs, site) for site in asked}
        lasting = {name: why for name, why in refused.items() if why is not None and why.lasting}
        if len(lasting) < len(asked):
            continue
        found = "; ".join(f"{name}: {why.text}" for name, why in lasting.items())
        codes = {why.code for why in lasting.values()}
        if codes == {ReasonCode.SITE_TOO_SMALL}:
            yield f"key `{place}resources`: no site has pilots that large ({found}): ask for less"
        elif codes == {ReasonCode.SITE_LACKS}:
            yield f"key `requires`: no site provides that ({found})"
        else:
            yield f"no site may run it ({found})"


def _needs(spec: TaskSpec, resources: Resources, identity: Identity, *, pinned: bool = True) -> Needs:
    demand = Demand(
        demand_id=DemandId(0),
        task_id=TaskId(0),
        leaf=(identity.vo, spec.group or "", identity.subject),
        stage=jobs.MAIN,
        priority=spec.priority,
        **resources.model_dump(),
    )
    return Needs(demand=demand, pinned_site=spec.site if pinned else None, requires=frozenset(spec.requires))


def warnings(connection: Connection, sites: Mapping[str, Site], spec: TaskSpec, identity: Identity) -> Iterator[str]:
    """Say how long a task will wait that may run at one busy site only, and which sites could take it now.

    Args:
        connection: The caller's transaction; the task's own jobs are not in it.
        sites: The sites by name.
        spec: The task, for which there are no `problems`.
        identity: Whose it is.
    """
    if spec.site is None:
        return
    states = outlook(connection, sites)
    state = states[spec.site]
    why = refusal(_needs(spec, spec.resources, identity), state.site)
    if why is None and _is_free(state):
        return
    needs = _needs(spec, spec.resources, identity, pinned=False)
    free = [
        name
        for name, other in states.items()
        if name != spec.site and refusal(needs, other.site) is None and _is_free(other)
    ]
    elsewhere = (
        f"without `site`, {', '.join(free)} could take it now" if free else "no other site could take it now either"
    )
    told = why.text if why else _estimate(state)
    yield f"the task may only run at {spec.site}: {told}; {elsewhere}"


def _is_free(state: SiteState) -> bool:
    """Tell whether a pilot is free, on its way or may be sent, that no other job needs."""
    return state.idle + state.queued + state.room > state.taken


def _estimate(state: SiteState) -> str:
    ahead = f"{state.promised_jobs:,} ready jobs wait for its {state.running + state.idle + state.queued} pilots"
    if not state.attempts:
        return f"{ahead}, and how long cannot be said, for no attempt has ended there during the last hour"
    per_second = state.attempts / max(state.judged_seconds, _SHORTEST_SECONDS)
    seconds = (state.promised_jobs + 1) / per_second
    return (
        f"{ahead}, so its first job starts in about {_duration(seconds)}, if the {per_second * 3600:,.0f} attempts per "
        "hour go on that ended there lately, and no share or priority lets it pass others"
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
