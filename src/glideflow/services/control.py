# SPDX-License-Identifier: Apache-2.0
"""What users order: kill, run again, pause, resume, other priority. Each is safe to repeat."""

from dataclasses import replace
from typing import Any

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.retrying import UNSUCCESSFUL
from glideflow.domain.states import FINAL_JOBS, FINAL_TASKS, AttemptState, JobState, PilotState, TaskState
from glideflow.errors import IllegalTransition, NotFound
from glideflow.services import chains, retry
from glideflow.services.completion import announce_ended_stages, locked, reopened
from glideflow.services.retry import RetryPlan, Wish
from glideflow.services.views import View
from glideflow.store import attempts, demands, jobs, outbox, pilots, tally, tasks
from glideflow.store.engine import Channel, Connection, Database, notify
from glideflow.store.moves import move

DONE_BY = {
    ReasonCode.KILLED: "killed",
    ReasonCode.RETRY_REQUESTED: "asked to run again",
    ReasonCode.PAUSED: "paused",
    ReasonCode.RESUMED: "resumed",
    ReasonCode.PRIORITY_SET: "given another priority",
}
"""What each order is called in its reason."""
EVERYTHING = Wish()
"""All failed and cancelled jobs, as they were."""
_OPEN_JOBS = frozenset(JobState) - FINAL_JOBS
_ENDED = ", ended_at = now()"


def kill_task(database: Database, task_id: TaskId, reason: Reason) -> None:
    """Cancel a task, its open jobs, their attempts and its flow; a task that has ended stays as it is.

    Raises:
        NotFound: There is no such task.
    """
    with database.transaction() as connection:
        task = locked(connection, task_id)
        if task["state"] in FINAL_TASKS:
            return
        move(connection, TaskState.CANCELLED, [task_id], reason=reason)
        tasks.end(connection, task_id, ended=True)
        busy = _cancel_jobs(connection, jobs.of_task(connection, task_id, _OPEN_JOBS), reason)
        chains.follow(connection, task_id)
        outbox.drop(connection, task_id)
        if task["flow_run_id"] is not None:
            outbox.put(connection, [task_id], "cancel")
        notify(connection, Channel.COMMANDS)
    with database.transaction() as connection:
        # An exchange locks its pilot before its jobs, so that pilots are none of the kill's transaction.
        if not tally.any_open(connection):
            # Nobody else needs these pilots now: they end instead of idling in their slots.
            text = f"task {task_id} was killed and no other job is waiting"
            drained = Reason(code=ReasonCode.PILOT_IDLE, text=text, source=Source.SERVER)
            move(connection, PilotState.DRAINING, busy | set(pilots.idle_ids(connection)), reason=drained)
            notify(connection, Channel.COMMANDS)


def kill_job(database: Database, job_id: JobId, reason: Reason) -> None:
    """Cancel one job and its attempt; a job that has ended stays as it is.

    Raises:
        NotFound: There is no such job.
    """
    with database.transaction() as connection:
        job = _existing(connection, job_id)
        _cancel_jobs(connection, [job_id], reason)
        notify(connection, Channel.COMMANDS)
    announce_ended_stages(database, [job["task_id"]])


def _cancel_jobs(connection: Connection, job_ids: list[JobId], reason: Reason) -> set[str]:
    """Cancel open jobs and end their attempts; returns the pilots that run them."""
    # A report locks its attempt before its job: who goes the other way round may wait for it, and it for him.
    attempts.lock(connection, (row["id"] for row in attempts.open_of_jobs(connection, job_ids)))
    move(connection, JobState.CANCELLED, job_ids, reason=reason, set_also=_ENDED)
    running = attempts.open_of_jobs(connection, job_ids)
    move(connection, AttemptState.KILLED, (row["id"] for row in running), reason=reason, set_also=_ENDED)
    return {row["pilot_id"] for row in running}


def retry_task(database: Database, task_id: TaskId, reason: Reason, wish: Wish = EVERYTHING) -> RetryPlan:
    """Run failed and cancelled jobs of an ended task again; what is done stays.

    Args:
        database: The store.
        task_id: The task.
        reason: Who wants it, and why.
        wish: Which jobs, and what is different; without it, all as they were.

    Returns:
        What was done. Of a second order of the same, nothing.

    Raises:
        NotFound: There is no such task.
        IllegalTransition: It is done, so that there is nothing to run again.
        UserError: The wish cannot be fulfilled; nothing was changed.
    """
    with database.transaction() as connection:
        task = locked(connection, task_id)
        plan = _planned(connection, task, wish)
        if task["waits"]:
            if task["state"] in FINAL_TASKS:
                chains.reopen(connection, task)
            return plan
        if not plan.rows and not wish.selection.is_all:
            return plan
        why = _with_note(reason, plan)
        retry.apply(connection, plan, wish, why)
        if task["state"] in FINAL_TASKS:
            move(connection, reopened(task), [task_id], reason=why)
            _drive_again(connection, task_id)
        notify(connection, Channel.JOBS)
        return plan


def preview_retry_task(database: Database, task_id: TaskId, wish: Wish) -> View:
    """Return what `retry_task` would do, and change nothing.

    Raises:
        NotFound: There is no such task.
        IllegalTransition: It is done, so that there is nothing to run again.
        UserError: The wish cannot be fulfilled.
    """
    with database.snapshot() as connection:
        task = tasks.get(connection, task_id)
        if task is None:
            raise NotFound("task", task_id, "see `glideflow tasks`")
        return retry.view(connection, _planned(connection, task, wish))


def _planned(connection: Connection, task: dict[str, Any], wish: Wish) -> RetryPlan:
    if task["state"] == TaskState.DONE:
        raise IllegalTransition(f"task {task['id']}, of which every job is done,", task["state"], "a retry")
    return retry.plan_task(connection, task, wish)


def retry_job(database: Database, job_id: JobId, reason: Reason, wish: Wish = EVERYTHING) -> RetryPlan:
    """Run one failed or cancelled job again, and its task with it.

    Args:
        database: The store.
        job_id: The job.
        reason: Who wants it, and why.
        wish: What is different.

    Raises:
        NotFound: There is no such job.
        IllegalTransition: It is done, or has not ended; or it is a merge job whose main jobs have not.
        UserError: The wish cannot be fulfilled; nothing was changed.
    """
    with database.transaction() as connection:
        task = locked(connection, TaskId(_existing(connection, job_id)["task_id"]))
        plan = _planned_job(connection, task, job_id, wish)
        why = _with_note(reason, plan)
        retry.apply(connection, plan, wish, why)
        if task["state"] in FINAL_TASKS:
            move(connection, reopened(task), [task["id"]], reason=why)
            _drive_again(connection, TaskId(task["id"]))
        notify(connection, Channel.JOBS)
        return plan


def preview_retry_job(database: Database, job_id: JobId, wish: Wish) -> View:
    """Return what `retry_job` would do, and change nothing.

    Raises:
        NotFound: There is no such job.
        IllegalTransition: As `retry_job`.
        UserError: The wish cannot be fulfilled.
    """
    with database.snapshot() as connection:
        task = tasks.get(connection, TaskId(_existing(connection, job_id)["task_id"])) or {}
        return retry.view(connection, _planned_job(connection, task, job_id, wish))


def _planned_job(connection: Connection, task: dict[str, Any], job_id: JobId, wish: Wish) -> RetryPlan:
    job = _existing(connection, job_id)
    if job["state"] not in UNSUCCESSFUL:
        # The table would let a running one go back to ready, too: that is for attempts that were lost.
        raise IllegalTransition(f"job {job_id}", job["state"], JobState.READY)
    plan = retry.plan_job(connection, task, job, wish)
    if job["stage"] == jobs.MERGE and plan.counts.keys() - FINAL_JOBS:
        subject = f"merge job {job_id}, whose task has jobs that have not ended,"
        raise IllegalTransition(subject, job["state"], JobState.READY)
    return plan


def _with_note(reason: Reason, plan: RetryPlan) -> Reason:
    return replace(reason, text=f"{reason.text} (with {plan.note})") if plan.note else reason


def pause_task(database: Database, task_id: TaskId, reason: Reason) -> None:
    """Hand out no more jobs of a task until it is resumed; running ones go on. One that has ended stays as it is.

    Raises:
        NotFound: There is no such task.
    """
    _set_paused(database, task_id, True, reason)


def resume_task(database: Database, task_id: TaskId, reason: Reason) -> None:
    """Hand out the jobs of a paused task again; those that were paused one by one stay so.

    Raises:
        NotFound: There is no such task.
    """
    _set_paused(database, task_id, False, reason)


def _set_paused(database: Database, task_id: TaskId, paused: bool, reason: Reason) -> None:
    with database.transaction() as connection:
        task = locked(connection, task_id)
        if task["paused"] == paused or task["state"] in FINAL_TASKS:
            return
        tasks.set_paused(connection, task_id, paused)
        outbox.note(connection, "task", task_id, reason)
        notify(connection, Channel.JOBS)


def pause_job(database: Database, job_id: JobId, reason: Reason) -> None:
    """Do not hand a job out until it is resumed; a running attempt goes on. One that has ended stays as it is.

    Raises:
        NotFound: There is no such job.
    """
    _ask_otherwise(database, job_id, reason, paused=True)


def resume_job(database: Database, job_id: JobId, reason: Reason) -> None:
    """Hand out a paused job again.

    Raises:
        NotFound: There is no such job.
    """
    _ask_otherwise(database, job_id, reason, paused=False)


def set_job_priority(database: Database, job_id: JobId, priority: int, reason: Reason) -> None:
    """Change one job's priority; one that is done stays as it is.

    Args:
        database: The store.
        job_id: The job.
        priority: From -1000 to 1000; the highest is taken first.
        reason: Who ordered it, and why.

    Raises:
        NotFound: There is no such job.
    """
    _ask_otherwise(database, job_id, reason, priority=priority)


def _ask_otherwise(database: Database, job_id: JobId, reason: Reason, **change: Any) -> None:
    with database.transaction() as connection:
        # With the task locked nobody changes the priority of all jobs meanwhile.
        locked(connection, TaskId(_existing(connection, job_id)["task_id"]))
        job = _existing(connection, job_id)
        if "paused" in change and job["state"] in FINAL_JOBS:
            return
        if jobs.ask_otherwise(connection, [job_id], change):
            outbox.note(connection, "job", job_id, reason)
            notify(connection, Channel.JOBS)


def set_task_priority(database: Database, task_id: TaskId, priority: int, reason: Reason) -> None:
    """Change the priority of a task and of all its jobs that are not done; a task that is done stays as it is.

    Args:
        database: The store.
        task_id: The task.
        priority: From -1000 to 1000; the highest is taken first.
        reason: Who ordered it, and why.

    Raises:
        NotFound: There is no such task.
    """
    with database.transaction() as connection:
        task = locked(connection, task_id)
        present = demands.priorities(connection, task_id) | {task["priority"]}
        if task["state"] == TaskState.DONE or present == {priority}:
            return
        tasks.set_priority(connection, task_id, priority)
        demands.set_priority(connection, task_id, priority)
        outbox.note(connection, "task", task_id, reason)
        notify(connection, Channel.JOBS)


def _existing(connection: Connection, job_id: JobId) -> dict[str, Any]:
    job = jobs.get(connection, job_id)
    if job is None:
        raise NotFound("job", job_id, "see `glideflow jobs TASK`")
    return job


def _drive_again(connection: Connection, task_id: TaskId) -> None:
    """Ask for a new flow run of a task that had ended."""
    tasks.end(connection, task_id, ended=False)
    tasks.next_generation(connection, task_id)
    outbox.drop(connection, task_id)
    outbox.put(connection, [task_id], "start")
    chains.reopen_children(connection, task_id)


def user_reason(code: ReasonCode, user: str, text: str | None) -> Reason:
    """Return the reason of a user's command.

    Args:
        code: KILLED, RETRY_REQUESTED, PAUSED, RESUMED or PRIORITY_SET.
        user: Who ordered it.
        text: What the user wrote, if anything.
    """
    return Reason(code=code, text=f"{DONE_BY[code]} by {user}" + (f": {text}" if text else ""), source=Source.USER)
