# SPDX-License-Identifier: Apache-2.0
"""A demand: the jobs of one task and stage that ask for the same, so that one decision serves them all.

Source: DIRAC's task queues and HTCondor's autoclusters.
"""

from dataclasses import dataclass

from glideflow.domain.identifiers import DemandId, TaskId

Leaf = tuple[str, str, str]
"""Whose jobs they are: VO, group and owner."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What each of its jobs needs."""

    demand_id: DemandId
    task_id: TaskId
    leaf: Leaf
    stage: str
    priority: int
    cores: int
    memory_mb: int
    disk_mb: int
    wall_seconds: int
    avoid_sites: tuple[str, ...] = ()
    """Sites that must not get the jobs."""
    avoid_nodes: tuple[str, ...] = ()
    """Nodes that must not get the jobs."""
    max_running: int | None = None
    """Most jobs of the task at once, as the task says."""
    sites: tuple[str, ...] = ()
    """Sites that may run them, the best first; empty until that was worked out."""
