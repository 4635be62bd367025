# SPDX-License-Identifier: Apache-2.0
"""Routes for users: tasks, jobs, datasets, pilots, sites and events."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Query, Response
from pydantic import BaseModel, Field

from glideflow import __version__
from glideflow.api.authentication import ContextOf, User
from glideflow.api.context import Context
from glideflow.domain.identifiers import TaskId
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.retrying import Changes, select
from glideflow.domain.states import FINAL_ATTEMPTS
from glideflow.domain.task import LEAST_URGENT, MOST_URGENT, Submission
from glideflow.services import completion, control, planning, views
from glideflow.services.attempt_logs import read_log
from glideflow.services.explain import explain
from glideflow.services.explain_task import explain_task
from glideflow.services.retry import RetryPlan
from glideflow.services.retry import Wish as RetryWish
from glideflow.services.share_views import share_page
from glideflow.services.submit import advise, preview, preview_all, submit, submit_all

router = APIRouter()

Limit = Annotated[int, Query(ge=1, le=1000)]
_LONGEST_LOG_PART = 4_000_000


class Wish(BaseModel):
    """The optional body of a user's command."""

    reason: str | None = None


class Again(Wish):
    """The optional body of the command that runs jobs again."""

    only: list[str] = []
    """`failed`, `cancelled`, or codes of reasons; without any, all that failed or were cancelled."""
    changes: Changes = Field(default_factory=Changes)
    """What is different."""
    dry_run: bool = False
    """Only say what would be done."""


class Urgency(Wish):
    """The body of the command that changes a priority."""

    priority: int = Field(ge=LEAST_URGENT, le=MOST_URGENT)


class Submissions(BaseModel):
    """Several tasks that are accepted together."""

    tasks: list[Submission] = Field(min_length=1, max_length=100)


def _linked(context: Context, view: views.View) -> views.View:
    """Add where Prefect's pages show a task."""
    run = view["flow_run_id"]
    url = f"{context.instance.prefect_ui_url.rstrip('/')}/runs/flow-run/{run}" if run else None
    return {**view, "flow_run_url": url}


def _task(context: Context, task_id: TaskId) -> views.View:
    return _linked(context, views.task(context.database, task_id))


@router.get("/health", tags=["instance"])
def health(context: ContextOf) -> dict[str, Any]:
    """Tell whether the endpoint and its database work."""
    with context.database.transaction() as connection:
        connection.execute("SELECT 1")
    return {"status": "ok", "version": __version__, "instance": context.settings.instance}


@router.get("/v1/whoami", tags=["instance"])
def whoami(user: User) -> dict[str, str]:
    """Tell who the endpoint takes you for."""
    return {"subject": user.subject, "vo": user.vo, "method": user.method}


@router.post("/v1/tasks", tags=["tasks"], status_code=201)
def submit_task(
    context: ContextOf,
    user: User,
    submission: Submission,
    background: BackgroundTasks,
    response: Response,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Accept a task, or with `dry_run` only say what would come out."""
    if dry_run:
        response.status_code = 200
        return vars(preview(context.place, submission, user))
    advice = advise(context.place, submission.spec, user)
    task_id = submit(context.place, submission, user)
    # Planned at once and not by the flow: idle pilots start within a fraction of a second, and without Prefect too.
    background.add_task(planning.plan, context.place, task_id)
    return {**_task(context, task_id), "warnings": advice}


@router.post("/v1/submissions", tags=["tasks"], status_code=201)
def submit_tasks(
    context: ContextOf,
    user: User,
    submissions: Submissions,
    background: BackgroundTasks,
    response: Response,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Accept several tasks that belong together, all or none; names in `after` mean tasks of the list first."""
    if dry_run:
        response.status_code = 200
        return {"items": [vars(found) for found in preview_all(context.place, submissions.tasks, user)]}
    advice = [advise(context.place, submission.spec, user) for submission in submissions.tasks]
    made = submit_all(context.place, submissions.tasks, user)
    for task_id in made:
        background.add_task(planning.plan, context.place, task_id)
    told = zip(made, advice, strict=True)
    return {"items": [{**_task(context, task_id), "warnings": warnings} for task_id, warnings in told]}


@router.get("/v1/tasks", tags=["tasks"])
def list_tasks(
    context: ContextOf, user: User, state: str | None = None, cursor: int | None = None, limit: Limit = 100
) -> dict[str, Any]:
    """List tasks, the newest first."""
    page = views.task_page(context.database, state=state, cursor=cursor, limit=limit)
    return {**page, "items": [_linked(context, item) for item in page["items"]]}


@router.get("/v1/tasks/{task}", tags=["tasks"])
def get_task(context: ContextOf, user: User, task: str) -> dict[str, Any]:
    """Return a task, by number or name."""
    return _task(context, views.task_id_of(context.database, task))


@router.get("/v1/tasks/{task}/explain", tags=["tasks"])
def explain_whole_task(context: ContextOf, user: User, task: str) -> dict[str, Any]:
    """Say what a task waits for and how it was split, or why it ended."""
    return explain_task(context.database, views.task_id_of(context.database, task))


@router.get("/v1/tasks/{task}/jobs", tags=["tasks"])
def list_jobs(
    context: ContextOf,
    user: User,
    task: str,
    state: str | None = None,
    stage: str | None = None,
    cursor: int = 0,
    limit: Limit = 100,
) -> dict[str, Any]:
    """List a task's jobs."""
    task_id = views.task_id_of(context.database, task)
    return views.job_page(context.database, task_id, state=state, stage=stage, cursor=cursor, limit=limit)


@router.get("/v1/tasks/{task}/progress", tags=["tasks"])
def get_progress(context: ContextOf, user: User, task: str, first: int = 0, last: int | None = None) -> dict[str, Any]:
    """Return how far a task is."""
    view = views.progress(context.database, views.task_id_of(context.database, task), first=first, last=last)
    return {**view, "task": _linked(context, view["task"])}


@router.get("/v1/tasks/{task}/outputs", tags=["tasks"])
def list_outputs(context: ContextOf, user: User, task: str) -> dict[str, Any]:
    """List the files that a task made."""
    return views.outputs(context.database, views.task_id_of(context.database, task))


@router.post("/v1/tasks/{task}/kill", tags=["tasks"])
def kill_task(context: ContextOf, user: User, task: str, wish: Wish | None = None) -> dict[str, Any]:
    """Cancel a task; one that has ended stays as it is."""
    task_id = views.task_id_of(context.database, task)
    control.kill_task(context.database, task_id, _because(ReasonCode.KILLED, user.subject, wish))
    return _task(context, task_id)


@router.post("/v1/tasks/{task}/retry", tags=["tasks"])
def retry_task(
    context: ContextOf, user: User, task: str, background: BackgroundTasks, again: Again | None = None
) -> dict[str, Any]:
    """Run failed and cancelled jobs of a task again, or with `dry_run` only say what that means."""
    task_id = views.task_id_of(context.database, task)
    wish = _retry_wish(context, again)
    if again is not None and again.dry_run:
        return control.preview_retry_task(context.database, task_id, wish)
    reason = _because(ReasonCode.RETRY_REQUESTED, user.subject, again)
    plan = control.retry_task(context.database, task_id, reason, wish)
    background.add_task(planning.plan, context.place, task_id)
    return {**_task(context, task_id), "retry": _retried(plan)}


def _retry_wish(context: Context, again: Again | None) -> RetryWish:
    given = again or Again()
    return RetryWish(selection=select(given.only), changes=given.changes, sites=context.sites)


def _retried(plan: RetryPlan) -> dict[str, Any]:
    return {"total": plan.total, "changes": [*plan.changed, *plan.of_task]}


@router.post("/v1/tasks/{task}/pause", tags=["tasks"])
def pause_task(context: ContextOf, user: User, task: str, wish: Wish | None = None) -> dict[str, Any]:
    """Hand out no more jobs of a task; running ones go on."""
    task_id = views.task_id_of(context.database, task)
    control.pause_task(context.database, task_id, _because(ReasonCode.PAUSED, user.subject, wish))
    return _task(context, task_id)


@router.post("/v1/tasks/{task}/resume", tags=["tasks"])
def resume_task(context: ContextOf, user: User, task: str, wish: Wish | None = None) -> dict[str, Any]:
    """Hand out the jobs of a paused task again."""
    task_id = views.task_id_of(context.database, task)
    control.resume_task(context.database, task_id, _because(ReasonCode.RESUMED, user.subject, wish))
    return _task(context, task_id)


@router.post("/v1/tasks/{task}/priority", tags=["tasks"])
def set_task_priority(context: ContextOf, user: User, task: str, urgency: Urgency) -> dict[str, Any]:
    """Change the priority of a task and of its jobs."""
    task_id = views.task_id_of(context.database, task)
    reason = _because(ReasonCode.PRIORITY_SET, user.subject, urgency)
    control.set_task_priority(context.database, task_id, urgency.priority, reason)
    return _task(context, task_id)


def _because(code: ReasonCode, user: str, wish: Wish | None) -> Any:
    return control.user_reason(code, user, wish.reason if wish else None)


@router.post("/v1/tasks/{task}/plan", tags=["flows"])
def plan_task(context: ContextOf, user: User, task: str) -> dict[str, Any]:
    """Split a task into jobs, if that was not done."""
    task_id = views.task_id_of(context.database, task)
    total = planning.plan(context.place, task_id)
    return {"jobs_total": total, "batches": [vars(batch) for batch in planning.batches(total)]}


@router.post("/v1/tasks/{task}/merge", tags=["flows"])
def merge_task(context: ContextOf, user: User, task: str) -> dict[str, Any]:
    """Start the merge of a task, if it has one and that was not done."""
    return {"job_id": completion.merge(context.database, context.sites, views.task_id_of(context.database, task))}


@router.post("/v1/tasks/{task}/finish", tags=["flows"])
def finish_task(context: ContextOf, user: User, task: str) -> dict[str, Any]:
    """Decide how a task ended, if that was not done."""
    task_id = views.task_id_of(context.database, task)
    completion.finish(context.database, task_id)
    return _task(context, task_id)


@router.get("/v1/jobs/{job}", tags=["jobs"])
def get_job(context: ContextOf, user: User, job: str) -> dict[str, Any]:
    """Return a job, by number or as `TASK.INDEX`."""
    return views.job(context.database, views.job_id_of(context.database, job))


@router.get("/v1/jobs/{job}/explain", tags=["jobs"])
def explain_job(context: ContextOf, user: User, job: str) -> dict[str, Any]:
    """Say what a job waits for, or why it ended."""
    job_id = views.job_id_of(context.database, job)
    return explain(context.database, context.shares, job_id, datetime.now(UTC))


@router.get("/v1/jobs/{job}/log", tags=["jobs"])
def get_log(context: ContextOf, user: User, job: str, attempt: int | None = None, offset: int = 0) -> Response:
    """Return what an attempt printed, from an offset; a negative one counts from the end."""
    found = views.attempt_of(context.database, views.job_id_of(context.database, job), attempt)
    part = read_log(context.attempt_logs, found["id"], offset, _LONGEST_LOG_PART)
    final = found["state"] in FINAL_ATTEMPTS and len(part) < _LONGEST_LOG_PART
    headers = {"x-glideflow-log-final": str(final).lower(), "x-glideflow-attempt": str(found["number"])}
    return Response(part, media_type="text/plain; charset=utf-8", headers=headers)


@router.post("/v1/jobs/{job}/kill", tags=["jobs"])
def kill_job(context: ContextOf, user: User, job: str, wish: Wish | None = None) -> dict[str, Any]:
    """Cancel a job; one that has ended stays as it is."""
    job_id = views.job_id_of(context.database, job)
    control.kill_job(context.database, job_id, _because(ReasonCode.KILLED, user.subject, wish))
    return views.job(context.database, job_id)


@router.post("/v1/jobs/{job}/retry", tags=["jobs"])
def retry_job(context: ContextOf, user: User, job: str, again: Again | None = None) -> dict[str, Any]:
    """Run a failed or cancelled job again, or with `dry_run` only say what that means."""
    job_id = views.job_id_of(context.database, job)
    wish = _retry_wish(context, again)
    if again is not None and again.dry_run:
        return control.preview_retry_job(context.database, job_id, wish)
    reason = _because(ReasonCode.RETRY_REQUESTED, user.subject, again)
    plan = control.retry_job(context.database, job_id, reason, wish)
    return {**views.job(context.database, job_id), "retry": _retried(plan)}


@router.post("/v1/jobs/{job}/pause", tags=["jobs"])
def pause_job(context: ContextOf, user: User, job: str, wish: Wish | None = None) -> dict[str, Any]:
    """Do not hand a job out; a running attempt goes on."""
    job_id = views.job_id_of(context.database, job)
    control.pause_job(context.database, job_id, _because(ReasonCode.PAUSED, user.subject, wish))
    return views.job(context.database, job_id)


@router.post("/v1/jobs/{job}/resume", tags=["jobs"])
def resume_job(context: ContextOf, user: User, job: str, wish: Wish | None = None) -> dict[str, Any]:
    """Hand out a paused job again."""
    job_id = views.job_id_of(context.database, job)
    control.resume_job(context.database, job_id, _because(ReasonCode.RESUMED, user.subject, wish))
    return views.job(context.database, job_id)


@router.post("/v1/jobs/{job}/priority", tags=["jobs"])
def set_job_priority(context: ContextOf, user: User, job: str, urgency: Urgency) -> dict[str, Any]:
    """Change the priority of one job."""
    job_id = views.job_id_of(context.database, job)
    reason = _because(ReasonCode.PRIORITY_SET, user.subject, urgency)
    control.set_job_priority(context.database, job_id, urgency.priority, reason)
    return views.job(context.database, job_id)


@router.get("/v1/datasets", tags=["data"])
def list_datasets(context: ContextOf, user: User) -> dict[str, Any]:
    """List datasets."""
    return views.dataset_page(context.database)


@router.get("/v1/datasets/{name}", tags=["data"])
def get_dataset(context: ContextOf, user: User, name: str) -> dict[str, Any]:
    """Return the files of a dataset."""
    return views.dataset(context.database, name)


@router.get("/v1/pilots", tags=["resources"])
def list_pilots(
    context: ContextOf,
    user: User,
    site: str | None = None,
    everything: Annotated[bool, Query(alias="all")] = False,
    limit: Limit = 100,
) -> dict[str, Any]:
    """List pilots, the newest first."""
    return views.pilot_page(context.database, site=site, everything=everything, limit=limit)


@router.get("/v1/sites", tags=["resources"])
def list_sites(context: ContextOf, user: User) -> dict[str, Any]:
    """List sites with their pilots and the last decision about each."""
    return views.site_page(context.database, context.sites.values())


@router.get("/v1/shares", tags=["resources"])
def list_shares(context: ContextOf, user: User) -> dict[str, Any]:
    """Return the tree of shares: what each VO, group and user may have, has used and holds."""
    return share_page(context.database, context.shares)


@router.get("/v1/events", tags=["instance"])
def list_events(
    context: ContextOf,
    user: User,
    task: int | None = None,
    kind: str | None = None,
    subject: str | None = None,
    cursor: int = 0,
    limit: Limit = 100,
) -> dict[str, Any]:
    """List moves of tasks, jobs, attempts and pilots, the oldest first."""
    return views.event_page(context.database, task=task, kind=kind, subject=subject, cursor=cursor, limit=limit)
