# SPDX-License-Identifier: Apache-2.0
"""Exchanges per second that finish a job and claim the next, with a short and with a long queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bare import Bare, percentile
from harness import Result, Target
from place import Place

TITLE = "Dispatch: exchanges that report a job and claim the next"
HOW = """
200 simulated pilots (`tests/benchmarks/load.py`) over HTTPS with keep-alive, each of which reports its job as finished
and claims the next in one exchange, as fast as the answers come. The endpoint, its embedded PostgreSQL with its default
durability, Prefect and the pilots share the cores. The cost of a claim is the processor time of endpoint and PostgreSQL
per exchange, so that it does not depend on what else the machine does.
"""
PILOTS = 200
TARGET_RATE = 3000.0
TARGET_LATENCY = 0.150
TARGET_RATIO = 1.2
SHORT, LONG = 10_000, 1_000_000
SECONDS, SHORT_SECONDS = 20.0, 2.5
"""At the target's rate the short queue lasts for the shorter time; both lengths are compared over that."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    rate: float
    late_seconds: float
    cost_seconds: float


def measure(place: Place) -> Result:
    """Measure at each length of the queue."""
    runs = {
        (ready, seconds): [_run(place.bare, ready, seconds) for _ in range(place.repetitions(3))]
        for ready, seconds in ((SHORT, SHORT_SECONDS), (LONG, SHORT_SECONDS), (LONG, SECONDS))
    }
    rate = median(run.rate for run in runs[LONG, SECONDS])
    late = median(run.late_seconds for run in runs[LONG, SECONDS])
    ratio = _cost(runs[LONG, SHORT_SECONDS]) / _cost(runs[SHORT, SHORT_SECONDS])
    return Result(
        columns=("ready jobs", "for, s", "exchanges/s, median", "all runs", "p99, ms", "ms of processor time each"),
        rows=[_row(ready, seconds, found) for (ready, seconds), found in runs.items()],
        targets=[
            Target(text=f"{TARGET_RATE:.0f} exchanges/s", value=f"{rate:.0f}/s", holds=rate >= TARGET_RATE),
            Target(
                text=f"p99 below {TARGET_LATENCY * 1e3:.0f} ms",
                value=f"{late * 1e3:.0f} ms",
                holds=late < TARGET_LATENCY,
            ),
            Target(
                text=f"with {LONG:,} ready jobs at most {TARGET_RATIO} times the processor time as with {SHORT:,}",
                value=f"{ratio:.2f} times",
                holds=ratio <= TARGET_RATIO,
            ),
        ],
    )


def _cost(runs: Sequence[_Seen]) -> float:
    return median(run.cost_seconds for run in runs)


def _row(ready: int, seconds: float, runs: Sequence[_Seen]) -> tuple[str, ...]:
    return (
        f"{ready:,}",
        f"{seconds:g}",
        f"{median(run.rate for run in runs):.0f}",
        ", ".join(f"{run.rate:.0f}" for run in runs),
        f"{median(run.late_seconds for run in runs) * 1e3:.0f}",
        f"{_cost(runs) * 1e3:.3f}",
    )


def _run(bare: Bare, ready: int, seconds: float) -> _Seen:
    """Fill the queue, and let the pilots work."""
    bare.fill(ready)
    before = bare.cost()
    seen = bare.load(pilots=PILOTS, seconds=seconds)
    after = bare.cost()
    if seen["refused"]:
        raise RuntimeError(f"{seen['refused']} exchanges or reports were refused")
    exchanges = len(seen["latencies"])
    busy = after.endpoint - before.endpoint + after.postgres - before.postgres
    return _Seen(
        rate=exchanges / seen["seconds"],
        late_seconds=percentile(seen["latencies"], 99),
        cost_seconds=busy / exchanges,
    )
