# SPDX-License-Identifier: Apache-2.0
"""The number of pilots a site gets, and the reasons."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.provisioning import AT_ONCE, FEW_ENDS, SiteView, decide, room
from glideflow.domain.site import Site

WIDE = Site(name="wide", max_pilots=10_000, max_queued=10_000, max_per_cycle=10_000)
QUIET = SiteView()


def ready(jobs: int, cores: int | None = None) -> SiteView:
    """A site with nothing but ready jobs."""
    return replace(QUIET, ready_jobs=jobs, ready_cores=jobs if cores is None else cores)


def test_no_ready_job_sends_no_pilot_and_says_so() -> None:
    decision = decide(WIDE, QUIET)
    assert (decision.n, decision.reasons) == (0, ("no ready job is meant for the site",))


def test_jobs_that_are_meant_for_better_sites_send_no_pilot() -> None:
    decision = decide(WIDE, replace(QUIET, other_jobs=3))
    assert decision.reasons == ("no ready job is meant for the site: better sites have pilots for 3 jobs",)


@pytest.mark.parametrize(
    ("limits", "view", "left"),
    [
        ({}, QUIET, 10_000),
        ({"max_pilots": 9}, replace(QUIET, running=5, idle=1), 3),
        ({"max_queued": 4}, replace(QUIET, queued=3), 1),
        ({"max_held": 2}, replace(QUIET, held=3), 0),
        ({}, replace(QUIET, recent_ends=8, recent_short_failures=8), 1),
        ({"status": "drain"}, QUIET, 0),
        ({}, replace(QUIET, stale=True), 0),
    ],
)
def test_the_room_is_what_the_limits_leave(limits: dict[str, Any], view: SiteView, left: int) -> None:
    assert room(WIDE.model_copy(update=limits), view) == left


def test_a_small_demand_is_met_at_once() -> None:
    decision = decide(WIDE, ready(AT_ONCE))
    assert decision.n == AT_ONCE
    assert decision.reasons == ("20 ready jobs of 20 cores fill 20 pilots",)


def test_a_single_job_gets_a_pilot() -> None:
    assert str(decide(WIDE, ready(1))) == "1: 1 ready job of 1 core fill 1 pilot"


def test_a_large_demand_is_met_in_parts() -> None:
    decision = decide(WIDE, ready(320))
    assert decision.n == AT_ONCE + 100
    assert decision.reasons[-1] == "120 of 320 in this cycle"


def test_several_jobs_share_a_pilot_of_many_cores() -> None:
    site = WIDE.model_copy(update={"cores": 8})
    assert decide(site, ready(20)).n == 3


def test_a_job_of_few_cores_never_gets_more_than_one_pilot() -> None:
    assert decide(WIDE, ready(1, cores=64)).n == 1


def test_pilots_on_their_way_and_idle_ones_count() -> None:
    view = replace(ready(10), queued=3, idle=4, running=5)
    decision = decide(WIDE, view)
    assert decision.n == 3
    assert decision.reasons[-1] == "3 queued and 4 idle are there for them, so 3 more"


def test_enough_pilots_on_their_way_send_none() -> None:
    assert decide(WIDE, replace(ready(3), queued=5)).n == 0


@pytest.mark.parametrize(
    ("limits", "view", "n", "reason"),
    [
        ({"max_pilots": 8}, replace(ready(9), running=6), 2, "max_pilots 8 leaves room for 2"),
        ({"max_pilots": 8}, replace(ready(9), running=9), 0, "max_pilots 8 leaves room for 0"),
        ({"max_queued": 4}, replace(ready(9), queued=1), 3, "max_queued 4 leaves room for 3"),
        ({"max_per_cycle": 2}, ready(9), 2, "max_per_cycle is 2"),
        ({"max_held": 5}, replace(ready(9), held=6), 0, "6 pilots held, more than max_held 5"),
        ({"status": "drain"}, ready(9), 0, "the status of the site is drain"),
    ],
)
def test_each_limit_of_the_site_is_kept_and_named(limits: dict[str, int], view: SiteView, n: int, reason: str) -> None:
    decision = decide(WIDE.model_copy(update=limits), view)
    assert decision.n == n
    assert reason in decision.reasons[-1]


def test_as_many_held_pilots_as_allowed_do_not_stop_it() -> None:
    assert decide(WIDE, replace(ready(2), held=WIDE.max_held)).n == 2


def test_one_pilot_at_a_time_while_most_fail_early() -> None:
    failing = replace(ready(9), recent_ends=10, recent_short_failures=6)
    assert decide(WIDE, failing).n == 1
    assert decide(WIDE, replace(failing, queued=1)).n == 0


def test_a_few_early_failures_are_no_reason_to_slow_down() -> None:
    assert decide(WIDE, replace(ready(9), recent_ends=10, recent_short_failures=5)).n == 9
    few = FEW_ENDS - 1
    assert decide(WIDE, replace(ready(9), recent_ends=few, recent_short_failures=few)).n == 9


def test_stale_numbers_send_nothing() -> None:
    decision = decide(WIDE, replace(ready(9), stale=True))
    assert decision.n == 0
    assert "old numbers" in decision.reasons[0]


@given(
    view=st.builds(
        SiteView,
        ready_jobs=st.integers(0, 10**6),
        ready_cores=st.integers(0, 10**7),
        queued=st.integers(0, 500),
        idle=st.integers(0, 500),
        running=st.integers(0, 500),
        held=st.integers(0, 20),
        recent_ends=st.integers(0, 50),
        recent_short_failures=st.integers(0, 50),
        stale=st.booleans(),
    ),
    limits=st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(1, 300)),
)
def test_no_limit_is_ever_exceeded_and_every_answer_has_a_reason(view: SiteView, limits: tuple[int, int, int]) -> None:
    pilots, queued, cycle = limits
    site = Site(name="any", cores=4, max_pilots=pilots, max_queued=queued, max_per_cycle=cycle)
    decision = decide(site, view)
    assert 0 <= decision.n <= min(cycle, view.ready_jobs)
    assert decision.n == 0 or view.queued + view.idle + view.running + decision.n <= pilots
    assert decision.n == 0 or view.queued + decision.n <= queued
    assert decision.reasons
