# SPDX-License-Identifier: Apache-2.0
"""Which sites may run the jobs of a demand, in which order, and why each one may or may not.

First every site is asked whether anything speaks against it. Those that are left are ordered by a weight, a product of
parts near one: the operator's preference, how much of the input is close, how soon a pilot is free, and how reliable
the site has been. Network costs will be a part when transfers are measured.
Source: PanDA's job brokerage, which logs a criterion per refused site.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from glideflow.domain.demand import Demand
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.site import Site

NEAR_FACTOR = 4.0
"""A site with all of the input close to it counts so much more than one with none."""
FREE_FACTOR = 4.0
"""A site with a free pilot counts so much more than one whose pilots must become free or be sent first."""
LEAST_PART = 0.05
"""No part is smaller: a site that fails or is full comes last, and is still there when it is the only one."""
BENEFIT_OF_DOUBT = 4
"""So many successes are added to the recent attempts at a site: a few failures say little."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a demand and its task ask of a site."""

    demand: Demand
    """What each job needs; its `sites` are what was found before."""
    pinned_site: str | None = None
    """The only site that may run it."""
    requires: frozenset[str] = frozenset()
    """What the site must provide."""
    input_mb: int | None = None
    """Input of the job that reads most, MB; None where it is not known."""
    near: Mapping[str, float] = field(default_factory=dict)
    """By site, the part of the input that is close to it, 0 to 1."""


@dataclass(kw_only=True)
class SiteState:
    """A site as it is now, and what was promised to it while demands were spread."""

    site: Site
    """Its configuration."""
    idle: int = 0
    """Pilots that wait for work."""
    running: int = 0
    """Pilots with jobs."""
    queued: int = 0
    """Pilots that were sent and have not started."""
    held: int = 0
    """Pilots that the batch system holds."""
    room: int = 0
    """Pilots that may still be sent now."""
    attempts: int = 0
    """Attempts that ended there lately."""
    judged_seconds: float = 0.0
    """The time in which they ended."""
    failures: int = 0
    """Those of them that failed for a reason of the site or the pilot."""
    taken: float = 0.0
    """Pilots that jobs need that were promised to it."""
    promised_jobs: int = 0
    """Those jobs."""
    promised_cores: int = 0
    """Cores of those jobs."""
    fitting_jobs: int = 0
    """Jobs that it could run, whether they were promised to it or to another."""

    def promise(self, demand: Demand, jobs: int) -> None:
        """Note that jobs will be sent there."""
        self.taken += jobs / jobs_per_pilot(demand, self.site)
        self.promised_jobs += jobs
        self.promised_cores += jobs * demand.cores


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What speaks against a site."""

    code: ReasonCode
    text: str
    lasting: bool = True
    """Whether it stays so as long as the task and the sites file are as they are."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was said of one site."""

    site: str
    code: ReasonCode
    """SITE_CHOSEN, or why it was refused."""
    text: str
    """The same as a sentence, with the values."""
    weight: float | None = None
    """Of a chosen site; the larger, the better."""


def refusal(needs: Needs, site: Site) -> Refusal | None:
    """Return what speaks against a site: of several things the one that is hardest to change; None for nothing."""
    return next(_refusals(needs, site), None)


def _refusals(needs: Needs, site: Site) -> Iterator[Refusal]:
    vo, _, user = needs.demand.leaf
    if needs.pinned_site not in (None, site.name):
        yield Refusal(code=ReasonCode.SITE_PINNED, text=f"the task may only run at {needs.pinned_site}")
    if (site.vos or site.users) and vo not in site.vos and user not in site.users:
        text = f"only {_allowed(site)} may run jobs there, and the task is {user}'s of VO {vo}"
        yield Refusal(code=ReasonCode.SITE_NO_ACCESS, text=text)
    missing = sorted(needs.requires - set(site.provides))
    if missing:
        yield Refusal(code=ReasonCode.SITE_LACKS, text=f"it does not provide {', '.join(missing)}")
    small = list(_too_small(needs.demand, site))
    if small:
        text = f"its pilots are too small: {', '.join(small)}"
        yield Refusal(code=ReasonCode.SITE_TOO_SMALL, text=text)
    if site.max_input_mb is not None and (needs.input_mb or 0) > site.max_input_mb:
        text = f"a job reads up to {needs.input_mb:,} MB, and the site takes jobs with at most {site.max_input_mb:,} MB"
        yield Refusal(code=ReasonCode.SITE_INPUT_LIMIT, text=text)
    if site.status != "online":
        text = f"it takes no new jobs now: its status is {site.status}"
        yield Refusal(code=ReasonCode.SITE_NOT_ONLINE, text=text, lasting=False)


def _allowed(site: Site) -> str:
    lists = (("VO", site.vos), ("user", site.users))
    return " and ".join(f"{word}{'s' if len(names) > 1 else ''} {', '.join(names)}" for word, names in lists if names)


def _too_small(demand: Demand, site: Site) -> Iterator[str]:
    for name, offered in (
        ("cores", site.cores),
        ("memory_mb", site.memory_mb),
        ("disk_mb", site.disk_mb),
        ("wall_seconds", int(site.longest_job_seconds)),
    ):
        if getattr(demand, name) > offered:
            yield f"{name} {offered}, and a job asks for {getattr(demand, name)}"


def jobs_per_pilot(demand: Demand, site: Site) -> int:
    """Return how many jobs of a demand an empty pilot of a site runs side by side; 1 for one that is too small."""
    return max(1, min(site.cores // demand.cores, site.memory_mb // demand.memory_mb, site.disk_mb // demand.disk_mb))


def rank(needs: Needs, states: Iterable[SiteState]) -> list[Choice]:
    """Say of every site whether it may run the jobs of a demand.

    Args:
        needs: What they ask for.
        states: The sites.

    Returns:
        A choice for each site: first those that may run them, the best first, then the others.
    """
    every = list(states)
    refused = {state.site.name: refusal(needs, state.site) for state in every}
    left = [state for state in every if refused[state.site.name] is None]
    avoided = [state for state in left if state.site.name in needs.demand.avoid_sites]
    # Where nothing else will ever run them, another try is better than none.
    only = len(left) == len(avoided) and all(one is None or one.lasting for one in refused.values())
    if not only:
        left = [state for state in left if state not in avoided]
    weighed = sorted(((_weigh(needs, state), state) for state in left), key=lambda pair: -pair[0][0])
    chosen = [
        Choice(
            site=state.site.name,
            code=ReasonCode.SITE_CHOSEN,
            text=text + ("; its jobs failed there before, but no other site can run them" if only and avoided else ""),
            weight=weight,
        )
        for (weight, text), state in weighed
    ]
    return [*chosen, *_refused(every, refused, () if only else avoided)]


def _refused(
    states: Sequence[SiteState], refused: Mapping[str, Refusal | None], avoided: Sequence[SiteState]
) -> Iterator[Choice]:
    for state in states:
        why = refused[state.site.name]
        if why is not None:
            yield Choice(site=state.site.name, code=why.code, text=why.text)
        elif state in avoided:
            text = "its jobs failed there, and the failure policy sends them elsewhere"
            yield Choice(site=state.site.name, code=ReasonCode.SITE_AVOIDED, text=text)


def _weigh(needs: Needs, state: SiteState) -> tuple[float, str]:
    """Return the weight of a site and the sentence that says what it is made of."""
    near = needs.near.get(state.site.name, 0.0)
    locality = 1.0 + (NEAR_FACTOR - 1.0) * near
    load, waiting = _load(state)
    reliability = max(LEAST_PART, 1.0 - state.failures / (state.attempts + BENEFIT_OF_DOUBT))
    weight = state.site.preference * locality * load * reliability
    return weight, (
        f"weight {weight:.2f} = preference {state.site.preference:g} x input {locality:.2f} ({near:.0%} of it is near) "
        f"x load {load:.2f} ({state.idle} pilots free, {state.running} busy, {state.queued} queued, room for "
        f"{state.room} more, {waiting} needed for other jobs) x reliability {reliability:.2f} "
        f"({state.failures} of the last {state.attempts} attempts failed there)"
    )


def _load(state: SiteState) -> tuple[float, int]:
    """Return how soon a pilot is free, and how many are needed for what was promised before."""
    waiting = ceil(state.taken)
    if state.idle > waiting:
        return FREE_FACTOR, waiting
    pilots = state.running + state.queued + state.room
    return (max(LEAST_PART, pilots / (pilots + max(0, waiting - state.idle))) if pilots else LEAST_PART), waiting


def spread(needs: Needs, ready: int, states: Mapping[str, SiteState]) -> list[Choice]:
    """Rank the sites for a demand and promise its ready jobs to them: each job to one site, the best first.

    Free pilots get jobs before others are sent, and a site gets no more than it has or may have pilots for; what is
    left over waits for the best site.

    Args:
        needs: What the jobs ask for.
        ready: How many are ready.
        states: The sites by name; what is promised is noted there.

    Returns:
        A choice for each site, as `rank` does.
    """
    choices = rank(needs, states.values())
    chosen = [states[choice.site] for choice in choices if choice.code is ReasonCode.SITE_CHOSEN]
    for state in chosen:
        state.fitting_jobs += ready
    left = ready
    for coming in (False, True):
        for state in chosen:
            pilots = state.idle + (state.queued + state.room if coming else 0) - state.taken
            jobs = min(left, int(max(0.0, pilots) * jobs_per_pilot(needs.demand, state.site)))
            state.promise(needs.demand, jobs)
            left -= jobs
    if left and chosen:
        chosen[0].promise(needs.demand, left)
    return choices
