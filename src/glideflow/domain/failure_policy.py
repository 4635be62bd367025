# SPDX-License-Identifier: Apache-2.0
"""What becomes of a job when an attempt of it ended without success: rules in their order decide."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from glideflow.domain.failure_rules import Match, Retry, Rule, contains, exit_codes, signal_number
from glideflow.domain.reasons import Reason
from glideflow.domain.states import JobState

MOST_ATTEMPTS = 200
"""So many attempts, and no rule runs a job again, until a user does."""

_SIGNAL_EXIT = 128
"""A shell whose command was ended by signal n exits with so much more than n."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The rules of one author; those of the task come before those of the site, and these before the system's."""

    origin: str
    """`task`, `site NAME` or `system`."""
    rules: Sequence[Rule]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The end of an attempt without success."""

    reason: Reason
    exit_code: int | None = None
    signal: int | None = None
    site: str | None = None
    """Where it ran."""
    node: str | None = None
    """Where it ran."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What happened to the job before, since its submission or since a user ran it again."""

    retries: int
    """How often rules without `times` run it again, all of them together: the task's `retries`."""
    failures: int = 0
    """How often they did."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often each rule with `times` has fired, by its key."""
    memory_mb: int
    """What it asked for."""
    wall_seconds: int
    """What it asked for."""
    avoid_sites: tuple[str, ...] = ()
    avoid_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Room:
    """The most that one site's pilots offer a job."""

    memory_mb: int
    wall_seconds: int


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where else the job could run."""

    rooms: Mapping[str, Room] = field(default_factory=dict)
    """The sites that may run it."""
    nodes: frozenset[str] = frozenset()
    """The nodes that were heard of lately."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What happens next to a job."""

    state: JobState
    """READY at once, WAITING for the delay, or FAILED."""
    rule: str | None
    """Key of the rule that decided, such as `task/out-of-memory`; None when none fits."""
    text: str
    """What happens next and when, in a sentence that names the rule."""
    failures: int
    """The new value of the history's."""
    counts: Mapping[str, int]
    """The new value of the history's."""
    memory_mb: int
    """What the next attempt asks for."""
    wall_seconds: int
    """What the next attempt asks for."""
    avoid_sites: tuple[str, ...]
    """Where the next attempt must not run; sorted."""
    avoid_nodes: tuple[str, ...]
    """Where the next attempt must not run; sorted."""
    delay_seconds: float = 0.0
    """How long the job waits before it is ready again."""


def rule_key(origin: str, rule: Rule) -> str:
    """Return what identifies a rule among those of all authors."""
    return f"{origin}/{rule.name}"


def matches(match: Match, failure: Failure) -> bool:
    """Tell whether a rule is for a failure.

    Args:
        match: The rule's conditions.
        failure: The failure.
    """
    code, signal = failure.exit_code, failure.signal
    if signal is None and code is not None and code > _SIGNAL_EXIT:
        signal = code - _SIGNAL_EXIT
    return (
        (match.reasons is None or failure.reason.code in match.reasons)
        and (match.sources is None or failure.reason.source in match.sources)
        and (match.exit_codes is None or (code is not None and any(code in exit_codes(c) for c in match.exit_codes)))
        and (match.signals is None or (signal is not None and signal in map(signal_number, match.signals)))
        and (match.text is None or contains(match.text, failure.reason.text))
    )


def judge(layers: Sequence[Layer], failure: Failure, history: History, surroundings: Surroundings) -> Verdict:
    """Decide whether, when and how a job is run again.

    Args:
        layers: The rules of the task, the site and the system, in this order: the first active one that fits decides.
        failure: How its attempt ended.
        history: What happened before.
        surroundings: Where it could run.

    Returns:
        The verdict. Every way of going on uses something up that is limited: `retries`, a rule's `times`, and
        MOST_ATTEMPTS over all.
    """
    found, sleeper = _first(layers, failure)
    if found is None:
        text = "No rule of the failure policy is for this, so the job fails"
        verdict = _failed(history, None, text, history.failures, history.counts)
    elif found.rule.retry is None:
        text = f"{found.title}: the job fails at once"
        verdict = _failed(history, found.key, text, history.failures, history.counts)
    else:
        verdict = _retried(found, found.rule.retry, failure, history, surroundings)
    note = f". {sleeper.title} would have decided, but is not active" if sleeper else ""
    return replace(verdict, text=f"{verdict.text}{note}.")


@dataclass(frozen=True)
class _Found:
    """A rule and whose it is."""

    origin: str
    rule: Rule

    @property
    def key(self) -> str:
        return rule_key(self.origin, self.rule)

    @property
    def title(self) -> str:
        if self.origin == "system":
            return f"System rule {self.rule.name}"
        return f"Rule {self.rule.name} of {'the task' if self.origin == 'task' else self.origin}"


def _first(layers: Sequence[Layer], failure: Failure) -> tuple[_Found | None, _Found | None]:
    """Return the rule that decides, and the first inactive one that would have."""
    sleeper = None
    for found in (_Found(layer.origin, rule) for layer in layers for rule in layer.rules):
        if not matches(found.rule.match, failure):
            continue
        if found.rule.active:
            return found, sleeper
        sleeper = sleeper or found
    return None, sleeper


def _retried(found: _Found, retry: Retry, failure: Failure, history: History, surroundings: Surroundings) -> Verdict:
    failures, counts = history.failures, dict(history.counts)
    if retry.times is None:
        failures += 1
        number, limit = failures, history.retries
    else:
        number, limit = counts.get(found.key, 0) + 1, retry.times
        counts[found.key] = number
    sites, nodes = _avoided(retry, failure, history, surroundings)
    memory_mb, wall_seconds = _grown(retry, history, surroundings, sites)
    if number > limit:
        why = f"it was run again {_times(limit)} already" if limit else "the task allows no retries"
    elif failures + sum(counts.values()) >= MOST_ATTEMPTS:
        why = f"since no job has more than {MOST_ATTEMPTS} attempts"
    elif _grows(retry) and (memory_mb, wall_seconds) == (history.memory_mb, history.wall_seconds):
        why = f"since it had {_most(retry, history)}, the most that the rule and the sites allow"
    else:
        why = ""
    if why:
        return _failed(history, found.key, f"{found.title}: the job fails, {why}", failures, counts)
    delay = retry.delay(number)
    verdict = Verdict(
        state=JobState.WAITING if delay else JobState.READY,
        rule=found.key,
        text="",
        failures=failures,
        counts=counts,
        memory_mb=memory_mb,
        wall_seconds=wall_seconds,
        avoid_sites=sites,
        avoid_nodes=nodes,
        delay_seconds=delay,
    )
    when = f"{delay:g} s later" if delay else "at once"
    how = "".join(f", {part}" for part in _changes(retry, failure, history, verdict))
    return replace(verdict, text=f"{found.title}: the job runs again {when}{how} (retry {number} of {limit})")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _grows(retry: Retry) -> bool:
    return retry.memory_factor is not None or retry.wall_factor is not None


def _failed(history: History, rule: str | None, text: str, failures: int, counts: Mapping[str, int]) -> Verdict:
    return Verdict(
        state=JobState.FAILED,
        rule=rule,
        text=text,
        failures=failures,
        counts=counts,
        memory_mb=history.memory_mb,
        wall_seconds=history.wall_seconds,
        avoid_sites=history.avoid_sites,
        avoid_nodes=history.avoid_nodes,
    )


def _avoided(
    retry: Retry, failure: Failure, history: History, surroundings: Surroundings
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sites and nodes that the next attempt must avoid; never all that there are."""
    sites, nodes = set(history.avoid_sites), set(history.avoid_nodes)
    if retry.elsewhere == "site" and failure.site and _large_enough(surroundings, history) - sites - {failure.site}:
        sites.add(failure.site)
    if retry.elsewhere == "node" and failure.node and surroundings.nodes - nodes - {failure.node}:
        nodes.add(failure.node)
    return tuple(sorted(sites)), tuple(sorted(nodes))


def _large_enough(surroundings: Surroundings, history: History) -> set[str]:
    """Return the sites that offer what the job asked for so far."""
    return {
        site
        for site, room in surroundings.rooms.items()
        if room.memory_mb >= history.memory_mb and room.wall_seconds >= history.wall_seconds
    }


def _grown(retry: Retry, history: History, surroundings: Surroundings, avoided: Sequence[str]) -> tuple[int, int]:
    """Return memory and run time of the next attempt: what the rule says, as far as one site offers both."""
    rooms = [room for site, room in surroundings.rooms.items() if site not in avoided]
    memory_mb = _more(history.memory_mb, retry.memory_factor, retry.max_memory_mb)
    wall_seconds = _more(history.wall_seconds, retry.wall_factor, retry.max_wall_seconds)
    offered = [(min(memory_mb, room.memory_mb), min(wall_seconds, room.wall_seconds)) for room in rooms]
    enough = [pair for pair in offered if pair[0] >= history.memory_mb and pair[1] >= history.wall_seconds]
    return max(enough, default=(memory_mb, wall_seconds))


def _more(value: int, factor: float | None, most: int | None) -> int:
    if factor is None or most is None:
        return value
    return max(value, min(max(value + 1, round(value * factor)), most))


def _most(retry: Retry, history: History) -> str:
    parts = []
    if retry.memory_factor:
        parts.append(f"{history.memory_mb} MB of memory")
    if retry.wall_factor:
        parts.append(f"{history.wall_seconds} s of run time")
    return " and ".join(parts)


def _changes(retry: Retry, failure: Failure, history: History, verdict: Verdict) -> Iterator[str]:
    """Say what is different in the next attempt."""
    if verdict.memory_mb != history.memory_mb:
        yield f"with {verdict.memory_mb} MB of memory instead of {history.memory_mb} MB"
    if verdict.wall_seconds != history.wall_seconds:
        yield f"with {verdict.wall_seconds} s of run time instead of {history.wall_seconds} s"
    if retry.elsewhere == "site":
        avoided = failure.site in verdict.avoid_sites
        yield f"not at site {failure.site}" if avoided else "at the same sites, since no other may run it"
    if retry.elsewhere == "node":
        avoided = failure.node in verdict.avoid_nodes
        yield f"not on node {failure.node}" if avoided else "on any node, since no other is known"
