# SPDX-License-Identifier: Apache-2.0
"""A site: a place that takes pilots."""

from typing import Literal

from pydantic import Field

from glideflow.domain.failure_rules import FailurePolicy
from glideflow.domain.model import Model, Name

_OVERHEAD_SECONDS = 60


class Site(Model):
    """One entry of `sites.yaml`."""

    name: Name
    """Name of the site."""
    launcher: Literal["htcondor", "local"] = "htcondor"
    """`htcondor` submits pilots to a schedd, `local` starts them as plain processes, for trying out only."""
    enabled: bool = True
    """Whether new pilots are sent."""
    template: str = "pilot.sub.j2"
    """Submit description of its pilots, a file of `condor_templates`."""
    cores: int = Field(default=1, ge=1)
    """Cores of one pilot."""
    memory_mb: int = Field(default=1000, ge=1)
    """Memory of one pilot, MB."""
    disk_mb: int = Field(default=4000, ge=1)
    """Disk of one pilot, MB."""
    wall_seconds: int = Field(default=86_400, ge=300)
    """Longest life of one pilot, seconds."""
    max_pilots: int = Field(default=8, ge=0)
    """Most pilots queued and running together."""
    max_queued: int = Field(default=8, ge=0)
    """Most pilots queued and not yet running."""
    max_per_cycle: int = Field(default=100, ge=1)
    """Most pilots sent in one cycle."""
    max_held: int = Field(default=5, ge=0)
    """With more held pilots than this nothing is sent."""
    idle_seconds: float = Field(default=300, ge=0)
    """A pilot without work ends after this time."""
    vacate_seconds: float = Field(default=20, ge=1)
    """Time between the batch system's TERM and KILL; the pilot is gone before."""
    failure_policy: FailurePolicy = Field(default_factory=list)
    """Rules for jobs that failed here: they come after those of the task and before those of the system."""

    @property
    def longest_job_seconds(self) -> float:
        """The longest `wall_seconds` of a job that a fresh pilot of the site takes.

        The pilot needs some of its life to start, to end payloads and to say good-bye.
        """
        return self.wall_seconds - self.vacate_seconds - _OVERHEAD_SECONDS
