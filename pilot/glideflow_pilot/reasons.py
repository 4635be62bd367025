# SPDX-License-Identifier: Apache-2.0
"""Why something ended: the same codes as on the server, as the dictionaries that travel."""

from __future__ import annotations

import errno
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict

Reason = Dict[str, str]

PAYLOAD_EXIT = "payload_exit"
PAYLOAD_SIGNAL = "payload_signal"
PAYLOAD_NOT_STARTED = "payload_not_started"
OUTPUT_MISSING = "output_missing"
OUTPUT_TOO_LARGE = "output_too_large"
STAGE_IN_FAILED = "stage_in_failed"
STAGE_OUT_FAILED = "stage_out_failed"
DISK_FULL = "disk_full"
WALL_TIME_EXCEEDED = "wall_time_exceeded"
PILOT_DRAINED = "pilot_drained"
PILOT_IDLE = "pilot_idle"
PILOT_DEADLINE = "pilot_deadline"
PILOT_REFUSED = "pilot_refused"
KILLED = "killed"

_FULL = (errno.ENOSPC, errno.EDQUOT)
# A file system with less than this is full for all that a payload may want.
FULL_BYTES = 1 << 20
TEXT_CHARACTERS = 2000


class Failure(Exception):
    """An attempt cannot go on; carries the outcome and the reason for its report."""

    def __init__(self, code: str, text: str, outcome: str = "failed", source: str = "pilot") -> None:
        """Keep what the report will say."""
        self.outcome = outcome
        self.reason = reason(code, text, source)
        super().__init__(text)


def reason(code: str, text: str, source: str = "pilot") -> Reason:
    """Return a reason as it travels: a sentence of bounded length that is valid Unicode without NUL."""
    # File names and messages of the node may be anything, and one bad report would block all others.
    clean = text.encode("utf-8", "replace").decode().replace("\0", "?")
    return {"code": code, "text": clean[:TEXT_CHARACTERS], "source": source}


def is_disk_full(error: OSError) -> bool:
    """Tell whether an error means that no more can be written."""
    return error.errno in _FULL


def disk_full(folder: Path) -> Failure:
    """Return the failure for a full disk, with the path and what is free."""
    return Failure(DISK_FULL, f"the disk of {folder} is full: {free_bytes(folder)} bytes are free", source="site")


def free_bytes(folder: Path) -> int:
    """Return the bytes that can still be written below a folder, 0 when there are no inodes left."""
    try:
        state = os.statvfs(folder)
    except OSError:
        return 0
    if state.f_files and not state.f_favail:
        return 0
    return state.f_bavail * state.f_frsize


def utc(seconds: float) -> str:
    """Return a time since the epoch in ISO 8601, UTC, with Z."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def now_utc() -> str:
    """Return the present time as it travels."""
    return utc(time.time())


def text_of(value: Any, default: str) -> str:
    """Return the text of a reason that came from the server."""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    return default
