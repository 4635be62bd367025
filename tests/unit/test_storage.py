# SPDX-License-Identifier: Apache-2.0
"""The embedded storage: complete objects below one folder, and nothing outside."""

import hashlib
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.errors import NotFound
from glideflow.services.storage import BadPath, ChecksumMismatch, Storage, missing_sandboxes, sandbox_path


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


def put(storage: Storage, path: str, content: bytes, announced: bytes | None = None) -> None:
    with storage.receive(path) as incoming:
        incoming.write(content)
        incoming.complete(hashlib.sha256(content if announced is None else announced).hexdigest())


def test_an_object_is_measured_while_it_arrives(storage: Storage) -> None:
    with storage.receive("tasks/1/2/a.txt") as incoming:
        incoming.write(b"one\ntwo")
        incoming.write(b"\nthree")
        stored = incoming.complete(None)
    content = b"one\ntwo\nthree"
    assert (stored.size_bytes, stored.lines) == (13, 3)
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert stored.adler32 == f"{zlib.adler32(content):08x}"
    assert storage.existing("tasks/1/2/a.txt").read_bytes() == content


def test_an_empty_object_has_no_lines(storage: Storage) -> None:
    with storage.receive("empty") as incoming:
        assert incoming.complete(None).lines == 0


def test_an_object_is_not_there_before_it_is_complete(storage: Storage) -> None:
    with storage.receive("a") as incoming:
        incoming.write(b"half")
        assert storage.size("a") is None
    assert storage.size("a") is None
    assert list(storage.root.iterdir()) == []


def test_wrong_bytes_are_refused_and_leave_nothing(storage: Storage) -> None:
    with pytest.raises(ChecksumMismatch, match="4 bytes"):
        put(storage, "a", b"evil", announced=b"good")
    assert list(storage.root.iterdir()) == []


def test_a_complete_object_survives_a_failed_second_try(storage: Storage) -> None:
    put(storage, "a", b"good")
    with pytest.raises(ChecksumMismatch):
        put(storage, "a", b"bad", announced=b"good")
    assert storage.existing("a").read_bytes() == b"good"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\x00b", "a\nb", "a/"])
def test_a_path_that_leads_elsewhere_is_refused(storage: Storage, path: str) -> None:
    with pytest.raises(BadPath):
        storage.locate(path)


@given(path=st.text(max_size=60))
def test_no_path_leaves_the_folder(path: str) -> None:
    root = Path("/storage-of-a-test")
    storage = Storage.__new__(Storage)
    storage.root = root
    try:
        found = storage.locate(path)
    except BadPath:
        return
    assert root in found.parents
    assert ".." not in found.parts


def test_what_is_not_there_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound, match="nothing/here"):
        storage.existing("nothing/here")


def test_sandbox_files_that_were_not_uploaded_are_named(storage: Storage) -> None:
    known = hashlib.sha256(b"x").hexdigest()
    put(storage, sandbox_path(known), b"x")
    assert missing_sandboxes(storage, [known, "f" * 64]) == ["f" * 64]
