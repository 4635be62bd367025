# SPDX-License-Identifier: Apache-2.0
"""From the acceptance of a task to the start of its first payload, when pilots wait for work."""

import time
from datetime import UTC, datetime
from statistics import median

from harness import Result, Target, seconds
from place import Place

TITLE = "Latency with warm pilots"
HOW = """
Idle pilots wait for work; a task of one job is submitted, again and again. *Accepted* is the time from the request to
the answer 201; *started* from that answer to the start of the command as the pilot notes it (same clock: everything
runs on one machine); a negative time would mean that the command ran before the answer came. *Done* is when the job was
seen done.
"""
TARGET_SECONDS = 0.5


def measure(place: Place) -> Result:
    """Submit one job at a time to waiting pilots."""
    instance = place.instance
    instance.make_warm()
    accepted: list[float] = []
    started: list[float] = []
    done: list[float] = []
    for _ in range(place.repetitions(20)):
        began = time.monotonic()
        task = instance.submit("latency", 1)
        answered, answered_at = time.monotonic(), datetime.now(UTC)
        done.append(instance.wait_done(task, 1, 0.01) - answered)
        accepted.append(answered - began)
        job = instance.client.jobs(task["id"])[0]
        attempt = instance.client.explain(job["id"])["attempts"][0]
        started.append((datetime.fromisoformat(attempt["started_at"]) - answered_at).total_seconds())
        instance.wait_flows()
    place.say(f"started after {seconds(started, 3)}")
    middle = median(started)
    text = f"the first payload starts within {TARGET_SECONDS} s of the acceptance (median)"
    return Result(
        columns=(f"{len(started)} tasks of one job", "median (smallest to largest)"),
        rows=[
            ("request to accepted", seconds(accepted, 3)),
            ("accepted to payload started", seconds(started, 3)),
            ("accepted to job done", seconds(done, 3)),
        ],
        targets=[Target(text=text, value=f"{middle:.3f} s", holds=middle < TARGET_SECONDS)],
    )
