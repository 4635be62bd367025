# SPDX-License-Identifier: Apache-2.0
"""How inputs become jobs: one small class per rule, each of which counts its jobs and makes them one by one.

A task may read millions of files, so no rule ever holds them: it reads a stream of pieces, from wherever the writing of
jobs stopped before.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from glideflow.domain.job import InputSlice, JobPlan
from glideflow.domain.task import TaskSpec
from glideflow.errors import TaskFileError

Slices = tuple[InputSlice, ...]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What the input files of a task come to, all together."""

    files: int = 0
    size_bytes: int = 0
    """Of the files whose size is known."""
    events: int = 0
    """Of the files whose number of events is known."""
    unsized: int = 0
    """Files of unknown size."""
    first_unsized: str | None = None
    """Name of the first of them."""
    uncounted: int = 0
    """Files with an unknown number of events."""
    first_uncounted: str | None = None
    """Name of the first of them."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file that no job reads yet, or what is left of its events."""

    file: int
    """Position among the task's input files."""
    size_bytes: int | None = None
    first_event: int = 0
    """First event that is left, counted from 0."""
    events: int | None = None
    """Number of events that are left, where known."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where the writing of jobs goes on."""

    index: int = 0
    """Number of the next job."""
    file: int = 0
    """First file that is not given to jobs completely."""
    event: int = 0
    """First event of it that is left."""

    def after(self, plan: JobPlan) -> "Cursor":
        """Return where the writing goes on after a job."""
        if not plan.slices:
            return Cursor(index=plan.index + 1, file=self.file, event=self.event)
        last = plan.slices[-1]
        if last.events is None:
            return Cursor(index=plan.index + 1, file=last.file + 1)
        return Cursor(index=plan.index + 1, file=last.file, event=(last.first_event or 0) + last.events)

    def rest(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Return what is left of pieces in the order of their files."""
        for piece in pieces:
            cut = self.event - piece.first_event if piece.file == self.file else 0
            if piece.file < self.file or (piece.events is not None and 0 < piece.events <= cut):
                continue
            if cut <= 0 or piece.events is None:
                yield piece
            else:
                yield Piece(
                    file=piece.file,
                    size_bytes=piece.size_bytes,
                    first_event=piece.first_event + cut,
                    events=piece.events - cut,
                )


class Rule(Protocol):
    """A way to divide inputs."""

    def count(self, pieces: Iterable[Piece]) -> int:
        """Number of jobs; most rules know it without reading the pieces."""

    def divide(self, pieces: Iterable[Piece], index: int) -> Iterator[Slices]:
        """What each job reads, one job at a time, from the job `index` on."""


@dataclass(frozen=True)
class WithoutInputs:
    """`inputs.jobs`: jobs that read nothing."""

    wanted: int

    def count(self, pieces: Iterable[Piece]) -> int:
        """Number of jobs."""
        return self.wanted

    def divide(self, pieces: Iterable[Piece], index: int) -> Iterator[Slices]:
        """Jobs without inputs."""
        return (() for _ in range(index, self.wanted))


@dataclass(frozen=True)
class FilesPerJob:
    """`split.files_per_job`: so many files in each job, fewer in the last."""

    files: int
    wanted: int

    def count(self, pieces: Iterable[Piece]) -> int:
        """Number of jobs."""
        return -(-self.files // self.wanted)

    def divide(self, pieces: Iterable[Piece], index: int) -> Iterator[Slices]:
        """Runs of files in their order."""
        left = iter(pieces)
        while taken := _whole(islice(left, self.wanted)):
            yield taken


@dataclass(frozen=True)
class NumberOfJobs:
    """`split.jobs`: so many jobs, whose numbers of files differ by one at most."""

    files: int
    wanted: int

    def __post_init__(self) -> None:
        """Refuse more jobs than files: a job without input would run on nothing."""
        if 0 < self.files < self.wanted:
            raise _problem(
                "jobs",
                f"{self.wanted} jobs need as many files, but the task has {self.files}; "
                "`split.events_per_job` divides files",
            )

    def count(self, pieces: Iterable[Piece]) -> int:
        """Number of jobs."""
        return self.wanted if self.files else 0

    def divide(self, pieces: Iterable[Piece], index: int) -> Iterator[Slices]:
        """Runs of files in their order."""
        left = iter(pieces)
        for job in range(index, self.wanted if self.files else 0):
            size = (job + 1) * self.files // self.wanted - job * self.files // self.wanted
            yield _whole(islice(left, size))


@dataclass(frozen=True)
class BytesPerJob:
    """`split.bytes_per_job`: whole files as long as they stay below the number."""

    wanted: int

    def count(self, pieces: Iterable[Piece]) -> int:
        """Number of jobs; reads all pieces."""
        return sum(1 for _ in self.divide(pieces, 0))

    def divide(self, pieces: Iterable[Piece], index: int) -> Iterator[Slices]:
        """Runs of files in their order; a file above the number makes a job of its own."""
        taken: list[InputSlice] = []
        size = 0
        for piece in pieces:
            if taken and size + (piece.size_bytes or 0) > self.wanted:
                yield tuple(taken)
                taken, size = [], 0
            taken.append(InputSlice(file=piece.file))
            size += piece.size_bytes or 0
        if taken:
            yield tuple(taken)


@dataclass(frozen=True)
class EventsPerJob:
    """`split.events_per_job`: so many events, across the borders of files; every event in exactly one job."""

    events: int
    wanted: int

    def count(self, pieces: Iterable[Piece]) -> int:
        """Number of jobs."""
        return -(-self.events // self.wanted)

    def divide(self, pieces: Iterable[Piece], index: int) -> Iterator[Slices]:
        """Ranges of events in the order of the files; the last job has the rest."""
        slices: list[InputSlice] = []
        room = self.wanted
        for piece in pieces:
            first, end = piece.first_event, piece.first_event + (piece.events or 0)
            while first < end:
                taken = min(end - first, room)
                slices.append(InputSlice(file=piece.file, first_event=first, events=taken))
                first += taken
                room -= taken
                if not room:
                    yield tuple(slices)
                    slices, room = [], self.wanted
        if slices:
            yield tuple(slices)


def rule_of(spec: TaskSpec, extent: Extent, per_job: int = 1) -> Rule:
    """Return the rule of a task.

    Args:
        spec: The task.
        extent: Its input, or what is left of it.
        per_job: Files or events of a job with `split.target_wall_seconds`.

    Raises:
        TaskFileError: A size or a number of events that the rule needs is unknown, or there are not enough files.
    """
    split = spec.split
    if spec.inputs.jobs is not None:
        return WithoutInputs(spec.inputs.jobs)
    if split.bytes_per_job is not None:
        check_sizes(extent, "bytes_per_job")
        return BytesPerJob(split.bytes_per_job)
    if split.events_per_job is not None:
        check_events(extent, "events_per_job")
        return EventsPerJob(extent.events, split.events_per_job)
    if split.jobs is not None:
        return NumberOfJobs(extent.files, split.jobs)
    if split.by_events:
        check_events(extent, "target_wall_seconds")
        return EventsPerJob(extent.events, per_job)
    return FilesPerJob(extent.files, split.files_per_job or per_job)


def count_jobs(spec: TaskSpec, extent: Extent, pieces: Iterable[Piece], max_jobs: int, per_job: int = 1) -> int:
    """Count the jobs of a task.

    Args:
        spec: The task.
        extent: Its input.
        pieces: Its input files; read only where the rule has to.
        max_jobs: Most jobs that are allowed, setting `max_jobs_per_task`.
        per_job: Files or events of a job with `split.target_wall_seconds`, which stays within `max_jobs` later.

    Raises:
        TaskFileError: No job would come out, or too many; a size or a number of events that the rule needs is unknown.
    """
    count = rule_of(spec, extent, per_job).count(pieces)
    if not count:
        raise TaskFileError([f"key `inputs`: {_nothing(extent, spec)}, so there is no job to run"])
    if count > max_jobs and spec.split.target_wall_seconds is None:
        raise TaskFileError(
            [
                f"key `{_key(spec)}`: gives {count:,} jobs, more than the allowed {max_jobs:,}; make the jobs larger, "
                "or raise the setting `max_jobs_per_task` of the endpoint"
            ]
        )
    return count


def make_jobs(rule: Rule, pieces: Iterable[Piece], cursor: Cursor) -> Iterator[JobPlan]:
    """Make jobs one by one.

    Args:
        rule: How.
        pieces: Input files in their order, from that of the cursor or before.
        cursor: Where to go on.

    Returns:
        The jobs, numbered from `cursor.index`.
    """
    divided = rule.divide(cursor.rest(pieces), cursor.index)
    return (JobPlan(index=index, slices=slices) for index, slices in enumerate(divided, cursor.index))


def check_sizes(extent: Extent, rule: str) -> None:
    """Refuse files of unknown size.

    Raises:
        TaskFileError: There are some.
    """
    if extent.unsized:
        remedy = "write the file as a mapping, `url: ...` with `size_bytes: ...`"
        raise _problem(rule, f"the size of {_named(extent.first_unsized, extent.unsized)} is unknown; {remedy}")


def check_events(extent: Extent, rule: str) -> None:
    """Refuse files with an unknown number of events.

    Raises:
        TaskFileError: There are some.
    """
    if extent.uncounted:
        remedy = (
            "set `inputs.events: lines` to count lines of local files, "
            "or write the file as a mapping, `url: ...` with `events: ...`"
        )
        names = _named(extent.first_uncounted, extent.uncounted)
        raise _problem(rule, f"the number of events of {names} is unknown; {remedy}")


def _named(first: str | None, number: int) -> str:
    return f"`{first}`" + (f" and {number - 1} more" if number > 1 else "")


def _key(spec: TaskSpec) -> str:
    """Return the key that the number of jobs comes from."""
    if spec.inputs.jobs is not None:
        return "inputs.jobs"
    return next((f"split.{name}" for name in spec.split.rules()), "inputs")


def _nothing(extent: Extent, spec: TaskSpec) -> str:
    if extent.files:
        return f"the {extent.files} input files hold no events"
    if spec.inputs.dataset is not None:
        return f"dataset `{spec.inputs.dataset}` holds no files"
    return "there are no input files"


def _whole(pieces: Iterable[Piece]) -> Slices:
    return tuple(InputSlice(file=piece.file) for piece in pieces)


def _problem(rule: str, text: str) -> TaskFileError:
    return TaskFileError([f"key `split.{rule}`: {text}"])
