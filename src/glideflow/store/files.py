# SPDX-License-Identifier: Apache-2.0
"""Queries on datasets, their files, and the objects of the embedded storage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.store.engine import Connection

Row = dict[str, Any]


def record_object(connection: Connection, facts: Mapping[str, Any]) -> None:
    """Note an object of the embedded storage, with `path`, `size_bytes`, `sha256`, `adler32` and `lines`."""
    connection.execute(
        """
        INSERT INTO stored_objects (path, size_bytes, sha256, adler32, lines)
        VALUES (%(path)s, %(size_bytes)s, %(sha256)s, %(adler32)s, %(lines)s)
        ON CONFLICT (path) DO UPDATE SET size_bytes = excluded.size_bytes, sha256 = excluded.sha256,
            adler32 = excluded.adler32, lines = excluded.lines, created_at = now()
        """,
        facts,
    )


def objects(connection: Connection, paths: Iterable[str]) -> dict[str, Row]:
    """Return objects of the embedded storage by path."""
    rows = connection.execute("SELECT * FROM stored_objects WHERE path = ANY(%s)", [sorted(set(paths))])
    return {row["path"]: row for row in rows}


def datasets_for(connection: Connection, owners: Mapping[str, str]) -> dict[str, int]:
    """Return the ids of datasets, making those that are missing.

    Args:
        connection: The caller's transaction.
        owners: Who owns each dataset if it has to be made.
    """
    names = sorted(owners)
    connection.execute(
        """
        INSERT INTO datasets (name, owner) SELECT * FROM unnest(%s::text[], %s::text[])
        ON CONFLICT (name) DO NOTHING
        """,
        [names, [owners[name] for name in names]],
    )
    rows = connection.execute("SELECT id, name FROM datasets WHERE name = ANY(%s)", [names])
    return {row["name"]: row["id"] for row in rows}


def insert(connection: Connection, files: Sequence[Mapping[str, Any]]) -> None:
    """Register verified outputs in their datasets, in the transaction that finishes their jobs."""
    connection.execute(
        """
        INSERT INTO files (dataset_id, task_id, job_id, attempt_id, output, name, url, size_bytes, sha256, events)
        SELECT dataset_id, task_id, job_id, attempt_id, output, name, url, size_bytes, sha256, events
        FROM jsonb_to_recordset(%s) AS r(dataset_id bigint, task_id bigint, job_id bigint, attempt_id bigint,
            output text, name text, url text, size_bytes bigint, sha256 text, events bigint)
        """,
        [Jsonb(list(files))],
    )


def count_of_task(connection: Connection, task_id: TaskId, *, stage: str) -> int:
    """Count the files that the jobs of one stage of a task made."""
    row = connection.execute(
        "SELECT count(*) AS n FROM files f JOIN jobs j ON j.id = f.job_id WHERE f.task_id = %s AND j.stage = %s",
        [task_id, stage],
    ).fetchone()
    return int((row or {"n": 0})["n"])


def forget(connection: Connection, job_id: JobId) -> None:
    """Take what a job made out of its datasets; the stored objects stay."""
    connection.execute("DELETE FROM files WHERE job_id = %s", [job_id])


def of_task(connection: Connection, task_id: TaskId) -> list[Row]:
    """Return what a task made, the merge's outputs first, then by job."""
    return connection.execute(
        """
        SELECT d.name AS dataset, f.name AS file, f.url, f.size_bytes, f.sha256, f.events, f.job_id, j.stage,
            j.index, f.output AS name
        FROM files f JOIN datasets d ON d.id = f.dataset_id JOIN jobs j ON j.id = f.job_id
        WHERE f.task_id = %s ORDER BY j.stage = 'main', j.index, f.output
        """,
        [task_id],
    ).fetchall()


def merge_inputs(connection: Connection, task_id: TaskId, output: str) -> list[Row]:
    """Return what the main jobs of a task wrote for one output, by job number."""
    return connection.execute(
        """
        SELECT f.name, f.url, f.size_bytes, f.sha256, j.index
        FROM files f JOIN jobs j ON j.id = f.job_id
        WHERE f.task_id = %s AND f.output = %s AND j.stage = 'main' ORDER BY j.index
        """,
        [task_id, output],
    ).fetchall()


def of_dataset(connection: Connection, name: str, task_id: TaskId | None) -> list[Row] | None:
    """Return the files of a dataset, or None where there is no such dataset.

    Args:
        connection: The caller's transaction.
        name: The dataset's name.
        task_id: Only what this task wrote into it.
    """
    dataset = connection.execute("SELECT id FROM datasets WHERE name = %s", [name]).fetchone()
    if dataset is None:
        return None
    return connection.execute(
        """
        SELECT f.name AS file, f.url, f.size_bytes, f.sha256, f.events, f.task_id
        FROM files f JOIN jobs j ON j.id = f.job_id
        WHERE f.dataset_id = %(dataset)s AND (%(task)s::bigint IS NULL OR f.task_id = %(task)s)
        ORDER BY f.task_id, j.index, f.id
        """,
        {"dataset": dataset["id"], "task": task_id},
    ).fetchall()


def datasets(connection: Connection) -> list[Row]:
    """Return all datasets with their sizes."""
    return connection.execute(
        """
        SELECT d.name, d.owner, d.created_at, count(f.id) AS files,
            coalesce(sum(f.size_bytes), 0)::bigint AS size_bytes,
            sum(f.events)::bigint AS events
        FROM datasets d LEFT JOIN files f ON f.dataset_id = d.id GROUP BY d.id ORDER BY d.name
        """
    ).fetchall()


def size_of_outputs(connection: Connection, task_id: TaskId, output: str | None) -> int:
    """Add up the sizes of the files that a task's jobs wrote as one output; of all where that is None."""
    row = connection.execute(
        """
        SELECT coalesce(sum(size_bytes), 0)::bigint AS size_bytes FROM files
        WHERE task_id = %(task)s AND (%(output)s::text IS NULL OR output = %(output)s)
        """,
        {"task": task_id, "output": output},
    ).fetchone()
    return int((row or {})["size_bytes"])
