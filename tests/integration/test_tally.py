# SPDX-License-Identifier: Apache-2.0
"""Counts that triggers keep, and events of moves that pass a state."""

from collections.abc import Iterator

import pytest

from glideflow.domain.identifiers import TaskId
from glideflow.domain.job import JobPlan
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.states import JobState
from glideflow.domain.task import Submission
from glideflow.errors import IllegalTransition
from glideflow.store import demands, jobs, outbox, tally, tasks
from glideflow.store.engine import Connection, Database
from glideflow.store.moves import move, move_each, reason_values

NEEDS = {"stage": "main", "priority": 0, "cores": 1, "memory_mb": 1, "disk_mb": 1, "wall_seconds": 1}
WHY = Reason(code=ReasonCode.PAYLOAD_EXIT, text="it exited with 3", source=Source.PAYLOAD)


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    database = Database(database_url, connections=1)
    with database.transaction() as opened:
        yield opened
    database.close()


@pytest.fixture
def task(connection: Connection) -> TaskId:
    """A task of six ready jobs."""
    submission = Submission.model_validate({"spec": {"schema_version": 1, "name": "demo", "command": "true"}})
    made = tasks.insert(connection, submission, owner="ada", vo="local")
    demand = demands.ensure(connection, {"task_id": made, **NEEDS})
    jobs.insert(connection, made, demand, jobs.MAIN, [JobPlan(index=index) for index in range(6)])
    return made


def counted(connection: Connection, task: TaskId) -> dict[str, int]:
    """Return the tally's counts, which must be those of the rows themselves."""
    found = tally.by_state(connection, [task], stage=jobs.MAIN)[task]
    assert found == jobs.counts_in(connection, task, first=0, last=99)
    return found


def test_the_tally_agrees_with_the_rows_before_and_after_folding(connection: Connection, task: TaskId) -> None:
    ids = jobs.of_task(connection, task, [JobState.READY])
    assert counted(connection, task) == {"ready": 6}
    move(connection, JobState.CLAIMED, ids[:4])
    assert counted(connection, task) == {"ready": 2, "claimed": 4}
    tally.fold(connection)
    move(connection, JobState.READY, ids[:1])
    move(connection, JobState.FAILED, ids[1:3], reason=WHY, set_also=", site = 'here', node = 'n1', exit_code = 3")
    assert counted(connection, task) == {"ready": 3, "claimed": 1, "failed": 2}
    tally.fold(connection)
    tally.fold(connection)
    assert counted(connection, task) == {"ready": 3, "claimed": 1, "failed": 2}
    assert tally.by_site(connection, task, stage=jobs.MAIN)[0] == {"site": "here", "state": "failed", "n": 2}
    (failure,) = tally.failures(connection, task)
    assert (failure["count"], failure["code"], failure["exit_code"]) == (2, "payload_exit", 3)
    assert (failure["job_id"], failure["text"]) == (ids[1], "it exited with 3")


def test_folding_leaves_no_row_for_nothing(connection: Connection, task: TaskId) -> None:
    move(connection, JobState.CANCELLED, jobs.of_task(connection, task, [JobState.READY]))
    tally.fold(connection)
    rows = connection.execute("SELECT state, n FROM tally").fetchall()
    assert [(row["state"], row["n"]) for row in rows] == [("cancelled", 6)]
    assert connection.execute("SELECT FROM tally_deltas").fetchall() == []


def test_two_demands_with_the_same_numbers_are_one(connection: Connection, task: TaskId) -> None:
    first = demands.ensure(connection, {"task_id": task, **NEEDS})
    other = demands.ensure(connection, {"task_id": task, **NEEDS, "memory_mb": 2})
    assert first == demands.ensure(connection, {"task_id": task, **NEEDS}) != other


def test_paused_tasks_have_no_ready_work(connection: Connection, task: TaskId) -> None:
    ((_, ready, active),) = demands.with_work(connection)
    assert (ready, active) == (6, 0)
    move(connection, JobState.CLAIMED, jobs.of_task(connection, task, [JobState.READY])[:2])
    connection.execute("UPDATE tasks SET paused = true")
    ((_, ready, active),) = demands.with_work(connection)
    assert (ready, active) == (0, 2)


def test_a_passed_state_is_an_event_of_its_own_and_guarded(connection: Connection, task: TaskId) -> None:
    first, second, *_ = jobs.of_task(connection, task, [JobState.READY])
    move(connection, JobState.CLAIMED, [first])
    rows = [{"id": key, **reason_values(None)} for key in (first, second)]
    # The second is ready: nothing can be verified of it.
    assert move_each(connection, JobState.DONE, rows, via=JobState.VERIFYING) == [first]
    found = outbox.events(connection, task_id=task, kind="job", subject=str(first), after=0, limit=10)
    assert [(row["old_state"], row["new_state"]) for row in found] == [
        ("ready", "claimed"), ("claimed", "verifying"), ("verifying", "done"),
    ]  # fmt: skip
    with pytest.raises(IllegalTransition):
        move_each(connection, JobState.CLAIMED, rows, via=JobState.DONE)
    # The next move passes nothing.
    move(connection, JobState.CLAIMED, [second])
    assert len(outbox.events(connection, task_id=task, kind="job", subject=str(second), after=0, limit=10)) == 1


@pytest.mark.parametrize("state", [None, "ready", "running", "done", "failed"])
def test_pages_of_a_job_table_go_through_all_jobs_once(connection: Connection, task: TaskId, state: str | None) -> None:
    ids = jobs.of_task(connection, task, [JobState.READY])
    connection.execute("UPDATE jobs SET state = %s WHERE id = ANY(%s)", [state or "ready", ids[1:]])
    wanted = ids if state in (None, "ready") else ids[1:]
    seen: list[int] = []
    while rows := jobs.page(connection, task, state=state, stage=None, after=seen[-1] if seen else 0, limit=2):
        seen += [row["id"] for row in rows]
    assert seen == wanted
    assert jobs.page(connection, task, state=state, stage="merge", after=0, limit=2) == []
