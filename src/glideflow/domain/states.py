# SPDX-License-Identifier: Apache-2.0
"""The states of tasks, jobs, attempts and pilots, and the moves that are allowed between them.

One enumeration and one table each, one function for all. The store repeats the same guard in SQL
(`UPDATE ... WHERE state = ANY(sources(...))`) and the database logs each move as an event.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from glideflow.errors import IllegalTransition


class TaskState(StrEnum):
    """Where a task is."""

    SUBMITTED = "submitted"
    """Accepted and stored; it is split into jobs next."""
    PLANNING = "planning"
    """Being split into jobs."""
    STAGING = "staging"
    """Inputs are moved to where they are needed."""
    RUNNING = "running"
    """Its jobs wait, run or retry."""
    MERGING = "merging"
    """All main jobs ended; the merge job waits or runs."""
    DELIVERING = "delivering"
    """Outputs are sent to where the user wants them."""
    DONE = "done"
    """All jobs are done; the outputs can be fetched."""
    PARTLY_DONE = "partly_done"
    """Done, with as many failed jobs as the policy allowed."""
    FAILED = "failed"
    """Jobs failed beyond what the policy allows; `glideflow retry` runs them again."""
    CANCELLED = "cancelled"
    """Killed by a user; `glideflow retry` runs the rest."""


class JobState(StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    """Its inputs, its parents or its retry delay are not over yet."""
    READY = "ready"
    """Any pilot that fits may take it."""
    CLAIMED = "claimed"
    """A pilot took it and has not said yet that the command runs."""
    RUNNING = "running"
    """The command runs on a node."""
    VERIFYING = "verifying"
    """The pilot reported the end; the server checks the outputs."""
    TRANSFERRING = "transferring"
    """The outputs are on their way to their final storage."""
    DONE = "done"
    """Finished, with verified outputs."""
    FAILED = "failed"
    """Ended for good without success; the reason says why."""
    CANCELLED = "cancelled"
    """Killed by a user or with its task."""


class AttemptState(StrEnum):
    """Where one run of a job on one pilot is."""

    CLAIMED = "claimed"
    """Handed to a pilot."""
    RUNNING = "running"
    """The pilot started the command."""
    REPORTED = "reported"
    """The pilot reported the end; the server decides."""
    DONE = "done"
    """Succeeded and verified."""
    FAILED = "failed"
    """Failed; the job's policy decides about another attempt."""
    LOST = "lost"
    """Its pilot was not heard from any more; a late report is refused."""
    KILLED = "killed"
    """Ended by a user's command."""
    REFUSED = "refused"
    """The pilot could not run it; the job goes back without losing a retry."""


class PilotState(StrEnum):
    """Where a pilot is."""

    PLANNED = "planned"
    """Written down before it is submitted, so that no pilot is unknown."""
    SUBMITTED = "submitted"
    """In the batch system's queue."""
    REGISTERED = "registered"
    """Runs on a node and takes jobs."""
    DRAINING = "draining"
    """Takes no new job and ends when its running ones have."""
    ENDED = "ended"
    """Said good-bye."""
    HELD = "held"
    """Held by the batch system; released or removed by the hold policy."""
    FAILED = "failed"
    """Could not be submitted or could not start."""
    REMOVED = "removed"
    """Removed from the batch system before or while it ran."""
    VANISHED = "vanished"
    """Neither heard from nor known to the batch system any more."""


State = TaskState | JobState | AttemptState | PilotState
S = TypeVar("S", TaskState, JobState, AttemptState, PilotState)


def _table(moves: dict[S, set[S]]) -> Mapping[S, frozenset[S]]:
    return MappingProxyType({state: frozenset(targets) for state, targets in moves.items()})


_T, _J, _A, _P = TaskState, JobState, AttemptState, PilotState
_TASK_STOPS = {_T.FAILED, _T.CANCELLED}
_JOB_STOPS = {_J.FAILED, _J.CANCELLED}

TASK_MOVES = _table(
    {
        _T.SUBMITTED: {_T.PLANNING, *_TASK_STOPS},
        _T.PLANNING: {_T.STAGING, _T.RUNNING, *_TASK_STOPS},
        _T.STAGING: {_T.RUNNING, *_TASK_STOPS},
        _T.RUNNING: {_T.MERGING, _T.DELIVERING, _T.DONE, _T.PARTLY_DONE, *_TASK_STOPS},
        _T.MERGING: {_T.DELIVERING, _T.DONE, _T.PARTLY_DONE, *_TASK_STOPS},
        _T.DELIVERING: {_T.DONE, _T.PARTLY_DONE, *_TASK_STOPS},
        _T.DONE: set(),
        # A user may run the rest of an ended task again.
        _T.PARTLY_DONE: {_T.RUNNING},
        _T.FAILED: {_T.SUBMITTED, _T.RUNNING},
        _T.CANCELLED: {_T.SUBMITTED, _T.RUNNING},
    }
)

JOB_MOVES = _table(
    {
        _J.WAITING: {_J.READY, *_JOB_STOPS},
        _J.READY: {_J.CLAIMED, _J.WAITING, *_JOB_STOPS},
        _J.CLAIMED: {_J.RUNNING, _J.READY, _J.WAITING, _J.VERIFYING, *_JOB_STOPS},
        _J.RUNNING: {_J.VERIFYING, _J.READY, _J.WAITING, *_JOB_STOPS},
        _J.VERIFYING: {_J.TRANSFERRING, _J.DONE, _J.READY, _J.WAITING, *_JOB_STOPS},
        _J.TRANSFERRING: {_J.DONE, _J.READY, _J.WAITING, *_JOB_STOPS},
        _J.DONE: set(),
        # A user may run it again.
        _J.FAILED: {_J.READY},
        _J.CANCELLED: {_J.READY},
    }
)

ATTEMPT_MOVES = _table(
    {
        _A.CLAIMED: {_A.RUNNING, _A.REPORTED, _A.LOST, _A.KILLED, _A.REFUSED},
        _A.RUNNING: {_A.REPORTED, _A.LOST, _A.KILLED},
        _A.REPORTED: {_A.DONE, _A.FAILED, _A.KILLED, _A.REFUSED, _A.LOST},
        _A.DONE: set(),
        _A.FAILED: set(),
        _A.LOST: set(),
        _A.KILLED: set(),
        _A.REFUSED: set(),
    }
)

_PILOT_ENDS = {_P.ENDED, _P.FAILED, _P.REMOVED, _P.VANISHED}
PILOT_MOVES = _table(
    {
        _P.PLANNED: {_P.SUBMITTED, _P.REGISTERED, _P.FAILED, _P.REMOVED},
        _P.SUBMITTED: {_P.REGISTERED, _P.HELD, *_PILOT_ENDS},
        _P.REGISTERED: {_P.DRAINING, _P.HELD, *_PILOT_ENDS},
        _P.DRAINING: {_P.HELD, *_PILOT_ENDS},
        _P.HELD: {_P.SUBMITTED, _P.REGISTERED, *_PILOT_ENDS},
        _P.ENDED: set(),
        _P.FAILED: set(),
        _P.REMOVED: set(),
        _P.VANISHED: set(),
    }
)

FINAL_TASKS = frozenset({_T.DONE, _T.PARTLY_DONE, _T.FAILED, _T.CANCELLED})
FINAL_JOBS = frozenset({_J.DONE, _J.FAILED, _J.CANCELLED})
FINAL_ATTEMPTS = frozenset({_A.DONE, _A.FAILED, _A.LOST, _A.KILLED, _A.REFUSED})
FINAL_PILOTS = frozenset(_PILOT_ENDS)


FIRST_STATES: Mapping[type, tuple[Any, ...]] = {
    TaskState: (_T.SUBMITTED,),
    JobState: (_J.WAITING, _J.READY),
    AttemptState: (_A.CLAIMED,),
    PilotState: (_P.PLANNED,),
}
"""In which states a row is made."""

_TABLES: Mapping[type, Mapping[Any, frozenset[Any]]] = {
    TaskState: TASK_MOVES,
    JobState: JOB_MOVES,
    AttemptState: ATTEMPT_MOVES,
    PilotState: PILOT_MOVES,
}


def moves_of(state: State) -> Mapping[State, frozenset[State]]:
    """Return the table that governs a state's kind.

    Args:
        state: Any member of one of the four enumerations.

    Returns:
        Mapping from each state of that kind to the states it may move to.
    """
    return _TABLES[type(state)]


def sources(to: State) -> frozenset[State]:
    """Return the states from which `to` can be reached in one move: the guard of the store's updates."""
    return frozenset(state for state, targets in moves_of(to).items() if to in targets)


def check_move(subject: str, old: S, new: S) -> S:
    """Return `new` when the move is allowed.

    Args:
        subject: What moves, for the message, for example "job 4711".
        old: The present state.
        new: The wanted state.

    Raises:
        IllegalTransition: The table does not allow the move.
    """
    if new not in moves_of(old)[old]:
        raise IllegalTransition(subject, old, new)
    return new
