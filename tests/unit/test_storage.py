# SPDX-License-Identifier: Apache-2.0
"""The embedded storage: complete objects below one folder, and nothing outside."""

import hashlib
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.errors import NotFound
from glideflow.services.storage import (
    BadPath,
    ChecksumMismatch,
    Limit,
    Storage,
    TooLarge,
    missing_sandboxes,
    sandbox_path,
)


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


def test_more_than_the_limit_is_refused_as_soon_as_it_came_and_leaves_nothing(storage: Storage) -> None:
    limit = Limit(size_bytes=4, remedy="write less")
    with storage.receive("a", limit) as incoming:
        incoming.write(b"1234")
        assert incoming.complete(None).size_bytes == 4
    with storage.receive("b", limit) as incoming:
        incoming.write(b"1234")
        with pytest.raises(TooLarge, match="b is larger than 4 bytes, the most that one file may have: write less"):
            incoming.write(b"5")
    assert [path.name for path in storage.root.iterdir()] == ["a"]


def test_a_complete_object_and_the_way_to_it_are_on_the_disk(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(storage.root)
        # A folder is synced when the new name is in it already.
        names = sorted(each.name for each in (storage.root / path).iterdir()) if (storage.root / path).is_dir() else []
        synced.append(f"{path}: {' '.join(names)}" if names else path.suffix)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    put(storage, "tasks/1/2/a", b"x")
    assert synced == [".part", "tasks/1/2: a", "tasks/1: 2", "tasks: 1", ".: tasks"]
    synced.clear()
    put(storage, "tasks/1/2/b", b"x")
    put(storage, "tasks/1/3/c", b"x")
    assert synced == [".part", "tasks/1/2: a b", ".part", "tasks/1/3: c", "tasks/1: 2 3"]


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
