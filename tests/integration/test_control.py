# SPDX-License-Identifier: Apache-2.0
"""Kill and retry at each phase of a task, each twice, on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from glideflow.domain.identifiers import JobId, PilotId, TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.matching import Offer
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.shares import ShareConfig
from glideflow.domain.site import Site
from glideflow.domain.states import JobState, TaskState
from glideflow.domain.task import Submission, TaskSpec
from glideflow.errors import IllegalTransition, NotFound, TaskFileError
from glideflow.identity.secrets import hashed
from glideflow.services import completion, control, orchestration, planning, views
from glideflow.services.board import Board
from glideflow.services.claims import claim_jobs
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, submit
from glideflow.store import pilots
from glideflow.store.engine import Database
from glideflow.store.moves import move

SITES = {"here": Site(name="here")}
KILL = control.user_reason(ReasonCode.KILLED, "ada", "wrong seed")
AGAIN = control.user_reason(ReasonCode.RETRY_REQUESTED, "ada", None)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, connections=4)
    yield opened
    opened.close()


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    return Place(
        database=database, storage=Storage(tmp_path / "s"), sandboxes=Storage(tmp_path / "x"), sites=SITES,
        max_jobs=1000,
    )  # fmt: skip


@pytest.fixture
def task(place: Place) -> TaskId:
    return add(place)


def add(place: Place, **more: object) -> TaskId:
    document = {"schema_version": 1, "name": "demo", "command": "true", "inputs": {"jobs": 3}, **more}
    submission = Submission(spec=TaskSpec.model_validate(document))
    return submit(place, submission, Identity(method="test", subject="ada", vo="local"))


def claim(database: Database) -> JobId:
    pilot = PilotId("pilot-one")
    offer = Offer(pilot_id=pilot, site="here", node="n", want=1, cores=1, memory_mb=9000, disk_mb=9000, seconds=90000)
    with database.transaction() as connection:
        pilots.plan(connection, "here", {pilot: hashed("x")})
        (claimed,) = claim_jobs(connection, Board(ShareConfig()), [offer])
    return JobId(claimed["id"])


def end_jobs(database: Database, task: TaskId, state: JobState) -> None:
    """Move all jobs of a task to an end, as if pilots had reported it."""
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET state = %s WHERE task_id = %s", [state.value, task])


def actions(database: Database) -> list[str]:
    return [entry.action for entry in orchestration.pending(database)]


def test_a_new_task_asks_for_its_flow_run_once(database: Database, task: TaskId) -> None:
    (entry,) = orchestration.pending(database)
    assert (entry.action, entry.task_name, entry.owner, entry.generation) == ("start", "demo", "ada", 1)
    orchestration.record_started(database, entry.id, entry.task_id, "run-1")
    assert orchestration.pending(database) == []
    assert orchestration.open_tasks(database)[0].flow_run_id == "run-1"


def test_planning_twice_writes_the_jobs_once(place: Place, database: Database, task: TaskId) -> None:
    assert [planning.plan(place, task) for _ in range(2)] == [3, 3]
    assert views.task(database, task)["jobs"]["ready"] == 3


def test_what_was_accepted_before_a_crash_is_planned_afterwards(place: Place, database: Database, task: TaskId) -> None:
    assert planning.plan_all(place) == 1
    assert views.task(database, task)["state"] == "running"


@pytest.mark.parametrize("planned", [False, True])
def test_a_task_can_be_killed_and_run_again_before_its_jobs_run(
    place: Place, database: Database, task: TaskId, planned: bool
) -> None:
    if planned:
        planning.plan(place, task)
    for _ in range(2):
        control.kill_task(database, task, KILL)
        view = views.task(database, task)
        assert (view["state"], view["reason"]["text"]) == ("cancelled", "killed by ada: wrong seed")
    assert view["ended_at"]
    assert planning.plan(place, task) == (3 if planned else 0)
    control.retry_task(database, task, AGAIN)
    assert planning.plan(place, task) == 3
    view = views.task(database, task)
    assert (view["state"], view["jobs"]["ready"], view["ended_at"]) == ("running", 3, None)
    assert [entry.generation for entry in orchestration.pending(database)] == [2]


def test_a_kill_ends_the_attempts_and_tells_prefect(place: Place, database: Database, task: TaskId) -> None:
    planning.plan(place, task)
    (entry,) = orchestration.pending(database)
    orchestration.record_started(database, entry.id, task, "run-1")
    job = claim(database)
    control.kill_task(database, task, KILL)
    with database.transaction() as connection:
        assert [attempt["state"] for attempt in views.attempts_of(connection, job)] == ["killed"]
    assert actions(database) == ["cancel"]


def test_a_killed_job_counts_as_ended_and_can_run_again(place: Place, database: Database, task: TaskId) -> None:
    planning.plan(place, task)
    job = claim(database)
    for _ in range(2):
        control.kill_job(database, job, KILL)
        assert views.job(database, job)["state"] == "cancelled"
    control.retry_job(database, job, AGAIN)
    assert views.job(database, job)["state"] == "ready"
    with pytest.raises(IllegalTransition, match=f"job {job} cannot go from ready to ready"):
        control.retry_job(database, job, AGAIN)


def test_the_last_job_to_end_resumes_the_flow(place: Place, database: Database, task: TaskId) -> None:
    planning.plan(place, task)
    for job in (1, 2):
        control.kill_job(database, JobId(job), KILL)
    assert actions(database) == ["start"]
    control.kill_job(database, JobId(3), KILL)
    assert actions(database) == ["start", "resume"]
    assert orchestration.open_tasks(database)[0].stage_ended


def test_a_task_with_open_jobs_cannot_finish_or_merge(database: Database, place: Place) -> None:
    merge = {"command": "cat {inputs}"}
    task = add(place, outputs={"a": {"file": "a"}}, merge=merge)
    planning.plan(place, task)
    with pytest.raises(IllegalTransition, match="whose jobs have not all ended"):
        completion.finish(database, task)
    with pytest.raises(IllegalTransition, match="whose jobs have not all ended"):
        completion.merge(database, SITES, task)
    end_jobs(database, task, JobState.DONE)
    with pytest.raises(IllegalTransition, match="whose merge has not run"):
        completion.finish(database, task)


def test_a_failed_task_names_its_reason_and_only_its_failed_jobs_run_again(
    place: Place, database: Database, task: TaskId
) -> None:
    planning.plan(place, task)
    end_jobs(database, task, JobState.DONE)
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET state = 'failed', reason_text = 'exit 3' WHERE index = 1")
    assert [completion.finish(database, task) for _ in range(2)] == [TaskState.FAILED] * 2
    assert views.task(database, task)["reason"]["text"].startswith("1 of 3 jobs failed, 1 of them like job 2: exit 3")
    assert control.retry_task(database, task, AGAIN).total == 1
    assert control.retry_task(database, task, AGAIN).total == 0
    counts = views.task(database, task)["jobs"]
    assert (counts["done"], counts["ready"]) == (2, 1)


def test_a_failed_merge_fails_the_task_and_runs_again_with_it(database: Database, place: Place) -> None:
    task = add(place, outputs={"a": {"file": "a"}}, merge={"command": "cat {inputs}"})
    planning.plan(place, task)
    end_jobs(database, task, JobState.DONE)
    job = completion.merge(database, SITES, task)
    assert job is not None
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET state = 'failed', reason_text = 'no space' WHERE stage = 'merge'")
    assert completion.finish(database, task) is TaskState.FAILED
    view = views.task(database, task)
    assert (view["reason"]["code"], "no space" in view["reason"]["text"]) == ("merge_failed", True)
    control.retry_task(database, task, AGAIN)
    assert completion.merge(database, SITES, task) == job
    view = views.task(database, task)
    assert (view["state"], view["merge"]) == ("merging", {"job_id": job, "state": "ready"})


def test_a_done_task_cannot_run_again(place: Place, database: Database, task: TaskId) -> None:
    planning.plan(place, task)
    end_jobs(database, task, JobState.DONE)
    assert completion.finish(database, task) is TaskState.DONE
    with pytest.raises(IllegalTransition, match="every job is done"):
        control.retry_task(database, task, AGAIN)
    control.kill_task(database, task, KILL)
    assert views.task(database, task)["state"] == "done"


@pytest.mark.parametrize("order", [control.kill_task, control.retry_task])
def test_what_does_not_exist_is_not_found(database: Database, order: object) -> None:
    with pytest.raises(NotFound, match="there is no task 99"):
        order(database, TaskId(99), KILL)  # type: ignore[operator]


def test_the_store_refuses_a_move_that_the_table_does_not_have(database: Database, task: TaskId) -> None:
    with database.transaction() as connection:
        assert move(connection, TaskState.DONE, [task]) == []
        assert move(connection, TaskState.PLANNING, [task]) == [task]
    events = views.event_page(database, task=task, kind=None, subject=None, cursor=0, limit=10)["items"]
    assert [(event["old_state"], event["new_state"]) for event in events] == [("submitted", "planning")]


def test_a_refused_task_leaves_nothing(database: Database, place: Place) -> None:
    with pytest.raises(TaskFileError, match="no dataset nothing"):
        add(place, inputs={"dataset": "nothing"})
    assert views.task_page(database, state=None, cursor=None, limit=10)["items"] == []
    assert orchestration.pending(database) == []


def test_a_task_is_found_by_its_name_and_a_job_by_its_place(database: Database, place: Place) -> None:
    first, second = add(place), add(place)
    planning.plan_all(place)
    assert views.task_id_of(database, "demo") == second
    assert views.task_id_of(database, str(first)) == first
    job = views.job(database, views.job_id_of(database, "demo.2"))
    assert (job["task_id"], job["index"]) == (second, 2)
    for wrong in ("demo.7", "nothing.1", "demo.x", "9" * 30, "a\x00b"):
        with pytest.raises(NotFound):
            views.job_id_of(database, wrong)
