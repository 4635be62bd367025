# SPDX-License-Identifier: Apache-2.0
"""The end of a stage and of a task: tell the flow, merge, and decide how the task ended."""

from collections.abc import Iterable, Mapping
from typing import Any

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.job import JobPlan
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.site import Site
from glideflow.domain.states import FINAL_JOBS, FINAL_TASKS, JobState, TaskState
from glideflow.domain.task import Merge, TaskSpec
from glideflow.domain.tolerance import Tolerance, tolerates
from glideflow.errors import IllegalTransition, NotFound
from glideflow.services import chains
from glideflow.services.brokerage import broker, demand_of
from glideflow.store import demands, files, jobs, outbox, tally, tasks
from glideflow.store.engine import Channel, Connection, Database, notify
from glideflow.store.moves import move

Row = dict[str, Any]


def announce_ended_stages(database: Database, task_ids: Iterable[int]) -> None:
    """Let those tasks go on of which no job is open any more: their flows resume, or their scouts are judged.

    It runs after the commit of what ended the jobs: of two transactions that end a task's last two jobs at once,
    the later one to commit sees both.
    """
    candidates = set(task_ids)
    if not candidates:
        return
    with database.transaction() as connection:
        ended = candidates - tally.with_open_jobs(connection, sorted(candidates))
        scouting = tasks.among(connection, ended, [TaskState.PLANNING]) if ended else set()
        outbox.put(connection, ended - scouting, "resume")
        if scouting:
            notify(connection, Channel.PLANS)


def reopened(task: Mapping[str, Any]) -> TaskState:
    """Return where a task that ended without success goes on: where its jobs are not all planned, with that."""
    scouting = task["scouts"] and task["decision"] is None
    return TaskState.RUNNING if task["jobs_total"] and not scouting else TaskState.SUBMITTED


def locked(connection: Connection, task_id: TaskId) -> Row:
    """Lock and return a task.

    Raises:
        NotFound: There is none.
    """
    row = tasks.get(connection, task_id, lock=True)
    if row is None:
        raise NotFound("task", task_id, "see `glideflow tasks`")
    return row


def _check_stage_ended(connection: Connection, task: Row) -> None:
    if tally.with_open_jobs(connection, [task["id"]]):
        raise IllegalTransition(f"task {task['id']}, whose jobs have not all ended,", task["state"], "its next stage")


def merge(database: Database, sites: Mapping[str, Site], task_id: TaskId) -> JobId | None:
    """Start the merge of a task whose main jobs have ended; calling it again changes nothing.

    Args:
        database: The store.
        sites: Where the merge job may run.
        task_id: The task.

    Returns:
        The merge job, or None where the task has no merge step, or more main jobs failed than it tolerates. It reads
        what the done ones made; where some were done later, because a user ran them again, another one takes its place.

    Raises:
        NotFound: There is no such task.
        IllegalTransition: Main jobs have not ended.
    """
    with database.transaction() as connection:
        task = locked(connection, task_id)
        present = jobs.last_merge(connection, task_id)
        spec = TaskSpec(**task["spec"])
        if task["state"] == TaskState.RUNNING and spec.merge is not None:
            if present is None or present["state"] in FINAL_JOBS:
                _check_stage_ended(connection, task)
                if not tolerates(spec.tolerance, tally.by_state(connection, [task_id], stage=jobs.MAIN)[task_id]):
                    return None
                present = _started(connection, task, spec.merge, present)
                broker(connection, sites)
                notify(connection, Channel.JOBS)
            move(connection, TaskState.MERGING, [task_id])
        return JobId(present["id"]) if present else None


def _started(connection: Connection, task: Row, merge: Merge, present: Row | None) -> Row | None:
    """Return the merge job that reads what is done now: an ended one, run again if it failed, or a new one."""
    task_id = TaskId(task["id"])
    if present is not None and present["state"] != JobState.DONE:
        text = "the jobs that it reads were run again"
        reason = Reason(code=ReasonCode.RETRY_REQUESTED, text=text, source=Source.SERVER)
        jobs.run_again(connection, [present["id"]], reason)
        return present
    if present is not None:
        if not jobs.done_since(connection, task_id, present["created_at"]):
            return present
        files.forget(connection, JobId(present["id"]))
    demand = demands.ensure(connection, demand_of(task, jobs.MERGE, merge.resources))
    index = present["index"] + 1 if present else 0
    jobs.insert(connection, task_id, demand, jobs.MERGE, [JobPlan(index=index)])
    return jobs.last_merge(connection, task_id)


def finish(database: Database, task_id: TaskId) -> TaskState:
    """Decide how a task ended; calling it again changes nothing.

    Raises:
        NotFound: There is no such task.
        IllegalTransition: Jobs of it have not ended, or its merge has not run.
    """
    with database.transaction() as connection:
        task = locked(connection, task_id)
        if task["state"] in FINAL_TASKS:
            return TaskState(task["state"])
        _check_stage_ended(connection, task)
        state, reason = _verdict(connection, task)
        move(connection, state, [task_id], reason=reason)
        tasks.end(connection, task_id, ended=True)
        chains.follow(connection, task_id)
        return state


def _verdict(connection: Connection, task: Row) -> tuple[TaskState, Reason | None]:
    """Return how a task ended and why; for a failed one with the most frequent failure."""
    task_id = TaskId(task["id"])
    if task["state"] not in (TaskState.RUNNING, TaskState.MERGING):
        raise IllegalTransition(f"task {task_id}, which is not split into jobs yet,", task["state"], "its end")
    counts = tally.by_state(connection, [task_id], stage=jobs.MAIN)[task_id]
    spec = TaskSpec(**task["spec"])
    if not tolerates(spec.tolerance, counts):
        return TaskState.FAILED, _shortfall(connection, task_id, counts, spec.tolerance)
    merged = jobs.last_merge(connection, task_id) if spec.merge else None
    if spec.merge and merged is None:
        raise IllegalTransition(f"task {task_id}, whose merge has not run,", task["state"], TaskState.DONE)
    if merged and merged["state"] != JobState.DONE:
        text = f"the merge job {merged['id']} is {merged['state']}: {merged['reason_text'] or 'no reason given'}"
        return TaskState.FAILED, Reason(code=ReasonCode.MERGE_FAILED, text=text, source=Source.SERVER)
    if spec.tolerance is None or not counts.get(JobState.FAILED):
        return TaskState.DONE, None
    return TaskState(spec.tolerance.end), _shortfall(connection, task_id, counts, spec.tolerance)


def _shortfall(
    connection: Connection, task_id: TaskId, counts: Mapping[str, int], tolerance: Tolerance | None
) -> Reason:
    """Say how many jobs are not done and why, with the most frequent failure."""
    total, failed, cancelled = sum(counts.values()), counts.get(JobState.FAILED, 0), counts.get(JobState.CANCELLED, 0)
    parts = [f"{n} of {total} jobs {what}" for n, what in ((failed, "failed"), (cancelled, "were cancelled")) if n]
    text = " and ".join(parts)
    if tolerance is not None and failed:
        allowed = tolerance.allowed(total)
        text += f", {'more than' if failed > allowed else 'not more than'} the {allowed} that the task tolerates"
    worst = next(iter(tally.failures(connection, task_id, limit=1)), None)
    if worst is not None:
        text += f", {worst['count']} of them like job {worst['job_id']}: {worst['text']}"
    return Reason(code=ReasonCode.JOBS_FAILED, text=text, source=Source.SERVER)
