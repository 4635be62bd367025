# SPDX-License-Identifier: Apache-2.0
"""Chains on PostgreSQL: children start, wait again or are cancelled in the transaction that ends their parents."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from glideflow.domain.identifiers import TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.site import Site
from glideflow.domain.states import JobState
from glideflow.domain.task import Submission
from glideflow.errors import IllegalTransition, TaskFileError
from glideflow.services import completion, control, orchestration, planning, views
from glideflow.services.explain_task import explain_task
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, preview_all, submit_all
from glideflow.store import files
from glideflow.store.engine import Database

ADA = Identity(method="test", subject="ada", vo="local")
KILL = control.user_reason(ReasonCode.KILLED, "ada", None)
AGAIN = control.user_reason(ReasonCode.RETRY_REQUESTED, "ada", None)
OUT = {"events": {"file": "e-{index}.csv"}}


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    database = Database(database_url, connections=4)
    yield Place(
        database=database, storage=Storage(tmp_path / "s"), sandboxes=Storage(tmp_path / "x"),
        sites={"here": Site(name="here")}, max_jobs=1000,
    )  # fmt: skip
    database.close()


def task(name: str, **more: Any) -> Submission:
    return Submission.model_validate({"spec": {"schema_version": 1, "name": name, "command": "true", **more}})


def chain(place: Place, *tasks: Submission) -> list[TaskId]:
    made = submit_all(place, tasks, ADA)
    planning.plan_all(place)
    return made


def end(place: Place, parent: TaskId, state: JobState = JobState.DONE) -> None:
    """End the jobs of a task and the task, with a file in `DATASET.events` for each job that is done."""
    name = views.task(place.database, parent)["name"]
    with place.database.transaction() as connection:
        connection.execute(
            "INSERT INTO pilots (id, site, state, secret_hash) VALUES ('p', 'here', 'ended', '') ON CONFLICT DO NOTHING"
        )
        rows = connection.execute(
            "UPDATE jobs SET state = %s WHERE task_id = %s AND state <> 'done' RETURNING id", [state.value, parent]
        ).fetchall()
        dataset = files.datasets_for(connection, {f"{name}.events": "ada"})[f"{name}.events"]
        for row in rows if state is JobState.DONE else []:
            attempt = connection.execute(
                "INSERT INTO attempts (job_id, task_id, pilot_id, number) VALUES (%s, %s, 'p', 9) RETURNING id",
                [row["id"], parent],
            ).fetchone()
            ids = {"dataset_id": dataset, "task_id": parent, "job_id": row["id"], "attempt_id": (attempt or {})["id"]}
            more = {"output": "events", "name": "e", "size_bytes": 1, "sha256": "0" * 64, "events": 5}
            files.insert(connection, [{**ids, **more, "url": f"/storage/tasks/{parent}/{ids['attempt_id']}/e"}])
    completion.finish(place.database, parent)
    planning.plan_all(place)


def state(place: Place, number: TaskId) -> tuple[str, str | None]:
    view = views.task(place.database, number)
    return view["state"], view["reason"]["code"] if view["reason"] else None


def starts(place: Place) -> list[int]:
    return [entry.task_id for entry in orchestration.pending(place.database) if entry.action == "start"]


def test_a_chain_runs_task_by_task_and_reads_what_the_one_before_wrote(place: Place) -> None:
    reader = task("read", inputs={"dataset": "write.events@write"}, outputs=OUT)
    last, read, write = chain(
        place, task("last", after=["read"]), reader, task("write", inputs={"jobs": 3}, outputs=OUT)
    )
    assert write < read < last
    assert [state(place, one)[0] for one in (write, read, last)] == ["running", "submitted", "submitted"]
    assert starts(place) == [write]
    assert views.task(place.database, read)["reason"]["text"] == f"it waits for task {write} (write)"
    end(place, write)
    assert state(place, read) == ("running", None)
    assert views.task(place.database, read)["jobs"]["ready"] == 3
    assert starts(place) == [write, read]
    end(place, read)
    assert state(place, last) == ("running", None)


def test_several_parents_and_the_newest_task_of_a_name(place: Place) -> None:
    old, first = chain(place, task("one"))[0], chain(place, task("one"))[0]
    (second,) = chain(place, task("two"))
    (child,) = chain(place, task("child", after=["one", str(second)]))
    assert [parent["id"] for parent in views.task(place.database, child)["parents"]] == [first, second]
    end(place, old)
    end(place, first)
    assert views.task(place.database, child)["reason"]["text"] == f"it waits for task {second} (two)"
    end(place, second)
    assert state(place, child)[0] == "running"


def test_a_task_waits_for_whoever_writes_its_dataset(place: Place) -> None:
    writers = chain(place, task("a", outputs={"o": {"file": "o", "dataset": "d"}}), task("b"))
    (child,) = chain(place, task("child", inputs={"dataset": "d", "wait_for_dataset": True}))
    assert [parent["id"] for parent in views.task(place.database, child)["parents"]] == [writers[0]]
    end(place, writers[0])
    # Nothing was written there: the reason says so, and not for ever `submitted`.
    assert state(place, child) == ("failed", "planning_failed")


@pytest.mark.parametrize("killed", [False, True])
def test_a_failed_parent_cancels_its_descendants_and_its_retry_lets_them_wait_again(place: Place, killed: bool) -> None:
    parent, child, grandchild = chain(place, task("p", outputs=OUT), task("c", after=["p"]), task("g", after=["c"]))
    if killed:
        control.kill_task(place.database, parent, KILL)
    else:
        end(place, parent, JobState.FAILED)
    assert state(place, child) == state(place, grandchild) == ("cancelled", "parent_failed")
    with pytest.raises(IllegalTransition, match=rf"task {child}, which waits for task {parent} \(p\).*retry that one"):
        control.retry_task(place.database, child, AGAIN)
    control.retry_task(place.database, parent, AGAIN)
    assert state(place, child) == state(place, grandchild) == ("submitted", "waits_for_tasks")
    end(place, parent)
    assert state(place, child)[0] == "running"
    end(place, child)
    assert state(place, grandchild)[0] == "running"


def test_a_child_may_run_whatever_its_parent_did(place: Place) -> None:
    parent, child = chain(place, task("p"), task("c", after=["p"], after_failed="run"))
    told = explain_task(place.database, child)["sentences"]
    assert f"It comes after task {parent} (p), which is running." in told
    assert "Should one of them fail: it runs all the same." in told
    end(place, parent, JobState.FAILED)
    assert state(place, child) == ("running", None)


def test_a_waiting_task_can_be_killed_and_does_not_come_back_with_its_parent(place: Place) -> None:
    parent, child = chain(place, task("p"), task("c", after=["p"]))
    control.kill_task(place.database, child, KILL)
    end(place, parent)
    assert state(place, child) == ("cancelled", "killed")
    control.retry_task(place.database, child, AGAIN)
    planning.plan_all(place)
    assert state(place, child) == ("running", None)


def test_parents_that_end_at_once_start_the_child_once(place: Place) -> None:
    *before, child = chain(place, *(task(f"p{n}") for n in range(4)), task("c", after=[f"p{n}" for n in range(4)]))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda parent: end(place, parent), before))
    planning.plan_all(place)
    assert state(place, child) == ("running", None)
    assert starts(place).count(child) == 1
    assert views.task(place.database, child)["jobs"]["total"] == 1


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ([task("a", after=["nobody"])], "there is no task nobody"),
        ([task("a", after=["999"])], "there is no task 999"),
        (
            [task("a"), task("b", inputs={"dataset": "x@nobody"})],
            "task b: key `inputs.dataset`: there is no task nobody",
        ),
        ([task("a", after=["b"]), task("b", after=["a"])], "a -> b -> a"),
    ],
)
def test_missing_parents_and_circles_are_refused_and_nothing_is_stored(
    place: Place, tasks: list[Submission], sentence: str
) -> None:
    with pytest.raises(TaskFileError, match=sentence):
        submit_all(place, tasks, ADA)
    assert views.task_page(place.database, state=None, cursor=None, limit=10)["items"] == []


def test_a_parent_that_has_failed_already_is_refused(place: Place) -> None:
    (parent,) = chain(place, task("p"))
    end(place, parent, JobState.FAILED)
    with pytest.raises(TaskFileError, match=rf"task {parent} \(p\) is failed: run it again with `glideflow retry"):
        chain(place, task("c", after=["p"]))
    (child,) = chain(place, task("c", after=["p"], after_failed="run"))
    assert state(place, child)[0] == "running"


def test_a_dry_run_of_a_chain_says_what_is_not_known_yet(place: Place) -> None:
    reader = task("read", inputs={"dataset": "write.events@write"}, outputs=OUT)
    first, second = preview_all(place, [task("write", inputs={"jobs": 3}, outputs=OUT), reader], ADA)
    assert (first.jobs_total, second.jobs_total) == (3, 0)
    assert "read waits" in second.warnings[-1]
    assert views.task_page(place.database, state=None, cursor=None, limit=10)["items"] == []
