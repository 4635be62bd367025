# SPDX-License-Identifier: Apache-2.0
"""What becomes of a job whose attempt failed: rules to verdicts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.failure_policy import (
    MOST_ATTEMPTS,
    Failure,
    History,
    Layer,
    Room,
    Surroundings,
    Verdict,
    judge,
    matches,
)
from glideflow.domain.failure_rules import Match, Rule
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.states import JobState
from glideflow.settings import load_settings
from glideflow.system_policy import load_system_policy

SYSTEM = Layer(origin="system", rules=load_system_policy(load_settings(Path("/nonexistent"))).rules)
HISTORY = History(retries=2, memory_mb=1000, wall_seconds=3600)
NOWHERE = Surroundings()


def rules(*written: Mapping[str, Any], origin: str = "task") -> Layer:
    return Layer(origin=origin, rules=[Rule.model_validate(rule) for rule in written])


def failure(code: ReasonCode = ReasonCode.PAYLOAD_EXIT, text: str = "exit code 3", **more: Any) -> Failure:
    source = more.pop("source", Source.PAYLOAD)
    return Failure(reason=Reason(code=code, text=text, source=source), site="north", node="n1", **more)


def after(history: History, verdict: Verdict) -> History:
    """The history that the next attempt has."""
    return replace(
        history,
        failures=verdict.failures,
        counts=verdict.counts,
        memory_mb=verdict.memory_mb,
        wall_seconds=verdict.wall_seconds,
        avoid_sites=verdict.avoid_sites,
        avoid_nodes=verdict.avoid_nodes,
    )


def story(layers: list[Layer], ends: list[Failure], history: History = HISTORY) -> list[Verdict]:
    """Judge one failure after the other, up to the last verdict."""
    verdicts = []
    for end in ends:
        verdicts.append(judge(layers, end, history, NOWHERE))
        history = after(history, verdicts[-1])
    return verdicts


# What glideflow does where nobody says anything.


def test_a_failure_waits_longer_each_time_until_the_retries_are_used() -> None:
    verdicts = story([SYSTEM], [failure()] * 4, replace(HISTORY, retries=3))
    assert [verdict.state for verdict in verdicts] == [JobState.WAITING] * 3 + [JobState.FAILED]
    assert [verdict.delay_seconds for verdict in verdicts[:3]] == [2, 4, 8]
    assert [verdict.failures for verdict in verdicts] == [1, 2, 3, 4]
    assert verdicts[0].text == "System rule any-failure: the job runs again 2 s later (retry 1 of 3)."
    assert verdicts[3].text == "System rule any-failure: the job fails, it was run again 3 times already."


def test_the_delay_has_a_limit() -> None:
    assert judge([SYSTEM], failure(), replace(HISTORY, failures=30, retries=100), NOWHERE).delay_seconds == 300


def test_a_task_without_retries_fails_at_once() -> None:
    verdict = judge([SYSTEM], failure(), replace(HISTORY, retries=0), NOWHERE)
    assert verdict.state is JobState.FAILED
    assert verdict.text == "System rule any-failure: the job fails, the task allows no retries."


@pytest.mark.parametrize(
    "code", [ReasonCode.PILOT_LOST, ReasonCode.PILOT_DRAINED, ReasonCode.PILOT_REFUSED, ReasonCode.PILOT_DEADLINE]
)
def test_what_the_pilot_did_costs_no_retry(code: ReasonCode) -> None:
    verdict = judge([SYSTEM], failure(code), replace(HISTORY, retries=0), NOWHERE)
    assert (verdict.state, verdict.failures, verdict.delay_seconds) == (JobState.READY, 0, 0)
    assert verdict.text == "System rule pilot: the job runs again at once (retry 1 of 10)."


def test_a_job_that_brings_down_each_pilot_ends_too() -> None:
    verdicts = story([SYSTEM], [failure(ReasonCode.PILOT_LOST)] * 11)
    assert [verdict.state for verdict in verdicts] == [JobState.READY] * 10 + [JobState.FAILED]


def test_a_job_that_was_too_slow_is_not_run_again_with_the_same_limit() -> None:
    verdict = judge([SYSTEM], failure(ReasonCode.WALL_TIME_EXCEEDED), HISTORY, NOWHERE)
    assert (verdict.state, verdict.rule) == (JobState.FAILED, "system/wall-time")
    assert verdict.text == "System rule wall-time: the job fails at once."


# Which rule decides.


@pytest.mark.parametrize(
    ("match", "end", "fits"),
    [
        ({}, failure(), True),
        ({"reasons": ["payload_exit", "disk_full"]}, failure(), True),
        ({"reasons": ["disk_full"]}, failure(), False),
        ({"sources": ["payload"]}, failure(), True),
        ({"sources": ["site"]}, failure(), False),
        ({"exit_codes": [3]}, failure(exit_code=3), True),
        ({"exit_codes": [1, "64-78"]}, failure(exit_code=78), True),
        ({"exit_codes": [1, "64-78"]}, failure(exit_code=79), False),
        ({"exit_codes": ["0-255"]}, failure(ReasonCode.PILOT_LOST), False),
        ({"exit_codes": [0]}, failure(ReasonCode.OUTPUT_MISSING, exit_code=0), True),
        ({"signals": ["SIGKILL"]}, failure(ReasonCode.PAYLOAD_SIGNAL, signal=9), True),
        ({"signals": ["SIGKILL"]}, failure(exit_code=137), True),
        ({"signals": ["SIGKILL"]}, failure(exit_code=9), False),
        ({"signals": ["SIGKILL"]}, failure(exit_code=128), False),
        ({"signals": [9]}, failure(ReasonCode.PAYLOAD_SIGNAL, signal=15, exit_code=137), False),
        ({"text": "(?i)bad_alloc"}, failure(text="terminate called: std::BAD_ALLOC"), True),
        ({"text": "^bad"}, failure(text="not bad"), False),
        ({"reasons": ["payload_exit"], "exit_codes": [4]}, failure(exit_code=3), False),
    ],
)
def test_all_conditions_of_a_rule_must_fit(match: Mapping[str, Any], end: Failure, fits: bool) -> None:
    assert matches(Match.model_validate(match), end) is fits


def test_the_first_rule_that_fits_decides_in_the_order_task_site_system() -> None:
    task = rules({"name": "a", "match": {"exit_codes": [65]}, "fail": True}, {"name": "b", "match": {"exit_codes": [3]},
                 "retry": {"times": 1}})  # fmt: skip
    site = rules({"name": "c", "retry": {"times": 5}}, origin="site north")
    for code, rule in ((65, "task/a"), (3, "task/b"), (4, "site north/c")):
        assert judge([task, site, SYSTEM], failure(exit_code=code), HISTORY, NOWHERE).rule == rule
    assert judge([task, SYSTEM], failure(exit_code=4), HISTORY, NOWHERE).rule == "system/any-failure"
    text = judge([task, site, SYSTEM], failure(exit_code=4), HISTORY, NOWHERE).text
    assert text == "Rule c of site north: the job runs again 2 s later (retry 1 of 5)."


def test_a_job_fails_where_no_rule_fits() -> None:
    verdict = judge([rules({"name": "a", "match": {"exit_codes": [65]}, "retry": {}})], failure(), HISTORY, NOWHERE)
    assert (verdict.state, verdict.rule) == (JobState.FAILED, None)
    assert verdict.text == "No rule of the failure policy is for this, so the job fails."


def test_an_inactive_rule_is_named_and_not_applied() -> None:
    sleeping = rules({"name": "z", "fail": True, "active": False})
    verdict = judge([sleeping, SYSTEM], failure(), HISTORY, NOWHERE)
    assert verdict.rule == "system/any-failure"
    assert verdict.text.endswith("(retry 1 of 2). Rule z of the task would have decided, but is not active.")
    late = [SYSTEM, rules({"name": "z", "fail": True, "active": False})]
    assert "not active" not in judge(late, failure(), HISTORY, NOWHERE).text


# How often.


def test_rules_with_times_count_for_themselves_and_the_others_share_the_retries() -> None:
    task = rules(
        {"name": "own", "match": {"exit_codes": [1]}, "retry": {"times": 1, "delay_seconds": 0}},
        {"name": "shared", "match": {"exit_codes": [2]}, "retry": {"delay_seconds": 0}},
    )
    ends = [failure(exit_code=code) for code in (1, 2, 5, 2)]
    verdicts = story([task, SYSTEM], ends)
    assert [verdict.state for verdict in verdicts] == ["ready", "ready", "waiting", "failed"]
    assert [(verdict.failures, dict(verdict.counts)) for verdict in verdicts] == [
        (0, {"task/own": 1}), (1, {"task/own": 1}), (2, {"task/own": 1}), (3, {"task/own": 1})
    ]  # fmt: skip
    assert judge([task, SYSTEM], ends[0], after(HISTORY, verdicts[2]), NOWHERE).state is JobState.FAILED


def test_no_job_has_more_attempts_than_the_limit_whatever_the_rules_say() -> None:
    many = [{"name": f"r{code}", "match": {"exit_codes": [code]}, "retry": {"times": 100}} for code in range(5)]
    history, number = HISTORY, 0
    while True:
        number += 1
        verdict = judge([rules(*many)], failure(exit_code=number % 5), history, NOWHERE)
        if verdict.state is JobState.FAILED:
            break
        history = after(history, verdict)
    assert number == MOST_ATTEMPTS
    assert verdict.text.endswith("the job fails, since no job has more than 200 attempts.")


# With more, and elsewhere.

MEMORY = rules({"name": "oom", "retry": {"times": 9, "delay_seconds": 10, "memory_factor": 1.5, "max_memory_mb": 2000}})


def test_memory_grows_by_its_factor_up_to_its_cap_and_then_the_job_fails() -> None:
    verdicts = story([MEMORY], [failure()] * 3)
    assert [verdict.memory_mb for verdict in verdicts] == [1500, 2000, 2000]
    assert verdicts[0].text == (
        "Rule oom of the task: the job runs again 10 s later, with 1500 MB of memory instead of 1000 MB (retry 1 of 9)."
    )
    assert verdicts[2].state is JobState.FAILED
    assert verdicts[2].text == (
        "Rule oom of the task: the job fails, since it had 2000 MB of memory, the most that the rule and the sites "
        "allow."
    )


def test_memory_grows_no_further_than_what_a_site_offers() -> None:
    small = Surroundings(rooms={"north": Room(memory_mb=1200, wall_seconds=9999)})
    verdict = judge([MEMORY], failure(), HISTORY, small)
    assert verdict.memory_mb == 1200
    assert judge([MEMORY], failure(), after(HISTORY, verdict), small).state is JobState.FAILED
    # A site whose pilots live too short for the job is no help, however much memory they have.
    hasty = Surroundings(rooms={**small.rooms, "south": Room(memory_mb=9000, wall_seconds=60)})
    assert judge([MEMORY], failure(), HISTORY, hasty).memory_mb == 1200


def test_a_job_that_has_more_than_the_cap_keeps_what_it_has_and_fails() -> None:
    verdict = judge([MEMORY], failure(), replace(HISTORY, memory_mb=4000), NOWHERE)
    assert (verdict.state, verdict.memory_mb) == (JobState.FAILED, 4000)


def test_run_time_grows_like_memory() -> None:
    slow = rules({"name": "slow", "match": {"reasons": ["wall_time_exceeded"]},
                  "retry": {"wall_factor": 2, "max_wall_seconds": 10000, "delay_seconds": 0}})  # fmt: skip
    verdicts = story([slow, SYSTEM], [failure(ReasonCode.WALL_TIME_EXCEEDED)] * 3)
    assert [verdict.wall_seconds for verdict in verdicts] == [7200, 10000, 10000]
    assert [verdict.state for verdict in verdicts] == ["ready", "ready", "failed"]
    assert "with 7200 s of run time instead of 3600 s" in verdicts[0].text


ELSEWHERE = rules({"name": "away", "match": {"exit_codes": [1]}, "retry": {"times": 5, "elsewhere": "site"}},
                  {"name": "move", "retry": {"times": 5, "elsewhere": "node"}})  # fmt: skip
ROOM = Room(memory_mb=9000, wall_seconds=9000)


def test_a_job_avoids_the_sites_and_nodes_where_it_failed() -> None:
    around = Surroundings(rooms={"north": ROOM, "south": ROOM, "east": ROOM}, nodes=frozenset({"n1", "n2"}))
    first = judge([ELSEWHERE], failure(exit_code=1), HISTORY, around)
    assert (first.avoid_sites, first.avoid_nodes) == (("north",), ())
    assert ", not at site north (retry 1 of 5)." in first.text
    second = judge([ELSEWHERE], replace(failure(exit_code=1), site="east"), after(HISTORY, first), around)
    assert second.avoid_sites == ("east", "north")
    third = judge([ELSEWHERE], failure(), after(HISTORY, second), around)
    assert (third.avoid_sites, third.avoid_nodes) == (("east", "north"), ("n1",))
    assert ", not on node n1 (retry 1 of 5)." in third.text


def test_a_job_stays_where_it_failed_when_there_is_no_other_place() -> None:
    alone = Surroundings(rooms={"north": ROOM}, nodes=frozenset({"n1"}))
    verdict = judge([ELSEWHERE], failure(exit_code=1), HISTORY, alone)
    assert verdict.avoid_sites == ()
    assert ", at the same sites, since no other may run it (retry 1 of 5)." in verdict.text
    verdict = judge([ELSEWHERE], failure(), HISTORY, alone)
    assert verdict.avoid_nodes == ()
    assert ", on any node, since no other is known (retry 1 of 5)." in verdict.text


def test_a_site_that_is_too_small_for_the_job_is_no_other_place() -> None:
    around = Surroundings(rooms={"north": ROOM, "south": Room(memory_mb=900, wall_seconds=9000)})
    assert judge([ELSEWHERE], failure(exit_code=1), HISTORY, around).avoid_sites == ()


# For every policy.

FACTORS = st.one_of(st.none(), st.floats(1.001, 10))
RETRIES = st.builds(
    lambda times, delay, elsewhere, memory, wall: {
        "times": times,
        "delay_seconds": delay,
        "elsewhere": elsewhere,
        **({"memory_factor": memory, "max_memory_mb": 3000} if memory else {}),
        **({"wall_factor": wall, "max_wall_seconds": 9000} if wall else {}),
    },
    st.one_of(st.none(), st.integers(1, 100)),
    st.floats(0, 600),
    st.sampled_from([None, "node", "site"]),
    FACTORS,
    FACTORS,
)
ACTIONS = st.one_of(st.just({"fail": True}), st.builds(lambda retry: {"retry": retry}, RETRIES))
MATCHES = st.one_of(
    st.just({}),
    st.builds(lambda codes: {"exit_codes": codes}, st.lists(st.integers(0, 5), min_size=1)),
    st.builds(
        lambda reasons: {"reasons": reasons}, st.lists(st.sampled_from([str(c) for c in ReasonCode]), min_size=1)
    ),
)
LAYERS = st.lists(
    st.builds(
        lambda origin, written: rules(*({"name": f"r{n}", **rule} for n, rule in enumerate(written)), origin=origin),
        st.sampled_from(["task", "site north", "system"]),
        st.lists(st.builds(lambda match, action, on: {"match": match, **action, "active": on}, MATCHES, ACTIONS,
                           st.booleans()), max_size=6),
    ),
    max_size=3, unique_by=lambda layer: layer.origin,
)  # fmt: skip
ENDS = st.builds(
    lambda code, exit_code, node, site: replace(failure(code, exit_code=exit_code), node=node, site=site),
    st.sampled_from(list(ReasonCode)), st.one_of(st.none(), st.integers(0, 5)),
    st.sampled_from(["n1", "n2", "n3"]), st.sampled_from(["north", "south"]),
)  # fmt: skip


@given(layers=LAYERS, ends=st.lists(ENDS, min_size=1, max_size=8), retries=st.integers(0, 100))
def test_nothing_is_run_again_for_ever_and_memory_keeps_its_cap(
    layers: list[Layer], ends: list[Failure], retries: int
) -> None:
    around = Surroundings(rooms={"north": ROOM, "south": Room(memory_mb=2500, wall_seconds=4000)},
                          nodes=frozenset({"n1", "n2"}))  # fmt: skip
    history = replace(HISTORY, retries=retries)
    for number in range(MOST_ATTEMPTS + 1):
        verdict = judge(layers, ends[number % len(ends)], history, around)
        assert verdict.text.endswith(".")
        assert history.memory_mb <= verdict.memory_mb <= 3000
        assert history.wall_seconds <= verdict.wall_seconds <= 9000
        assert set(verdict.avoid_sites) < set(around.rooms) or not verdict.avoid_sites
        assert not around.nodes <= set(verdict.avoid_nodes)
        assert (verdict.state is JobState.WAITING) is (verdict.delay_seconds > 0)
        assert any(verdict.memory_mb <= room.memory_mb and verdict.wall_seconds <= room.wall_seconds
                   for site, room in around.rooms.items() if site not in verdict.avoid_sites)  # fmt: skip
        if verdict.state is JobState.FAILED:
            return
        history = after(history, verdict)
    pytest.fail(f"still running again after {number} attempts: {history}")
