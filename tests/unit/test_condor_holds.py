# SPDX-License-Identifier: Apache-2.0
"""What is done about held pilots."""

import pytest

from glideflow.domain.holds import BACK_OFF_SECONDS, MAX_RELEASES, HoldAction, Verdict, decide


def verdict(code: int, subcode: int = 0, *, holds: int = 1, held_seconds: float = 10**6, text: str = "") -> Verdict:
    """A decision about a pilot that has been held for long, unless said otherwise."""
    return decide(code=code, subcode=subcode, holds=holds, held_seconds=held_seconds, text=text)


def test_spooling_is_no_failure() -> None:
    assert verdict(16).action is HoldAction.WAIT


@pytest.mark.parametrize("code", [1, 3, 4, 6, 14, 21, 22, 26, 34, 46, 47])
def test_what_waiting_cannot_mend_is_removed(code: int) -> None:
    assert verdict(code).action is HoldAction.REMOVE


def test_an_unknown_code_is_removed_and_said_to_be_unknown() -> None:
    answer = verdict(4711, 1, text="news")
    assert answer.action is HoldAction.REMOVE
    assert answer.text == "the pilot was held and is removed: an unknown hold, taken as permanent (hold 4711/1: news)"


def test_the_subcode_makes_the_sentence_precise() -> None:
    assert "more memory than it asked for" in verdict(34, 102).text
    assert "could not start or crashed" in verdict(3, 42).text
    assert "a policy in its own submit description" in verdict(3, 1).text


@pytest.mark.parametrize("code", [12, 13, 45])
def test_a_transfer_or_node_problem_is_tried_again_after_a_while(code: int) -> None:
    assert verdict(code, holds=2, held_seconds=2 * BACK_OFF_SECONDS).action is HoldAction.RELEASE
    waiting = verdict(code, holds=2, held_seconds=2 * BACK_OFF_SECONDS - 60)
    assert waiting.action is HoldAction.WAIT
    assert "released in 60 s" in waiting.text


def test_a_pilot_is_released_only_so_often() -> None:
    assert verdict(13, holds=MAX_RELEASES).action is HoldAction.RELEASE
    assert verdict(13, holds=MAX_RELEASES + 1).action is HoldAction.REMOVE
