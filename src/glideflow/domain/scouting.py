# SPDX-License-Identifier: Apache-2.0
"""Scout jobs: a few small jobs over all of the input, and what is left of the input besides them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from glideflow.domain.job import InputSlice, JobPlan
from glideflow.domain.splitting import Extent, Piece
from glideflow.domain.task import Split

DEFAULT_SCOUTS = 10
_LARGE = 3
"""Every other scout is so many times larger than the others, to tell the time per unit from that of an empty job."""
_LARGEST_SHARE = 0.5
"""Part of the input that scouts may take; with less input the task just runs."""
_MOST_EVENTS = 1000


@dataclass(frozen=True, kw_only=True)
class Expedition:
    """Which scouts a task sends."""

    unit: str
    """`files` or `events`."""
    total: int
    """All units of the input."""
    number: int
    """How many scouts."""
    size: int
    """Units of a small one."""

    @property
    def is_worth_it(self) -> bool:
        """Whether enough input is left for other jobs."""
        room = self.total // self.number
        return room >= self.size * _LARGE and self.units <= self.total * _LARGEST_SHARE

    @property
    def units(self) -> int:
        """Units that all scouts take together."""
        return sum(self.size_of(scout) for scout in range(self.number))

    def size_of(self, scout: int) -> int:
        """Return the units of one scout."""
        return self.size * (_LARGE if scout % 2 else 1)


def expedition(split: Split, extent: Extent) -> Expedition:
    """Choose the scouts of a task with a target wall time.

    Args:
        split: How the task is split.
        extent: Its input.
    """
    unit = split.unit or "files"
    total = extent.events if unit == "events" else extent.files
    usual = min(max(total // 1000, 1), _MOST_EVENTS) if unit == "events" else 1
    return Expedition(unit=unit, total=total, number=split.scouts or DEFAULT_SCOUTS, size=split.scout_size or usual)


def scout_jobs(pieces: Iterable[Piece], plan: Expedition) -> Iterator[JobPlan]:
    """Make the scout jobs: spread evenly over the input, for its beginning may not be like the rest.

    Args:
        pieces: All input files in their order.
        plan: Which scouts.
    """
    start, index, taken = 0, 0, list[InputSlice]()
    for piece in pieces:
        size = (piece.events or 0) if plan.unit == "events" else 1
        # A large file may hold the ranges of several scouts.
        while index < plan.number:
            first = index * plan.total // plan.number
            end = first + plan.size_of(index)
            low, high = max(first - start, 0), min(end - start, size)
            if low < high:
                whole = plan.unit != "events"
                taken.append(
                    InputSlice(file=piece.file)
                    if whole
                    else InputSlice(file=piece.file, first_event=low, events=high - low)
                )
            if end > start + size:
                break
            yield JobPlan(index=index, slices=tuple(taken))
            index, taken = index + 1, []
        start += size
        if index == plan.number:
            return


def without(pieces: Iterable[Piece], taken: Sequence[InputSlice]) -> Iterator[Piece]:
    """Return what is left of input files that some jobs read already.

    Args:
        pieces: Input files in their order.
        taken: What the jobs read.
    """
    by_file: dict[int, list[InputSlice]] = {}
    for part in taken:
        by_file.setdefault(part.file, []).append(part)
    for piece in pieces:
        parts = by_file.get(piece.file)
        if parts is None:
            yield piece
        elif all(part.events is not None for part in parts):
            yield from _gaps(piece, sorted((part.first_event or 0, part.events or 0) for part in parts))


def _gaps(piece: Piece, ranges: Sequence[tuple[int, int]]) -> Iterator[Piece]:
    first = piece.first_event
    end = piece.first_event + (piece.events or 0)
    for start, events in [*ranges, (end, 0)]:
        if start > first:
            yield Piece(file=piece.file, size_bytes=piece.size_bytes, first_event=first, events=start - first)
        first = max(first, start + events)
