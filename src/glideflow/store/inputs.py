# SPDX-License-Identifier: Apache-2.0
"""Queries on the input files of tasks: written and read as streams, for there may be millions."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict

from psycopg.types.json import Jsonb

from glideflow.domain.identifiers import TaskId
from glideflow.domain.splitting import Extent, Piece
from glideflow.domain.task import ResolvedInput
from glideflow.store.engine import Connection

_PAGE = 5_000


def insert(connection: Connection, task_id: TaskId, inputs: Iterable[ResolvedInput]) -> None:
    """Store the input files of a task in their order."""
    with connection.cursor().copy(
        "COPY task_inputs (task_id, position, name, url, size_bytes, sha256, events) FROM STDIN"
    ) as copy:
        for position, file in enumerate(inputs):
            copy.write_row((task_id, position, file.name, file.url, file.size_bytes, file.sha256, file.events))


def insert_dataset(
    connection: Connection, task_id: TaskId, dataset: str, producer: TaskId | None, taken: Iterable[str]
) -> bool | None:
    """Make the present files of a dataset the input files of a task, within the database.

    A file keeps its name where no other file of the task has it; else the number of the attempt that wrote it, and
    where even that does not help its position, stands in front.

    Args:
        connection: The caller's transaction.
        task_id: The task that reads them.
        dataset: The dataset's name.
        producer: Only what this task wrote into it.
        taken: Names that the files must not have.

    Returns:
        Whether there are files; None where there is no such dataset.
    """
    known = connection.execute("SELECT id FROM datasets WHERE name = %s", [dataset]).fetchone()
    if known is None:
        return None
    done = connection.execute(
        r"""
        WITH found AS (
            SELECT f.*, (row_number() OVER (ORDER BY f.task_id, j.index, f.id) - 1)::int AS position,
                coalesce(nullif(ltrim(regexp_replace(f.url, '^.*/', ''), '-'), ''), 'input') AS base
            FROM files f JOIN jobs j ON j.id = f.job_id
            WHERE f.dataset_id = %(dataset)s AND (%(producer)s::bigint IS NULL OR f.task_id = %(producer)s)
        ), longer AS (
            SELECT *, CASE WHEN count(*) OVER (PARTITION BY base) > 1 OR base = ANY(%(taken)s)
                THEN attempt_id || '_' || base ELSE base END AS long
            FROM found
        )
        INSERT INTO task_inputs (task_id, position, name, url, size_bytes, sha256, events)
        SELECT %(task)s, position, CASE WHEN count(*) OVER (PARTITION BY long) > 1 OR long = ANY(%(taken)s)
            THEN position || '-' || long ELSE long END, url, size_bytes, sha256, events
        FROM longer
        """,
        {"task": task_id, "dataset": known["id"], "producer": producer, "taken": sorted(taken)},
    )
    return done.rowcount > 0


def measure(connection: Connection, task_id: TaskId) -> Extent:
    """Add up the input files of a task, and keep the result with it."""
    row = connection.execute(
        """
        SELECT count(*) AS files, coalesce(sum(size_bytes), 0)::bigint AS size_bytes,
            coalesce(sum(events), 0)::bigint AS events,
            count(*) FILTER (WHERE size_bytes IS NULL) AS unsized,
            count(*) FILTER (WHERE events IS NULL) AS uncounted,
            (SELECT name FROM task_inputs WHERE task_id = %(task)s AND size_bytes IS NULL ORDER BY position LIMIT 1)
                AS first_unsized,
            (SELECT name FROM task_inputs WHERE task_id = %(task)s AND events IS NULL ORDER BY position LIMIT 1)
                AS first_uncounted
        FROM task_inputs WHERE task_id = %(task)s
        """,
        {"task": task_id},
    ).fetchone()
    extent = Extent(**row) if row else Extent()
    connection.execute("UPDATE tasks SET extent = %s WHERE id = %s", [Jsonb(asdict(extent)), task_id])
    return extent


def sizes(connection: Connection, task_id: TaskId, positions: Collection[int]) -> dict[int, int]:
    """Return the sizes of some of a task's input files by position, 0 where they are not known."""
    if not positions:
        return {}
    rows = connection.execute(
        "SELECT position, coalesce(size_bytes, 0) AS size FROM task_inputs WHERE task_id = %s AND position = ANY(%s)",
        [task_id, sorted(positions)],
    )
    return {row["position"]: row["size"] for row in rows}


def parts_below(connection: Connection, task_id: TaskId, prefixes: Sequence[str]) -> dict[str, float]:
    """Return which part of a task's input, 0 to 1, has URLs that begin with each prefix.

    It is the part of the bytes where all sizes are known, else that of the files.
    """
    rows = connection.execute(
        """
        SELECT p.prefix, coalesce(
            CASE WHEN every.unsized = 0 AND every.size_bytes > 0
                THEN sum(i.size_bytes) FILTER (WHERE starts_with(i.url, p.prefix)) / every.size_bytes
                ELSE count(*) FILTER (WHERE starts_with(i.url, p.prefix)) / nullif(every.files, 0)::numeric
            END, 0)::float8 AS part
        FROM unnest(%(prefixes)s::text[]) AS p(prefix)
        CROSS JOIN (
            SELECT count(*) AS files, coalesce(sum(size_bytes), 0) AS size_bytes,
                count(*) FILTER (WHERE size_bytes IS NULL) AS unsized
            FROM task_inputs WHERE task_id = %(task)s
        ) every
        LEFT JOIN task_inputs i ON i.task_id = %(task)s
        GROUP BY p.prefix, every.files, every.size_bytes, every.unsized
        """,
        {"task": task_id, "prefixes": list(prefixes)},
    )
    return {row["prefix"]: row["part"] for row in rows}


def pieces(connection: Connection, task_id: TaskId, first: int = 0) -> Iterator[Piece]:
    """Return the input files of a task from a position on, read page by page."""
    while True:
        # With both ends the page is found by its index even before the table's statistics know of a new task.
        rows = connection.execute(
            """
            SELECT position, size_bytes, events FROM task_inputs
            WHERE task_id = %s AND position >= %s AND position < %s ORDER BY position
            """,
            [task_id, first, first + _PAGE],
        ).fetchall()
        for row in rows:
            yield Piece(file=row["position"], size_bytes=row["size_bytes"], events=row["events"])
        if len(rows) < _PAGE:
            return
        first += _PAGE
