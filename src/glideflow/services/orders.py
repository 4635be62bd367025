# SPDX-License-Identifier: Apache-2.0
"""Orders: everything a pilot needs to run an attempt, made from the task and the job."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glideflow.domain.demand import Demand
from glideflow.domain.identifiers import TaskId
from glideflow.domain.job import InputSlice
from glideflow.domain.messages import Order, OrderInput, OrderOutput
from glideflow.domain.placeholders import file_names, fill, job_values, merge_values, seed_of
from glideflow.domain.task import SandboxFile, TaskSpec
from glideflow.services.outputs import storage_path
from glideflow.store import files, jobs, tasks
from glideflow.store.engine import Connection

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Known:
    spec: TaskSpec
    sandbox: tuple[SandboxFile, ...]
    jobs_total: int
    owner: str


class TaskCache:
    """Definitions of tasks, which never change once the number of jobs is known, kept in memory.

    Args:
        size: Most tasks kept; more than one group of exchanges can need.
    """

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._known: dict[int, _Known] = {}

    def load(self, connection: Connection, task_ids: Iterable[int]) -> None:
        """Make sure that some tasks are known, and forget those that were not needed for longest."""
        for task_id in set(task_ids):
            known = self._known.pop(task_id, None)
            if known is None or not known.jobs_total:
                # Scouts run before the number of jobs is known.
                known = _load(connection, TaskId(task_id))
            if known is not None:
                self._known[task_id] = known
        while len(self._known) > self._size:
            del self._known[next(iter(self._known))]

    def spec(self, task_id: int) -> TaskSpec:
        """Return a loaded task's definition."""
        return self._known[task_id].spec

    def sandbox(self, task_id: int) -> tuple[SandboxFile, ...]:
        """Return a loaded task's sandbox files."""
        return self._known[task_id].sandbox

    def jobs_total(self, task_id: int) -> int:
        """Return the number of a loaded task's jobs; 0 while it is not known."""
        return self._known[task_id].jobs_total

    def owner(self, task_id: int) -> str:
        """Return who submitted a loaded task."""
        return self._known[task_id].owner


def _load(connection: Connection, task_id: TaskId) -> _Known | None:
    row = tasks.get(connection, task_id)
    if row is None:
        return None
    return _Known(
        spec=TaskSpec(**row["spec"]),
        sandbox=tuple(SandboxFile(**file) for file in row["sandbox"]),
        jobs_total=row["jobs_total"] or 0,
        owner=row["owner"],
    )


def make_orders(connection: Connection, cache: TaskCache, claims: Sequence[Row]) -> list[Order]:
    """Make the orders of claimed jobs.

    Args:
        connection: The caller's transaction.
        cache: Definitions of tasks.
        claims: Jobs with `demand`, `attempt_id` and `number`.
    """
    cache.load(connection, [claim["task_id"] for claim in claims])
    positions = [(claim["task_id"], piece[0]) for claim in claims for piece in claim["slices"]]
    known = tasks.inputs_at(connection, positions)
    orders = []
    for claim in claims:
        if claim["stage"] == jobs.MERGE:
            inputs = _merge_inputs(connection, cache.spec(claim["task_id"]), claim["task_id"])
        else:
            inputs = [Input(file=known[claim["task_id"], piece[0]], part=slice_of(piece)) for piece in claim["slices"]]
        orders.append(_order(cache, claim, inputs))
    return orders


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input file of a job and what the job reads of it."""

    file: Row
    """`name`, `url`, `size_bytes`, `sha256`."""
    part: InputSlice
    """The slice."""


def slice_of(piece: Sequence[int | None]) -> InputSlice:
    """Return a slice as it is stored with a job."""
    return InputSlice(file=piece[0] or 0, first_event=piece[1], events=piece[2])


def _merge_inputs(connection: Connection, spec: TaskSpec, task_id: int) -> list[Input]:
    """Return the files that the merge job reads, each under a name of its own."""
    rows = files.merge_inputs(connection, TaskId(task_id), merge_input_of(spec))
    return [
        Input(file={**row, "name": f"{row['index']}-{row['name'].rpartition('/')[2]}"}, part=InputSlice(file=at))
        for at, row in enumerate(rows)
    ]


def merge_input_of(spec: TaskSpec) -> str:
    """Return the name of the output that a task's merge reads."""
    if spec.merge is not None and spec.merge.input is not None:
        return spec.merge.input
    return next(iter(spec.outputs))


def command_of(spec: TaskSpec, claim: Row, jobs_total: int, inputs: Sequence[Input]) -> tuple[str, dict[str, str]]:
    """Return a job's command and the file names of its outputs, with all placeholders filled.

    Args:
        spec: The task.
        claim: The job with `task_id`, `stage`, `index` and `number`.
        jobs_total: Number of jobs of the task.
        inputs: What it reads.
    """
    if claim["stage"] == jobs.MERGE and spec.merge is not None:
        values = merge_values(spec, [piece.file["name"] for piece in inputs])
        return fill(spec.merge.command, values), file_names(spec.merge.outputs, values)
    values = job_values(
        spec,
        task_id=TaskId(claim["task_id"]),
        index=claim["index"],
        jobs=jobs_total,
        attempt=claim["number"],
        inputs=[(piece.file["name"], piece.part) for piece in inputs],
    )
    return fill(spec.command, values), file_names(spec.outputs, values)


def _order(cache: TaskCache, claim: Row, inputs: Sequence[Input]) -> Order:
    task_id, attempt_id = claim["task_id"], claim["attempt_id"]
    demand: Demand = claim["demand"]
    spec, jobs_total = cache.spec(task_id), cache.jobs_total(task_id)
    command, names = command_of(spec, claim, jobs_total, inputs)
    label = "merge" if claim["stage"] == jobs.MERGE else claim["index"]
    return Order(
        attempt_id=attempt_id,
        job_id=claim["id"],
        task_id=task_id,
        number=claim["number"],
        name=f"{spec.name}[{label}]",
        command=command,
        environment=spec.environment,
        sandbox=cache.sandbox(task_id),
        inputs=tuple(
            OrderInput(**{key: piece.file[key] for key in ("name", "url", "size_bytes", "sha256")}) for piece in inputs
        ),
        outputs=tuple(
            OrderOutput(name=name, file=file, path=f"/storage/{storage_path(task_id, attempt_id, file)}")
            for name, file in names.items()
        ),
        document=_document(spec, claim, jobs_total, inputs, names),
        cores=demand.cores,
        memory_mb=demand.memory_mb,
        disk_mb=demand.disk_mb,
        wall_seconds=demand.wall_seconds,
    )


def _document(
    spec: TaskSpec, claim: Row, jobs_total: int, inputs: Sequence[Input], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the payload finds as `job.json` in its working folder."""
    return {
        "task_id": claim["task_id"],
        "task": spec.name,
        "job_id": claim["id"],
        "index": claim["index"],
        "jobs": jobs_total or None,
        "attempt": claim["number"],
        "seed": seed_of(TaskId(claim["task_id"]), claim["index"]),
        "inputs": [
            {"name": piece.file["name"], "first_event": piece.part.first_event, "events": piece.part.events}
            for piece in inputs
        ],
        "outputs": dict(names),
    }
