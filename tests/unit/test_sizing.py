# SPDX-License-Identifier: Apache-2.0
"""The size of jobs from what scouts measured: a pure decision, with a record from which it can be made again."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.sizing import Measured, Question, decide, fit, question_of, record, sentences, without_scouts


def scouts(overhead: float, rate: float, *, rss: float | None = 200.0) -> tuple[Measured, ...]:
    return tuple(
        Measured(index=i, units=n, wall_seconds=overhead + rate * n, max_rss_mb=rss, output_bytes=10 * n)
        for i, n in enumerate([100, 300] * 3)
    )


QUESTION = Question(
    unit="events", target_seconds=3600, left=1_000_000, most_jobs=10_000, most_per_job=None, least_per_job=1,
    memory_mb=2000, wall_seconds=86_400, measured=scouts(60, 0.5),
)  # fmt: skip


def test_a_job_runs_about_the_target_time() -> None:
    decision = decide(QUESTION)
    assert decision.per_job == 7080
    assert decision.expected_seconds == 3600
    assert (decision.overhead_seconds, decision.unit_seconds) == (60, 0.5)
    assert decision.expected_output_bytes == 70_800
    assert decision.limited_by is None


def test_memory_and_time_have_a_margin_and_stay_within_what_the_task_asks_for() -> None:
    decision = decide(QUESTION)
    assert (decision.memory_mb, decision.wall_seconds) == (300, 5400)
    capped = decide(replace(QUESTION, memory_mb=250, wall_seconds=4000))
    assert (capped.memory_mb, capped.wall_seconds) == (250, 4000)


def test_one_slow_scout_gives_all_jobs_more_time_and_no_other_size() -> None:
    slow = replace(QUESTION.measured[0], wall_seconds=QUESTION.measured[0].wall_seconds * 2)
    decision = decide(replace(QUESTION, measured=(slow, *QUESTION.measured[1:])))
    assert decision.wall_seconds > 1.3 * decide(QUESTION).wall_seconds


def test_without_a_measurement_of_memory_the_task_s_own_number_holds() -> None:
    assert decide(replace(QUESTION, measured=scouts(60, 0.5, rss=None))).memory_mb == 2000


@pytest.mark.parametrize(
    ("change", "per_job", "limit"),
    [
        ({"most_per_job": 500}, 500, "max_per_job"),
        ({"least_per_job": 9000}, 9000, "min_per_job"),
        ({"target_seconds": 30}, 1_000_000 // 10_000, "max_jobs_per_task"),
        ({"target_seconds": 30, "most_jobs": 10**9}, 1, "not divided"),
        ({"left": 50}, 50, "no more than one job"),
    ],
)
def test_each_limit_is_named(change: dict[str, int], per_job: int, limit: str) -> None:
    question = replace(QUESTION, **change)  # type: ignore[arg-type]
    decision = decide(question)
    assert decision.per_job == per_job
    assert limit in str(decision.limited_by)
    assert any(limit in sentence for sentence in sentences(record(question)))


def test_jobs_of_a_given_size_only_get_other_numbers() -> None:
    one = Measured(index=0, units=1, wall_seconds=100.0, max_rss_mb=50.0)
    question = replace(QUESTION, unit="jobs", target_seconds=None, measured=(one,))
    decision = decide(question)
    assert (decision.per_job, decision.wall_seconds, decision.memory_mb) == (1, 150, 100)


def test_scouts_of_one_size_or_with_a_falling_line_are_taken_by_their_ratio() -> None:
    assert fit([(10, 5.0), (10, 7.0)]) == (0.0, 0.6)
    assert fit([(10, 9.0), (30, 3.0)]) == (0.0, 0.3)


def test_the_record_gives_the_decision_again_after_its_way_through_json() -> None:
    kept = json.loads(json.dumps(record(QUESTION)))
    assert record(question_of(kept)) == record(QUESTION)
    assert kept["version"] == 1
    assert "3600 s, each other job gets 7,080 events" in " ".join(sentences(kept))


def test_a_task_without_scouts_says_why() -> None:
    assert list(sentences(without_scouts(1, "too little"))) == ["It runs without scout jobs: too little."]


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 10**5)), min_size=1, max_size=20),
    st.integers(1, 10**6),
    st.integers(1, 10**9),
    st.integers(1, 10**6),
)
def test_no_measurement_leads_out_of_the_limits(
    points: list[tuple[int, float]], target: int, left: int, most_jobs: int
) -> None:
    measured = tuple(Measured(index=i, units=n, wall_seconds=s) for i, (n, s) in enumerate(points))
    question = replace(QUESTION, measured=measured, target_seconds=target, left=left, most_jobs=most_jobs)
    decision = decide(question)
    assert 1 <= decision.per_job <= left
    assert -(-left // decision.per_job) <= most_jobs
    assert 1 <= decision.wall_seconds <= question.wall_seconds
