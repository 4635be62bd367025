# SPDX-License-Identifier: Apache-2.0
"""How large the jobs of a task should be, and what they should ask for, from what its scout jobs needed.

A decision is a pure function of a question. Both are kept with the task, so that anybody can work it out again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1
"""Rises whenever the same question would be answered differently."""

WALL_MARGIN = 1.5
MEMORY_MARGIN = 1.5
SHORTEST_WALL_SECONDS = 60
SMALLEST_MEMORY_MB = 100

FORMULA = (
    "wall seconds of a job = overhead + rate * units, fitted to the scouts; units per job = (target - overhead) / "
    f"rate, within the limits; wall_seconds = expected * slowest scout against the fit * {WALL_MARGIN}; "
    f"memory_mb = largest of the scouts * {MEMORY_MARGIN}; never more than the task asks for"
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one scout job needed."""

    index: int
    """Number of the job."""
    units: int
    """Files or events that it worked on; 1 for jobs of a given size."""
    wall_seconds: float
    max_rss_mb: float | None = None
    """Most memory at once, MB, where the pilot could measure it."""
    output_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Question:
    """All that a decision depends on."""

    unit: str
    """`files`, `events`, or `jobs` where only what they ask for is decided."""
    target_seconds: int | None
    """How long a job should run; None where the size of the jobs is given."""
    left: int
    """Units that are not in scout jobs."""
    most_jobs: int
    """Most jobs that may be made of them."""
    most_per_job: int | None
    least_per_job: int
    memory_mb: int
    """What the task asks for: the most that its jobs may ask for."""
    wall_seconds: int
    """The same for the run time."""
    measured: tuple[Measured, ...]
    """The scout jobs that are done."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How the rest of a task is split and what its jobs ask for."""

    per_job: int
    """Units in each job."""
    memory_mb: int
    wall_seconds: int
    overhead_seconds: float
    """Wall time of a job without any input, as fitted."""
    unit_seconds: float
    """Wall time per unit, as fitted."""
    expected_seconds: float
    """Wall time of a job, as fitted."""
    expected_output_bytes: int
    """Size of all outputs of a job."""
    limited_by: str | None
    """Why the jobs are not of the size that the target asks for; None when they are."""


def decide(question: Question) -> Decision:
    """Decide how large the jobs of a task are.

    Args:
        question: What was measured, and the limits; at least one scout.

    Returns:
        The size, and what the jobs ask for.
    """
    overhead, rate = fit([(scout.units, scout.wall_seconds) for scout in question.measured])
    per_job, limited_by = _per_job(question, overhead, rate)
    expected = overhead + rate * per_job
    slowest = max(scout.wall_seconds / max(overhead + rate * scout.units, 0.001) for scout in question.measured)
    wall = max(math.ceil(expected * max(slowest, 1.0) * WALL_MARGIN), SHORTEST_WALL_SECONDS)
    units = sum(scout.units for scout in question.measured)
    return Decision(
        per_job=per_job,
        memory_mb=_memory(question),
        wall_seconds=min(question.wall_seconds, wall),
        overhead_seconds=round(overhead, 3),
        unit_seconds=round(rate, 6),
        expected_seconds=round(expected, 1),
        expected_output_bytes=round(sum(scout.output_bytes for scout in question.measured) / units * per_job),
        limited_by=limited_by,
    )


def _memory(question: Question) -> int:
    known = [scout.max_rss_mb for scout in question.measured if scout.max_rss_mb]
    if not known:
        return question.memory_mb
    return min(question.memory_mb, max(math.ceil(max(known) * MEMORY_MARGIN), SMALLEST_MEMORY_MB))


def _per_job(question: Question, overhead: float, rate: float) -> tuple[int, str | None]:
    """Return the units per job, and the limit that changed them."""
    if question.target_seconds is None:
        return 1, None
    time_left, most = question.target_seconds - overhead, question.left + 1
    # A time divided by next to nothing is infinite.
    per_job = math.floor(min(time_left / rate, most)) if rate > 0 else most
    limited_by = None
    if question.most_per_job is not None and per_job > question.most_per_job:
        per_job, limited_by = question.most_per_job, "split.max_per_job"
    if per_job < question.least_per_job:
        per_job = question.least_per_job
        limited_by = (
            "split.min_per_job" if question.least_per_job > 1 else f"the {question.unit}, which are not divided"
        )
    fewest = -(-question.left // question.most_jobs)
    if per_job < fewest:
        per_job, limited_by = fewest, "the setting max_jobs_per_task"
    if per_job > question.left:
        per_job, limited_by = question.left, limited_by or "the input, which makes no more than one job"
    return per_job, limited_by


def fit(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Fit a straight line to wall times by size, by least squares.

    Args:
        points: Units and wall seconds of each scout.

    Returns:
        Seconds of a job without input, and seconds per unit, neither below 0; where the scouts say nothing about the
        former, it is 0.
    """
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    variance = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / variance if variance else 0.0
    if slope <= 0 or mean_y - slope * mean_x < 0:
        return 0.0, mean_y / mean_x
    return mean_y - slope * mean_x, slope


def record(question: Question) -> dict[str, Any]:
    """Decide, and return everything that is kept with the task."""
    return {
        "version": VERSION,
        "formula": FORMULA,
        "question": {**asdict(question), "measured": [asdict(scout) for scout in question.measured]},
        "decision": asdict(decide(question)),
    }


def without_scouts(per_job: int, reason: str) -> dict[str, Any]:
    """Return what is kept with a task that runs without scouts.

    Args:
        per_job: Files or events of each job.
        reason: Why.
    """
    return {"version": VERSION, "decision": {"per_job": per_job}, "reason": reason}


def question_of(recorded: Mapping[str, Any]) -> Question:
    """Return the question of a record."""
    asked = dict(recorded["question"])
    return Question(**{**asked, "measured": tuple(Measured(**scout) for scout in asked["measured"])})


def sentences(recorded: Mapping[str, Any]) -> Iterator[str]:
    """Say in sentences what was decided and why."""
    if "question" not in recorded:
        yield f"It runs without scout jobs: {recorded['reason']}."
        return
    question, decision = question_of(recorded), Decision(**recorded["decision"])
    times = [scout.wall_seconds for scout in question.measured]
    yield (
        f"{len(times)} scout jobs took {min(times):.1f} to {max(times):.1f} s: {decision.overhead_seconds:.1f} s each "
        f"and {decision.unit_seconds:.4g} s per {_one(question.unit)}."
    )
    if question.target_seconds is not None:
        yield (
            f"For {question.target_seconds} s, each other job gets {decision.per_job:,} {question.unit}, "
            f"expected to take {decision.expected_seconds:.0f} s and to write {decision.expected_output_bytes:,} bytes"
            + (f"; the size is limited by {decision.limited_by}." if decision.limited_by else ".")
        )
    yield (
        f"They ask for {decision.memory_mb:,} of the task's {question.memory_mb:,} MB of memory, and for "
        f"{decision.wall_seconds:,} of its {question.wall_seconds:,} s. Decided by version {recorded['version']}: "
        f"{recorded['formula']}."
    )


def _one(unit: str) -> str:
    return unit.removesuffix("s")
