# SPDX-License-Identifier: Apache-2.0
"""Split accepted tasks into jobs."""

from dataclasses import dataclass
from typing import Any

from glideflow.domain.identifiers import TaskId
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.splitting import split
from glideflow.domain.states import TaskState
from glideflow.domain.task import TaskSpec
from glideflow.errors import TaskFileError
from glideflow.services.brokerage import broker, demand_of
from glideflow.services.completion import locked
from glideflow.services.submit import Place
from glideflow.store import demands, jobs, tasks
from glideflow.store.engine import Channel, Connection, notify
from glideflow.store.moves import move

MOST_BATCHES = 20
"""Prefect shows one task run per batch; more would make its graph unreadable."""
_SMALLEST_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A range of job numbers, both ends included."""

    first: int
    last: int


def plan(place: Place, task_id: TaskId) -> int:
    """Write the jobs of a task; of a task that has its jobs, only count them.

    Args:
        place: The store, the sites and the limits.
        task_id: The task.

    Returns:
        How many jobs it has. All are written in one transaction, or none.

    Raises:
        NotFound: There is no such task.
    """
    with place.database.transaction() as connection:
        task = locked(connection, task_id)
        if task["state"] not in (TaskState.SUBMITTED, TaskState.PLANNING):
            return int(task["jobs_total"] or 0)
        return _write_jobs(connection, place, task)


def _write_jobs(connection: Connection, place: Place, task: dict[str, Any]) -> int:
    task_id = TaskId(task["id"])
    spec = TaskSpec(**task["spec"])
    move(connection, TaskState.PLANNING, [task_id])
    try:
        plans = split(tasks.inputs(connection, task_id), spec, place.max_jobs)
    except TaskFileError as error:
        reason = Reason(code=ReasonCode.PLANNING_FAILED, text=str(error), source=Source.SERVER)
        move(connection, TaskState.FAILED, [task_id], reason=reason)
        tasks.end(connection, task_id, ended=True)
        return 0
    demand = demands.ensure(connection, demand_of(task, jobs.MAIN, spec.resources))
    count = jobs.insert(connection, task_id, demand, jobs.MAIN, plans)
    broker(connection, place.sites)
    tasks.set_total(connection, task_id, count)
    move(connection, TaskState.RUNNING, [task_id])
    notify(connection, Channel.JOBS)
    return count


def plan_all(place: Place) -> int:
    """Plan every task that was accepted and not planned, for example before a restart; returns how many."""
    with place.database.transaction() as connection:
        waiting = tasks.unplanned(connection)
    for task_id in waiting:
        plan(place, task_id)
    return len(waiting)


def batches(jobs_total: int) -> list[Batch]:
    """Divide the jobs of a task into the ranges that its flow shows.

    Args:
        jobs_total: Number of jobs.

    Returns:
        At most 20 ranges of equal length (the last may be shorter), of 100 jobs or more each.
    """
    size = max(_SMALLEST_BATCH, -(-jobs_total // MOST_BATCHES))
    return [Batch(first=at, last=min(at + size, jobs_total) - 1) for at in range(0, jobs_total, size)]
