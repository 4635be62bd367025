# SPDX-License-Identifier: Apache-2.0
"""Logs in chunks: no byte twice, no gap, no more than the limit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.identifiers import AttemptId
from glideflow.services.attempt_logs import LogGap, LogTooLarge, append_log, read_log

ONE = AttemptId(1)


def test_a_gap_is_refused_with_the_size_to_go_on_from(tmp_path: Path) -> None:
    append_log(tmp_path, ONE, 0, b"abc", 100)
    with pytest.raises(LogGap) as caught:
        append_log(tmp_path, ONE, 5, b"x", 100)
    assert caught.value.size_bytes == 3


def test_a_log_has_a_limit(tmp_path: Path) -> None:
    with pytest.raises(LogTooLarge):
        append_log(tmp_path, ONE, 90, b"x" * 11, 100)


def test_a_part_can_be_read_from_both_ends(tmp_path: Path) -> None:
    append_log(tmp_path, ONE, 0, b"0123456789", 100)
    assert read_log(tmp_path, 1, 3, 4) == b"3456"
    assert read_log(tmp_path, 1, -2, 100) == b"89"
    assert read_log(tmp_path, 1, -50, 100) == b"0123456789"
    assert read_log(tmp_path, 1, 50, 100) == b""
    assert read_log(tmp_path, 2, 0, 100) == b""


@given(text=st.binary(min_size=1, max_size=60), cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))))
def test_chunks_sent_twice_and_overlapping_give_the_text_once(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cuts: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    size = 0
    for first, length in cuts:
        offset = min(first, size)
        size = append_log(folder, ONE, offset, text[offset : offset + length], 100)
    append_log(folder, ONE, size, text[size:], 100)
    assert read_log(folder, 1, 0, 100) == text
