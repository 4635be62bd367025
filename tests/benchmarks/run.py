# SPDX-License-Identifier: Apache-2.0
"""Run benchmarks: `make bench`, or `.venv/bin/python tests/benchmarks/run.py [NAME...]` for some of them.

They start an instance and a private HTCondor pool of their own and end both. They are no tests: `make test` does not
collect them. The results replace their parts of `docs/benchmarks.md`.
"""

import argparse
import sys
from contextlib import ExitStack

import exchanges
import heartbeats
import latency_cold
import latency_warm
import planning
import prefect_runs
import queries
import throughput
from harness import Circumstances, show, write
from place import Place
from rich.console import Console

BENCHMARKS = {
    "throughput": throughput,
    "latency-warm": latency_warm,
    "latency-cold": latency_cold,
    "exchanges": exchanges,
    "queries": queries,
    "heartbeats": heartbeats,
    "planning": planning,
    "prefect-runs": prefect_runs,
}


def main() -> int:
    """Run the chosen benchmarks; returns 1 when a target does not hold."""
    parser = argparse.ArgumentParser(description="Measure glideflow.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; without any, all")
    parser.add_argument("--slots", type=int, default=8, help="cores that the private pool advertises (8)")
    parser.add_argument("--jobs", type=int, default=500, help="jobs of a throughput run (500)")
    parser.add_argument("--factor", type=float, default=1.0, help="multiplies the repetitions (1)")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - BENCHMARKS.keys())
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    console = Console(highlight=False)
    holds = True
    with ExitStack() as stack:
        place = Place(console, stack, slots=options.slots, jobs=options.jobs, factor=options.factor)
        for name in options.names or BENCHMARKS:
            benchmark = BENCHMARKS[name]
            command = " ".join(["python tests/benchmarks/run.py", name, *_changed(parser, options)])
            console.rule(benchmark.TITLE)
            circumstances = Circumstances.now()
            result = benchmark.measure(place)
            show(console, benchmark.TITLE, command, circumstances, result)
            if not options.no_write:
                write(name, benchmark.TITLE, benchmark.HOW, command, circumstances, result)
            holds = holds and all(target.holds for target in result.targets)
    return 0 if holds else 1


def _changed(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """Return the numbers that differ from the usual ones, as words of the command."""
    return [
        f"--{key} {getattr(options, key):g}"
        for key in ("slots", "jobs", "factor")
        if getattr(options, key) != parser.get_default(key)
    ]


if __name__ == "__main__":
    sys.exit(main())
