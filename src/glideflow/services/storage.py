# SPDX-License-Identifier: Apache-2.0
"""The embedded storage and the content-addressed sandboxes: files below the home, complete or not there at all."""

import hashlib
import os
import secrets
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self

from glideflow.errors import NotFound, UserError

_MAX_PATH = 1024
_MOST_REMEMBERED = 10_000


class BadPath(UserError):
    """A path that does not stay inside the storage."""

    code = "bad_path"


class ChecksumMismatch(UserError):
    """The bytes that arrived are not the ones that were announced."""

    code = "checksum_mismatch"
    status = 422


class TooLarge(UserError):
    """More bytes than the storage takes for one object."""

    code = "too_large"
    status = 413

    def __init__(self, name: str, limit_bytes: int, remedy: str) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"{name} is larger than {limit_bytes} bytes, the most that one file may have: {remedy}")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How large an object may be."""

    size_bytes: int
    """The most."""
    remedy: str
    """What to do about a larger one."""

    def check(self, name: str, size_bytes: int) -> None:
        """Refuse an object that is, or is announced as, larger.

        Raises:
            TooLarge: It is.
        """
        if size_bytes > self.size_bytes:
            raise TooLarge(name, self.size_bytes, self.remedy)


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """A complete object of the storage."""

    path: str
    """Relative path, without `/storage/`."""
    size_bytes: int
    """Size."""
    sha256: str
    """Checksum, hexadecimal."""
    adler32: str
    """Checksum as grid storages use it, eight hexadecimal digits."""
    lines: int
    """Lines of text; a last one without a newline counts."""


class Storage:
    """Files below one folder.

    Args:
        root: The folder; it is made when it is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._durable: set[Path] = set()

    def locate(self, path: str) -> Path:
        """Return where an object is, or would be.

        Raises:
            BadPath: The path is empty, too long, absolute, or leads outside.
        """
        pure = PurePosixPath(path)
        bad = (
            not path
            or len(path) > _MAX_PATH
            or pure.is_absolute()
            or any(part in ("..", ".") for part in path.split("/"))
            or not path.isprintable()
            or str(pure) != path
        )
        if bad:
            raise BadPath(f"{path[:200]!r} is no path inside the storage: use relative names without `.` and `..`")
        return self.root / path

    def existing(self, path: str) -> Path:
        """Return where an object is.

        Raises:
            NotFound: There is no such object.
        """
        found = self.locate(path)
        if not found.is_file():
            raise NotFound("object in the storage:", path)
        return found

    def size(self, path: str) -> int | None:
        """Return an object's size on disk, or None when it is not there."""
        try:
            return self.locate(path).stat().st_size
        except FileNotFoundError:
            return None

    def receive(self, path: str, limit: Limit | None = None) -> "Incoming":
        """Start to write an object; it appears under its name when it is complete.

        Args:
            path: Its path in the storage.
            limit: How large it may be; None for what we write ourselves.
        """
        return Incoming(self, path, limit)

    def persist(self, folder: Path) -> None:
        """Return when the names in a folder, and the folder's own way from the root, outlive a power cut.

        Args:
            folder: A folder of the storage.
        """
        _sync(folder)
        above = []
        while folder != self.root and folder not in self._durable:
            above.append(folder)
            folder = folder.parent
            _sync(folder)
        with self._lock:
            if len(self._durable) > _MOST_REMEMBERED:
                self._durable.clear()
            self._durable.update(above)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Incoming:
    """An object on its way in: written beside its place, measured on the way, renamed at the end."""

    def __init__(self, storage: Storage, path: str, limit: Limit | None) -> None:
        self._storage = storage
        self._target = target = storage.locate(path)
        self._path = path
        self._limit = limit
        self._sha256 = hashlib.sha256()
        self._adler32 = 1
        self._size = 0
        self._newlines = 0
        self._last = b"\n"
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._partial = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.part")
        self._stream: BinaryIO = self._partial.open("wb")

    def __enter__(self) -> Self:
        """Nothing more to prepare."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove what was not completed."""
        self._stream.close()
        self._partial.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            TooLarge: There are more than the limit says; the object will not be stored.
        """
        if self._limit is not None:
            self._limit.check(self._path, self._size + len(chunk))
        self._stream.write(chunk)
        self._sha256.update(chunk)
        self._adler32 = zlib.adler32(chunk, self._adler32)
        self._size += len(chunk)
        self._newlines += chunk.count(b"\n")
        if chunk:
            self._last = chunk[-1:]

    def complete(self, sha256: str | None) -> StoredObject:
        """Check the bytes and give the object its name; it is there for good when this returns.

        Args:
            sha256: What the sender announced; None skips the check.

        Raises:
            ChecksumMismatch: Something else arrived; nothing is stored.
        """
        actual = self._sha256.hexdigest()
        if sha256 is not None and sha256.lower() != actual:
            raise ChecksumMismatch(
                f"{self._path}: {self._size} bytes with SHA-256 {actual} arrived, {sha256} was announced: send it again"
            )
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._partial.rename(self._target)
        self._storage.persist(self._target.parent)
        return StoredObject(
            path=self._path,
            size_bytes=self._size,
            sha256=actual,
            adler32=f"{self._adler32:08x}",
            lines=self._newlines + (self._last != b"\n"),
        )


def sandbox_path(sha256: str) -> str:
    """Return where a sandbox file of a checksum is kept, relative to the sandboxes' folder."""
    return f"{sha256[:2]}/{sha256}"


def missing_sandboxes(sandboxes: Storage, checksums: Iterable[str]) -> list[str]:
    """Return those of some checksums for which no file was uploaded."""
    return [checksum for checksum in checksums if sandboxes.size(sandbox_path(checksum)) is None]
