# SPDX-License-Identifier: Apache-2.0
"""Scout jobs are measured, the rest of the task is split by what they needed, and the record says how."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from glideflow.domain.identifiers import TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.site import Site
from glideflow.domain.sizing import question_of, record
from glideflow.domain.states import JobState
from glideflow.domain.task import Submission
from glideflow.errors import IllegalTransition
from glideflow.services import completion, control, planning, views
from glideflow.services.explain_task import explain_task
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, preview, submit
from glideflow.store import demands
from glideflow.store.engine import Channel, Database

ADA = Identity(method="test", subject="ada", vo="local")
AGAIN = control.user_reason(ReasonCode.RETRY_REQUESTED, "ada", None)
BY_EVENTS = {"target_wall_seconds": 600, "unit": "events", "scouts": 4}


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    database = Database(database_url, connections=4)
    yield Place(
        database=database, storage=Storage(tmp_path / "s"), sandboxes=Storage(tmp_path / "x"),
        sites={"here": Site(name="here", memory_mb=4000)}, max_jobs=100_000,
    )  # fmt: skip
    database.close()


def submission(files: list[int], split: dict[str, Any], **more: object) -> Submission:
    """A task over files of so many events."""
    spec = {
        "schema_version": 1, "name": "demo", "command": "true", "split": split, "inputs": {"files": ["x"]},
        "resources": {"memory_mb": 2000, "wall_seconds": 3600}, **more,
    }  # fmt: skip
    inputs = [
        {"name": f"f{at}", "url": f"file:///f{at}", "size_bytes": 10, "events": events}
        for at, events in enumerate(files)
    ]
    return Submission.model_validate({"spec": spec, "inputs": inputs})


def planned(place: Place, files: list[int], split: dict[str, Any], **more: object) -> TaskId:
    made = submit(place, submission(files, split, **more), ADA)
    planning.plan(place, made)
    return made


def units_of(row: dict[str, Any]) -> int:
    return sum(1 if events is None else events for _, _, events in row["slices"]) or 1


def end(place: Place, task: TaskId, state: JobState, seconds: Callable[[int], float], first: int = 0) -> None:
    """End the ready jobs of a task, each with an attempt that took a time by the size of its input."""
    with place.database.transaction() as connection:
        connection.execute(
            "INSERT INTO pilots (id, site, state, secret_hash) VALUES ('p', 'here', 'ended', '') ON CONFLICT DO NOTHING"
        )
        rows = connection.execute(
            "SELECT * FROM jobs WHERE task_id = %s AND state = 'ready' AND index >= %s ORDER BY id", [task, first]
        ).fetchall()
        for row in rows:
            usage = f'{{"wall_seconds": {seconds(units_of(row))}, "max_rss_mb": 400}}'
            connection.execute(
                """INSERT INTO attempts (job_id, task_id, pilot_id, number, state, usage)
                VALUES (%s, %s, 'p', %s, %s, %s)""",
                [row["id"], task, row["attempts"] + 1, state.value, usage],
            )
            connection.execute(
                "UPDATE jobs SET state = %s, attempts = attempts + 1 WHERE id = %s", [state.value, row["id"]]
            )
    completion.announce_ended_stages(place.database, [task])


def test_the_rest_is_split_so_that_jobs_run_about_the_target_time(place: Place) -> None:
    task = planned(place, [5_000] * 20, BY_EVENTS)
    view = views.task(place.database, task)
    assert (view["state"], view["reason"]["code"], view["jobs"]["ready"]) == ("planning", "scouting", 4)
    assert not views.progress(place.database, task)["ended"]
    planning.go_on(place)
    assert views.task(place.database, task)["state"] == "planning"

    end(place, task, JobState.DONE, lambda units: 20 + 0.2 * units)
    planning.go_on(place)
    view = views.task(place.database, task)
    assert view["decision"]["decision"]["per_job"] == 2900
    assert record(question_of(view["decision"])) == view["decision"]
    others = -(-(100_000 - 8 * 100) // 2900)
    assert (view["state"], view["jobs"]["total"], view["jobs"]["ready"]) == ("running", 4 + others, others)
    with place.database.transaction() as connection:
        first, rest = demands.of_task(connection, task)
        rows = connection.execute("SELECT slices FROM jobs WHERE task_id = %s", [task]).fetchall()
    assert (first["memory_mb"], first["wall_seconds"]) == (2000, 3600)
    assert (rest["memory_mb"], rest["wall_seconds"]) == (600, 900)
    seen = sorted((file, start, start + n) for row in rows for file, start, n in row["slices"])
    assert sum(end - start for _, start, end in seen) == 100_000
    assert all(a[0] < b[0] or a[2] == b[1] for a, b in itertools.pairwise(seen))
    told = " ".join(explain_task(place.database, task)["sentences"])
    assert "For 600 s, each other job gets 2,900 events" in told


def test_whole_files_are_sized_too_and_the_writing_goes_on_where_it_was(place: Place) -> None:
    task = planned(place, [1] * 3000, {"target_wall_seconds": 60})
    end(place, task, JobState.DONE, lambda units: 30.0 * units)
    small = Place(**{**vars(place), "ready_jobs": 1})
    planning.go_on(small)
    for _ in range(2):
        end(place, task, JobState.DONE, lambda units: 1.0)
        planning.go_on(small)
    with place.database.transaction() as connection:
        rows = connection.execute("SELECT index, slices FROM jobs WHERE task_id = %s ORDER BY index", [task]).fetchall()
    assert sorted(piece[0] for row in rows for piece in row["slices"]) == list(range(3000))
    assert [row["index"] for row in rows] == list(range(10 + 1490))


def test_jobs_of_a_given_number_only_ask_for_less(place: Place) -> None:
    task = planned(place, [], {"scouts": 3}, inputs={"jobs": 50})
    assert (
        views.task(place.database, task)["jobs"] | {"total": 50, "ready": 3, "waiting": 47}
        == views.task(place.database, task)["jobs"]
    )
    end(place, task, JobState.DONE, lambda units: 100.0)
    planning.go_on(place)
    view = views.task(place.database, task)
    assert (view["state"], view["jobs"]["total"], view["jobs"]["ready"]) == ("running", 50, 47)
    with place.database.transaction() as connection:
        assert [(row["memory_mb"], row["wall_seconds"]) for row in demands.of_task(connection, task)] == [
            (2000, 3600),
            (600, 150),
        ]


def test_failed_scouts_end_the_task_with_a_reason_and_run_again_with_it(place: Place) -> None:
    task = planned(place, [5_000] * 20, BY_EVENTS)
    end(place, task, JobState.FAILED, lambda units: 1.0, first=1)
    end(place, task, JobState.DONE, float)
    planning.go_on(place)
    view = views.task(place.database, task)
    assert (view["state"], view["reason"]["code"]) == ("failed", "scouts_failed")
    assert "only 1 of 4 scout jobs were done" in view["reason"]["text"]
    control.retry_task(place.database, task, AGAIN)
    planning.plan(place, task)
    assert views.task(place.database, task)["state"] == "planning"
    end(place, task, JobState.DONE, lambda units: float(units))
    planning.go_on(place)
    view = views.task(place.database, task)
    assert (view["state"], view["decision"]["decision"]["per_job"]) == ("running", 600)


def test_a_few_failed_scouts_do_not_stop_the_task(place: Place) -> None:
    task = planned(place, [5_000] * 20, BY_EVENTS)
    end(place, task, JobState.FAILED, lambda units: 1.0, first=3)
    end(place, task, JobState.DONE, lambda units: float(units))
    planning.go_on(place)
    view = views.task(place.database, task)
    assert (view["state"], len(view["decision"]["question"]["measured"])) == ("running", 3)


def test_a_killed_task_does_not_go_on_after_its_scouts(place: Place) -> None:
    task = planned(place, [5_000] * 20, BY_EVENTS)
    control.kill_task(place.database, task, control.user_reason(ReasonCode.KILLED, "ada", None))
    planning.go_on(place)
    assert views.task(place.database, task)["state"] == "cancelled"
    control.retry_task(place.database, task, AGAIN)
    planning.plan(place, task)
    view = views.task(place.database, task)
    assert (view["state"], view["jobs"]["ready"]) == ("planning", 4)


def test_too_little_input_just_runs_and_says_so(place: Place) -> None:
    task = planned(place, [10] * 3, {"target_wall_seconds": 60})
    view = views.task(place.database, task)
    assert (view["state"], view["jobs"]["ready"]) == ("running", 3)
    assert any(
        "3 files are too little input" in sentence for sentence in explain_task(place.database, task)["sentences"]
    )


def test_the_end_of_the_last_scout_wakes_the_planner_and_not_the_flow(place: Place, database_url: str) -> None:
    task = planned(place, [5_000] * 20, BY_EVENTS)
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute(f"LISTEN {Channel.PLANS.value}")
        end(place, task, JobState.DONE, float)
        assert [notice.channel for notice in listener.notifies(timeout=10, stop_after=1)] == [Channel.PLANS]
    with place.database.transaction() as connection:
        actions = [row["action"] for row in connection.execute("SELECT action FROM outbox WHERE task_id = %s", [task])]
    assert actions == ["start"]
    with pytest.raises(IllegalTransition, match="not split into jobs yet"):
        completion.finish(place.database, task)


def test_a_dry_run_shows_the_scouts(place: Place) -> None:
    found = preview(place, submission([5_000] * 20, BY_EVENTS), ADA)
    assert (found.jobs_total, len(found.jobs)) == (4, 4)
    assert any("these are the 4 scout jobs" in warning for warning in found.warnings)
