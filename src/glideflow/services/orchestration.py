# SPDX-License-Identifier: Apache-2.0
"""What the flows need to know, and what they tell: the outbox towards Prefect and the list of open tasks."""

from dataclasses import dataclass

from glideflow.domain.identifiers import TaskId
from glideflow.domain.reasons import Reason
from glideflow.services import control
from glideflow.store import outbox, tally, tasks
from glideflow.store.engine import Database


@dataclass(frozen=True, kw_only=True)
class OutboxEntry:
    """One thing that Prefect must be told."""

    id: int
    task_id: int
    action: str
    """`start`, `resume` or `cancel`."""
    task_name: str
    owner: str
    vo: str
    generation: int
    """Rises with each retry of the task: a new flow run each."""
    flow_run_id: str | None
    reason: str | None
    """Why the task is in its state, where there is a reason."""
    tries: int


@dataclass(frozen=True, kw_only=True)
class OpenTask:
    """A task that has not ended."""

    task_id: int
    task_name: str
    owner: str
    vo: str
    state: str
    stage_ended: bool
    """Whether no job of it is open, so that its flow should go on."""
    flow_run_id: str | None
    generation: int


def pending(database: Database) -> list[OutboxEntry]:
    """Return what Prefect must be told, the oldest first."""
    with database.transaction() as connection:
        return [OutboxEntry(**row) for row in outbox.pending(connection)]


def record_started(database: Database, entry_id: int, task_id: int, flow_run_id: str) -> None:
    """Note the flow run that was created, and that the entry is done."""
    with database.transaction() as connection:
        tasks.set_flow_run(connection, TaskId(task_id), flow_run_id)
        outbox.done(connection, entry_id)


def done(database: Database, entry_id: int) -> None:
    """Note that an entry was carried out."""
    with database.transaction() as connection:
        outbox.done(connection, entry_id)


def failed(database: Database, entry_id: int, text: str) -> None:
    """Note why an entry could not be carried out; it is tried again."""
    with database.transaction() as connection:
        outbox.failed(connection, entry_id, text)


def open_tasks(database: Database) -> list[OpenTask]:
    """Return every task that has not ended."""
    with database.transaction() as connection:
        rows = tasks.open_ones(connection)
        busy = tally.with_open_jobs(connection, [row["task_id"] for row in rows])
    for row in rows:
        row["stage_ended"] = row.pop("all_written") and row["task_id"] not in busy
    return [OpenTask(**row) for row in rows]


def request_resume(database: Database, task_id: int) -> None:
    """Ask for a task's flow run to be resumed."""
    with database.transaction() as connection:
        outbox.put(connection, [task_id], "resume")


def request_start(database: Database, task_id: int) -> None:
    """Ask for a new flow run of a task, for example because Prefect lost the old one."""
    with database.transaction() as connection:
        tasks.next_generation(connection, TaskId(task_id))
        outbox.put(connection, [task_id], "start")


def kill_task(database: Database, task_id: int, reason: Reason) -> None:
    """Cancel a task whose flow run was cancelled."""
    control.kill_task(database, TaskId(task_id), reason)
