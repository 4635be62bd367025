# SPDX-License-Identifier: Apache-2.0
"""What becomes of a job whose attempt failed."""

import pytest

from glideflow.domain.failure_policy import judge_failure
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.states import JobState


def test_a_failure_waits_longer_each_time_until_the_retries_are_used() -> None:
    verdicts = [judge_failure(ReasonCode.PAYLOAD_EXIT, failures=n, attempts=n + 1, retries=3) for n in range(4)]
    assert [verdict.state for verdict in verdicts] == [JobState.WAITING] * 3 + [JobState.FAILED]
    assert [verdict.delay_seconds for verdict in verdicts[:3]] == [2, 4, 8]
    assert [verdict.failures for verdict in verdicts] == [1, 2, 3, 4]


def test_the_delay_has_a_limit() -> None:
    assert judge_failure(ReasonCode.PAYLOAD_EXIT, failures=30, attempts=31, retries=100).delay_seconds == 300


@pytest.mark.parametrize("code", [ReasonCode.PILOT_LOST, ReasonCode.PILOT_DRAINED, ReasonCode.PILOT_REFUSED])
def test_what_the_pilot_did_costs_no_retry(code: ReasonCode) -> None:
    verdict = judge_failure(code, failures=0, attempts=1, retries=0)
    assert (verdict.state, verdict.failures, verdict.delay_seconds) == (JobState.READY, 0, 0)


def test_a_job_that_brings_down_each_pilot_ends_too() -> None:
    states = [judge_failure(ReasonCode.PILOT_LOST, failures=0, attempts=n, retries=2).state for n in (12, 13)]
    assert states == [JobState.READY, JobState.FAILED]


def test_a_job_that_was_too_slow_is_not_run_again_with_the_same_limit() -> None:
    verdict = judge_failure(ReasonCode.WALL_TIME_EXCEEDED, failures=0, attempts=1, retries=5)
    assert verdict.state is JobState.FAILED
