# SPDX-License-Identifier: Apache-2.0
"""The pilot's own log: plain sentences with times on stderr, bounded, its last lines kept for the good-bye."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Deque

# Stderr travels home through the batch system, so it must not grow with the number of jobs.
STDERR_LIMIT_BYTES = 2_000_000
TAIL_LINES = 200
TAIL_CHARACTERS = 50_000


class PilotLog:
    """Writes sentences to stderr until the limit, and remembers the last ones."""

    def __init__(self, descriptor: int = 2, limit_bytes: int = STDERR_LIMIT_BYTES) -> None:
        """Write to a file descriptor, at most `limit_bytes`."""
        self._descriptor = descriptor
        self._left = limit_bytes
        self._tail: Deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()

    def say(self, sentence: str) -> None:
        """Write one sentence with the time in UTC."""
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {sentence}"
        with self._lock:
            self._tail.append(line)
            if self._left <= 0:
                return
            data = (line + "\n").encode("utf-8", "replace")
            self._left -= len(data)
            if self._left <= 0:
                data += b"(more lines are not written here; the last ones go to the server)\n"
            try:
                os.write(self._descriptor, data)
            except OSError:
                # Nobody reads it any more; the tail still goes to the server.
                self._left = 0

    def tail(self) -> str:
        """Return the last lines."""
        with self._lock:
            return "\n".join(self._tail)[-TAIL_CHARACTERS:].encode("utf-8", "replace").decode()
