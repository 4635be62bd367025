# SPDX-License-Identifier: Apache-2.0
"""`glideflow log`."""

import sys
import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from glideflow.cli.terminal import AsJson, Flag, connect, err, print_json, say
from glideflow.client import Client, LogPart
from glideflow.domain.states import FINAL_JOBS
from glideflow.errors import NotFound

POLL_SECONDS = 1.0


def log(
    job: str,
    /,
    *,
    attempt: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    follow: Flag = False,
    json: AsJson = False,
) -> None:
    """Print what a job has printed.

    For example:

    * glideflow log zpeak-generate.3
    * glideflow log 4711 --attempt 1
    * glideflow log zpeak-generate.3 --follow

    Args:
        job: The job's id, or TASK.INDEX, or TASK.merge, where TASK is the task's id or name.
        attempt: Which of its attempts, from 1; without it the last one.
        follow: Wait for the job to start, and print what it prints until it ends.
        json: Print JSON, when all is there.
    """
    with connect() as client:
        first = _first_part(client, job, attempt, follow=follow)
        parts = _parts(client, job, first, follow=follow)
        if not json:
            for part in parts:
                sys.stdout.buffer.write(part.data)
                sys.stdout.buffer.flush()
            return
        found = list(parts)
    text = b"".join(part.data for part in found).decode(errors="replace")
    print_json({"job": job, "attempt": first.attempt, "final": found[-1].final, "text": text})


def _first_part(client: Client, job: str, attempt: int | None, *, follow: bool) -> LogPart:
    """Return the beginning of the log; with `follow`, wait until there is one."""
    told = False
    while True:
        try:
            return client.log(job, attempt=attempt)
        except NotFound:
            # A job that has ended, or does not exist, will never have this log.
            if not follow or client.job(job)["state"] in FINAL_JOBS:
                raise
        if not told:
            say(f"job {job} has not started; `glideflow explain {job}` says what it is waiting for", err())
            told = True
        time.sleep(POLL_SECONDS)


def _parts(client: Client, job: str, part: LogPart, *, follow: bool) -> Iterator[LogPart]:
    """Return the log from its beginning to its present end, or with `follow` to its last word."""
    offset = 0
    number = part.attempt
    while True:
        yield part
        offset += len(part.data)
        # Only an empty part shows that nothing is left: the endpoint limits the size of one.
        if not part.data:
            if part.final or not follow:
                return
            time.sleep(POLL_SECONDS)
        part = client.log(job, attempt=number, offset=offset)
