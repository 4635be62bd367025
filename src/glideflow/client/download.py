# SPDX-License-Identifier: Apache-2.0
"""Write a file that is fetched: it appears under its name when it is complete and right, and never before."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Self

from glideflow.errors import ServiceError, UserError


class NotWritable(UserError):
    """The file cannot be written here."""

    code = "not_writable"


class Damaged(ServiceError):
    """What arrived is not what was expected."""

    code = "damaged"


class Target:
    """A file in the making, beside its final name; removed unless it is completed.

    Args:
        path: Its final name; its folder is made.
        size_bytes: Expected size, if known.
        sha256: Expected checksum, if known.
    """

    def __init__(self, path: Path, size_bytes: int | None = None, sha256: str | None = None) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._expected = (size_bytes, sha256)
        self._digest = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Self:
        """Open the file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Not opened in the constructor, so that nothing is left behind when that fails.
            self._file = self._part.open("xb")
        except OSError as error:
            raise self._not_writable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was not completed."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            NotWritable: The disk is full or the like.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise self._not_writable(error) from error
        self._digest.update(data)
        self._size += len(data)

    def complete(self, url: str) -> None:
        """Check the file and give it its name.

        Raises:
            Damaged: Size or checksum differ.
            NotWritable: The disk is full or the like.
        """
        size_bytes, sha256 = self._expected
        if size_bytes is not None and self._size != size_bytes:
            raise Damaged(f"{url} has {self._size} bytes, not {size_bytes} as expected: try again")
        if sha256 is not None and self._digest.hexdigest() != sha256:
            raise Damaged(f"{url} has another checksum than expected: try again")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._part.replace(self._path)
        except OSError as error:
            raise self._not_writable(error) from error

    def _not_writable(self, error: OSError) -> NotWritable:
        return NotWritable(f"{self._path} cannot be written: {error.strerror}")


def is_same(path: Path, size_bytes: int, sha256: str) -> bool:
    """Return whether a file exists with a size and checksum."""
    if not path.is_file() or path.stat().st_size != size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
