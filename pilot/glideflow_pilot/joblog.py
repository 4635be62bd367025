# SPDX-License-Identifier: Apache-2.0
"""What a payload prints: the first part in a file, of the rest the last lines in memory, and its way to the server."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Optional, Union

from glideflow_pilot.endpoint import Endpoint, Refused

TAIL_BYTES = 64 * 1024
CHUNK_BYTES = 1024 * 1024
_LINE_BYTES = 128


class JobLog:
    """The log of one attempt; written by the payload's thread, uploaded by it and by the courier."""

    def __init__(self, path: Path, attempt_id: int, limit_bytes: int) -> None:
        """Make no file yet: many payloads print nothing.

        Args:
            path: The file for the first part.
            attempt_id: The attempt.
            limit_bytes: Most bytes kept in all.
        """
        self._path = path
        self._attempt_id = attempt_id
        self._tail_bytes = max(1, min(TAIL_BYTES, limit_bytes // 4))
        self._head_left = max(0, limit_bytes - self._tail_bytes - _LINE_BYTES)
        self._ring = bytearray()
        self._beyond = 0
        self._file: Optional[int] = None
        self._sent = 0
        self._lock = threading.Lock()
        self.size_bytes = 0
        """Bytes in the file, which is what the server gets."""

    def write(self, data: memoryview) -> None:
        """Take what was printed; never blocks, never fails, and keeps no reference to the data."""
        if self._head_left > 0:
            head = data[: self._head_left]
            if self._append(head):
                self._head_left -= len(head)
                data = data[len(head) :]
            else:
                # The disk is full: what follows, the explanation most of all, is kept in memory.
                self._head_left = 0
        if data:
            self._keep_end(data)

    def _keep_end(self, data: memoryview) -> None:
        """Write to the ring, in place: nothing is allocated however much is printed."""
        size = self._tail_bytes
        self._ring = self._ring or bytearray(size)
        at = self._beyond % size
        self._beyond += len(data)
        if len(data) > size:
            at, data = self._beyond % size, data[-size:]
        first = min(len(data), size - at)
        self._ring[at : at + first] = data[:first]
        self._ring[: len(data) - first] = data[first:]

    def finish(self, last_line: str = "") -> None:
        """Put the kept end behind the first part, with a line on what was dropped between them."""
        if self._beyond:
            at = self._beyond % self._tail_bytes
            dropped = max(0, self._beyond - self._tail_bytes)
            end = bytes(self._ring[at:] + self._ring[:at]) if dropped else bytes(self._ring[: self._beyond])
            if dropped:
                end = f"\n[glideflow: {dropped} bytes were dropped here]\n".encode() + end
            self._append(end)
            self._ring, self._beyond = bytearray(), 0
        if last_line:
            self._append(f"[glideflow: {last_line}]\n".encode("utf-8", "replace"))

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            os.unlink(self._path)

    @property
    def is_unsent(self) -> bool:
        """Whether the server lacks something."""
        return self._sent < self.size_bytes

    def upload(self, endpoint: Endpoint) -> None:
        """Send what the server lacks, in chunks by offset.

        Raises:
            Unreachable: The server does not answer; call again to go on.
            Refused: It does not take the log.
        """
        with self._lock:
            corrections = 0
            while self._file is not None and self.is_unsent:
                data = os.pread(self._file, min(CHUNK_BYTES, self.size_bytes - self._sent), self._sent)
                path = f"/pilot/v1/attempts/{self._attempt_id}/log?offset={self._sent}"
                try:
                    answer = endpoint.send("PUT", path, data, {"Content-Type": "application/octet-stream"})
                    has = answer.get("size_bytes")
                    self._sent = has if isinstance(has, int) and has > self._sent else self._sent + len(data)
                except Refused as error:
                    has = error.document.get("size_bytes")
                    corrections += 1
                    if error.status != 409 or not isinstance(has, int) or corrections > 3:
                        raise
                    self._sent = has

    def _append(self, data: Union[bytes, memoryview]) -> bool:
        """Write to the file; returns False when the disk does not take it."""
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            written = os.write(self._file, data)
        except OSError:
            return False
        self.size_bytes += written
        return written == len(data)
