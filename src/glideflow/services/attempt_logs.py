# SPDX-License-Identifier: Apache-2.0
"""What payloads print: one file per attempt, written in chunks by offset while the payload runs."""

import os
from pathlib import Path

from glideflow.domain.identifiers import AttemptId
from glideflow.errors import UserError


class LogGap(UserError):
    """A chunk does not follow what is there; the sender goes on from the size that it is told."""

    code = "log_gap"
    status = 409

    def __init__(self, attempt_id: AttemptId, offset: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        super().__init__(f"the log of attempt {attempt_id} has {size_bytes} bytes, so a chunk at {offset} leaves a gap")


class LogTooLarge(UserError):
    """A log is longer than the instance keeps."""

    code = "too_large"
    status = 413


def log_file(folder: Path, attempt_id: int) -> Path:
    """Return the log of an attempt, whether it exists or not."""
    return folder / f"{attempt_id}.log"


def append_log(folder: Path, attempt_id: AttemptId, offset: int, chunk: bytes, limit_bytes: int) -> int:
    """Write a chunk at its offset; one that is there already is not written again.

    Args:
        folder: Where logs are.
        attempt_id: Whose log.
        offset: Where the chunk begins, bytes.
        chunk: What was printed.
        limit_bytes: Largest log.

    Returns:
        The log's size.

    Raises:
        LogGap: The chunk begins beyond the end.
        LogTooLarge: The log would be longer than the limit.
    """
    if offset < 0 or offset + len(chunk) > limit_bytes:
        raise LogTooLarge(f"the log of attempt {attempt_id} is limited to {limit_bytes} bytes")
    descriptor = os.open(log_file(folder, attempt_id), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if offset > size:
            raise LogGap(attempt_id, offset, size)
        fresh = chunk[size - offset :]
        if fresh:
            os.pwrite(descriptor, fresh, size)
        return size + len(fresh)
    finally:
        os.close(descriptor)


def read_log(folder: Path, attempt_id: int, offset: int, limit_bytes: int) -> bytes:
    """Return a part of an attempt's log.

    Args:
        folder: Where logs are.
        attempt_id: Whose log.
        offset: First byte; a negative one counts from the end.
        limit_bytes: Most bytes.

    Returns:
        The bytes; empty where nothing was printed yet.
    """
    try:
        with log_file(folder, attempt_id).open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(end + offset, 0) if offset < 0 else offset)
            return stream.read(limit_bytes)
    except FileNotFoundError:
        return b""
