# SPDX-License-Identifier: Apache-2.0
"""The reports that the server has not confirmed: on disk first, then on the way, until receipted."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

REWRITE_BYTES = 256 * 1024


class Outbox:
    """Reports in order, numbered per attempt; used by the main thread, but for `keep`."""

    def __init__(self, journal: Path) -> None:
        """Keep them in a journal too, one line each, for whoever cleans up after a killed pilot."""
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._reports: Dict[Tuple[int, int], Dict[str, Any]] = {}
        self._sequences: Dict[int, int] = {}
        self._written = 0
        self._kept: Set[int] = set()
        self._lock = threading.Lock()

    def keep(self, report: Dict[str, Any]) -> None:
        """Write a report to the journal, before anything goes to the network; for any thread."""
        line = json.dumps(report, separators=(",", ":")) + "\n"
        with self._lock:
            self._kept.add(int(report["attempt_id"]))
            # On a full disk the report still goes to the server.
            with contextlib.suppress(OSError):
                self._written += os.write(self._journal, line.encode())

    def add(self, report: Dict[str, Any]) -> None:
        """Number a report and queue it."""
        attempt_id = int(report["attempt_id"])
        sequence = self._sequences.get(attempt_id, 0) + 1
        self._sequences[attempt_id] = sequence
        self._reports[(attempt_id, sequence)] = {**report, "sequence": sequence}

    def pending(self) -> List[Dict[str, Any]]:
        """Return what is not receipted, oldest first."""
        return list(self._reports.values())

    def attempts(self) -> Set[int]:
        """Return the attempts with reports that are not receipted."""
        return {attempt_id for attempt_id, _ in self._reports}

    def receipt(self, attempt_id: int, sequence: int) -> bool:
        """Drop a report that the server has; returns whether it was the attempt's last word."""
        report = self._reports.pop((attempt_id, sequence), None)
        is_last = report is not None and report["state"] == "finished"
        if is_last:
            self._sequences.pop(attempt_id, None)
            self._forget(attempt_id)
        return is_last

    def _forget(self, attempt_id: int) -> None:
        with self._lock:
            self._kept.discard(attempt_id)
            if not self._kept and self._written > REWRITE_BYTES:
                os.ftruncate(self._journal, 0)
                self._written = 0

    def clear(self) -> None:
        """Drop everything: the server will not take it."""
        self._reports.clear()

    def __len__(self) -> int:
        """Return the number of reports that are not receipted."""
        return len(self._reports)
