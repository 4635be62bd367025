# SPDX-License-Identifier: Apache-2.0
"""What users order: kill and run again. Each is safe to repeat."""

from glideflow.domain.identifiers import JobId, TaskId
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.states import FINAL_JOBS, FINAL_TASKS, AttemptState, JobState, PilotState, TaskState
from glideflow.errors import IllegalTransition, NotFound
from glideflow.services.completion import announce_ended_stages, locked
from glideflow.store import attempts, jobs, outbox, pilots, tally, tasks
from glideflow.store.engine import Channel, Connection, Database, notify
from glideflow.store.moves import move

_OPEN_JOBS = frozenset(JobState) - FINAL_JOBS
_ENDED = ", ended_at = now()"
_AGAIN = ", ended_at = NULL, not_before = NULL, failures = 0"


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
        if not tally.any_open(connection):
            # Nobody else needs these pilots now: they end instead of idling in their slots.
            text = f"task {task_id} was killed and no other job is waiting"
            drained = Reason(code=ReasonCode.PILOT_IDLE, text=text, source=Source.SERVER)
            move(connection, PilotState.DRAINING, busy | set(pilots.idle_ids(connection)), reason=drained)
        outbox.drop(connection, task_id)
        if task["flow_run_id"] is not None:
            outbox.put(connection, [task_id], "cancel")
        notify(connection, Channel.COMMANDS)


def kill_job(database: Database, job_id: JobId, reason: Reason) -> None:
    """Cancel one job and its attempt; a job that has ended stays as it is.

    Raises:
        NotFound: There is no such job.
    """
    with database.transaction() as connection:
        job = jobs.get(connection, job_id)
        if job is None:
            raise NotFound("job", job_id, "see `glideflow jobs TASK`")
        _cancel_jobs(connection, [job_id], reason)
        notify(connection, Channel.COMMANDS)
    announce_ended_stages(database, [job["task_id"]])


def _cancel_jobs(connection: Connection, job_ids: list[JobId], reason: Reason) -> set[str]:
    """Cancel open jobs and end their attempts; returns the pilots that run them."""
    move(connection, JobState.CANCELLED, job_ids, reason=reason, set_also=_ENDED)
    running = attempts.open_of_jobs(connection, job_ids)
    move(connection, AttemptState.KILLED, (row["id"] for row in running), reason=reason, set_also=_ENDED)
    return {row["pilot_id"] for row in running}


def retry_task(database: Database, task_id: TaskId, reason: Reason) -> int:
    """Run the failed and cancelled jobs of an ended task again; what is done stays.

    Returns:
        How many jobs are ready again.

    Raises:
        NotFound: There is no such task.
        IllegalTransition: It is done, so that there is nothing to run again.
    """
    with database.transaction() as connection:
        task = locked(connection, task_id)
        if task["state"] == TaskState.DONE:
            raise IllegalTransition(f"task {task_id}, of which every job is done,", task["state"], "a retry")
        again = jobs.of_task(connection, task_id, [JobState.FAILED, JobState.CANCELLED])
        moved = move(connection, JobState.READY, again, reason=reason, set_also=_AGAIN)
        if task["state"] in FINAL_TASKS:
            target = TaskState.RUNNING if task["jobs_total"] else TaskState.SUBMITTED
            move(connection, target, [task_id], reason=reason)
            _drive_again(connection, task_id)
        notify(connection, Channel.JOBS)
        return len(moved)


def retry_job(database: Database, job_id: JobId, reason: Reason) -> None:
    """Run one failed or cancelled job again, and its task with it.

    Raises:
        NotFound: There is no such job.
        IllegalTransition: It is done, or has not ended.
    """
    with database.transaction() as connection:
        job = jobs.get(connection, job_id)
        if job is None:
            raise NotFound("job", job_id, "see `glideflow jobs TASK`")
        task = locked(connection, TaskId(job["task_id"]))
        if not move(connection, JobState.READY, [job_id], reason=reason, set_also=_AGAIN):
            raise IllegalTransition(f"job {job_id}", job["state"], JobState.READY)
        if task["state"] in FINAL_TASKS:
            move(connection, TaskState.RUNNING, [task["id"]], reason=reason)
            _drive_again(connection, TaskId(task["id"]))
        notify(connection, Channel.JOBS)


def _drive_again(connection: Connection, task_id: TaskId) -> None:
    """Ask for a new flow run of a task that had ended."""
    tasks.end(connection, task_id, ended=False)
    tasks.next_generation(connection, task_id)
    outbox.drop(connection, task_id)
    outbox.put(connection, [task_id], "start")


def user_reason(code: ReasonCode, user: str, text: str | None) -> Reason:
    """Return the reason of a user's command.

    Args:
        code: KILLED or RETRY_REQUESTED.
        user: Who ordered it.
        text: What the user wrote, if anything.
    """
    verb = "killed" if code is ReasonCode.KILLED else "asked to run again"
    return Reason(code=code, text=f"{verb} by {user}" + (f": {text}" if text else ""), source=Source.USER)
