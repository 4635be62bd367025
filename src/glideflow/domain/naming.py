# SPDX-License-Identifier: Apache-2.0
"""Names of input files in a job's working folder: no two are equal, or one would overwrite the other."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence


def unique_names(paths: Sequence[Sequence[str]], taken: Iterable[str] = ()) -> list[str]:
    """Give each file a name of its own: its base name, where needed with folders in front, at last with a number.

    Args:
        paths: Folders and base name of each file, the base name last.
        taken: Names that other files of the job have.

    Returns:
        A name for each path, in their order.
    """
    names = [_joined(path, 1) for path in paths]
    used = set(taken)
    for depth in range(2, max(map(len, paths), default=0) + 1):
        counts = Counter([*names, *used])
        if all(counts[name] == 1 for name in names):
            break
        names = [name if counts[name] == 1 else _joined(path, depth) for name, path in zip(names, paths, strict=True)]
    return list(_numbered(names, used))


def _joined(path: Sequence[str], depth: int) -> str:
    # A leading dash would look like an option to the command.
    return "_".join(path[-depth:]).lstrip("-") or "input"


def _numbered(names: Sequence[str], used: set[str]) -> Iterator[str]:
    for name in names:
        unique, number = name, 2
        while unique in used:
            unique, number = f"{number}-{name}", number + 1
        used.add(unique)
        yield unique
