# SPDX-License-Identifier: Apache-2.0
"""What a task of 100,000 jobs, really run, costs Prefect, and what Prefect shows of it."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import httpx
from bare import Bare, bare_instance
from harness import Result, Target
from instance import LONGEST_SECONDS, wait
from place import Place

TITLE = "A task of 100,000 jobs in Prefect"
HOW = """
One task, run to its end by 200 simulated pilots in an instance with the usual settings, which writes its jobs as they
are needed; the flow run suspends, is resumed and finishes the task as any other. Then Prefect is asked over its API
what it knows, and what its UI asks for the pages of the flow run (median of 20). *Visible* are task runs that the API
returns in a final state; *with a process* is the time that the flow run was not suspended.
"""
JOBS = 100_000
PILOTS = 200
FIRST = 1_000
MOST_TASK_RUNS = 50
_PAGE = 200


class Prefect:
    """The Prefect server of an instance, as its UI sees it.

    Args:
        api_url: Its API.
        run_id: The flow run to look at.
    """

    def __init__(self, api_url: str, run_id: str) -> None:
        self._http = httpx.Client(base_url=api_url, timeout=30)
        self._run_id = run_id
        self._of_run = {"flow_runs": {"id": {"any_": [run_id]}}}

    def run(self) -> dict[str, Any]:
        """Return the flow run."""
        return dict(self.ask(f"flow_runs/{self._run_id}", None))

    def task_runs(self) -> list[dict[str, Any]]:
        """Return its task runs, up to a page of them."""
        return list(self.ask("task_runs/filter", {**self._of_run, "limit": _PAGE}))

    def artifacts(self) -> dict[str, Any]:
        """Return what its artifacts show, by the last part of their keys."""
        found = self.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [self._run_id]}}})
        # Those without a key are the results that Prefect keeps for itself.
        return {item["key"].rpartition("-")[2]: item["data"] for item in found if item["key"]}

    def questions(self) -> Mapping[str, tuple[str, dict[str, Any] | None]]:
        """Return what the UI asks for its pages."""
        of_run = self._of_run
        return {
            "flow run": (f"flow_runs/{self._run_id}", None),
            "its graph": (f"flow_runs/{self._run_id}/graph-v2", None),
            "its task runs": ("task_runs/paginate", {**of_run, "limit": 50}),
            "its task runs by state": ("ui/flow_runs/count-task-runs", {"flow_run_ids": [self._run_id]}),
            "its artifacts": ("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [self._run_id]}}}),
            "its log": ("logs/filter", {"logs": {"flow_run_id": {"any_": [self._run_id]}}, "limit": _PAGE}),
            "list of flow runs": ("flow_runs/paginate", {"limit": 50}),
            "dashboard: task runs by state": ("ui/task_runs/count", {}),
        }

    def ask(self, path: str, body: dict[str, Any] | None) -> Any:
        """Ask something: GET without a body, else POST."""
        answer = self._http.get(path) if body is None else self._http.post(path, json=body)
        return answer.raise_for_status().json()

    def seconds(self, path: str, body: dict[str, Any] | None, repetitions: int) -> float:
        """Return how long an answer takes, seconds, the median."""
        taken = []
        for _ in range(repetitions):
            began = time.perf_counter()
            self.ask(path, body)
            taken.append(time.perf_counter() - began)
        return median(taken)


def measure(place: Place) -> Result:
    """Run the task in an instance of its own, and ask."""
    with bare_instance(settings="") as bare:
        began = time.monotonic()
        task = bare.submit("hundred-thousand", JOBS)
        accepted = time.monotonic()
        wait(lambda: bare.counts(task)["ready"] >= FIRST, "the first jobs are written", 0.02)
        planned = time.monotonic()
        prefect = _prefect(bare, task)
        wait(lambda: prefect.run()["state_name"] == "Suspended", "the flow run is suspended", 0.1)
        suspended = time.monotonic()
        place.say(f"accepted in {accepted - began:.1f} s, first jobs in {planned - accepted:.1f} s")
        bare.load(pilots=PILOTS, seconds=LONGEST_SECONDS, jobs=JOBS)
        ran = time.monotonic()
        place.say(f"{JOBS} jobs run in {ran - suspended:.0f} s")
        wait(lambda: prefect.run()["end_time"] is not None, "the flow run has ended", 0.1)
        ended = time.monotonic()
        wait(lambda: _visible(prefect), "all task runs are visible", 0.1)
        return _result(place, prefect, {
            "submission accepted": accepted - began,
            f"then the first {FIRST:,} jobs written": planned - accepted,
            "then the flow run suspended": suspended - planned,
            f"then all jobs run by {PILOTS} pilots": ran - suspended,
            "then the flow run completed": ended - ran,
            "then all its task runs visible": time.monotonic() - ended,
        })  # fmt: skip


def _prefect(bare: Bare, task: int) -> Prefect:
    wait(lambda: bare.client.task(task)["flow_run_id"], "the task has a flow run", 0.05)
    return Prefect(bare.home.known_instance().prefect_api_url, bare.client.task(task)["flow_run_id"])


def _visible(prefect: Prefect) -> bool:
    """Tell whether the last step is there, and whether all have ended."""
    runs = prefect.task_runs()
    return any(run["name"] == "finish" for run in runs) and all(run["end_time"] for run in runs)


def _result(place: Place, prefect: Prefect, times: Mapping[str, float]) -> Result:
    run, task_runs, artifacts = prefect.run(), prefect.task_runs(), prefect.artifacts()
    completed = [task_run for task_run in task_runs if task_run["state_type"] == "COMPLETED"]
    asked = {
        name: prefect.seconds(path, body, place.repetitions(20)) for name, (path, body) in prefect.questions().items()
    }
    whole = run["state_type"] == "COMPLETED" and len(completed) == len(task_runs) and artifacts.get("progress") == 100
    return Result(
        columns=("what", "figure"),
        rows=[
            *((name, f"{seconds:.1f} s") for name, seconds in times.items()),
            ("flow run", f"{run['state_name']}: {run['state']['message']}"),
            ("with a process", f"{run['total_run_time']:.1f} s"),
            ("task runs, all visible", f"{len(task_runs)}, of which {len(completed)} Completed"),
            ("artifacts", ", ".join(sorted(artifacts))),
            *((f"UI: {name}", f"{seconds * 1e3:.0f} ms") for name, seconds in asked.items()),
        ],
        targets=[
            Target(
                text=f"at most {MOST_TASK_RUNS} task runs",
                value=str(len(task_runs)),
                holds=0 < len(task_runs) <= MOST_TASK_RUNS,
            ),
            Target(
                text="flow run and all task runs Completed, progress at 100 %",
                value=f"{run['state_name']}, {len(completed)} of {len(task_runs)}, {artifacts.get('progress')} %",
                holds=whole,
            ),
        ],
    )
