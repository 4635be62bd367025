# SPDX-License-Identifier: Apache-2.0
"""The embedded storage and the content-addressed sandboxes: files below the home, complete or not there at all."""

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self

from glideflow.errors import NotFound, UserError

_MAX_PATH = 1024


class BadPath(UserError):
    """A path that does not stay inside the storage."""

    code = "bad_path"


class ChecksumMismatch(UserError):
    """The bytes that arrived are not the ones that were announced."""

    code = "checksum_mismatch"
    status = 422


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

    def receive(self, path: str) -> "Incoming":
        """Start to write an object; it appears under its name when it is complete."""
        return Incoming(self.locate(path), path)


class Incoming:
    """An object on its way in: written beside its place, measured on the way, renamed at the end."""

    def __init__(self, target: Path, path: str) -> None:
        self._target = target
        self._path = path
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
        """Append bytes."""
        self._stream.write(chunk)
        self._sha256.update(chunk)
        self._adler32 = zlib.adler32(chunk, self._adler32)
        self._size += len(chunk)
        self._newlines += chunk.count(b"\n")
        if chunk:
            self._last = chunk[-1:]

    def complete(self, sha256: str | None) -> StoredObject:
        """Check the bytes and give the object its name.

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
