# SPDX-License-Identifier: Apache-2.0
"""What is kept of a payload's output."""

import re
from pathlib import Path
from typing import Any

import pytest
from glideflow_pilot.endpoint import Refused, Unreachable
from glideflow_pilot.joblog import JobLog
from hypothesis import given, settings
from hypothesis import strategies as st


class Store:
    """The server's side of a log, as the contract has it."""

    def __init__(self) -> None:
        self.data = b""
        self.trouble: list[Exception] = []

    def send(self, method: str, path: str, data: Any, headers: Any) -> dict[str, Any]:
        if self.trouble:
            raise self.trouble.pop()
        offset = int(path.rsplit("=", 1)[1])
        if offset > len(self.data):
            raise Refused(409, "beyond the end", "offset", {"size_bytes": len(self.data)})
        self.data = self.data[:offset] + bytes(data)
        return {"size_bytes": len(self.data)}


def kept(folder: Path, parts: list[bytes], limit_bytes: int, last_line: str = "") -> bytes:
    log, store = JobLog(folder / "log", 1, limit_bytes), Store()
    for part in parts:
        log.write(memoryview(part))
    log.finish(last_line)
    log.upload(store)  # type: ignore[arg-type]
    log.close()
    assert len(store.data) == log.size_bytes
    assert not (folder / "log").exists()
    return store.data


@settings(deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=40), st.integers(200, 4000))
def test_log_is_whole_or_has_both_ends_and_the_number_of_dropped_bytes(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], limit_bytes: int
) -> None:
    printed = b"".join(part.replace(b"[", b"(") for part in parts)
    log = kept(tmp_path_factory.mktemp("log"), [part.replace(b"[", b"(") for part in parts], limit_bytes)
    assert len(log) <= limit_bytes
    marker = re.search(rb"\n\[glideflow: (\d+) bytes were dropped here\]\n", log)
    if marker is None:
        assert log == printed
    else:
        head, tail = log[: marker.start()], log[marker.end() :]
        assert printed.startswith(head)
        assert printed.endswith(tail)
        assert len(head) + int(marker[1]) + len(tail) == len(printed)


def test_one_piece_larger_than_everything_is_cut(tmp_path: Path) -> None:
    log = kept(tmp_path, [b"a" * 5000 + b"END"], 1000)
    assert log.startswith(b"aaa")
    assert log.endswith(b"aEND")


def test_silent_payload_makes_no_file(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "log", 1, 1000)
    log.finish()
    assert not (tmp_path / "log").exists()
    assert not log.is_unsent
    log.close()


def test_last_line_says_what_the_command_could_not(tmp_path: Path) -> None:
    assert kept(tmp_path, [b"x\n"], 1000, "it was ended") == b"x\n[glideflow: it was ended]\n"


def test_upload_goes_on_after_trouble(tmp_path: Path) -> None:
    log, store = JobLog(tmp_path / "log", 1, 1000), Store()
    log.write(memoryview(b"one\n"))
    store.trouble.append(Unreachable("gone"))
    with pytest.raises(Unreachable):
        log.upload(store)  # type: ignore[arg-type]
    log.write(memoryview(b"two\n"))
    log.upload(store)  # type: ignore[arg-type]
    assert store.data == b"one\ntwo\n"
    log.close()


def test_upload_starts_again_where_the_server_says(tmp_path: Path) -> None:
    log, store = JobLog(tmp_path / "log", 1, 1000), Store()
    log.write(memoryview(b"one\n"))
    log.upload(store)  # type: ignore[arg-type]
    store.data = b"o"
    log.write(memoryview(b"two\n"))
    log.upload(store)  # type: ignore[arg-type]
    assert store.data == b"one\ntwo\n"
    log.close()


def test_folder_that_takes_nothing_keeps_the_end_in_memory(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "gone" / "log", 1, 1000)
    log.write(memoryview(b"x" * 5000))
    log.finish("the disk is full")
    assert log.size_bytes == 0
    log.close()
