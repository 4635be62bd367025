# SPDX-License-Identifier: Apache-2.0
"""Which sites may run a demand, in which order, and why."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.brokerage import Needs, SiteState, jobs_per_pilot, rank, refusal, spread
from glideflow.domain.demand import Demand
from glideflow.domain.identifiers import DemandId, TaskId
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.site import Site


def needs(**more: Any) -> Needs:
    demand = Demand(
        demand_id=DemandId(1), task_id=TaskId(1), leaf=("atlas", "", "ada"), stage="main", priority=0,
        **{"cores": 1, "memory_mb": 1000, "disk_mb": 1000, "wall_seconds": 3600, **more.pop("demand", {})},
    )  # fmt: skip
    return Needs(demand=demand, **more)


def site(name: str = "here", **more: Any) -> Site:
    return Site.model_validate({"name": name, **more})


def state(name: str, *, site_fields: dict[str, Any] | None = None, **more: Any) -> SiteState:
    return SiteState(site=site(name, **(site_fields or {})), **{"room": 8, **more})


def chosen(wanted: Needs, *states: SiteState) -> list[str]:
    return [choice.site for choice in rank(wanted, states) if choice.code is ReasonCode.SITE_CHOSEN]


@pytest.mark.parametrize(
    ("wanted", "fields", "code", "text"),
    [
        (needs(pinned_site="there"), {}, "site_pinned", "the task may only run at there"),
        (
            needs(),
            {"vos": ["belle", "cms"], "users": ["bob"]},
            "site_no_access",
            "only VOs belle, cms and user bob may run jobs there, and the task is ada's of VO atlas",
        ),
        (
            needs(requires=frozenset({"root-6.32", "gpu", "cvmfs"})),
            {"provides": ["cvmfs"]},
            "site_lacks",
            "it does not provide gpu, root-6.32",
        ),
        (
            needs(demand={"cores": 8, "memory_mb": 12000}),
            {},
            "site_too_small",
            "its pilots are too small: cores 1, and a job asks for 8, memory_mb 1000, and a job asks for 12000",
        ),
        (
            needs(demand={"wall_seconds": 90000}),
            {},
            "site_too_small",
            "its pilots are too small: wall_seconds 86320, and a job asks for 90000",
        ),
        (
            needs(input_mb=5200),
            {"max_input_mb": 1000},
            "site_input_limit",
            "a job reads up to 5,200 MB, and the site takes jobs with at most 1,000 MB",
        ),
        (needs(), {"status": "drain"}, "site_not_online", "it takes no new jobs now: its status is drain"),
        (needs(), {"status": "offline"}, "site_not_online", "it takes no new jobs now: its status is offline"),
    ],
)
def test_a_site_is_refused_with_the_reason_and_its_values(
    wanted: Needs, fields: dict[str, Any], code: str, text: str
) -> None:
    (choice,) = rank(wanted, [SiteState(site=site(**fields))])
    assert (choice.code, choice.text, choice.weight) == (code, text, None)


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        (needs(), {}),
        (needs(pinned_site="here"), {}),
        (needs(), {"vos": ["atlas"]}),
        (needs(), {"users": ["ada"], "vos": ["cms"]}),
        (needs(requires=frozenset({"cvmfs"})), {"provides": ["cvmfs", "gpu"]}),
        (needs(input_mb=1000), {"max_input_mb": 1000}),
        (needs(input_mb=None), {"max_input_mb": 1}),
    ],
)
def test_a_site_against_which_nothing_speaks_is_chosen(wanted: Needs, fields: dict[str, Any]) -> None:
    assert refusal(wanted, site(**fields)) is None


def test_what_is_hardest_to_change_is_said_first() -> None:
    closed = site(status="drain", vos=["cms"], provides=[])
    why = refusal(needs(requires=frozenset({"gpu"}), demand={"cores": 9}), closed)
    assert why is not None
    assert (why.code, why.lasting) == (ReasonCode.SITE_NO_ACCESS, True)
    passing = refusal(needs(), site(status="drain"))
    assert passing is not None
    assert not passing.lasting


def test_every_site_gets_a_reason_the_chosen_ones_first() -> None:
    choices = rank(needs(), [state("a", site_fields={"status": "drain"}), state("b"), state("c", idle=1)])
    assert [(choice.site, choice.code.value) for choice in choices] == [
        ("c", "site_chosen"), ("b", "site_chosen"), ("a", "site_not_online"),
    ]  # fmt: skip


def test_the_weight_of_a_chosen_site_is_said_with_its_parts() -> None:
    (choice,) = rank(
        needs(near={"here": 0.5}),
        [state("here", site_fields={"preference": 2}, running=3, queued=1, room=4, attempts=16, failures=5)],
    )
    assert choice.weight == pytest.approx(3.75)
    assert choice.text == (
        "weight 3.75 = preference 2 x input 2.50 (50% of it is near) x load 1.00 (0 pilots free, 3 busy, 1 queued, "
        "room for 4 more, 0 needed for other jobs) x reliability 0.75 (5 of the last 16 attempts failed there)"
    )


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"idle": 1}, {"running": 50, "room": 50}),
        ({"room": 5, "taken": 5}, {"room": 5, "taken": 50}),
        ({"room": 3}, {"room": 0}),
        ({"attempts": 20, "failures": 2}, {"attempts": 20, "failures": 12}),
        ({"attempts": 0, "failures": 0}, {"attempts": 2, "failures": 2}),
        ({"site_fields": {"preference": 1.1}}, {}),
        ({"idle": 3, "taken": 2}, {"idle": 3, "taken": 3}),
    ],
)
def test_the_better_site_comes_first(better: dict[str, Any], worse: dict[str, Any]) -> None:
    assert chosen(needs(), state("worse", **worse), state("better", **better)) == ["better", "worse"]


def test_a_site_with_the_input_near_is_as_good_as_one_with_free_pilots() -> None:
    wanted = needs(near={"near": 1.0, "half": 0.5})
    assert chosen(wanted, state("far"), state("half"), state("near")) == ["near", "half", "far"]
    assert chosen(wanted, state("far", idle=1), state("half")) == ["far", "half"]


def test_of_equal_sites_the_first_in_the_file_comes_first() -> None:
    assert chosen(needs(), state("b"), state("a"), state("c")) == ["b", "a", "c"]


def test_jobs_go_elsewhere_unless_there_is_no_other_site() -> None:
    wanted = needs(demand={"avoid_sites": ("bad",)})
    choices = rank(wanted, [state("bad"), state("good")])
    assert [(choice.site, choice.code.value) for choice in choices] == [
        ("good", "site_chosen"),
        ("bad", "site_avoided"),
    ]
    (only, other) = rank(wanted, [state("bad"), state("small", site_fields={"vos": ["cms"]})])
    assert (only.site, only.code) == ("bad", ReasonCode.SITE_CHOSEN)
    assert only.text.endswith("its jobs failed there before, but no other site can run them")
    assert other.code is ReasonCode.SITE_NO_ACCESS
    # A site that will be back is worth waiting for.
    assert chosen(wanted, state("bad"), state("down", site_fields={"status": "offline"})) == []


def test_jobs_per_pilot_are_limited_by_what_is_scarcest() -> None:
    large = site(cores=8, memory_mb=16000, disk_mb=100_000)
    assert jobs_per_pilot(needs(demand={"cores": 2, "memory_mb": 5000}).demand, large) == 3
    assert jobs_per_pilot(needs(demand={"cores": 16}).demand, large) == 1


def promised(states: list[SiteState]) -> dict[str, int]:
    return {one.site.name: one.promised_jobs for one in states}


def spread_over(states: list[SiteState], ready: int, wanted: Needs | None = None) -> dict[str, int]:
    spread(wanted or needs(), ready, {one.site.name: one for one in states})
    return promised(states)


def test_a_demand_is_promised_once_and_not_to_each_site() -> None:
    assert spread_over([state("a", room=4), state("b", room=8)], 6) == {"a": 4, "b": 2}


def test_free_pilots_get_jobs_before_others_are_sent() -> None:
    states = [state("best", site_fields={"preference": 100}), state("idle", idle=3)]
    assert spread_over(states, 5) == {"best": 2, "idle": 3}


def test_what_nobody_has_room_for_waits_for_the_best_site() -> None:
    assert spread_over([state("a", room=2, site_fields={"preference": 9}), state("b", room=1)], 10) == {"a": 9, "b": 1}


def test_jobs_that_share_a_pilot_need_fewer() -> None:
    wide = {"cores": 8, "memory_mb": 8000, "disk_mb": 8000}
    states = [state("wide", room=2, site_fields={**wide, "preference": 9}), state("b", room=9)]
    assert spread_over(states, 20) == {"wide": 16, "b": 4}
    assert states[0].taken == 2


def test_the_next_demand_sees_what_was_promised_before() -> None:
    states = [state("a", room=4), state("b", room=4)]
    assert spread_over(states, 4) == {"a": 4, "b": 0}
    assert spread_over(states, 4) == {"a": 4, "b": 4}


def test_a_demand_that_no_site_may_run_is_promised_to_none() -> None:
    assert spread_over([state("a")], 5, needs(pinned_site="elsewhere")) == {"a": 0}


numbers = st.integers(0, 30)
states_of = st.builds(
    lambda fields, kind: [
        state(
            f"s{at}", site_fields=kind, idle=idle, running=running, queued=queued, room=room, failures=failed,
            attempts=failed + running,
        )
        for at, (idle, running, queued, room, failed) in enumerate(fields)
    ],
    st.lists(st.tuples(numbers, numbers, numbers, numbers, numbers), min_size=1, max_size=5),
    st.sampled_from([{}, {"cores": 4, "memory_mb": 9000}, {"status": "drain"}, {"vos": ["cms"]}]),
)  # fmt: skip


@given(states=states_of, ready=st.integers(0, 200))
def test_each_job_is_promised_to_one_site_that_may_run_it(states: list[SiteState], ready: int) -> None:
    choices = spread(needs(), ready, {one.site.name: one for one in states})
    assert sorted(choice.site for choice in choices) == sorted(one.site.name for one in states)
    able = {choice.site for choice in choices if choice.code is ReasonCode.SITE_CHOSEN}
    assert sum(promised(states).values()) == (ready if able else 0)
    assert all(choice.text for choice in choices)
    assert all(number == 0 or name in able for name, number in promised(states).items())
    weights = [choice.weight for choice in choices if choice.weight is not None]
    assert weights == sorted(weights, reverse=True)
    assert all(weight > 0 for weight in weights)
