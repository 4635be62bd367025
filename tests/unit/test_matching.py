# SPDX-License-Identifier: Apache-2.0
"""Which job goes to which pilot."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.identifiers import JobId, PilotId
from glideflow.domain.matching import Demand, Offer, match


def job(number: int, cores: int = 1, site: str | None = None, wall_seconds: int = 100) -> Demand:
    return Demand(
        job_id=JobId(number), cores=cores, memory_mb=100 * cores, disk_mb=10, wall_seconds=wall_seconds,
        pinned_site=site,
    )  # fmt: skip


def offer(name: str, cores: int = 4, want: int = 4, seconds: float = 1000) -> Offer:
    return Offer(
        pilot_id=PilotId(name), site="here", want=want, cores=cores, memory_mb=100 * cores, disk_mb=1000,
        seconds=seconds,
    )  # fmt: skip


def test_jobs_spread_over_the_pilots() -> None:
    pairs = match([job(1), job(2), job(3)], [offer("a"), offer("b")])
    assert pairs == [(1, "a"), (2, "b"), (3, "a")]


def test_the_most_urgent_job_comes_first() -> None:
    assert match([job(2), job(1)], [offer("a", want=1)]) == [(2, "a")]


def test_a_job_that_does_not_fit_does_not_stop_the_next() -> None:
    assert match([job(1, cores=8), job(2)], [offer("a")]) == [(2, "a")]


def test_a_job_of_another_site_is_left() -> None:
    assert match([job(1, site="there"), job(2, site="here")], [offer("a")]) == [(2, "a")]


def test_a_job_that_cannot_finish_in_time_is_left() -> None:
    assert match([job(1, wall_seconds=2000)], [offer("a")]) == []


sizes = st.integers(min_value=1, max_value=8)


@given(cores=st.lists(sizes, max_size=40), rooms=st.lists(st.tuples(sizes, st.integers(0, 6)), min_size=1, max_size=6))
def test_no_pilot_gets_more_than_it_has_or_wants(cores: list[int], rooms: list[tuple[int, int]]) -> None:
    jobs = {JobId(number): job(number, cores=size) for number, size in enumerate(cores)}
    offers = {PilotId(str(at)): offer(str(at), cores=size, want=want) for at, (size, want) in enumerate(rooms)}
    pairs = match(jobs.values(), list(offers.values()))
    assert len({number for number, _ in pairs}) == len(pairs)
    taken: Counter[str] = Counter()
    number_of: Counter[str] = Counter()
    for number, pilot in pairs:
        taken[pilot] += jobs[number].cores
        number_of[pilot] += 1
    for pilot, room in offers.items():
        assert taken[pilot] <= room.cores
        assert number_of[pilot] <= room.want
