#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fill the histogram of the dimuon mass from ranges of events.

    python3 analyse.py --output part.json events.csv            # a whole file
    python3 analyse.py --output part.json events.csv:2000:500   # 500 events, from event 2000 on

Events are counted from 0, after the header line. Needs nothing but Python 3.9.
"""

import argparse
import csv
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

COLUMNS = ("pt1", "eta1", "phi1", "pt2", "eta2", "phi2")
EDGES_GEV = list(range(201))
"""1 GeV bins from 0 to 200 GeV."""


class EventRange(NamedTuple):
    """A part of a file."""

    path: Path
    first: int = 0
    events: Optional[int] = None
    """Number of events; None for all that follow."""


def parse_range(text: str) -> EventRange:
    """Return the range that `name:first:count`, `name:first:` (up to the end) or `name` stands for."""
    match = re.fullmatch(r"(.+):(\d+):(\d*)", text)
    if match:
        return EventRange(Path(match[1]), int(match[2]), int(match[3]) if match[3] else None)
    return EventRange(Path(text))


def mass(pt1: float, eta1: float, phi1: float, pt2: float, eta2: float, phi2: float) -> float:
    """Return the mass of two light particles, GeV, from transverse momenta in GeV and angles in radians."""
    return math.sqrt(max(0.0, 2 * pt1 * pt2 * (math.cosh(eta1 - eta2) - math.cos(phi1 - phi2))))


def masses(wanted: EventRange) -> Iterator[float]:
    """Yield the mass of each muon pair in a range, GeV.

    Raises:
        ValueError: A column is missing, a value is no number, or the file ends before the range does.
    """
    with wanted.path.open(encoding="ascii", newline="") as file:
        rows = csv.DictReader(file)
        missing = set(COLUMNS) - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{wanted.path} has no column {', '.join(sorted(missing))}")
        number, last = wanted.first, None if wanted.events is None else wanted.first + wanted.events
        for row in itertools.islice(rows, wanted.first, last):
            try:
                yield mass(*(float(row[column]) for column in COLUMNS))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{wanted.path}, event {number}: {error}") from error
            number += 1
    if last is not None and number < last:
        found = number - wanted.first
        raise ValueError(f"{wanted.path} has {found} events from event {wanted.first} on, not {wanted.events}")


def fill(values: Iterator[float]) -> dict[str, object]:
    """Return the histogram of some masses; each counts once, below, in or above the bins."""
    counts = [0] * (len(EDGES_GEV) - 1)
    underflow = overflow = 0
    for value in values:
        if value < EDGES_GEV[0]:
            underflow += 1
        elif value >= EDGES_GEV[-1]:
            overflow += 1
        else:
            counts[int(value)] += 1
    events = sum(counts) + underflow + overflow
    return {"events": events, "underflow": underflow, "overflow": overflow, "edges": EDGES_GEV, "counts": counts}


def main() -> None:
    """Read the command line and fill."""
    parser = argparse.ArgumentParser(description="Histogram of the dimuon mass.")
    parser.add_argument("--output", type=Path, default=Path("part.json"), help="file to write")
    parser.add_argument("ranges", nargs="+", type=parse_range, help="name:first:count, or name for a whole file")
    arguments = parser.parse_args()
    try:
        histogram = fill(itertools.chain.from_iterable(map(masses, arguments.ranges)))
    except (OSError, ValueError) as error:
        sys.exit(f"analyse.py: {error}")
    arguments.output.write_text(json.dumps(histogram), encoding="ascii")
    print(f"filled {histogram['events']} events into {arguments.output}")


if __name__ == "__main__":
    main()
