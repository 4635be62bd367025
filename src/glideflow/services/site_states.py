# SPDX-License-Identifier: Apache-2.0
"""Look at all sites at once: their pilots, and how attempts have ended there lately."""

from collections.abc import Mapping

from glideflow.domain.brokerage import SiteState
from glideflow.domain.provisioning import SiteView, room
from glideflow.domain.site import Site
from glideflow.domain.states import PilotState
from glideflow.store import attempts, pilots
from glideflow.store.engine import Connection

_RECENT_SECONDS = 600.0
_SHORT_SECONDS = 60.0
_HEARD_SECONDS = 60.0
"""An idle pilot can be counted on that spoke lately: it renews its question about every half minute."""
_JUDGED_ATTEMPTS = 2000
_JUDGED_SECONDS = 3600.0


def views(connection: Connection, sites: Mapping[str, Site]) -> dict[str, SiteView]:
    """Return what is known of the pilots of each site."""
    counts: dict[str, dict[str, int]] = {name: {} for name in sites}
    for row in pilots.counts_by_work(connection, _HEARD_SECONDS):
        if row["site"] in counts:
            kind = _kind(row["state"], busy=row["busy"], heard=row["heard"])
            counts[row["site"]][kind] = counts[row["site"]].get(kind, 0) + row["n"]
    ends = pilots.recent_ends(connection, _RECENT_SECONDS, _SHORT_SECONDS)
    nothing = {"ended": 0, "failed": 0}
    return {
        name: SiteView(
            queued=found.get("queued", 0),
            idle=found.get("idle", 0),
            running=found.get("running", 0),
            held=found.get("held", 0),
            recent_ends=ends.get(name, nothing)["ended"],
            recent_short_failures=ends.get(name, nothing)["failed"],
        )
        for name, found in counts.items()
    }


def _kind(state: str, *, busy: bool, heard: bool) -> str:
    if state in (PilotState.PLANNED, PilotState.SUBMITTED):
        return "queued"
    if state == PilotState.HELD:
        return "held"
    if state == PilotState.REGISTERED and not busy:
        return "idle" if heard else "silent"
    return "running"


def states(
    connection: Connection, sites: Mapping[str, Site], known: Mapping[str, SiteView] | None = None
) -> dict[str, SiteState]:
    """Return what the brokerage needs to know of each site, with nothing promised to it.

    Args:
        connection: The caller's transaction.
        sites: The sites by name.
        known: What is known of their pilots, where that was read before.
    """
    looks = views(connection, sites) if known is None else known
    ended = attempts.recent_by_site(connection, _JUDGED_ATTEMPTS, _JUDGED_SECONDS)
    none = {"attempts": 0, "failures": 0, "seconds": 0.0}
    return {
        name: SiteState(
            site=site,
            idle=looks[name].idle,
            running=looks[name].running,
            queued=looks[name].queued,
            room=room(site, looks[name]),
            attempts=ended.get(name, none)["attempts"],
            failures=ended.get(name, none)["failures"],
            judged_seconds=ended.get(name, none)["seconds"],
        )
        for name, site in sites.items()
    }
