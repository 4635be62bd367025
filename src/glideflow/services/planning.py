# SPDX-License-Identifier: Apache-2.0
"""Split accepted tasks into jobs, and write the jobs of large tasks in batches as they are needed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import islice
from typing import Any

from glideflow.domain.identifiers import TaskId
from glideflow.domain.job import JobPlan
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.splitting import Cursor, Extent, Piece, count_jobs, make_jobs, rule_of
from glideflow.domain.states import JobState, TaskState
from glideflow.domain.task import Resources, TaskSpec
from glideflow.errors import TaskFileError
from glideflow.services import chains, scouting
from glideflow.services.brokerage import broker, demand_of
from glideflow.services.completion import locked
from glideflow.services.submit import Place, read_dataset
from glideflow.store import demands, inputs, jobs, parents, scouts, tally, tasks
from glideflow.store.engine import Channel, Connection, notify
from glideflow.store.moves import move

MOST_BATCHES = 20
"""Prefect shows one task run per batch; more would make its graph unreadable."""
_SMALLEST_BATCH = 100
_FIRST_WRITTEN = 1_000
"""Jobs of the first batch that is written: work starts after a fraction of a second."""
_WRITTEN_AT_ONCE = 5_000
"""Jobs of the other batches; one transaction each."""
_SLICES_AT_ONCE = 50_000
"""A batch ends earlier when its jobs read so many files."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A range of job numbers, both ends included."""

    first: int
    last: int


def plan(place: Place, task_id: TaskId) -> int:
    """Split a task, and write as many of its jobs as are wanted now; what was done before is not done again.

    Args:
        place: The store, the sites and the limits.
        task_id: The task.

    Returns:
        How many jobs it has, written or not; 0 when that is not known.

    Raises:
        NotFound: There is no such task.
    """
    with place.database.transaction() as connection:
        task = locked(connection, task_id)
        if task["state"] in (TaskState.SUBMITTED, TaskState.PLANNING) and not task["waits"]:
            _begin(connection, place, task)
    _fill(place, task_id)
    with place.database.transaction() as connection:
        return int(locked(connection, task_id)["jobs_total"] or 0)


def _begin(connection: Connection, place: Place, task: dict[str, Any]) -> None:
    """Count the jobs of a task and write the first ones, or its scouts."""
    task_id = TaskId(task["id"])
    spec = TaskSpec(**task["spec"])
    if task["scouts"]:
        # Its scouts are run again: what they come to decides.
        if task["state"] == TaskState.SUBMITTED:
            move(connection, TaskState.PLANNING, [task_id], reason=scouting.reason(task["scouts"]))
        return
    try:
        extent = _extent(connection, task)
        task = {**task, "extent": asdict(extent)}
        decision = scouting.unscouted(spec, extent)
        per_job = decision["decision"]["per_job"] if decision else 1
        total = count_jobs(spec, extent, inputs.pieces(connection, task_id), place.max_jobs, per_job)
    except TaskFileError as error:
        _fail(connection, task_id, ReasonCode.PLANNING_FAILED, str(error))
        return
    sent = scouting.plan_scouts(spec, extent, total, inputs.pieces(connection, task_id))
    if sent:
        _send(connection, place, task, sent, None if spec.split.target_wall_seconds else total)
        return
    if decision is not None:
        scouts.save_decision(connection, task_id, decision)
    _run(connection, place, {**task, "decision": decision}, total)


def _send(
    connection: Connection, place: Place, task: dict[str, Any], sent: Sequence[JobPlan], total: int | None
) -> None:
    """Write scout jobs; the task stays in planning until they have ended."""
    task_id, spec = TaskId(task["id"]), TaskSpec(**task["spec"])
    scouts.set_number(connection, task_id, len(sent))
    if total is None:
        tasks.set_cursor(connection, task_id, Cursor(index=len(sent)))
    else:
        # They are the first jobs of a division that is known.
        tasks.set_total(connection, task_id, total)
        tasks.set_cursor(connection, task_id, reduce(Cursor.after, sent, Cursor()))
    move(connection, TaskState.PLANNING, [task_id], reason=scouting.reason(len(sent)))
    _insert(connection, place, task, sent, spec.resources)


def _conclude(connection: Connection, place: Place, task: dict[str, Any]) -> None:
    """Split the rest of a task by what its scouts needed."""
    task_id, spec = TaskId(task["id"]), TaskSpec(**task["spec"])
    extent = _extent(connection, task)
    decision = scouting.judge(connection, task, extent, task["jobs_total"], place.max_jobs)
    if isinstance(decision, Reason):
        _fail(connection, task_id, decision.code, decision.text)
        return
    scouts.save_decision(connection, task_id, decision)
    total = task["jobs_total"]
    if spec.split.target_wall_seconds is not None:
        left = scouting.left_of(extent, spec)
        total = task["scouts"] + rule_of(spec, left, decision["decision"]["per_job"]).count(())
    _run(connection, place, {**task, "decision": decision}, total)


def _run(connection: Connection, place: Place, task: dict[str, Any], total: int) -> None:
    """Let a task run whose number of jobs is known."""
    tasks.set_total(connection, TaskId(task["id"]), total)
    # One that sent scouts is in planning already.
    move(connection, TaskState.PLANNING, [task["id"]])
    move(connection, TaskState.RUNNING, [task["id"]])
    _write(connection, place, {**task, "jobs_total": total}, _FIRST_WRITTEN)


def _fail(connection: Connection, task_id: TaskId, code: ReasonCode, text: str) -> None:
    move(connection, TaskState.FAILED, [task_id], reason=Reason(code=code, text=text, source=Source.SERVER))
    tasks.end(connection, task_id, ended=True)
    chains.follow(connection, task_id)


def _extent(connection: Connection, task: dict[str, Any]) -> Extent:
    if task["extent"] is not None:
        return Extent(**task["extent"])
    task_id, spec = TaskId(task["id"]), TaskSpec(**task["spec"])
    if spec.inputs.dataset is not None and parents.of_task(connection, task_id):
        # What it waited for has written the dataset only now.
        read_dataset(connection, task_id, spec, (file["name"] for file in task["sandbox"]))
    return inputs.measure(connection, task_id)


def _fill(place: Place, task_id: TaskId) -> None:
    """Write jobs of a running task, one batch per transaction, until enough are ready or all are written."""
    while True:
        with place.database.transaction() as connection:
            task = locked(connection, task_id)
            if task["state"] != TaskState.RUNNING or task["jobs_written"] >= task["jobs_total"]:
                return
            counts = tally.by_state(connection, [task_id], stage=jobs.MAIN)[task_id]
            if counts.get(JobState.READY, 0) >= place.ready_jobs:
                return
            _write(connection, place, task, _WRITTEN_AT_ONCE)


def _write(connection: Connection, place: Place, task: dict[str, Any], most: int) -> None:
    """Write the next jobs of a task and note how far that went, all in the caller's transaction.

    Args:
        connection: The caller's transaction, which has locked the task.
        place: The sites and the limits.
        task: The task's row.
        most: Most jobs to write.
    """
    task_id, spec = TaskId(task["id"]), TaskSpec(**task["spec"])
    cursor = Cursor(index=task["jobs_written"], file=task["next_file"], event=task["next_event"])
    extent, decision = _extent(connection, task), task["decision"]
    pieces: Iterable[Piece] = inputs.pieces(connection, task_id, cursor.file)
    if spec.split.target_wall_seconds is not None and task["scouts"]:
        extent, pieces = scouting.left_of(extent, spec), scouting.rest_of(connection, task, pieces)
    rule = rule_of(spec, extent, decision["decision"]["per_job"] if decision else 1)
    plans = list(_batch(make_jobs(rule, pieces, cursor), most))
    tasks.set_cursor(connection, task_id, reduce(Cursor.after, plans, cursor))
    _insert(connection, place, task, plans, scouting.resources_of(spec, decision))


def _insert(
    connection: Connection, place: Place, task: dict[str, Any], plans: Sequence[JobPlan], resources: Resources
) -> None:
    demand = demands.ensure(connection, demand_of(task, jobs.MAIN, resources))
    jobs.insert(connection, TaskId(task["id"]), demand, jobs.MAIN, plans)
    tasks.note_job_input(connection, TaskId(task["id"]), _largest_input(connection, TaskId(task["id"]), plans))
    broker(connection, place.sites)
    notify(connection, Channel.JOBS)


def _largest_input(connection: Connection, task_id: TaskId, plans: Sequence[JobPlan]) -> int:
    """Return what the job reads that reads most, bytes; files are fetched whole, and unknown sizes count nothing."""
    sizes = inputs.sizes(connection, task_id, {part.file for made in plans for part in made.slices})
    return max((sum(sizes[part.file] for part in made.slices) for made in plans), default=0)


def _batch(plans: Iterator[JobPlan], most: int) -> Iterator[JobPlan]:
    slices = 0
    for made in islice(plans, most):
        yield made
        slices += len(made.slices)
        if slices >= _SLICES_AT_ONCE:
            return


def plan_all(place: Place) -> int:
    """Plan every task that was accepted and not planned, for example before a restart; returns how many."""
    with place.database.transaction() as connection:
        waiting = tasks.unplanned(connection)
    for task_id in waiting:
        plan(place, task_id)
    return len(waiting)


def go_on(place: Place) -> None:
    """Split the tasks whose scouts have ended, and write more jobs of those that run out of ready ones."""
    with place.database.transaction() as connection:
        scouted = scouts.ended(connection)
    for task_id in scouted:
        with place.database.transaction() as connection:
            task = locked(connection, task_id)
            # Another endpoint, or a kill, may have been faster.
            if task_id in scouts.ended(connection):
                _conclude(connection, place, task)
    with place.database.transaction() as connection:
        unwritten = tasks.unwritten(connection)
    for task_id in unwritten:
        _fill(place, task_id)


def batches(jobs_total: int) -> list[Batch]:
    """Divide the jobs of a task into the ranges that its flow shows.

    Args:
        jobs_total: Number of jobs.

    Returns:
        At most 20 ranges of equal length (the last may be shorter), of 100 jobs or more each.
    """
    size = max(_SMALLEST_BATCH, -(-jobs_total // MOST_BATCHES))
    return [Batch(first=at, last=min(at + size, jobs_total) - 1) for at in range(0, jobs_total, size)]
