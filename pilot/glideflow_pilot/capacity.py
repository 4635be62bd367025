# SPDX-License-Identifier: Apache-2.0
"""What the slot has and what of it is free: the sum of the running jobs never exceeds it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Optional

from glideflow_pilot.arguments import free_mb
from glideflow_pilot.orders import Order

# Left at the end of the slot, besides the grace of the payloads, for the last uploads and reports.
LEAVE_SECONDS = 10.0


@dataclass
class Capacity:
    """The slot's resources; used by the main thread alone."""

    cores: int
    memory_mb: int
    disk_mb: int
    ends_at: float
    """Monotonic time at which the slot ends."""
    folder: Path
    """A folder on the disk that jobs write to."""
    margin_seconds: float = LEAVE_SECONDS
    """Time before the end in which no payload runs any more."""
    clock: Callable[[], float] = time.monotonic

    def seconds_left(self) -> float:
        """Return how long a payload that starts now may run."""
        return max(0.0, self.ends_at - self.margin_seconds - self.clock())

    def free(self) -> Dict[str, float]:
        """Return what is free, as it travels."""
        disk = min(self.disk_mb, free_mb(self.folder))
        return {
            "cores": self.cores,
            "memory_mb": self.memory_mb,
            "disk_mb": max(0, disk),
            "seconds": int(self.seconds_left()),
        }

    def objection(self, order: Order) -> Optional[str]:
        """Return why an order cannot be taken, or None when it can."""
        for name, asked, left in (
            ("cores", order.cores, self.cores),
            ("MB of memory", order.memory_mb, self.memory_mb),
            ("MB of disk", order.disk_mb, self.disk_mb),
            ("seconds", order.wall_seconds, int(self.seconds_left())),
        ):
            if asked > left:
                return f"the job asks for {asked:g} {name} and this pilot has {left:g} left"
        return None

    def take(self, order: Order) -> None:
        """Reserve for an order that was found to fit."""
        self.cores -= order.cores
        self.memory_mb -= order.memory_mb
        self.disk_mb -= order.disk_mb

    def give_back(self, order: Order) -> None:
        """Free what an order had reserved."""
        self.cores += order.cores
        self.memory_mb += order.memory_mb
        self.disk_mb += order.disk_mb
