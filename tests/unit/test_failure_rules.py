# SPDX-License-Identifier: Apache-2.0
"""What a rule of a failure policy may say."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from glideflow.domain.failure_rules import Retry, Rule, contains, exit_codes, signal_number
from glideflow.domain.model import Model
from glideflow.domain.reasons import ReasonCode


def rule(**parts: Any) -> Rule:
    return Rule.model_validate({"name": "x", **({} if "fail" in parts else {"retry": {}}), **parts})


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"match": {"exit_codes": ["137"]}}, "must be exit codes, one as `137` or several as `64-78`, not '137'"),
        ({"match": {"exit_codes": [True]}}, "must be exit codes"),
        ({"match": {"exit_codes": [1.5]}}, "must be exit codes"),
        ({"match": {"exit_codes": [256]}}, "`256`: exit codes go from 0 to 255"),
        ({"match": {"exit_codes": ["78-64"]}}, "`78-64`: exit codes go from 0 to 255, in a range the smaller one "),
        ({"match": {"exit_codes": []}}, "at least 1 item"),
        ({"match": {"signals": ["KILL"]}}, "must be signals, by name as `SIGKILL` or by number from 1 to 64, not 'K"),
        ({"match": {"signals": [65]}}, "must be signals"),
        ({"match": {"reasons": ["payload_exti"]}}, "there is no reason `payload_exti`; did you mean `payload_exit`?"),
        ({"match": {"reasons": ["zzz"]}}, "there is no reason `zzz`; there are `payload_exit`, "),
        ({"match": {"sources": ["pilots"]}}, "there is no source `pilots`; did you mean `pilot`?"),
        ({"match": {"text": "(a"}}, "must be a regular expression (the syntax is that of RE2 and Rust): unclosed"),
        ({"match": {"text": "(?=a)b"}}, "look-around, including look-ahead and look-behind, is not supported"),
        ({"match": {"text": r"(a)\1"}}, "backreferences are not supported"),
        ({"match": {"text": "(a{50}){3}"}}, "its repetitions in braces come to 150, multiplied; at most 100"),
        ({"match": {"text": r"(\pL{50}b{2})"}, "retry": {"times": 0}}, "greater than or equal to 1"),
        ({"fail": True, "retry": {}}, "give exactly one of `retry`, `fail`"),
        ({"fail": None}, "give exactly one of `retry`, `fail`"),
        ({"retry": {"memory_factor": 2}}, "`memory_factor` and `max_memory_mb` go together: give both or none"),
        ({"retry": {"max_wall_seconds": 2}}, "`wall_factor` and `max_wall_seconds` go together: give both or none"),
        ({"retry": {"memory_factor": 1, "max_memory_mb": 2}}, "greater than 1"),
        ({"retry": {"delay_seconds": 9, "max_delay_seconds": 8}}, "must not be less than `delay_seconds` (9)"),
        ({"retry": {"elsewhere": "rack"}}, "'node' or 'site'"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_refused_with_what_is_allowed(parts: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rule(**parts)
    assert problem in str(caught.value)


def test_a_rule_survives_being_stored() -> None:
    match = {"reasons": ["payload_exit"], "sources": ["payload"], "exit_codes": [3, "64-78"], "signals": ["SIGKILL", 9]}
    stored = rule(match=match, retry={"times": 2, "elsewhere": "site"}).model_dump(mode="json", exclude_none=True)
    assert stored["match"] == match
    assert rule(**json.loads(json.dumps(stored))) == rule(match=match, retry={"times": 2, "elsewhere": "site"})


def test_every_reason_can_be_matched() -> None:
    reasons = rule(match={"reasons": [str(code) for code in ReasonCode]}).match.reasons
    assert reasons == list(ReasonCode)


def test_exit_codes_and_signals_are_read_as_people_write_them() -> None:
    assert (exit_codes(137), exit_codes("64-78")) == (range(137, 138), range(64, 79))
    assert (signal_number("SIGKILL"), signal_number(9)) == (9, 9)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("(?i)out of memory", "worker 3: Out Of Memory at step 7", True),
        ("^worker", "the worker", False),
        ("std::bad_alloc|Killed", "terminate: what(): std::bad_alloc", True),
        (r"run \d+", "in run 4711\nof today", True),
    ],
)
def test_a_pattern_is_found_anywhere_in_the_text(pattern: str, text: str, found: bool) -> None:
    assert contains(pattern, text) is found


@pytest.mark.parametrize("pattern", ["(x+x+)+y", "(a|a)*$", "^(.*)*$b", "([a-z]+\\s?)*!", "(\\w{9}){9}\\d"])
def test_no_pattern_is_kept_busy_by_a_text(pattern: str) -> None:
    started = time.process_time()
    for text in ("x" * 4000, "a" * 4000, "ab " * 1300):
        contains(rule(match={"text": pattern}).match.text or "", text)
    # A backtracking engine would need longer than the universe for the first of them.
    assert time.process_time() - started < 5


@given(st.floats(0, 604_800), st.floats(1, 10), st.one_of(st.none(), st.floats(0, 604_800)), st.integers(1, 100))
def test_delays_never_shrink_and_have_a_limit(first: float, factor: float, longest: float | None, number: int) -> None:
    if longest is not None and longest < first:
        longest = first
    retry = Retry(delay_seconds=first, delay_factor=factor, max_delay_seconds=longest)
    delay = retry.delay(number)
    assert first <= delay <= (longest if longest is not None else max(300, first))
    assert retry.delay(number + 1) >= delay


def test_every_key_has_a_description() -> None:
    for model in (Rule, Retry, type(rule().match)):
        assert issubclass(model, Model)
        assert all(field.description for field in model.model_fields.values())
