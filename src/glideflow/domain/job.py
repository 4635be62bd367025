# SPDX-License-Identifier: Apache-2.0
"""A job before it is stored: what it reads."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InputSlice:
    """A file of a job, or a range of its events."""

    file: int
    """Index into the task's list of input files."""
    first_event: int | None = None
    """First event, counted from 0; None for the whole file."""
    events: int | None = None
    """Number of events; None for the whole file."""


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """One job as the splitting made it."""

    index: int
    """Number of the job within its task, from 0."""
    slices: tuple[InputSlice, ...] = ()
    """What it reads."""
