# SPDX-License-Identifier: Apache-2.0
"""The flow of a task, on a real Prefect server with the real endpoint; the test plays the pilots."""

import subprocess
from pathlib import Path

import pytest
from prefect_instance import Instance, flow_processes, kill_hard, until

pytest_plugins = ("prefect_fixtures",)
pytestmark = pytest.mark.prefect

PLAIN = "schema_version: 1\nname: plain\ncommand: 'true'\ninputs: {jobs: 250}\n"


def test_flow_suspends_while_jobs_run_shows_their_progress_and_ends_completed(
    instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    task_id = instance.submit(tmp_path, PLAIN)
    run = instance.wait_for_flow(task_id, "Suspended")
    assert run.name == f"plain #{task_id}"
    assert {f"task:{task_id}", "vo:local"} < set(run.tags)
    until(lambda: not flow_processes(served))
    key = f"task-{task_id}-progress"
    assert instance.artifacts(run)[key]["data"] == 0
    with instance.database.transaction() as connection:
        connection.execute(
            "UPDATE jobs SET state = 'done', site = 'local' WHERE task_id = %s AND index < 125", [task_id]
        )
    until(lambda: instance.artifacts(run)[key]["data"] == 50)
    assert instance.flow_run(task_id).state_name == "Suspended"
    instance.end_jobs(task_id)
    ended = instance.wait_for_flow(task_id, "Completed")
    assert ended.state is not None
    assert str(ended.state.message).startswith("250/250 jobs done")
    assert [r.name for r in instance.task_runs(ended)] == [
        "plan", "jobs[0-99]", "jobs[100-199]", "jobs[200-249]", "finish",
    ]  # fmt: skip
    assert instance.artifacts(run)[key]["data"] == 100
    assert instance.client.task(task_id)["state"] == "done"


def test_failed_task_says_why_in_the_state_of_its_flow_run(
    instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    task_id = instance.submit(tmp_path, PLAIN)
    instance.end_jobs(task_id, failed=2)
    run = instance.wait_for_flow(task_id, "Failed")
    assert run.state is not None
    assert "2 of 250 jobs failed" in str(run.state.message)
    assert "2x the command ended with exit code 3 (site local)" in str(run.state.message)
    states = {r.name: r.state for r in instance.task_runs(run)}
    first = states["jobs[0-99]"]
    assert first is not None
    assert (first.name, first.message) == ("Failed", "98/100 jobs done, 2 failed")
    assert "payload_exit" in instance.artifacts(run)[f"task-{task_id}-failures"]["data"]


def test_result_of_the_merge_is_shown_as_an_artifact(
    instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    text = (
        PLAIN
        + "outputs: {o: {file: 'o-{index}.txt'}}\nmerge: {command: 'cat {inputs} > all', outputs: {m: {file: all}}}\n"
    )
    task_id = instance.submit(tmp_path, text)
    instance.end_jobs(task_id)
    until(lambda: (instance.client.task(task_id)["merge"] or {}).get("state") == "ready")
    instance.add_output(task_id, "histogram", "histogram.json", b'{"peak_gev": 91.2, "counts": [1, 2, 3]}')
    instance.add_output(task_id, "plot", "plot.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    instance.end_jobs(task_id)
    run = instance.wait_for_flow(task_id, "Completed")
    names = [r.name for r in instance.task_runs(run)]
    assert names[-3:] == ["merge", "result", "finish"]
    assert len(names) == len(set(names))
    shown = instance.artifacts(run)[f"task-{task_id}-result"]["data"]
    assert "| peak_gev | 91.2 |" in shown
    assert shown.startswith("![plot](data:image/svg+xml;base64,")


def test_flow_process_killed_hard_goes_on_in_the_same_flow_run(
    instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    task_id = instance.submit(tmp_path, PLAIN)
    run = instance.wait_for_flow(task_id, "Running")
    kill_hard(until(lambda: flow_processes(served))[0])
    instance.wait_for_flow(task_id, "Crashed")
    instance.wait_for_flow(task_id, "Suspended")
    instance.end_jobs(task_id)
    assert instance.wait_for_flow(task_id, "Completed").id == run.id


def test_deleted_flow_run_is_made_again(instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path) -> None:
    task_id = instance.submit(tmp_path, PLAIN)
    run = instance.wait_for_flow(task_id, "Suspended")
    instance.prefect.delete_flow_run(run.id)
    until(lambda: instance.client.task(task_id)["flow_run_id"] not in (None, str(run.id)))
    instance.end_jobs(task_id)
    instance.wait_for_flow(task_id, "Completed")


def test_retried_task_gets_a_flow_run_of_its_own(
    instance: Instance, served: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    task_id = instance.submit(tmp_path, PLAIN)
    instance.end_jobs(task_id, failed=1)
    first = instance.wait_for_flow(task_id, "Failed")
    instance.client.retry_task(task_id)
    instance.end_jobs(task_id)
    second = instance.wait_for_flow(task_id, "Completed")
    assert second.id != first.id
    assert instance.prefect.read_flow_run(first.id).state_name == "Failed"
