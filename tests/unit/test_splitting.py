# SPDX-License-Identifier: Apache-2.0
"""How inputs become jobs."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.job import InputSlice, JobPlan
from glideflow.domain.splitting import Cursor, Extent, Piece, count_jobs, make_jobs, rule_of
from glideflow.domain.task import ResolvedInput, TaskSpec
from glideflow.errors import TaskFileError


def spec_with(rule: dict[str, int] | None = None, **inputs: Any) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "schema_version": 1,
            "name": "t",
            "command": "true",
            "inputs": inputs or {"files": ["a"]},
            "split": rule or {},
        }
    )


def extent_of(files: list[ResolvedInput]) -> Extent:
    unsized = [file.name for file in files if file.size_bytes is None]
    uncounted = [file.name for file in files if file.events is None]
    return Extent(
        files=len(files), size_bytes=sum(file.size_bytes or 0 for file in files),
        events=sum(file.events or 0 for file in files),
        unsized=len(unsized), first_unsized=next(iter(unsized), None),
        uncounted=len(uncounted), first_uncounted=next(iter(uncounted), None),
    )  # fmt: skip


def pieces_of(files: list[ResolvedInput]) -> Iterator[Piece]:
    return (Piece(file=at, size_bytes=file.size_bytes, events=file.events) for at, file in enumerate(files))


def split(files: list[ResolvedInput], spec: TaskSpec, max_jobs: int) -> Iterator[JobPlan]:
    """Count, then make all jobs, as a task is planned."""
    extent = extent_of(files)
    count = count_jobs(spec, extent, pieces_of(files), max_jobs)
    jobs = list(make_jobs(rule_of(spec, extent), pieces_of(files), Cursor())) if count < 10_000 else []
    assert not jobs or len(jobs) == count
    return iter(jobs) if jobs else make_jobs(rule_of(spec, extent), pieces_of(files), Cursor())


def files_with(*, events: list[int | None] | None = None, sizes: list[int | None] | None = None) -> list[ResolvedInput]:
    facts = itertools.zip_longest(events or [], sizes or [])
    return [
        ResolvedInput(name=f"f{number}", url=f"file:///f{number}", events=count, size_bytes=size)
        for number, (count, size) in enumerate(facts)
    ]


def shape(jobs: list[JobPlan]) -> list[list[int]]:
    return [[part.file for part in job.slices] for job in jobs]


def test_without_a_rule_each_file_is_a_job() -> None:
    jobs = list(split(files_with(sizes=[1, 2, 3]), spec_with(), 10))
    assert shape(jobs) == [[0], [1], [2]]
    assert [job.index for job in jobs] == [0, 1, 2]
    assert jobs[0].slices[0] == InputSlice(file=0)


def test_without_inputs_there_are_as_many_jobs_as_asked_for() -> None:
    assert list(split([], spec_with(jobs=3), 10)) == [JobPlan(index=0), JobPlan(index=1), JobPlan(index=2)]


def test_a_task_without_inputs_and_split_is_one_job() -> None:
    spec = TaskSpec.model_validate({"schema_version": 1, "name": "t", "command": "true"})
    assert len(list(split([], spec, 1))) == 1


def test_files_per_job_leaves_the_rest_to_the_last_job() -> None:
    jobs = list(split(files_with(sizes=[1] * 5), spec_with({"files_per_job": 2}), 10))
    assert shape(jobs) == [[0, 1], [2, 3], [4]]


def test_number_of_jobs_spreads_files_evenly() -> None:
    jobs = list(split(files_with(sizes=[1] * 7), spec_with({"jobs": 3}), 10))
    assert shape(jobs) == [[0, 1], [2, 3], [4, 5, 6]]


def test_more_jobs_than_files_are_refused() -> None:
    with pytest.raises(TaskFileError, match=r"`split\.jobs`: 3 jobs need as many files, but the task has 2"):
        split(files_with(sizes=[1, 1]), spec_with({"jobs": 3}), 10)


def test_bytes_per_job_takes_whole_files_and_a_large_file_alone() -> None:
    jobs = list(split(files_with(sizes=[40, 50, 20, 500, 0, 100]), spec_with({"bytes_per_job": 100}), 10))
    assert shape(jobs) == [[0, 1], [2], [3], [4, 5]]


def test_events_per_job_crosses_files() -> None:
    jobs = list(split(files_with(events=[5, 0, 4]), spec_with({"events_per_job": 4}), 10))
    assert [job.slices for job in jobs] == [
        (InputSlice(file=0, first_event=0, events=4),),
        (InputSlice(file=0, first_event=4, events=1), InputSlice(file=2, first_event=0, events=3)),
        (InputSlice(file=2, first_event=3, events=1),),
    ]


@given(events=st.lists(st.integers(0, 30), max_size=12), size=st.integers(1, 40))
def test_events_per_job_takes_every_event_exactly_once(events: list[int], size: int) -> None:
    if not sum(events):
        return
    jobs = list(split(files_with(events=list(events)), spec_with({"events_per_job": size}), 1000))
    seen = [
        (part.file, event)
        for job in jobs
        for part in job.slices
        for event in range(part.first_event or 0, (part.first_event or 0) + (part.events or 0))
    ]
    assert seen == [(file, event) for file, count in enumerate(events) for event in range(count)]
    assert {sum(part.events or 0 for part in job.slices) for job in jobs[:-1]} <= {size}
    assert all(part.events for job in jobs for part in job.slices)


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    rule=st.sampled_from(["files_per_job", "bytes_per_job", "jobs"]),
    value=st.integers(1, 60),
)
def test_rules_over_whole_files_take_every_file_exactly_once(sizes: list[int], rule: str, value: int) -> None:
    value = min(value, len(sizes)) if rule == "jobs" else value
    jobs = list(split(files_with(sizes=list(sizes)), spec_with({rule: value}), 1000))
    assert [file for job in shape(jobs) for file in job] == list(range(len(sizes)))
    assert all(shape(jobs))
    if rule == "bytes_per_job":
        assert all(len(job) == 1 or sum(sizes[file] for file in job) <= value for job in shape(jobs))
    if rule == "jobs":
        assert len(jobs) == value
        assert max(map(len, shape(jobs))) - min(map(len, shape(jobs))) <= 1


@pytest.mark.parametrize("rule", ["files_per_job", "bytes_per_job", "events_per_job", "jobs"])
def test_no_files_give_a_clear_refusal(rule: str) -> None:
    with pytest.raises(TaskFileError, match="dataset `none` holds no files, so there is no job to run"):
        split([], spec_with({rule: 5}, dataset="none"), 10)


def test_files_without_events_give_a_clear_refusal() -> None:
    with pytest.raises(TaskFileError, match="the 2 input files hold no events"):
        split(files_with(events=[0, 0]), spec_with({"events_per_job": 5}), 10)


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (spec_with(jobs=1_234_567), r"inputs\.jobs"),
        (spec_with({"events_per_job": 1}), r"split\.events_per_job"),
    ],
)
def test_too_many_jobs_name_the_number_the_limit_and_the_setting(spec: TaskSpec, key: str) -> None:
    with pytest.raises(TaskFileError, match=f"`{key}`: gives 1,234,567 jobs, .*100,000.*`max_jobs_per_task`"):
        split(files_with(events=[1_234_567]), spec, 100_000)


def test_a_limit_that_is_just_met_is_fine() -> None:
    assert len(list(split([], spec_with(jobs=10), 10))) == 10


def test_unknown_events_name_the_file_and_how_to_give_them() -> None:
    with pytest.raises(TaskFileError, match=r"number of events of `f1` and 1 more is unknown; set `inputs\.events"):
        split(files_with(events=[3, None, None]), spec_with({"events_per_job": 5}), 10)


def test_unknown_sizes_name_the_file_and_how_to_give_them() -> None:
    with pytest.raises(TaskFileError, match=r"size of `f0` is unknown; write the file as a mapping.*`size_bytes"):
        split(files_with(sizes=[None]), spec_with({"bytes_per_job": 5}), 10)


def test_a_million_jobs_are_made_lazily() -> None:
    jobs = split(files_with(events=[10**12]), spec_with({"events_per_job": 10**6}), 10**6)
    assert next(jobs).slices == (InputSlice(file=0, first_event=0, events=10**6),)
    assert next(jobs).index == 1


@given(
    facts=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 50)), min_size=1, max_size=12),
    rule=st.sampled_from(["files_per_job", "bytes_per_job", "events_per_job", "jobs"]),
    value=st.integers(1, 40),
    batch=st.integers(1, 5),
)
def test_writing_in_batches_gives_the_same_jobs_as_writing_at_once(
    facts: list[tuple[int, int]], rule: str, value: int, batch: int
) -> None:
    if rule == "events_per_job" and not sum(events for events, _ in facts):
        return
    value = min(value, len(facts)) if rule == "jobs" else value
    files = files_with(events=[events for events, _ in facts], sizes=[size for _, size in facts])
    spec = spec_with({rule: value})
    once = list(split(files, spec, 1000))
    cursor, written = Cursor(), []
    while part := list(itertools.islice(make_jobs(rule_of(spec, extent_of(files)), pieces_of(files), cursor), batch)):
        written += part
        for plan in part:
            cursor = cursor.after(plan)
    assert written == once
    assert cursor.index == len(once)
