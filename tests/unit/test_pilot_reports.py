# SPDX-License-Identifier: Apache-2.0
"""Reports wait for their receipts, on disk and in memory."""

import json
from pathlib import Path
from typing import Any

from glideflow_pilot.reports import REWRITE_BYTES, Outbox


def running(attempt_id: int) -> dict[str, Any]:
    return {"attempt_id": attempt_id, "state": "running"}


def finished(attempt_id: int, text: str = "") -> dict[str, Any]:
    return {"attempt_id": attempt_id, "state": "finished", "text": text}


def test_reports_are_numbered_per_attempt_and_kept_in_order(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "journal")
    for report in (running(1), running(2), finished(1)):
        outbox.add(report)
    assert [(one["attempt_id"], one["sequence"]) for one in outbox.pending()] == [(1, 1), (2, 1), (1, 2)]
    assert outbox.attempts() == {1, 2}


def test_receipt_drops_its_report_alone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "journal")
    outbox.add(running(1))
    outbox.add(finished(1))
    assert not outbox.receipt(1, 1)
    assert [one["sequence"] for one in outbox.pending()] == [2]
    assert not outbox.receipt(1, 7)
    assert outbox.receipt(1, 2)
    assert len(outbox) == 0


def test_last_word_is_on_disk_before_it_is_queued(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "journal")
    outbox.keep(finished(3))
    assert len(outbox) == 0
    assert json.loads((tmp_path / "journal").read_text()) == finished(3)


def test_journal_does_not_grow_for_ever(tmp_path: Path) -> None:
    outbox, journal = Outbox(tmp_path / "journal"), tmp_path / "journal"
    for attempt_id in range(1, 100):
        report = finished(attempt_id, "x" * 10_000)
        outbox.keep(report)
        outbox.add(report)
        outbox.receipt(attempt_id, 1)
    assert journal.stat().st_size < 2 * REWRITE_BYTES
    outbox.keep(finished(200))
    assert '"attempt_id":200' in journal.read_text()


def test_journal_is_not_cut_while_an_attempt_waits_for_its_receipt(tmp_path: Path) -> None:
    outbox, journal = Outbox(tmp_path / "journal"), tmp_path / "journal"
    outbox.keep(finished(1))
    for attempt_id in range(2, 60):
        report = finished(attempt_id, "x" * 10_000)
        outbox.keep(report)
        outbox.add(report)
        outbox.receipt(attempt_id, 1)
    assert journal.stat().st_size > REWRITE_BYTES
    assert json.loads(journal.read_text().splitlines()[0]) == finished(1)
