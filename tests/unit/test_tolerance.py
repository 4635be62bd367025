# SPDX-License-Identifier: Apache-2.0
"""How many jobs may fail before their task does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.tolerance import Tolerance, tolerates


@pytest.mark.parametrize(
    ("percent", "total", "allowed"),
    [(2, 100, 2), (2, 99, 1), (0.7, 1000, 7), (0, 10, 0), (100, 10, 10), (33.3, 3, 0), (33.4, 3, 1), (0.1, 1, 0)],
)
def test_percentages_are_rounded_down_to_whole_jobs(percent: float, total: int, allowed: int) -> None:
    assert Tolerance(failed_percent=percent).allowed(total) == allowed


@pytest.mark.parametrize(
    ("counts", "without", "two"),
    [
        ({"done": 5}, True, True),
        ({"done": 4, "failed": 1}, False, True),
        ({"done": 3, "failed": 2}, False, True),
        ({"done": 2, "failed": 3}, False, False),
        ({"done": 4, "cancelled": 1}, False, False),
        ({"done": 3, "failed": 1, "cancelled": 1}, False, False),
        ({"failed": 2}, False, False),
        ({}, True, True),
    ],
)
def test_only_failed_jobs_are_tolerated_and_never_all(counts: dict[str, int], without: bool, two: bool) -> None:
    assert tolerates(None, counts) is without
    assert tolerates(Tolerance(failed_jobs=2), counts) is two


@given(st.floats(0, 100), st.integers(0, 1_000_000))
def test_no_percentage_allows_more_than_its_share(percent: float, total: int) -> None:
    allowed = Tolerance(failed_percent=percent).allowed(total)
    assert 0 <= allowed <= total
    assert allowed <= percent * total / 100 + 1e-6
