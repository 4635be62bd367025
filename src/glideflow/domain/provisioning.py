# SPDX-License-Identifier: Apache-2.0
"""How many pilots a site gets now: a pipeline of pure functions, each of which says why it changed the number.

By level, not by job: the same look at the same numbers gives the same answer, so a lost cycle or one too many does no
harm. Source: AutoPyFactory's scheduling plugins and glideinWMS's pressure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from glideflow.domain.site import Site

AT_ONCE = 20
"""So many pilots are sent without waiting to see whether the first ones start."""
ATTENUATION = 3
"""Of what goes beyond, one in so many per cycle: queues and nodes are slow, and demand may be gone by then."""
FEW_ENDS = 4
"""With fewer pilots ended recently nothing is concluded from them."""


@dataclass(frozen=True, kw_only=True)
class SiteView:
    """What is known of one site at one time."""

    ready_jobs: int = 0
    """Ready jobs that are meant for the site: each is meant for one."""
    ready_cores: int = 0
    """Cores that they ask for together."""
    other_jobs: int = 0
    """Ready jobs that it could run, and that are meant for better sites."""
    queued: int = 0
    """Pilots planned or submitted that have not registered."""
    idle: int = 0
    """Registered pilots without a job, that take new ones."""
    running: int = 0
    """Registered pilots with jobs, the draining ones included."""
    held: int = 0
    """Pilots that the batch system holds."""
    recent_ends: int = 0
    """Pilots that ended recently, in any way."""
    recent_short_failures: int = 0
    """Those of them that failed soon after they had started."""
    stale: bool = False
    """Whether the batch system or the database could not be asked."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer, and the chain of reasons that led to it."""

    n: int
    """Pilots to send now, 0 or more."""
    reasons: tuple[str, ...]
    """One sentence per step that had something to say, in order."""

    def __str__(self) -> str:
        """The number with its reasons, as tables show it."""
        return f"{self.n}: {'; '.join(self.reasons)}"


Step = Callable[[Site, SiteView, int], tuple[int, str]]
"""Takes the number so far and returns the new one with a reason; an empty reason says nothing."""


def decide(site: Site, view: SiteView) -> Decision:
    """Say how many pilots a site gets now.

    Args:
        site: Its limits.
        view: What is known of it.

    Returns:
        The number and the reasons.
    """
    n, reasons = 0, []
    for step in STEPS:
        n, reason = step(site, view, n)
        if reason:
            reasons.append(reason)
        if n == 0:
            break
    return Decision(n=n, reasons=tuple(reasons))


def room(site: Site, view: SiteView) -> int:
    """Return how many pilots a site could get now if there were jobs for any number."""
    if site.status != "online" or view.stale:
        return 0
    n = site.max_pilots
    for step in (cap_pilots, cap_queued, curb_held, throttle):
        n, _ = step(site, view, n)
    return n


def demand(site: Site, view: SiteView, n: int) -> tuple[int, str]:
    """As many pilots as the ready jobs fill, never more than there are jobs."""
    if site.status != "online":
        return 0, f"the status of the site is {site.status}"
    if view.stale:
        return 0, "the batch system or the database could not be asked: nothing is sent on old numbers"
    if view.ready_jobs == 0:
        others = f": better sites have pilots for {_count(view.other_jobs, 'job')}" if view.other_jobs else ""
        return 0, f"no ready job is meant for the site{others}"
    wanted = min(view.ready_jobs, max(1, ceil(view.ready_cores / site.cores)))
    return (
        wanted,
        f"{_count(view.ready_jobs, 'ready job')} of {_count(view.ready_cores, 'core')} fill {_pilots(wanted)}",
    )


def minus_coming(site: Site, view: SiteView, n: int) -> tuple[int, str]:
    """Less the pilots that are on their way or free."""
    coming = view.idle + view.queued
    if coming == 0:
        return n, ""
    rest = max(0, n - coming)
    return rest, f"{view.queued} queued and {view.idle} idle are there for them, so {rest} more"


def attenuate(site: Site, view: SiteView, n: int) -> tuple[int, str]:
    """A small number goes at once; a large one in parts."""
    if n <= AT_ONCE:
        return n, ""
    part = AT_ONCE + ceil((n - AT_ONCE) / ATTENUATION)
    return part, f"{part} of {n} in this cycle"


def cap_pilots(site: Site, view: SiteView, n: int) -> tuple[int, str]:
    """No more than the site's `max_pilots` queued and running together."""
    room = max(0, site.max_pilots - view.queued - view.idle - view.running)
    if n <= room:
        return n, ""
    return room, f"max_pilots {site.max_pilots} leaves room for {room}"


def cap_queued(site: Site, view: SiteView, n: int) -> tuple[int, str]:
    """No more than the site's `max_queued` waiting for a slot."""
    room = max(0, site.max_queued - view.queued)
    if n <= room:
        return n, ""
    return room, f"max_queued {site.max_queued} leaves room for {room}"


def cap_cycle(site: Site, view: SiteView, n: int) -> tuple[int, str]:
    """No more than the site's `max_per_cycle` at a time."""
    if n <= site.max_per_cycle:
        return n, ""
    return site.max_per_cycle, f"max_per_cycle is {site.max_per_cycle}"


def curb_held(site: Site, view: SiteView, n: int) -> tuple[int, str]:
    """Nothing while too many pilots are held."""
    if view.held <= site.max_held:
        return n, ""
    return 0, f"{_pilots(view.held)} held, more than max_held {site.max_held}: nothing is sent until they are settled"


def throttle(site: Site, view: SiteView, n: int) -> tuple[int, str]:
    """One at a time while most pilots fail soon after their start: enough to see when the site has been mended."""
    if view.recent_ends < FEW_ENDS or 2 * view.recent_short_failures <= view.recent_ends:
        return n, ""
    if view.queued:
        return 0, f"{_failures(view)}: waiting for the {_pilots(view.queued)} sent to try"
    return min(n, 1), f"{_failures(view)}: only one is sent to try"


STEPS: tuple[Step, ...] = (
    demand,
    minus_coming,
    attenuate,
    cap_pilots,
    cap_queued,
    cap_cycle,
    curb_held,
    throttle,
)


def _failures(view: SiteView) -> str:
    return f"{view.recent_short_failures} of {_count(view.recent_ends, 'recent pilot')} failed soon after their start"


def _pilots(number: int) -> str:
    return _count(number, "pilot")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
