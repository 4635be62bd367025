# SPDX-License-Identifier: Apache-2.0
"""How inputs become jobs: one small class per rule, each of which counts its jobs and makes them one by one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from glideflow.domain.job import InputSlice, JobPlan
from glideflow.domain.task import ResolvedInput, TaskSpec
from glideflow.errors import TaskFileError

Slices = tuple[InputSlice, ...]


class Rule(Protocol):
    """A way to divide inputs; made of the inputs and the rule's value in `split`."""

    def count(self) -> int:
        """Number of jobs, without making them."""

    def jobs(self) -> Iterator[Slices]:
        """What each job reads, one job at a time: a task may have a million."""


@dataclass(frozen=True)
class WithoutInputs:
    """`inputs.jobs`: jobs that read nothing."""

    wanted: int

    def count(self) -> int:
        """Number of jobs."""
        return self.wanted

    def jobs(self) -> Iterator[Slices]:
        """Jobs without inputs."""
        return (() for _ in range(self.wanted))


@dataclass(frozen=True)
class FilesPerJob:
    """`split.files_per_job`: so many files in each job, fewer in the last."""

    files: Sequence[ResolvedInput]
    wanted: int

    def count(self) -> int:
        """Number of jobs."""
        return -(-len(self.files) // self.wanted)

    def jobs(self) -> Iterator[Slices]:
        """Runs of files in their order."""
        for first in range(0, len(self.files), self.wanted):
            yield _whole(first, min(first + self.wanted, len(self.files)))


@dataclass(frozen=True)
class NumberOfJobs:
    """`split.jobs`: so many jobs, whose numbers of files differ by one at most."""

    files: Sequence[ResolvedInput]
    wanted: int

    def __post_init__(self) -> None:
        """Refuse more jobs than files: a job without input would run on nothing."""
        if 0 < len(self.files) < self.wanted:
            raise _problem(
                "jobs",
                f"{self.wanted} jobs need as many files, but the task has {len(self.files)}; "
                "`split.events_per_job` divides files",
            )

    def count(self) -> int:
        """Number of jobs."""
        return self.wanted if self.files else 0

    def jobs(self) -> Iterator[Slices]:
        """Runs of files in their order."""
        total = len(self.files)
        for index in range(self.count()):
            yield _whole(index * total // self.wanted, (index + 1) * total // self.wanted)


@dataclass(frozen=True)
class BytesPerJob:
    """`split.bytes_per_job`: whole files as long as they stay below the number."""

    files: Sequence[ResolvedInput]
    wanted: int

    def __post_init__(self) -> None:
        """Refuse files of unknown size."""
        _require(self.files, "bytes_per_job", "size", "size_bytes", lambda file: file.size_bytes)

    def count(self) -> int:
        """Number of jobs."""
        return sum(1 for _ in self.jobs())

    def jobs(self) -> Iterator[Slices]:
        """Runs of files in their order; a file above the number makes a job of its own."""
        first = size = 0
        for number, file in enumerate(self.files):
            if number > first and size + (file.size_bytes or 0) > self.wanted:
                yield _whole(first, number)
                first, size = number, 0
            size += file.size_bytes or 0
        if self.files:
            yield _whole(first, len(self.files))


@dataclass(frozen=True)
class EventsPerJob:
    """`split.events_per_job`: so many events, across the borders of files; every event in exactly one job."""

    files: Sequence[ResolvedInput]
    wanted: int

    def __post_init__(self) -> None:
        """Refuse files with an unknown number of events."""
        _require(self.files, "events_per_job", "number of events", "events", lambda file: file.events)

    def count(self) -> int:
        """Number of jobs."""
        return -(-sum(file.events or 0 for file in self.files) // self.wanted)

    def jobs(self) -> Iterator[Slices]:
        """Ranges of events in the order of the files; the last job has the rest."""
        slices: list[InputSlice] = []
        room = self.wanted
        for number, file in enumerate(self.files):
            first = 0
            while left := (file.events or 0) - first:
                taken = min(left, room)
                slices.append(InputSlice(file=number, first_event=first, events=taken))
                first += taken
                room -= taken
                if not room:
                    yield tuple(slices)
                    slices, room = [], self.wanted
        if slices:
            yield tuple(slices)


RULES: Mapping[str, Callable[[Sequence[ResolvedInput], int], Rule]] = {
    "files_per_job": FilesPerJob,
    "bytes_per_job": BytesPerJob,
    "events_per_job": EventsPerJob,
    "jobs": NumberOfJobs,
}
"""The rule behind each key of `split`."""


def split(files: Sequence[ResolvedInput], spec: TaskSpec, max_jobs: int) -> Iterator[JobPlan]:
    """Divide the inputs of a task into jobs.

    The whole input is checked at once; the jobs are made while the result is read.

    Args:
        files: The task's input files, measured; a job's slices hold indices into it.
        spec: The task.
        max_jobs: Most jobs that are allowed, setting `max_jobs_per_task`.

    Returns:
        The jobs, numbered from 0.

    Raises:
        TaskFileError: No job would come out, or too many; a size or a number of events that the rule needs is unknown.
    """
    key, rule = _rule(files, spec)
    count = rule.count()
    if not count:
        raise TaskFileError([f"key `inputs`: {_nothing(files, spec)}, so there is no job to run"])
    if count > max_jobs:
        raise TaskFileError(
            [
                f"key `{key}`: gives {count:,} jobs, more than the allowed {max_jobs:,}; make the jobs larger, "
                "or raise the setting `max_jobs_per_task` of the endpoint"
            ]
        )
    return (JobPlan(index=index, slices=slices) for index, slices in enumerate(rule.jobs()))


def _rule(files: Sequence[ResolvedInput], spec: TaskSpec) -> tuple[str, Rule]:
    """The rule of a task, with the key that it comes from."""
    if spec.inputs.jobs is not None:
        return "inputs.jobs", WithoutInputs(spec.inputs.jobs)
    for name, make in RULES.items():
        value = getattr(spec.split, name)
        if value is not None:
            return f"split.{name}", make(files, value)
    return "inputs", FilesPerJob(files, 1)


def _nothing(files: Sequence[ResolvedInput], spec: TaskSpec) -> str:
    if files:
        return f"the {len(files)} input files hold no events"
    if spec.inputs.dataset is not None:
        return f"dataset `{spec.inputs.dataset}` holds no files"
    return "there are no input files"


def _whole(first: int, end: int) -> Slices:
    return tuple(InputSlice(file=number) for number in range(first, end))


def _require(
    files: Sequence[ResolvedInput], rule: str, fact: str, key: str, value: Callable[[ResolvedInput], int | None]
) -> None:
    """Refuse files whose size or number of events is unknown, and say how to give it."""
    unknown = [file.name for file in files if value(file) is None]
    if not unknown:
        return
    more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
    remedy = f"write the file as a mapping, `url: ...` with `{key}: ...`"
    if key == "events":
        remedy = f"set `inputs.events: lines` to count lines of local files, or {remedy}"
    raise _problem(rule, f"the {fact} of `{unknown[0]}`{more} is unknown; {remedy}")


def _problem(rule: str, text: str) -> TaskFileError:
    return TaskFileError([f"key `split.{rule}`: {text}"])
