# SPDX-License-Identifier: Apache-2.0
"""What came out of a task: the result for the next step of a flow, and the flow run's final state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from glideflow.domain.states import JobState, TaskState
from glideflow.errors import GlideflowError
from glideflow_flows.connection import endpoint

SHOWN_FAILURES = 3
SHOWN_CHARACTERS = 200


class TaskFailed(GlideflowError):
    """The task ended without success."""

    code = "task_failed"

    def __init__(self, task_id: int, state: TaskState, message: str) -> None:
        self.task_id = task_id
        self.state = state
        self.message = message
        # All three are arguments of the base, so that Prefect can pickle the error with the flow run's result.
        super().__init__(task_id, state, message)

    def __str__(self) -> str:
        """The sentence that the flow run's state shows too."""
        return f"task {self.task_id}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """One verified file that a task made."""

    name: str
    """The output's key in the task file."""
    dataset: str
    """The dataset that holds it."""
    file: str
    """File name."""
    url: str
    """Where it is: an absolute URL, or `/storage/...` at the endpoint."""
    size_bytes: int
    """Size."""
    sha256: str
    """Checksum."""
    stage: str
    """`main` for a job's output, `merge` for the merge step's."""
    job_id: int
    """The job that made it."""
    events: int | None = None
    """Number of events, where counted."""

    def download(self, folder: str | Path) -> Path:
        """Fetch the file, and check size and checksum.

        Args:
            folder: Where to put it; made when missing.

        Returns:
            The local path.

        Raises:
            EndpointUnavailable: The endpoint does not answer.
            ServiceError: What arrived is not what was stored.
        """
        path = Path(folder) / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        endpoint().download(self.url, path, self.size_bytes, self.sha256)
        return path


class Outputs(tuple[OutputFile, ...]):
    """The files of a task, in the order of its jobs, the merge step's last."""

    __slots__ = ()

    def select(self, *, name: str | None = None, stage: str | None = None) -> "Outputs":
        """Return only the files of one output key, or of one stage (`main`, `merge`)."""
        return Outputs(o for o in self if name in (None, o.name) and stage in (None, o.stage))

    def download(self, folder: str | Path) -> list[Path]:
        """Fetch all files into a folder.

        Args:
            folder: Where to put them; made when missing. Files of equal names get a folder per job.

        Returns:
            The local paths, in the same order.
        """
        names = [output.file for output in self]
        return [o.download(Path(folder) / f"job-{o.job_id}" if names.count(o.file) > 1 else folder) for o in self]


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A task that is done, for the next step of a flow."""

    task_id: int
    """The task's number, as in `glideflow tasks`."""
    name: str
    """The task's name."""
    state: TaskState
    """`done` or `partly_done`."""
    message: str
    """One line: how many jobs, in what time."""

    @cached_property
    def outputs(self) -> Outputs:
        """The files that the task made; asked from the endpoint at the first use."""
        found = [_output(item) for item in endpoint().outputs(self.task_id)]
        return Outputs(sorted(found, key=lambda o: (o.stage == "merge", o.job_id, o.name)))

    def dataset(self, name: str) -> str:
        """Name one of its datasets for the `inputs.dataset` of the next task: only what this task wrote into it."""
        return f"{name}@{self.task_id}"

    def download(self, folder: str | Path) -> list[Path]:
        """Fetch the result: the merge step's files where there is one, else all files."""
        return (self.outputs.select(stage="merge") or self.outputs).download(folder)


def _output(item: Mapping[str, Any]) -> OutputFile:
    known: dict[str, Any] = {key: item.get(key) for key in OutputFile.__dataclass_fields__}
    return OutputFile(**known)


def count_line(jobs: Mapping[str, int]) -> str:
    """Say how far the jobs are, for example `18/20 jobs done, 2 failed`.

    Args:
        jobs: Number of jobs by state, with or without `total`.
    """
    counts = {state: jobs.get(state, 0) for state in JobState}
    total = jobs.get("total") or sum(counts.values())
    done = counts.pop(JobState.DONE)
    return ", ".join([f"{done}/{total} jobs done", *(f"{n} {state}" for state, n in counts.items() if n)])


def failure_line(failures: Sequence[Mapping[str, Any]]) -> str:
    """Say in one line why jobs failed, the most frequent reason first; empty without failures."""
    ordered = sorted(failures, key=lambda f: -f["count"])
    lines = [f"{f['count']}x {_short(f['text'])}" + (f" (site {f['site']})" if f.get("site") else "") for f in ordered]
    more = len(lines) - SHOWN_FAILURES
    return "; ".join(lines[:SHOWN_FAILURES]) + (f"; and {more} more reasons" if more > 0 else "")


def _short(text: str | None) -> str:
    """One line of at most 200 characters."""
    line = " ".join((text or "no reason given").split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 4] + " ..."


def summary(task: Mapping[str, Any], failures: Sequence[Mapping[str, Any]]) -> str:
    """Say in one line how a task ended: why, how many jobs, which failures, in what time.

    Args:
        task: The task as the endpoint shows it.
        failures: The endpoint's counts of failed jobs by reason.
    """
    parts = [count_line(task["jobs"])]
    if task["state"] != TaskState.DONE and (why := failure_line(failures)):
        parts.append(why)
    if task.get("ended_at") and task.get("created_at"):
        seconds = datetime.fromisoformat(task["ended_at"]) - datetime.fromisoformat(task["created_at"])
        parts.append(f"{seconds.total_seconds():.0f} s")
    text = "; ".join(parts)
    return f"{task['reason']['text']} ({text})" if task.get("reason") else text


def final_state(task: Mapping[str, Any], failures: Sequence[Mapping[str, Any]]) -> State[Any]:
    """Return the flow run's final state for an ended task.

    Args:
        task: The task as the endpoint shows it.
        failures: The endpoint's counts of failed jobs by reason.

    Returns:
        A state with the whole story in its message; its data is a `TaskResult`, or a `TaskFailed` to be raised.
    """
    message = summary(task, failures)
    state = TaskState(task["state"])
    if state in (TaskState.DONE, TaskState.PARTLY_DONE):
        result = TaskResult(task_id=task["id"], name=task["name"], state=state, message=message)
        name = "PartlyDone" if state is TaskState.PARTLY_DONE else "Completed"
        return Completed(message=message, data=result, name=name)
    error = TaskFailed(task["id"], state, message)
    return (Cancelled if state is TaskState.CANCELLED else Failed)(message=message, data=error)
