# SPDX-License-Identifier: Apache-2.0
"""What users ask of a task with a million jobs."""

import time

from bare import Bare, percentile
from harness import Result, Target
from place import Place

TITLE = "Questions about a task of 1,000,000 jobs"
HOW = """
One task of 1,000,000 jobs, of which simulated pilots have run some; requests over HTTPS, one after the other, 100
rows a page.
"""
JOBS = 1_000_000
TARGET = 0.100


def measure(place: Place) -> Result:
    """Ask each question many times."""
    bare = place.bare
    task = bare.submit("million", JOBS)
    bare.wait_planned(task, JOBS)
    bare.load(pilots=50, seconds=5)
    late = bare.get(f"/v1/tasks/{task}/jobs?limit=1")["items"][0]["id"] + JOBS // 2
    questions = {
        "job table, first page": f"/v1/tasks/{task}/jobs?limit=100",
        "job table, a later page": f"/v1/tasks/{task}/jobs?limit=100&cursor={late}",
        **{
            f"job table, {state}": f"/v1/tasks/{task}/jobs?limit=100&state={state}"
            for state in ("done", "failed", "ready")
        },
        "progress: jobs by state and site, failures by reason": f"/v1/tasks/{task}/progress",
        "task list": "/v1/tasks?limit=100",
        "task": f"/v1/tasks/{task}",
    }
    found = {name: _times(bare, path, place.repetitions(40)) for name, path in questions.items()}
    worst = max(percentile(times, 95) for times in found.values())
    return Result(
        columns=("question", "median, ms", "p95, ms"),
        rows=[
            (name, f"{percentile(times, 50) * 1e3:.1f}", f"{percentile(times, 95) * 1e3:.1f}")
            for name, times in found.items()
        ],
        targets=[Target(text=f"p95 below {TARGET * 1e3:.0f} ms", value=f"{worst * 1e3:.0f} ms", holds=worst < TARGET)],
    )


def _times(bare: Bare, path: str, repetitions: int) -> list[float]:
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        bare.get(path)
        times.append(time.perf_counter() - began)
    return times
