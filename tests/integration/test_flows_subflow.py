# SPDX-License-Identifier: Apache-2.0
"""`run_task` as a step of a user's own flow."""

import subprocess
import sys
from pathlib import Path

import pytest
from prefect_instance import Instance, until

from glideflow.settings import process_environment

pytest_plugins = ("prefect_fixtures",)
pytestmark = pytest.mark.prefect

TASK = """
schema_version: 1
name: {name}
command: 'true'
inputs: {{jobs: 1}}
outputs: {{part: {{file: part.txt}}}}
merge: {{command: 'cat {{inputs}} > all.txt', outputs: {{all: {{file: all.txt}}}}}}
"""

FLOW = """
import asyncio
from pathlib import Path
from prefect import flow, task
from glideflow_flows import TaskFailed, run_task

@task
def count(path: Path) -> int:
    return len(path.read_text().split())

@flow
def mine() -> None:
    try:
        result = run_task("{name}.yaml", set={{"inputs.jobs": 4, "environment.GREETING": "a b"}})
    except TaskFailed as error:
        print("FAILED", error.task_id, error.state, error)
        return
    [path] = result.download("results")
    print("WORDS", count(path), result.task_id, result.dataset("x"), result.message)

@flow
async def mine_async() -> None:
    await asyncio.to_thread(mine)

{call}
"""


def start(instance: Instance, folder: Path, name: str, call: str) -> subprocess.Popen[str]:
    """Run a user's flow."""
    (folder / f"{name}.yaml").write_text(TASK.format(name=name))
    return subprocess.Popen(
        [sys.executable, "-c", FLOW.format(name=name, call=call)],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env=process_environment(
            GLIDEFLOW_HOME=str(instance.home.root),
            PREFECT_API_URL=str(instance.prefect.api_url),
            PREFECT_HOME=str(folder / "prefect"),
        ),
    )


def find(instance: Instance, name: str) -> int:
    """Wait for the task that the flow submits."""
    tasks = until(lambda: [t for t in instance.client.tasks() if t["name"] == name])
    assert len(tasks) == 1
    return int(tasks[0]["id"])


def test_subflow_returns_outputs_for_the_next_step(instance: Instance, tmp_path: Path) -> None:
    with start(instance, tmp_path, "words", "mine()") as process:
        task_id = find(instance, "words")
        run = instance.flow_run(task_id)
        assert run.parent_task_run_id is not None
        until(lambda: instance.flow_run(task_id).name == f"words #{task_id}")
        assert instance.client.task(task_id)["jobs"]["total"] == 4
        instance.end_jobs(task_id)
        instance.add_output(task_id, "all", "all.txt", b"three short words")
        instance.end_jobs(task_id)
        output = process.communicate(timeout=150)[0]
    assert f"WORDS 3 {task_id} x@{task_id} 4/4 jobs done" in output
    assert process.returncode == 0
    ended = instance.flow_run(task_id)
    assert (ended.id, ended.state_name) == (run.id, "Completed")


def test_subflow_below_an_async_flow_raises_with_the_reason_of_the_failure(instance: Instance, tmp_path: Path) -> None:
    with start(instance, tmp_path, "broken", "asyncio.run(mine_async())") as process:
        task_id = find(instance, "broken")
        instance.end_jobs(task_id, failed=1)
        output = process.communicate(timeout=150)[0]
    assert f"FAILED {task_id} failed task {task_id}: 1 of 4 jobs failed" in output
    assert "the command ended with exit code 3" in output
    assert instance.flow_run(task_id).state_name == "Failed"
