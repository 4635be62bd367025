# SPDX-License-Identifier: Apache-2.0
"""The flow of a task: plan, wait, merge, wait, finish."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun

from glideflow.domain.states import FINAL_TASKS
from glideflow.errors import GlideflowError, UserError
from glideflow_flows import steps
from glideflow_flows.connection import endpoint
from glideflow_flows.outcome import TaskResult, final_state
from glideflow_flows.watching import Watch, end_with_server, introduce, patiently

FLOW_NAME = "glideflow"


def drive(run: FlowRun, task: Mapping[str, Any], *, suspends: bool) -> dict[str, Any]:
    """Take a task from its submission to its end, and return it."""
    task_id = task["id"]
    ended = steps.Steps(run)
    watch = Watch(run, task_id, suspends=suspends)
    batches = ended.once(steps.plan, task_id)
    if watch.wait("main"):
        # Where scouts came first, only now it is known how many jobs there are.
        for first, last in batches or steps.batches(task_id):
            ended.show(steps.batch, f"jobs[{first}-{last}]", task_id, first, last)
        merges = task["spec"].get("merge") and ended.once(steps.merge, task_id) is not None
        if merges and watch.wait("merge"):
            ended.show(steps.result, "result", task_id)
    return ended.once(steps.finish, task_id)


@flow(name=FLOW_NAME, persist_result=True, validate_parameters=False)
def run_task(
    file: str | Path | None = None,
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - named like the option of `glideflow submit`
    task_id: int | None = None,
) -> TaskResult:
    """Run a task on HTCondor through glideflow, and wait for it.

    In a flow of your own: `result = run_task("analyse.yaml", set={"inputs.dataset": "zpeak.events"})`.

    Args:
        file: A task file; it is submitted for this flow run.
        set: Keys of the task file to change, as with `glideflow submit --set`.
        task_id: Instead of a file, a task that was submitted already.

    Returns:
        The task's result: `outputs`, `download(folder)`, `dataset(name)`.

    Raises:
        TaskFailed: The task failed or was killed; the message says why.
        TaskFileError: The task file cannot be accepted.
        ServiceError: The endpoint did not answer for several minutes.
    """
    if (file is None) == (task_id is None):
        raise UserError("run_task takes either a task file or a task_id")
    run = steps.this_run()
    served = task_id is not None and run.deployment_id is not None
    if served:
        end_with_server()
    overrides = [f"{key}={json.dumps(value)}" for key, value in (set or {}).items()]
    number = task_id if task_id is not None else steps.submit(str(Path(str(file)).absolute()), overrides)
    task = patiently(lambda: endpoint().task(number))
    with get_client(sync_client=True) as client:
        introduce(client, run, task)
    try:
        if task["state"] not in FINAL_TASKS:
            task = drive(run, task, suspends=served)
    except GlideflowError:
        # A task that ended meanwhile, for example killed or not to be split, refuses the next step.
        task = patiently(lambda: endpoint().task(number))
        if task["state"] not in FINAL_TASKS:
            raise
    progress = patiently(lambda: endpoint().progress(number))
    Watch(run, number, suspends=served).show(progress)
    # Prefect takes a returned state as the run's own, and gives the caller the data in it.
    return final_state(task, progress["failures"])  # type: ignore[return-value]
