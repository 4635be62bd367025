# SPDX-License-Identifier: Apache-2.0
"""Say in sentences where a whole task is: what it waits for, how it was split, why it ended."""

from collections.abc import Iterator, Mapping
from typing import Any

from glideflow.domain.identifiers import TaskId
from glideflow.domain.sizing import sentences
from glideflow.domain.states import FINAL_TASKS, JobState, TaskState
from glideflow.services import views
from glideflow.store.engine import Database

Task = Mapping[str, Any]


def explain_task(database: Database, task_id: TaskId) -> views.View:
    """Explain a task.

    Args:
        database: The store.
        task_id: The task.

    Returns:
        The task and the sentences.

    Raises:
        NotFound: There is no such task.
    """
    task = views.task(database, task_id)
    told = [*_place(task), *_parents(task), *_split(task), *_jobs(task)]
    if task["paused"] and task["state"] not in FINAL_TASKS:
        told.append(f"It is paused: `glideflow resume {task_id}` lets it go on.")
    return {"task": task, "sentences": told}


def _place(task: Task) -> Iterator[str]:
    reason = task["reason"]
    because = f": {reason['text']} [{reason['code']}, said by the {reason['source']}]" if reason else ""
    yield f"It is {task['state']}{because}."
    if task["state"] in (TaskState.FAILED, TaskState.CANCELLED):
        yield f"`glideflow retry {task['id']}` runs what is not done."


def _parents(task: Task) -> Iterator[str]:
    for parent in task["parents"]:
        yield f"It comes after task {parent['id']} ({parent['name']}), which is {parent['state']}."
    if task["parents"] and task["state"] == TaskState.SUBMITTED:
        failed = task["spec"].get("after_failed", "cancel")
        yield f"Should one of them fail: {'it runs all the same' if failed == 'run' else 'it is cancelled'}."


def _split(task: Task) -> Iterator[str]:
    if task["decision"] is not None:
        yield from sentences(task["decision"])


def _jobs(task: Task) -> Iterator[str]:
    counts = task["jobs"]
    parts = [f"{counts[state]:,} {state}" for state in JobState if counts[state]]
    if parts:
        yield f"Of {counts['total']:,} jobs, {', '.join(parts)}."
    if task["merge"]:
        yield f"The merge job {task['merge']['job_id']} is {task['merge']['state']}."
