# SPDX-License-Identifier: Apache-2.0
"""The state machines: complete, without dead ends, and guarded by one function."""

import pytest

from glideflow.domain import states
from glideflow.domain.states import AttemptState, JobState, PilotState, TaskState, check_move, moves_of, sources
from glideflow.errors import IllegalTransition

KINDS = [
    (TaskState, states.TASK_MOVES, states.FINAL_TASKS),
    (JobState, states.JOB_MOVES, states.FINAL_JOBS),
    (AttemptState, states.ATTEMPT_MOVES, states.FINAL_ATTEMPTS),
    (PilotState, states.PILOT_MOVES, states.FINAL_PILOTS),
]


@pytest.mark.parametrize(("kind", "table", "final"), KINDS)
def test_each_state_has_its_row_and_can_reach_an_end(kind, table, final) -> None:
    assert set(table) == set(kind)
    for state in kind:
        reached, fresh = {state}, {state}
        while fresh:
            fresh = {target for each in fresh for target in table[each]} - reached
            reached |= fresh
        assert reached & final, f"{state} never ends"


@pytest.mark.parametrize(("kind", "table", "final"), KINDS)
def test_each_state_can_be_reached_from_the_first(kind, table, final) -> None:
    reached = fresh = set(states.FIRST_STATES[kind])
    while fresh:
        fresh = {target for each in fresh for target in table[each]} - reached
        reached |= fresh
    assert not set(kind) - reached


@pytest.mark.parametrize(("kind", "table", "final"), KINDS)
def test_the_guard_of_the_store_is_the_table_read_backwards(kind, table, final) -> None:
    for state in kind:
        assert {source for source in kind if state in table[source]} == sources(state)


def test_what_is_done_stays_done() -> None:
    for state in (TaskState.DONE, JobState.DONE, *states.FINAL_ATTEMPTS, *states.FINAL_PILOTS):
        assert not moves_of(state)[state]


def test_an_allowed_move_returns_the_new_state() -> None:
    assert check_move("job 1", JobState.READY, JobState.CLAIMED) is JobState.CLAIMED


def test_an_illegal_move_says_what_cannot_go_where() -> None:
    with pytest.raises(IllegalTransition, match="job 4711 cannot go from done to running") as caught:
        check_move("job 4711", JobState.DONE, JobState.RUNNING)
    assert (caught.value.subject, caught.value.old, caught.value.new) == ("job 4711", "done", "running")
