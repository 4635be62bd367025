# SPDX-License-Identifier: Apache-2.0
"""Datasets as inputs: each file is read once, whatever its name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from glideflow.domain.identifiers import TaskId
from glideflow.domain.identity import Identity
from glideflow.domain.site import Site
from glideflow.domain.task import Submission
from glideflow.errors import TaskFileError
from glideflow.services import planning
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, submit
from glideflow.store import files
from glideflow.store.engine import Database

ADA = Identity(method="test", subject="ada", vo="local")


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    database = Database(database_url, connections=2)
    yield Place(
        database=database, storage=Storage(tmp_path / "s"), sandboxes=Storage(tmp_path / "x"),
        sites={"here": Site(name="here")}, max_jobs=1000,
    )  # fmt: skip
    database.close()


def task(place: Place, **more: object) -> TaskId:
    spec = {"schema_version": 1, "name": "demo", "command": "true", **more}
    return submit(place, Submission.model_validate({"spec": spec}), ADA)


def write(place: Place, number: int, file: str) -> TaskId:
    """Let a task of so many jobs write files of one name into the dataset `data`."""
    made = task(place, inputs={"jobs": number})
    planning.plan(place, made)
    with place.database.transaction() as connection:
        connection.execute("INSERT INTO pilots (id, site, state, secret_hash) VALUES (%s, 'here', 'ended', '')", [made])
        dataset = files.datasets_for(connection, {"data": "ada"})["data"]
        jobs = connection.execute("SELECT id FROM jobs WHERE task_id = %s ORDER BY id", [made]).fetchall()
        for job in jobs:
            attempt = connection.execute(
                "INSERT INTO attempts (job_id, task_id, pilot_id, number) VALUES (%s, %s, %s, 1) RETURNING id",
                [job["id"], made, str(made)],
            ).fetchone()
            assert attempt is not None
            url = f"/storage/tasks/{made}/{attempt['id']}/{file}"
            row = {"dataset_id": dataset, "task_id": made, "job_id": job["id"], "attempt_id": attempt["id"]}
            more = {"output": "out", "name": file, "url": url, "size_bytes": 1, "sha256": "0" * 64, "events": 5}
            files.insert(connection, [{**row, **more}])
    return made


def read(place: Place, dataset: str, **more: object) -> list[tuple[str, str]]:
    reader = task(place, inputs={"dataset": dataset}, **more)
    with place.database.transaction() as connection:
        rows = connection.execute("SELECT name, url FROM task_inputs WHERE task_id = %s ORDER BY position", [reader])
        return [(row["name"], row["url"].rpartition("/")[0]) for row in rows]


def test_files_of_one_name_from_several_jobs_get_different_names(place: Place) -> None:
    write(place, 3, "out.txt")
    found = read(place, "data")
    assert len({name for name, _ in found}) == 3
    assert len({url for _, url in found}) == 3


def test_a_dataset_is_read_whole_or_only_what_one_task_wrote(place: Place) -> None:
    first, second = write(place, 2, "a.txt"), write(place, 1, "a.txt")
    assert len(read(place, "data")) == 3
    assert len(read(place, f"data@{first}")) == 2
    assert [name for name, _ in read(place, f"data@{second}")] == ["a.txt"]


def test_a_task_that_wrote_nothing_into_the_dataset_is_named(place: Place) -> None:
    write(place, 1, "a.txt")
    with pytest.raises(TaskFileError, match="data@99 has no files"):
        read(place, "data@99")


def test_an_input_never_takes_the_name_of_an_output(place: Place) -> None:
    write(place, 1, "a.txt")
    ((name, _),) = read(place, "data", outputs={"a": {"file": "a.txt"}})
    assert name != "a.txt"


def test_files_that_would_overwrite_each_other_are_refused(place: Place) -> None:
    spec = {"schema_version": 1, "name": "demo", "command": "true", "inputs": {"files": ["x"]}}
    twice = [{"name": "same.txt", "url": "https://example.org/same.txt"}] * 2
    with pytest.raises(TaskFileError, match="2 files of a job would be named same"):
        submit(place, Submission.model_validate({"spec": spec, "inputs": twice}), ADA)
