# SPDX-License-Identifier: Apache-2.0
"""Tasks that wait for other tasks: they go on, or are cancelled, in the transaction in which those end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glideflow.domain.chains import dataset_of, writes
from glideflow.domain.identifiers import TaskId
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.states import FINAL_TASKS, TaskState
from glideflow.domain.task import TaskSpec
from glideflow.errors import IllegalTransition, TaskFileError
from glideflow.store import outbox, parents, tasks
from glideflow.store.engine import Channel, Connection, notify
from glideflow.store.moves import move

Row = Mapping[str, Any]

UNSUCCESSFUL = frozenset({TaskState.FAILED, TaskState.CANCELLED})


def resolve(connection: Connection, spec: TaskSpec, stored: Mapping[str, TaskId]) -> tuple[TaskSpec, set[TaskId]]:
    """Replace the names in a task by numbers, and find what it waits for.

    Args:
        connection: The caller's transaction.
        spec: The task.
        stored: Numbers of the tasks of the same file, by name; they come first.

    Returns:
        The task, with the number of the one whose files it reads, and its parents.

    Raises:
        TaskFileError: There is no such task.
    """
    found = {_task_of(connection, name, stored, "after") for name in spec.after}
    base, producer = dataset_of(spec)
    if producer is not None and (producer in stored or not producer.isdigit() or spec.inputs.wait_for_dataset):
        number = _task_of(connection, producer, stored, "inputs.dataset")
        if producer in stored or spec.inputs.wait_for_dataset:
            found.add(number)
        changed = spec.inputs.model_copy(update={"dataset": f"{base}@{number}"})
        spec = spec.model_copy(update={"inputs": changed})
    elif producer is None and spec.inputs.wait_for_dataset:
        rows = parents.open_tasks(connection)
        found |= {TaskId(row["id"]) for row in rows if writes(TaskSpec(**row["spec"]), base)}
    return spec, found


def _task_of(connection: Connection, name: str, stored: Mapping[str, TaskId], key: str) -> TaskId:
    if name in stored:
        return stored[name]
    if name.isdigit() and len(name) <= 18 and tasks.get(connection, TaskId(int(name))) is not None:
        return TaskId(int(name))
    found = tasks.latest_of_name(connection, name)
    if found is None:
        text = f"key `{key}`: there is no task {name}, neither in the file nor before: see `glideflow tasks`"
        raise TaskFileError([text])
    return found


def join(connection: Connection, task_id: TaskId, spec: TaskSpec, parent_ids: Iterable[TaskId]) -> bool:
    """Let a new task wait for others.

    Args:
        connection: The caller's transaction, which stored the task.
        task_id: The task.
        spec: Its definition.
        parent_ids: What it waits for.

    Returns:
        Whether it has to wait.

    Raises:
        TaskFileError: One of them has failed already.
    """
    wanted = set(parent_ids)
    rows = parents.lock(connection, wanted) if wanted else []
    for row in rows:
        if row["state"] in UNSUCCESSFUL and spec.after_failed == "cancel":
            raise TaskFileError(
                [
                    f"key `after`: task {row['id']} ({row['name']}) is {row['state']}: run it again with "
                    f"`glideflow retry {row['id']}`, or write `after_failed: run`"
                ]
            )
    if rows:
        parents.insert(connection, task_id, (row["id"] for row in rows))
    left = [row for row in rows if row["state"] not in FINAL_TASKS]
    if left:
        parents.set_waits(connection, task_id, _waits_for(left))
    return bool(left)


def follow(connection: Connection, parent_id: TaskId) -> None:
    """Let the tasks that wait for a task go on, now that it has ended, or cancel them.

    Whoever ends a task calls this in the same transaction. Of two parents that end at once, the later one to get hold
    of the child sees both.
    """
    for child in parents.waiting(connection, parent_id):
        _decide(connection, child)


def _decide(connection: Connection, child: Row) -> None:
    task_id, rows = TaskId(child["id"]), parents.of_task(connection, TaskId(child["id"]))
    bad = [row for row in rows if row["state"] in UNSUCCESSFUL]
    left = [row for row in rows if row["state"] not in FINAL_TASKS]
    if bad and _cancels(child):
        text = f"it waits for {_named(bad)}; `glideflow retry {bad[0]['id']}` lets it wait again"
        reason = Reason(code=ReasonCode.PARENT_FAILED, text=text, source=Source.SERVER)
        move(connection, TaskState.CANCELLED, [task_id], reason=reason)
        tasks.end(connection, task_id, ended=True)
        outbox.drop(connection, task_id)
        if child["flow_run_id"] is not None:
            outbox.put(connection, [task_id], "cancel")
        follow(connection, task_id)
    elif left:
        parents.set_waits(connection, task_id, _waits_for(left))
    else:
        parents.set_waits(connection, task_id, None)
        if child["flow_run_id"] is None:
            outbox.put(connection, [task_id], "start")
        notify(connection, Channel.PLANS)


def reopen_children(connection: Connection, parent_id: TaskId) -> None:
    """Let the tasks wait again that were cancelled because of a task which runs again."""
    for child in parents.given_up(connection, parent_id):
        # Another of its parents may still have failed.
        if not _failed_parents(connection, child):
            _wait_again(connection, child)


def reopen(connection: Connection, task: Row) -> None:
    """Let a task wait again that was cancelled while it waited.

    Raises:
        IllegalTransition: What it waits for has failed.
    """
    bad = _failed_parents(connection, task)
    if bad:
        subject = f"task {task['id']}, which waits for {_named(bad)} (retry that one),"
        raise IllegalTransition(subject, task["state"], TaskState.SUBMITTED)
    _wait_again(connection, task)


def _failed_parents(connection: Connection, child: Row) -> list[Row]:
    rows = parents.of_task(connection, TaskId(child["id"]))
    return [row for row in rows if row["state"] in UNSUCCESSFUL] if _cancels(child) else []


def _wait_again(connection: Connection, child: Row) -> None:
    task_id = TaskId(child["id"])
    move(connection, TaskState.SUBMITTED, [task_id])
    tasks.end(connection, task_id, ended=False)
    tasks.next_generation(connection, task_id)
    outbox.drop(connection, task_id)
    _decide(connection, {**child, "flow_run_id": None})
    reopen_children(connection, task_id)


def _cancels(child: Row) -> bool:
    return bool(child["spec"].get("after_failed", "cancel") == "cancel")


def _waits_for(rows: Sequence[Row]) -> Reason:
    # Without their states, which change.
    return Reason(code=ReasonCode.WAITS_FOR_TASKS, text=f"it waits for {_listed(rows)}", source=Source.SERVER)


def _named(rows: Sequence[Row]) -> str:
    states = " or ".join(sorted({row["state"] for row in rows}))
    return f"{_listed(rows)}, which {'is' if len(rows) == 1 else 'are'} {states}"


def _listed(rows: Sequence[Row]) -> str:
    shown = ", ".join(f"task {row['id']} ({row['name']})" for row in rows[:5])
    return shown + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
