# SPDX-License-Identifier: Apache-2.0
"""Names of input files in a job's folder."""

from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.naming import unique_names

PARTS = st.sampled_from(["a", "b", "-c", "2-a", "a_b"])


def test_base_names_stay_when_they_differ() -> None:
    assert unique_names([("d", "x"), ("d", "y")]) == ["x", "y"]


def test_folders_come_in_front_only_where_needed() -> None:
    assert unique_names([("1", "d", "x"), ("2", "d", "x"), ("d", "y")]) == ["1_d_x", "2_d_x", "y"]


def test_taken_names_are_avoided() -> None:
    assert unique_names([("d", "x"), ("x",)], taken=["x"]) == ["d_x", "2-x"]


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4), max_size=12), st.sets(PARTS))
def test_names_are_always_different(paths: list[list[str]], taken: set[str]) -> None:
    names = unique_names(paths, taken)
    assert len(names) == len(paths)
    assert len(set(names) | taken) == len(names) + len(taken)
    assert not any(name.startswith("-") for name in names)
