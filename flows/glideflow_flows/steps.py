# SPDX-License-Identifier: Apache-2.0
"""The steps of a task's flow: persisted Prefect tasks, each one call of the REST endpoint that may be repeated."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

from prefect import Task, get_client, task
from prefect.cache_policies import DEFAULT
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError, MissingResult
from prefect.states import Cancelled, Completed, Failed

from glideflow.domain.states import JobState
from glideflow.errors import ServiceError
from glideflow.settings import load_settings
from glideflow.submission import resolve
from glideflow.task_file import read_task_file
from glideflow_flows.artifacts import Artifacts
from glideflow_flows.connection import endpoint
from glideflow_flows.outcome import count_line

P = ParamSpec("P")
R = TypeVar("R")

RETRY_SECONDS = [1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0, 60.0, 60.0]
"""Waits between the tries of a step: five minutes in all; after that the reconciler runs the flow again."""
MOST_TASK_RUNS = 200
"""More than a flow run of ours ever has."""


def may_help(step: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell whether to try a failed step again: only when a service did not answer, never after wrong use."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ServiceError) and error.retryable


def step(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Declare a step: persisted, and tried again while a service is away.

    Args:
        name: The task run's name, unless a call chooses another.
    """
    # DEFAULT means: same inputs, same code, same flow run. Inputs alone would make `merge(7)` and `finish(7)` one
    # entry, and would find the results of another home that used the same result folder.
    return task(
        name=name,
        persist_result=True,
        cache_policy=DEFAULT,
        retries=len(RETRY_SECONDS),
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=may_help,
    )


@step("submit")
def submit(file: str, overrides: list[str]) -> int:
    """Submit a task file for this flow run, and return the task's number."""
    found = resolve(read_task_file(Path(file), overrides))
    submission = found.submission.model_copy(update={"flow_run_id": str(this_run().id)})
    return int(endpoint().submit(replace(found, submission=submission))["id"])


@step("plan")
def plan(task_id: int) -> list[tuple[int, int]]:
    """Split the task into jobs, unless the endpoint has; return the first and last job of each batch."""
    return batches(task_id)


def batches(task_id: int) -> list[tuple[int, int]]:
    """Return the first and last job of each batch; none before it is known how many jobs there are."""
    return [(batch["first"], batch["last"]) for batch in endpoint().plan(task_id)["batches"]]


@step("jobs")
def batch(task_id: int, first: int, last: int) -> State[None]:
    """Say how the jobs from `first` to `last` ended, in the task run's state; nothing depends on it."""
    counts = endpoint().progress(task_id, first=first, last=last)["by_state"]
    message = count_line(counts)
    if counts.get(JobState.FAILED):
        return Failed(message=message)
    return Cancelled(message=message) if counts.get(JobState.CANCELLED) else Completed(message=message)


@step("merge")
def merge(task_id: int) -> int | None:
    """Create the merge job; return its number, or None when there is nothing to merge."""
    job_id: int | None = endpoint().merge(task_id)["job_id"]
    return job_id


@step("result")
def result(task_id: int) -> None:
    """Show what the merge step made as artifacts of the flow run."""
    outputs = [output for output in endpoint().outputs(task_id) if output["stage"] == "merge"]
    with TemporaryDirectory() as folder, get_client(sync_client=True) as client:

        def fetch(output: Mapping[str, Any]) -> Path:
            path = Path(folder) / Path(output["file"]).name
            endpoint().download(output["url"], path, output["size_bytes"], output["sha256"])
            return path

        Artifacts(client, this_run().id, task_id, load_settings().instance).show_result(outputs, fetch)


@step("finish")
def finish(task_id: int) -> dict[str, Any]:
    """End the task: done, partly done or failed by what its jobs did; return it."""
    return dict(endpoint().finish(task_id))


def this_run() -> FlowRun:
    """Return the flow run that calls.

    Raises:
        MissingContextError: There is none.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise MissingContextError("this needs a Prefect flow run around it")
    return context.flow_run


class Steps:
    """The steps of one flow run: one task run each, also when the flow is replayed.

    Prefect makes new task runs in each replay, in state Cached. A task that is suspended twice would show each step
    three times; so what ended in an earlier life of the flow run is taken from there.
    """

    def __init__(self, run: FlowRun) -> None:
        """Read which steps have ended.

        Args:
            run: The flow run.
        """
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
                sort=TaskRunSort.END_TIME_DESC,
                limit=MOST_TASK_RUNS,
            )
        self._ended = {r.name: r for r in runs if r.state and r.state.is_completed()}
        # How a batch ended is all that its task run says: a failed one is not tried again.
        self._shown = {r.name for r in runs if r.state and r.state.is_final()}

    def once(self, call: Task[[int], R], task_id: int) -> R:
        """Run a step unless it has ended, and return its result.

        Args:
            call: A step of this module.
            task_id: The task.

        Raises:
            GlideflowError: What the step raised, after its retries.
        """
        ended = self._ended.get(call.name)
        if ended is not None and ended.state is not None:
            # Where the result file was deleted, the step runs again; its answer is the same.
            with suppress(OSError, ValueError, MissingResult):
                found: R = ended.state.result()
                return found
        return call.with_options(task_run_name=call.name)(task_id)

    def show(self, call: Task[P, Any], name: str, *arguments: P.args, **_: P.kwargs) -> None:
        """Run a step that is only there to be seen: its failure is shown, and the flow goes on.

        Args:
            call: A step of this module.
            name: The task run's name.
            arguments: The step's arguments.
        """
        if name not in self._shown:
            call.with_options(task_run_name=name, retries=0)(*arguments, return_state=True)
