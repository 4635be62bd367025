# SPDX-License-Identifier: Apache-2.0
"""What a flow says about a task that ended."""

import pickle
from typing import Any

import pytest
from glideflow_flows.outcome import OutputFile, Outputs, TaskFailed, TaskResult, failure_line, final_state

from glideflow.domain.states import TaskState

REASON = {"code": "jobs_failed", "text": "2 of 20 jobs failed", "source": "server"}
FAILURES = [
    {"code": "pilot_lost", "text": "the pilot went silent", "exit_code": None, "site": "north", "count": 1},
    {"code": "payload_exit", "text": "the command ended with exit code 3", "exit_code": 3, "site": "south", "count": 2},
]


def ended(state: str, **changes: Any) -> dict[str, Any]:
    """A task as the endpoint shows it."""
    return {
        "id": 7,
        "name": "zpeak",
        "state": state,
        "reason": None,
        "created_at": "2026-05-01T10:00:00.000Z",
        "ended_at": "2026-05-01T10:00:42.250Z",
        "jobs": {"total": 20, "done": 20, "failed": 0},
        **changes,
    }


def test_done_task_completes_with_counts_and_time() -> None:
    state = final_state(ended("done"), [])
    assert (state.name, state.message) == ("Completed", "20/20 jobs done; 42 s")
    assert state.result() == TaskResult(task_id=7, name="zpeak", state=TaskState.DONE, message="20/20 jobs done; 42 s")


def test_partly_done_task_completes_under_its_own_name_and_says_what_failed() -> None:
    state = final_state(ended("partly_done", jobs={"total": 20, "done": 17, "failed": 3}), FAILURES)
    assert (state.type.value, state.name) == ("COMPLETED", "PartlyDone")
    assert str(state.message).startswith("17/20 jobs done, 3 failed; 2x the command ended with exit code 3")


def test_failed_task_raises_its_reason_and_the_most_frequent_failures() -> None:
    state = final_state(ended("failed", reason=REASON, jobs={"total": 20, "done": 18, "failed": 2}), FAILURES)
    assert state.name == "Failed"
    assert state.message == (
        "2 of 20 jobs failed (18/20 jobs done, 2 failed; 2x the command ended with exit code 3 (site south); "
        "1x the pilot went silent (site north); 42 s)"
    )
    with pytest.raises(TaskFailed, match="task 7: 2 of 20 jobs failed") as caught:
        state.result()
    assert (caught.value.task_id, caught.value.state) == (7, TaskState.FAILED)


def test_killed_task_is_cancelled() -> None:
    reason = {"code": "killed", "text": "killed by ada", "source": "user"}
    state = final_state(ended("cancelled", reason=reason, jobs={"total": 20, "done": 1, "cancelled": 19}), [])
    assert state.name == "Cancelled"
    assert str(state.message).startswith("killed by ada (1/20 jobs done, 19 cancelled")


def test_task_that_could_not_be_planned_says_so() -> None:
    reason = {"code": "planning_failed", "text": "no file has events", "source": "server"}
    state = final_state(ended("failed", reason=reason, jobs={"total": 0}), [])
    assert str(state.message).startswith("no file has events (0/0 jobs done")


def test_only_the_first_failure_reasons_are_told_and_long_ones_are_cut() -> None:
    many = [
        {"code": "x", "text": f"reason {n} " + "y" * 500, "exit_code": 1, "site": None, "count": n} for n in range(5)
    ]
    line = failure_line(many)
    assert line.startswith("4x reason 4")
    assert line.endswith("; and 2 more reasons")
    assert len(line) < 700


def test_error_of_a_failed_task_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(TaskFailed(7, TaskState.FAILED, "why")))
    assert (str(error), error.state) == ("task 7: why", TaskState.FAILED)


def test_result_survives_pickling_and_names_its_datasets() -> None:
    result = TaskResult(task_id=7, name="zpeak", state=TaskState.DONE, message="20/20 jobs done")
    assert pickle.loads(pickle.dumps(result)) == result
    assert result.dataset("zpeak.events") == "zpeak.events@7"


def output(**changes: Any) -> OutputFile:
    """An output of job 1."""
    values = {"name": "events", "dataset": "d", "file": "a.txt", "url": "/storage/a", "size_bytes": 1, "sha256": "0",
              "stage": "main", "job_id": 1}  # fmt: skip
    return OutputFile(**{**values, **changes})


def test_outputs_are_selected_by_name_and_stage() -> None:
    outputs = Outputs([output(), output(name="log"), output(name="plot", stage="merge", job_id=2)])
    assert [o.name for o in outputs.select(stage="main")] == ["events", "log"]
    assert [o.name for o in outputs.select(name="plot")] == ["plot"]
    assert outputs.select(name="nothing") == ()
