# SPDX-License-Identifier: Apache-2.0
"""The pilot's own log."""

import os
import re

from glideflow_pilot.log import TAIL_LINES, PilotLog


def test_sentence_is_written_with_its_time() -> None:
    reading, writing = os.pipe()
    PilotLog(writing).say("Hello.")
    line = os.read(reading, 1000).decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ Hello\.\n", line)
    os.close(reading)
    os.close(writing)


def test_stderr_is_bounded_and_the_last_lines_are_kept() -> None:
    reading, writing = os.pipe()
    log = PilotLog(writing, limit_bytes=300)
    for number in range(1000):
        log.say(f"Sentence {number}.")
    os.close(writing)
    written = os.read(reading, 100_000)
    os.close(reading)
    assert len(written) < 500
    assert written.endswith(b"the last ones go to the server)\n")
    lines = log.tail().splitlines()
    assert len(lines) == TAIL_LINES
    assert lines[-1].endswith("Sentence 999.")


def test_closed_stderr_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = PilotLog(writing)
    log.say("Nobody reads this.")
    log.say("Nor this.")
    os.close(writing)
    assert log.tail().count("\n") == 1
