# SPDX-License-Identifier: Apache-2.0
"""Scouts take parts from all over the input; the others take what is left, so that nothing is read twice."""

from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.job import InputSlice
from glideflow.domain.scouting import Expedition, expedition, scout_jobs, without
from glideflow.domain.splitting import Cursor, EventsPerJob, Extent, FilesPerJob, Piece, make_jobs
from glideflow.domain.task import Split


def pieces(events: list[int]) -> list[Piece]:
    return [Piece(file=at, events=count) for at, count in enumerate(events)]


def events_of(slices: list[InputSlice]) -> list[tuple[int, int]]:
    return [
        (part.file, event)
        for part in slices
        for event in range(part.first_event or 0, (part.first_event or 0) + (part.events or 0))
    ]


def test_scouts_are_spread_over_the_files_and_differ_in_size() -> None:
    plan = expedition(Split(target_wall_seconds=60, scouts=4), Extent(files=40))
    found = [[part.file for part in job.slices] for job in scout_jobs(pieces([1] * 40), plan)]
    assert found == [[0], [10, 11, 12], [20], [30, 31, 32]]


def test_scouts_take_ranges_of_one_large_file() -> None:
    plan = expedition(Split(target_wall_seconds=60, unit="events", scouts=2), Extent(files=1, events=10_000))
    assert [job.slices for job in scout_jobs(pieces([10_000]), plan)] == [
        (InputSlice(file=0, first_event=0, events=10),),
        (InputSlice(file=0, first_event=5000, events=30),),
    ]


def test_too_little_input_is_not_worth_scouts() -> None:
    assert not expedition(Split(target_wall_seconds=60), Extent(files=39)).is_worth_it
    assert expedition(Split(target_wall_seconds=60), Extent(files=40)).is_worth_it
    assert not expedition(Split(target_wall_seconds=60), Extent()).is_worth_it


@given(
    events=st.lists(st.integers(0, 50), max_size=30),
    number=st.integers(2, 6),
    size=st.integers(1, 8),
    per_job=st.integers(1, 40),
    batch=st.integers(1, 4),
)
def test_scouts_and_the_other_jobs_take_every_event_exactly_once(
    events: list[int], number: int, size: int, per_job: int, batch: int
) -> None:
    plan = Expedition(unit="events", total=sum(events), number=number, size=size)
    if not plan.is_worth_it:
        return
    scouts = list(scout_jobs(pieces(events), plan))
    assert [sum(part.events or 0 for part in job.slices) for job in scouts] == [plan.size_of(i) for i in range(number)]
    taken = [part for job in scouts for part in job.slices]
    rule = EventsPerJob(plan.total - plan.units, per_job)
    cursor, others = Cursor(index=number), []
    while True:
        part = [
            job for job, _ in zip(make_jobs(rule, without(pieces(events), taken), cursor), range(batch), strict=False)
        ]
        if not part:
            break
        others += part
        for job in part:
            cursor = cursor.after(job)
    assert len(others) == rule.count([])
    seen = events_of(taken + [part for job in others for part in job.slices])
    assert sorted(seen) == [(file, event) for file, count in enumerate(events) for event in range(count)]


@given(files=st.integers(0, 80), number=st.integers(2, 6), per_job=st.integers(1, 9))
def test_scouts_and_the_other_jobs_take_every_file_exactly_once(files: int, number: int, per_job: int) -> None:
    plan = Expedition(unit="files", total=files, number=number, size=1)
    if not plan.is_worth_it:
        return
    taken = [part for job in scout_jobs(pieces([7] * files), plan) for part in job.slices]
    rule = FilesPerJob(files - plan.units, per_job)
    others = list(make_jobs(rule, without(pieces([7] * files), taken), Cursor(index=number)))
    assert len(others) == rule.count([])
    assert sorted(part.file for part in [*taken, *(part for job in others for part in job.slices)]) == list(
        range(files)
    )
