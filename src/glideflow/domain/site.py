# SPDX-License-Identifier: Apache-2.0
"""A site: a place that takes pilots."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from glideflow.domain.failure_rules import FailurePolicy
from glideflow.domain.model import Feature, Model, Name

_OVERHEAD_SECONDS = 60


def _check_prefix(value: str) -> str:
    """Refuse beginnings that would also fit another server or folder."""
    if not value.startswith(("https://", "http://", "file:///", "/storage/")):
        raise ValueError("must begin with `https://`, `http://`, `file:///`, or `/storage/` for the endpoint's own")
    if not value.endswith("/"):
        raise ValueError("must end with `/`, so that it fits whole names of folders or servers only")
    return value


Prefix = Annotated[str, AfterValidator(_check_prefix)]


class Site(Model):
    """One entry of `sites.yaml`."""

    name: Name
    """Name of the site."""
    launcher: Literal["htcondor", "local"] = "htcondor"
    """`htcondor` submits pilots to a schedd, `local` starts them as plain processes, for trying out only."""
    status: Literal["online", "drain", "offline"] = "online"
    """`drain`: no new pilots and no new jobs, what runs there goes on; `offline`: and its batch system is not asked."""
    vos: list[Name] = Field(default_factory=list)
    """VOs whose tasks may run there; without `vos` and `users`, all."""
    users: list[str] = Field(default_factory=list)
    """Users whose tasks may run there, by subject, besides those of `vos`."""
    provides: list[Feature] = Field(default_factory=list)
    """What there is, such as software releases or containers, in words of your choice; tasks name it in `requires`."""
    max_input_mb: int | None = Field(default=None, ge=0)
    """Most input of one job, MB (10^6 bytes); without it, any."""
    near: list[Prefix] = Field(default_factory=list)
    """Beginnings of URLs whose files are close to the site; tasks that read them prefer it."""
    preference: float = Field(default=1.0, gt=0, le=1000)
    """The site's weight among those that may run a job is multiplied with this."""
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
