# SPDX-License-Identifier: Apache-2.0
"""500 jobs that do nothing, through pilots and as plain HTCondor jobs, on the same pool in one run."""

import time
from contextlib import closing
from statistics import median

from harness import Result, Target
from place import Place
from plain import VARIANTS, Plain

TITLE = "Throughput: 500 jobs that run `true`"
HOW = """
From the acceptance of the submission (answer 201, or the end of `condor_submit`) until the last job was seen done.
*Warm* means that as many idle pilots as slots wait for work, *cold* that there is none, so that their start counts. The
plain jobs are submitted as one cluster without input files, executable not transferred, idle claims kept; the private
pool's configuration is the one made for low latency (`src/glideflow/condor/pool_config.py`). *Files by transfer*:
output, error and event log come back by HTCondor's file transfer, which is what glideflow does for each job, too. *No
files at all*: nothing comes back, possible only on shared disks. Both sides run on the same slots, one after the other,
with glideflow before and after each.
"""
TARGET = 20.0
_PAUSE_SECONDS = 0.5


def measure(place: Place) -> Result:
    """Run the jobs on both sides."""
    jobs, instance = place.jobs, place.instance
    cold: list[float] = []
    warm: list[float] = []
    plain: dict[str, float] = {}
    with closing(Plain(instance)) as condor:
        for variant in (None, *VARIANTS):
            instance.make_cold()
            if variant is not None:
                _, taken = condor.run(VARIANTS[variant], jobs, _PAUSE_SECONDS)
                plain[variant] = jobs / taken
                place.say(f"plain, {variant}: {plain[variant]:.1f} jobs/s")
                instance.make_cold()
            cold.append(_rate(place))
            instance.make_warm()
            for _ in range(place.repetitions(2)):
                warm.append(_rate(place))
                instance.wait_flows()
            place.say(f"glideflow: cold {cold[-1]:.0f}, warm {warm[-1]:.0f} jobs/s")
    reference = plain["files by transfer"]
    rows = [_row("glideflow, warm pilots", warm, reference), _row("glideflow, cold", cold, reference)]
    rows += [_row(f"plain HTCondor, {variant}", [rate], reference) for variant, rate in plain.items()]
    ratio = median(warm) / reference
    text = f"through warm pilots at least {TARGET:.0f} times the rate of plain jobs whose files are transferred"
    return Result(
        columns=(f"{jobs} jobs, {instance.slots} slots", "jobs/s, median", "all runs", "times plain with files"),
        rows=rows,
        targets=[Target(text=text, value=f"{ratio:.1f} times", holds=ratio >= TARGET)],
    )


def _rate(place: Place) -> float:
    task = place.instance.submit("throughput", place.jobs)
    began = time.monotonic()
    return place.jobs / (place.instance.wait_done(task, place.jobs) - began)


def _row(name: str, rates: list[float], reference: float) -> tuple[str, ...]:
    digits = 1 if rates[0] < 50 else 0
    runs = ", ".join(f"{rate:.{digits}f}" for rate in rates)
    return name, f"{median(rates):.{digits}f}", runs, f"{median(rates) / reference:.1f}"
