# SPDX-License-Identifier: Apache-2.0
"""A Prefect user's own flow with a task as one of its steps."""

import subprocess
import sys
from pathlib import Path

import pytest
from real_instance import RESOURCES, Instance

from glideflow.settings import process_environment

pytest_plugins = ("instance_fixtures",)
pytestmark = [pytest.mark.pool, pytest.mark.prefect]

COUNT = f"""
schema_version: 1
name: count
command: seq {{index}} > numbers.txt
inputs: {{jobs: 1}}
outputs: {{numbers: {{file: numbers.txt}}}}
resources: {RESOURCES}
merge:
  command: cat {{inputs}} > all.txt
  outputs: {{all: {{file: all.txt}}}}
  resources: {RESOURCES}
"""
FLOW = """
from pathlib import Path
from prefect import flow, task
from glideflow_flows import run_task

@task
def add_up(path: Path) -> int:
    return sum(map(int, path.read_text().split()))

@flow(name="own-flow")
def own_flow() -> None:
    counted = run_task("count.yaml", set={"inputs.jobs": 4})
    [all_numbers] = counted.outputs.select(name="all")
    print("SUM", add_up(all_numbers.download("results")), "OF TASK", counted.task_id)

own_flow()
"""


def test_a_task_is_a_step_of_a_users_own_flow(instance: Instance, tmp_path: Path) -> None:
    (tmp_path / "count.yaml").write_text(COUNT)
    run = subprocess.run(
        [sys.executable, "-c", FLOW], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
        env=process_environment(
            GLIDEFLOW_HOME=str(instance.home.root),
            PREFECT_API_URL=instance.info.prefect_api_url,
            PREFECT_HOME=str(tmp_path / "prefect"),
        ),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    [said] = [line for line in run.stdout.splitlines() if line.startswith("SUM")]
    assert said.startswith("SUM 10 OF TASK ")
    number = int(said.split()[-1])
    [step] = instance.flow_runs(number)
    assert step["state"]["type"] == "COMPLETED"
    assert step["parent_task_run_id"]
