# SPDX-License-Identifier: Apache-2.0
"""Reading orders and refusing names that leave the job's folder."""

import os
from typing import Any

import pytest
from glideflow_pilot.orders import is_safe, read_order
from hypothesis import given, settings
from hypothesis import strategies as st

SMALLEST = {
    "attempt_id": 5,
    "job_id": 4,
    "name": "t[0]",
    "command": "true",
    "cores": 1,
    "memory_mb": 10,
    "disk_mb": 10,
    "wall_seconds": 60,
}


@pytest.mark.parametrize("name", ["a", "a/b.txt", "..a", "a..", "a b", ".hidden", "ünï"])
def test_name_below_the_folder_is_safe(name: str) -> None:
    assert is_safe(name)


@pytest.mark.parametrize("name", ["", "/a", "..", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\0b"])
def test_name_that_may_leave_the_folder_is_not(name: str) -> None:
    assert not is_safe(name)


@settings(deadline=None)
@given(st.text(alphabet="a./\0", max_size=12))
def test_safe_name_stays_below_the_folder(name: str) -> None:
    if is_safe(name):
        assert os.path.normpath(os.path.join("/job", name)).startswith("/job/")


def test_smallest_order_has_no_files() -> None:
    order = read_order(dict(SMALLEST))
    assert (order.sandbox, order.inputs, order.outputs) == ((), (), ())
    assert order.label == "job 4 (t[0]), attempt 5"
    assert order.unsafe_names() == []


def test_every_kind_of_file_is_checked() -> None:
    document: dict[str, Any] = {
        **SMALLEST,
        "sandbox": [{"name": "../s", "sha256": "0", "size_bytes": 1, "executable": False}],
        "inputs": [{"name": "/i", "url": "file:///i"}],
        "outputs": [{"name": "o", "file": "a/../../o", "path": "/storage/o"}],
    }
    assert read_order(document).unsafe_names() == ["../s", "/i", "a/../../o"]


@pytest.mark.parametrize("key", sorted(SMALLEST))
def test_order_without_a_needed_key_is_none(key: str) -> None:
    document = {name: value for name, value in SMALLEST.items() if name != key}
    with pytest.raises(KeyError, match=key):
        read_order(document)
