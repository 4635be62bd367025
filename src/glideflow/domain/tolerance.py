# SPDX-License-Identifier: Apache-2.0
"""How many jobs of a task may fail before the task does."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, model_validator

from glideflow.domain.model import Model
from glideflow.domain.states import JobState


class Tolerance(Model):
    """How many jobs may fail before the task does: exactly one of the two numbers."""

    failed_percent: float | None = Field(default=None, ge=0, le=100)
    """So many of a hundred jobs, rounded down to whole jobs."""
    failed_jobs: int | None = Field(default=None, ge=0)
    """So many jobs."""
    end: Literal["partly_done", "failed"] = "partly_done"
    """The state in which the task ends when jobs failed, and no more than that; the merge step has run either way."""

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        given = [name for name in ("failed_percent", "failed_jobs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of `failed_percent`, `failed_jobs` (given: {', '.join(given) or 'none'})"
            )
        return self

    def allowed(self, jobs_total: int) -> int:
        """Return how many jobs may fail.

        Args:
            jobs_total: Number of jobs of the task.
        """
        if self.failed_jobs is not None:
            return self.failed_jobs
        # As decimal digits, so that 0.7 % of 1000 jobs are 7 and not 6.
        return int(Decimal(str(self.failed_percent)) * jobs_total / 100)


def tolerates(tolerance: Tolerance | None, counts: Mapping[str, int]) -> bool:
    """Tell whether a task goes on although not all of its jobs are done.

    Args:
        tolerance: What the task says; None for no failed job at all.
        counts: Its jobs by state, all of them ended.

    Returns:
        Whether as few failed as that. A cancelled job is no failed one: somebody did not want it, or all of it. Of a
        task without any job done there is nothing to go on with.
    """
    total, done, failed = sum(counts.values()), counts.get(JobState.DONE, 0), counts.get(JobState.FAILED, 0)
    if done == total:
        return True
    allowed = tolerance.allowed(total) if tolerance else 0
    return done > 0 and done + failed == total and failed <= allowed
