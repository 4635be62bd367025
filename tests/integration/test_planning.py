# SPDX-License-Identifier: Apache-2.0
"""Large tasks: their jobs are written in batches, as they are needed, each exactly once."""

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glideflow.domain.identifiers import TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.site import Site
from glideflow.domain.states import JobState
from glideflow.domain.task import Submission
from glideflow.errors import IllegalTransition
from glideflow.services import completion, control, orchestration, planning, views
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, submit
from glideflow.store.engine import Database

ADA = Identity(method="test", subject="ada", vo="local")
KILL = control.user_reason(ReasonCode.KILLED, "ada", None)
AGAIN = control.user_reason(ReasonCode.RETRY_REQUESTED, "ada", None)


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    database = Database(database_url, connections=6)
    yield Place(
        database=database, storage=Storage(tmp_path / "s"), sandboxes=Storage(tmp_path / "x"),
        sites={"here": Site(name="here")}, max_jobs=10_000_000, ready_jobs=2_000,
    )  # fmt: skip
    database.close()


def task(place: Place, **more: object) -> TaskId:
    spec = {"schema_version": 1, "name": "demo", "command": "true", **more}
    return submit(place, Submission.model_validate({"spec": spec}), ADA)


def scalar(place: Place, query: str, *values: object) -> Any:
    with place.database.transaction() as connection:
        row = connection.execute(query, list(values)).fetchone()  # type: ignore[arg-type]
        return next(iter((row or {}).values()))


def written(place: Place, made: TaskId) -> int:
    return int(scalar(place, "SELECT count(*) FROM jobs WHERE task_id = %s", made))


def end_ready(place: Place, made: TaskId, state: JobState = JobState.DONE) -> None:
    """End all ready jobs, as if pilots had reported it."""
    with place.database.transaction() as connection:
        connection.execute("UPDATE jobs SET state = %s WHERE task_id = %s AND state = 'ready'", [state.value, made])


def test_only_as_many_jobs_are_written_as_are_wanted_ahead(place: Place) -> None:
    made = task(place, inputs={"jobs": 30_000})
    assert planning.plan(place, made) == 30_000
    assert written(place, made) == 6_000
    view = views.progress(place.database, made)
    assert (view["task"]["jobs"]["total"], view["total"], view["by_state"]) == (
        30_000,
        30_000,
        {"ready": 6_000, "waiting": 24_000},
    )
    planning.go_on(place)
    assert written(place, made) == 6_000
    end_ready(place, made)
    planning.go_on(place)
    assert written(place, made) == 11_000


def test_a_range_of_jobs_counts_those_that_are_not_written(place: Place) -> None:
    made = task(place, inputs={"jobs": 7_000})
    planning.plan(place, made)
    assert views.progress(place.database, made, first=5_990, last=6_009)["by_state"] == {"ready": 10, "waiting": 10}
    assert views.progress(place.database, made, first=6_900, last=9_999)["by_state"] == {"waiting": 100}


def test_the_stage_ends_only_when_every_job_was_written_and_ended(place: Place) -> None:
    made = task(place, inputs={"jobs": 7_000})
    planning.plan(place, made)
    (entry,) = orchestration.pending(place.database)
    orchestration.record_started(place.database, entry.id, made, "run-1")
    end_ready(place, made)
    completion.announce_ended_stages(place.database, [made])
    assert orchestration.pending(place.database) == []
    assert not views.progress(place.database, made)["ended"]
    assert not orchestration.open_tasks(place.database)[0].stage_ended
    with pytest.raises(IllegalTransition, match="whose jobs have not all ended"):
        completion.finish(place.database, made)
    planning.go_on(place)
    end_ready(place, made)
    completion.announce_ended_stages(place.database, [made])
    assert [entry.action for entry in orchestration.pending(place.database)] == ["resume"]
    assert completion.finish(place.database, made) == "done"
    assert views.task(place.database, made)["jobs"]["done"] == 7_000


def test_a_killed_task_writes_no_more_until_it_is_run_again(place: Place) -> None:
    made = task(place, inputs={"jobs": 7_000})
    planning.plan(place, made)
    control.kill_task(place.database, made, KILL)
    planning.go_on(place)
    assert written(place, made) == 6_000
    assert views.task(place.database, made)["jobs"]["cancelled"] == 7_000
    control.retry_task(place.database, made, AGAIN)
    end_ready(place, made)
    planning.go_on(place)
    counts = views.task(place.database, made)["jobs"]
    assert (counts["done"], counts["ready"]) == (6_000, 1_000)


def test_endpoints_that_write_at_once_write_each_job_once(place: Place) -> None:
    """Two planners of one task, as two endpoints have them, and a third that plans it anew."""
    made = task(place, inputs={"jobs": 25_000})
    eager = replace(place, ready_jobs=25_000)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda work: work(), [lambda: planning.plan(eager, made), lambda: planning.plan_all(eager),
                                            lambda: planning.go_on(eager)]))  # fmt: skip
    planning.go_on(eager)
    assert written(place, made) == 25_000
    assert scalar(place, "SELECT max(index) FROM jobs WHERE task_id = %s", made) == 24_999


def test_a_batch_that_fails_leaves_nothing_behind(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dies in the middle of a batch goes on with the same job after its restart."""
    made = task(place, inputs={"jobs": 9_000})
    planning.plan(place, made)
    end_ready(place, made)
    with monkeypatch.context() as patch:
        patch.setattr(planning, "broker", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            planning.go_on(place)
    assert written(place, made) == 6_000
    planning.go_on(place)
    assert written(place, made) == 9_000


def test_200_000_files_are_split_and_written_in_constant_memory(place: Place) -> None:

    with place.database.transaction() as connection:
        made = task(place, inputs={"jobs": 1})
        connection.execute(
            """INSERT INTO task_inputs (task_id, position, name, url, size_bytes, events)
            SELECT %s, n, 'f' || n, 'file:///f' || n, 1000, 100 FROM generate_series(0, 199999) n""",
            [made],
        )
        connection.execute(
            """UPDATE tasks SET spec = spec || '{"inputs": {"dataset": "d"}, "split": {"bytes_per_job": 10000}}',
            extent = NULL WHERE id = %s""",
            [made],
        )
    tracemalloc.start()
    try:
        assert planning.plan(place, made) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25_000_000
    assert written(place, made) == 6_000
    assert scalar(place, "SELECT next_file FROM tasks WHERE id = %s", made) == 60_000
