# SPDX-License-Identifier: Apache-2.0
"""What becomes of a job when an attempt of it ended without success."""

from dataclasses import dataclass

from glideflow.domain.reasons import ReasonCode
from glideflow.domain.states import JobState

_BLAMELESS = frozenset(
    {ReasonCode.PILOT_LOST, ReasonCode.PILOT_DRAINED, ReasonCode.PILOT_REFUSED, ReasonCode.PILOT_DEADLINE}
)
"""Ends for which the job is not to blame: they cost no retry."""

_HOPELESS = frozenset({ReasonCode.WALL_TIME_EXCEEDED})
"""Ends that the same numbers would only repeat."""

_BLAMELESS_LIMIT = 10
"""So many blameless ends beyond the retries are allowed: a payload that brings down each pilot must end too."""

_FIRST_DELAY_SECONDS = 2.0
_LONGEST_DELAY_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What happens next to a job."""

    state: JobState
    """READY at once, WAITING for the delay, or FAILED."""
    failures: int
    """The job's failures, this one included where it counts."""
    delay_seconds: float = 0.0
    """How long it waits before it is ready again."""


def judge_failure(code: ReasonCode, *, failures: int, attempts: int, retries: int) -> Verdict:
    """Decide whether a job is tried again.

    Args:
        code: Why the attempt ended.
        failures: Failures that counted before this one.
        attempts: Attempts so far, this one included.
        retries: How many failures are forgiven.

    Returns:
        The job's next state; the delay doubles with each failure, from 2 to 300 seconds.
    """
    if code in _BLAMELESS:
        exhausted = attempts > retries + _BLAMELESS_LIMIT
        return Verdict(state=JobState.FAILED if exhausted else JobState.READY, failures=failures)
    failures += 1
    if failures > retries or code in _HOPELESS:
        return Verdict(state=JobState.FAILED, failures=failures)
    delay = min(_FIRST_DELAY_SECONDS * 2 ** (failures - 1), _LONGEST_DELAY_SECONDS)
    return Verdict(state=JobState.WAITING, failures=failures, delay_seconds=delay)
