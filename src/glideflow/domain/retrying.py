# SPDX-License-Identifier: Apache-2.0
"""What a user may say when jobs are run again: which ones, and with which numbers."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from glideflow.domain.failure_rules import FailurePolicy
from glideflow.domain.model import Model
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.states import JobState
from glideflow.domain.task import LEAST_URGENT, MOST_URGENT
from glideflow.errors import UserError

UNSUCCESSFUL = frozenset({JobState.FAILED, JobState.CANCELLED})


class NewResources(Model):
    """What one job needs from now on; what is not given stays."""

    cores: int | None = Field(default=None, ge=1, le=1024)
    """Processor cores."""
    memory_mb: int | None = Field(default=None, ge=1)
    """Memory, MB (10^6 bytes)."""
    disk_mb: int | None = Field(default=None, ge=1)
    """Disk for its inputs, outputs and scratch files, MB (10^6 bytes)."""
    wall_seconds: int | None = Field(default=None, ge=1)
    """Longest run time of the command, seconds."""


class Changes(Model):
    """What is different when jobs are run again. Anything else would make their outputs differ from those that stay."""

    resources: NewResources = Field(default_factory=NewResources)
    """What the jobs need."""
    priority: int | None = Field(default=None, ge=LEAST_URGENT, le=MOST_URGENT)
    """The jobs' priority."""
    retries: int | None = Field(default=None, ge=0, le=100)
    """The task's number of retries."""
    failure_policy: FailurePolicy | None = None
    """The task's rules for failed jobs."""

    @property
    def of_jobs(self) -> dict[str, Any]:
        """What the jobs ask for from now on, as demands name it."""
        numbers = {**self.resources.model_dump(), "priority": self.priority}
        return {key: value for key, value in numbers.items() if value is not None}

    @property
    def of_task(self) -> dict[str, Any]:
        """What changes in the task itself, as its specification names it."""
        return self.model_dump(mode="json", include={"retries", "failure_policy"}, exclude_none=True)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of the failed and cancelled jobs are run again: those in one of the states, or with one of the reasons."""

    states: frozenset[JobState] = UNSUCCESSFUL
    codes: frozenset[ReasonCode] = frozenset()

    @property
    def is_all(self) -> bool:
        """Whether it leaves none out."""
        return self.states == UNSUCCESSFUL


def select(names: Iterable[str]) -> Selection:
    """Return the jobs that some names stand for.

    Args:
        names: `failed`, `cancelled`, or codes of reasons; without any, all.

    Raises:
        UserError: A name that is none of these.
    """
    given = list(names)
    if not given:
        return Selection()
    known = [*sorted(UNSUCCESSFUL), *ReasonCode]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "the reasons are those of `glideflow failures`"
            raise UserError(f"only `{name}`: give `failed`, `cancelled` or the code of a reason; {hint}")
    return Selection(
        states=frozenset(JobState(name) for name in given if name in UNSUCCESSFUL),
        codes=frozenset(ReasonCode(name) for name in given if name not in UNSUCCESSFUL),
    )
