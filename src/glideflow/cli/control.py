# SPDX-License-Identifier: Apache-2.0
"""`glideflow kill | retry`."""

from glideflow.cli.terminal import AsJson, Json, connect, counted, job_name, print_json, say
from glideflow.errors import UserError


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
    _check(task, job)
    with connect() as client:
        found = client.kill_job(job, reason) if job is not None else client.kill_task(str(task), reason)
    _show(found, json=json)


def retry(
    task: str | None = None, /, *, job: str | None = None, reason: str | None = None, json: AsJson = False
) -> None:
    """Run the failed and cancelled jobs of a task, or one job, again.

    Jobs that are done stay as they are.

    For example:

    * glideflow retry zpeak-generate
    * glideflow retry --job zpeak-generate.3

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        job: Only this job: its id, or TASK.INDEX.
        reason: Why, for whoever asks later.
        json: Print JSON.
    """
    _check(task, job)
    with connect() as client:
        found = client.retry_job(job, reason) if job is not None else client.retry_task(str(task), reason)
    _show(found, json=json)


def _check(task: str | None, job: str | None) -> None:
    if (task is None) == (job is None):
        raise UserError("give either a task, or a job with --job")


def _show(found: Json, *, json: bool) -> None:
    if json:
        print_json(found)
    elif "jobs" in found:
        say(f"task {found['id']} ({found['name']}) is {found['state']}, with {counted(found['jobs']['total'], 'job')}")
    else:
        say(f"job {found['id']} ({job_name(found)}) is {found['state']}")
