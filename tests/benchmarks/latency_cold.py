# SPDX-License-Identifier: Apache-2.0
"""One job on an idle pool: through a pilot that has to be started first, and as a plain HTCondor job."""

import time
from contextlib import closing
from statistics import median

from harness import Result, Target, seconds
from place import Place
from plain import VARIANTS, Plain

TITLE = "Latency from cold"
HOW = """
No pilot is alive, no job is queued and no claim is kept when a single `true` is submitted: as a task, for which a
pilot is sent, started and registered, or with `condor_submit` (descriptions as for the throughput). From the start of
the request, or of `condor_submit`, until the job was seen done; the sides take turns.
"""
TARGET = 1.5
_PAUSE_SECONDS = 0.02


def measure(place: Place) -> Result:
    """Let the sides take turns."""
    instance = place.instance
    ours: list[float] = []
    plain: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    instance.make_cold()
    instance.wait_flows()
    with closing(Plain(instance)) as condor:
        for _ in range(place.repetitions(10)):
            if instance.client.pilots():
                raise RuntimeError("a pilot is alive: this would not be cold")
            began = time.monotonic()
            task = instance.submit("cold", 1)
            ours.append(instance.wait_done(task, 1, _PAUSE_SECONDS) - began)
            instance.wait_flows()
            instance.make_cold()
            for variant, description in VARIANTS.items():
                plain[variant].append(condor.run(description, 1, _PAUSE_SECONDS)[0])
                instance.make_cold()
            place.say(f"{ours[-1]:.2f} s, plain " + ", ".join(f"{times[-1]:.2f} s" for times in plain.values()))
    reference = median(plain["files by transfer"])
    ratio = median(ours) / reference
    text = f"not slower than {TARGET} times a plain `condor_submit` of one job whose files are transferred (medians)"
    return Result(
        columns=(f"one job, {len(ours)} times", "median (smallest to largest)", "times plain with files"),
        rows=[
            ("glideflow, no pilot alive", seconds(ours), f"{ratio:.2f}"),
            *((f"plain, {name}", seconds(times), f"{median(times) / reference:.2f}") for name, times in plain.items()),
        ],
        targets=[Target(text=text, value=f"{ratio:.2f} times", holds=ratio <= TARGET)],
    )
