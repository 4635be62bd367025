# SPDX-License-Identifier: Apache-2.0
"""`glideflow kill | retry | pause | resume | priority`."""

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter

from glideflow.cli.retrying import show_plan
from glideflow.cli.terminal import AsJson, Flag, Json, connect, counted, job_name, print_json, say
from glideflow.client import Client
from glideflow.errors import UserError
from glideflow.task_file.changes import read_changes

Order = Callable[..., Json]
"""A method of the client: of a task or a job, with more values."""


def kill(
    task: str | None = None, /, *, job: str | None = None, reason: str | None = None, json: AsJson = False
) -> None:
    """End a task or a job.

    Running commands are ended; what is done stays. Killing again changes nothing.

    For example:

    * glideflow kill zpeak-generate --reason "wrong input"
    * glideflow kill --job zpeak-generate.3

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        job: Only this job: its id, or TASK.INDEX.
        reason: Why, for whoever asks later.
        json: Print JSON.
    """
    _show(_order(Client.kill_task, Client.kill_job, task, job, reason), json=json)


def retry(
    task: str | None = None,
    /,
    *,
    job: str | None = None,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    dry_run: Flag = False,
    reason: str | None = None,
    json: AsJson = False,
) -> None:
    """Run failed and cancelled jobs of a task, or one job, again.

    Jobs that are done stay as they are, and so do their outputs. A merge job follows when the others have ended.
    Running again what runs or is done changes nothing.

    For example:

    * glideflow retry zpeak-generate
    * glideflow retry zpeak-generate --only failed --set resources.memory_mb=4000 --dry-run
    * glideflow retry zpeak-generate --only disk_full --set resources.disk_mb=20000 --set priority=10
    * glideflow retry --job zpeak-generate.3

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        job: Only this job: its id, or TASK.INDEX.
        only: Only jobs that are `failed` or `cancelled`, or ended for a reason, such as `disk_full`; may be repeated.
        set_: What is different then, as key=value with a value in YAML: resources.cores, resources.memory_mb,
            resources.disk_mb, resources.wall_seconds, priority, retries, failure_policy; may be repeated.
        dry_run: Only show which jobs would run again and what would be different; nothing is changed.
        reason: Why, for whoever asks later.
        json: Print JSON.
    """
    if job is not None and only:
        raise UserError("--only chooses jobs of a task: leave it out, or --job")
    changes = read_changes(set_ or []).model_dump(mode="json", exclude_none=True)
    more: Json = {"only": only, "changes": changes if set_ else None, "dry_run": dry_run or None}
    found = _order(Client.retry_task, Client.retry_job, task, job, reason, **more)
    if dry_run and not json:
        show_plan(found)
    else:
        _show(found, json=json)


def pause(
    task: str | None = None, /, *, job: str | None = None, reason: str | None = None, json: AsJson = False
) -> None:
    """Hold back a task or a job: no pilot takes it until it is resumed.

    What pilots have taken before goes on. Pausing again, or what has ended, changes nothing.

    For example:

    * glideflow pause zpeak-generate --reason "look at the first outputs"
    * glideflow pause --job zpeak-generate.3

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        job: Only this job: its id, or TASK.INDEX.
        reason: Why, for whoever asks later.
        json: Print JSON.
    """
    _show(_order(Client.pause_task, Client.pause_job, task, job, reason), json=json)


def resume(
    task: str | None = None, /, *, job: str | None = None, reason: str | None = None, json: AsJson = False
) -> None:
    """Let a paused task or job go on.

    Jobs that were paused one by one stay so when their task is resumed.

    For example:

    * glideflow resume zpeak-generate
    * glideflow resume --job zpeak-generate.3

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        job: Only this job: its id, or TASK.INDEX.
        reason: Why, for whoever asks later.
        json: Print JSON.
    """
    _show(_order(Client.resume_task, Client.resume_job, task, job, reason), json=json)


def priority(
    task: str | None = None,
    /,
    *,
    to: int,
    job: str | None = None,
    reason: str | None = None,
    json: AsJson = False,
) -> None:
    """Change the priority of a task and all its jobs, or of one job.

    It holds for the next job that a pilot takes. What runs is not interrupted.

    For example:

    * glideflow priority zpeak-generate --to 100
    * glideflow priority --job zpeak-generate.3 --to 500

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        to: The new priority, from -1000 to 1000; the highest is taken first.
        job: Only this job: its id, or TASK.INDEX.
        reason: Why, for whoever asks later.
        json: Print JSON.
    """
    found = _order(Client.set_task_priority, Client.set_job_priority, task, job, to, reason)
    _show(found, json=json, priority=True)


def _order(for_task: Order, for_job: Order, task: str | None, job: str | None, *values: Any, **more: Any) -> Json:
    """Send an order for a task, or for one job, and return what it is like then."""
    if (task is None) == (job is None):
        raise UserError("give either a task, or a job with --job")
    with connect() as client:
        return for_task(client, task, *values, **more) if task is not None else for_job(client, job, *values, **more)


def _show(found: Json, *, json: bool, priority: bool = False) -> None:
    if json:
        print_json(found)
        return
    text = f"{found['state']} (paused)" if found["paused"] else found["state"]
    if "jobs" in found:
        text = f"task {found['id']} ({found['name']}) is {text}, with {counted(found['jobs']['total'], 'job')}"
    else:
        text = f"job {found['id']} ({job_name(found)}) is {text}"
    say(f"{text}; its priority is {found['priority']}" if priority else text)
