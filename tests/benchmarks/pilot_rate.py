# SPDX-License-Identifier: Apache-2.0
"""Measure one pilot against the tests' server: `python tests/benchmarks/pilot_rate.py [jobs]`."""

import os
import re
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pilot_endpoint import PilotEndpoint, PilotProcess, pilot_at_work

from glideflow.launching.archive import pilot_archive

SIZE = ("--memory-mb", "1000", "--disk-mb", "1000")


def started_at(report: dict[str, Any]) -> float:
    return datetime.fromisoformat(report["started_at"]).timestamp()


def cpu_ms(pilot: PilotProcess) -> tuple[float, float]:
    """Return the processor time of the pilot and of its ended payloads, ms."""
    words = Path(f"/proc/{pilot.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = [int(word) * 1000 / os.sysconf("SC_CLK_TCK") for word in words[11:15]]
    return ticks[0] + ticks[1], ticks[2] + ticks[3]


def measure_rate(cores: int, jobs: int, command: str) -> str:
    """Run many short jobs; returns a row of the table."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pilot_at_work(Path(folder), pilot_archive(), "--cores", str(cores), *SIZE) as (endpoint, pilot),
    ):
        endpoint.wait(lambda: endpoint.exchanges, "exchange")
        before = cpu_ms(pilot)
        script = endpoint.add_task_file("file.txt", b"x" * 500)
        with endpoint.changed:
            began = time.monotonic()
            for _ in range(jobs):
                endpoint.add_job(command, sandbox=[script])
        endpoint.wait(lambda: len(endpoint.finished()) >= jobs, "end of all jobs", 300)
        seconds = time.monotonic() - began
        own, payloads = ((after - early) / jobs for early, after in zip(before, cpu_ms(pilot), strict=True))
        return f"| {command} | {cores} | {jobs / seconds:.0f} | {own:.1f} | {payloads:.1f} |"


def measure_latencies(rounds: int) -> list[str]:
    """Measure start, warm start, memory and end of pilots of 8 cores; returns rows of a table."""
    cold, warm, ends, resident = [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            began = time.time()
            with pilot_at_work(Path(folder), pilot_archive(), "--cores", "8", *SIZE) as (endpoint, pilot):
                cold.append(started_at(endpoint.report(endpoint.add_job())) - began)
                warm += [_warm_seconds(endpoint) for _ in range(10)]
                for attempt in [endpoint.add_job("sleep 300") for _ in range(8)]:
                    endpoint.wait_running(attempt)
                status = Path(f"/proc/{pilot.process.pid}/status").read_text()
                resident.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000)
                began = time.time()
                pilot.end()
                ends.append(time.time() - began)
    warm_ms = statistics.median(warm) * 1000
    return [
        f"| pilot started to first command started, median of {rounds} | {statistics.median(cold):.2f} s |",
        f"| job ready to command started, idle pilot, median of {len(warm)} | {warm_ms:.0f} ms |",
        f"| resident memory with 8 payloads | {max(resident):.0f} MB |",
        f"| SIGTERM to pilot gone, with 8 payloads, median of {rounds} | {statistics.median(ends):.2f} s |",
    ]


def _warm_seconds(endpoint: PilotEndpoint) -> float:
    seen = len(endpoint.exchanges)
    endpoint.wait(lambda: len(endpoint.exchanges) > seen or endpoint.exchanges[-1]["wait_seconds"] > 0, "long poll")
    began = time.time()
    return started_at(endpoint.report(endpoint.add_job())) - began


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    print("| command | cores | jobs/s | pilot, ms/job | payload, ms/job |\n|---|---|---|---|---|")
    for cores, command in ((1, "true"), (2, "true"), (4, "true"), (8, "true"), (4, "echo hello")):
        print(measure_rate(cores, jobs, command), flush=True)
    print("\n| what | figure |\n|---|---|")
    print("\n".join(measure_latencies(5)))


if __name__ == "__main__":
    main()
