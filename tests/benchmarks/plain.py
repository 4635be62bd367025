# SPDX-License-Identifier: Apache-2.0
"""The other side of the comparison: the same jobs given to the same pool without glideflow.

One cluster, no input files, idle claims kept, so that HTCondor reuses claims and shadows from job to job.
"""

import time
from collections.abc import Mapping

from instance import Instance, wait

from glideflow.condor.connection import private_connection
from glideflow.condor.gateway import Gateway

_SAME = """\
executable = /bin/true
transfer_executable = False
request_cpus = 1
request_memory = 100M
request_disk = 10M
keep_claim_idle = 60
initialdir = /tmp
"""
OWN_DISKS = f"""{_SAME}
should_transfer_files = YES
when_to_transfer_output = ON_EXIT
output = bench.$(Cluster).$(Process).out
error = bench.$(Cluster).$(Process).err
log = bench.$(Cluster).log
"""
"""Output, error and log come back by HTCondor's file transfer: the service that pilots give, and what jobs need where
the nodes share no disk with the submit machine."""
SHARED_DISK = f"""{_SAME}
should_transfer_files = NO
"""
"""The least that HTCondor can do for a job: no output, no log, no transfer; only where disks are shared."""

VARIANTS: Mapping[str, str] = {"files by transfer": OWN_DISKS, "no files at all": SHARED_DISK}
_ENDED = frozenset({3, 4})


class Plain:
    """Submits plain jobs from inside the pool, as its users would."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._gateway = Gateway(private_connection(instance.home.pool))
        # It is started by its first call: not a part of any figure.
        self._gateway.ping()

    def run(self, description: str, jobs: int, pause_seconds: float) -> tuple[float, float]:
        """Run jobs; returns the seconds from the start of `condor_submit`, and from its end, to the last job's end.

        Args:
            description: Submit description without a queue statement.
            jobs: How many.
            pause_seconds: Between two looks at the queue.
        """
        file = self._instance.pool.state / "bench.sub"
        file.write_text(f"{description}\nqueue {jobs}\n", encoding="utf-8")
        began = time.monotonic()
        said = self._instance.pool.run(["condor_submit", "-terse", f"/pool/{file.name}"])
        accepted = time.monotonic()
        cluster = said.split(".")[0].strip()
        wait(lambda: self._all_ended(cluster), f"cluster {cluster} has ended", pause_seconds)
        ended = time.monotonic()
        self._check(cluster, jobs)
        return ended - began, ended - accepted

    def _all_ended(self, cluster: str) -> bool:
        ads = self._gateway.query(f"ClusterId == {cluster}", ["JobStatus", "HoldReason"])
        held = [ad["HoldReason"] for ad in ads if ad["JobStatus"] == 5]
        if held:
            raise RuntimeError(f"a plain job is held: {held[0]}")
        return all(ad["JobStatus"] in _ENDED for ad in ads)

    def _check(self, cluster: str, jobs: int) -> None:
        """Make sure that all jobs ran and ended well."""
        ended: list[str] = []

        def is_written() -> bool:
            ended[:] = self._instance.pool.run(["condor_history", cluster, "-af", "ExitCode"]).split()
            return len(ended) >= jobs

        wait(is_written, f"the history of cluster {cluster}", 0.2)
        if ended != ["0"] * jobs:
            raise RuntimeError(f"of the {jobs} jobs of cluster {cluster} not all ended well")

    def close(self) -> None:
        """End the gateway process."""
        self._gateway.close()
