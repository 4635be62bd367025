# SPDX-License-Identifier: Apache-2.0
"""Which tasks wait for which: the parents that a task names, and the order in which a file's tasks are stored."""

from collections.abc import Iterator, Mapping, Sequence

from glideflow.domain.task import TaskSpec
from glideflow.errors import TaskFileError


def dataset_of(spec: TaskSpec) -> tuple[str, str | None]:
    """Return the dataset that a task reads, and which task's files of it: a number, a name, or None for all."""
    base, _, producer = (spec.inputs.dataset or "").partition("@")
    return base, producer or None


def writes(spec: TaskSpec, dataset: str) -> bool:
    """Tell whether a task writes into a dataset."""
    merged = spec.merge.outputs if spec.merge else {}
    names = [spec.dataset_of(name) for name in spec.outputs] + [spec.dataset_of(name, merged=True) for name in merged]
    return dataset in names


def parents_within(specs: Sequence[TaskSpec]) -> list[list[int]]:
    """Return, for the tasks of one file, the positions of those that each waits for.

    Args:
        specs: The tasks.

    Raises:
        TaskFileError: Two tasks share a name, or a task waits for itself.
    """
    positions: dict[str, int] = {}
    for at, spec in enumerate(specs):
        if spec.name in positions:
            raise TaskFileError([f"key `name`: two tasks of the file are called {spec.name}"])
        positions[spec.name] = at
    found = []
    for at, spec in enumerate(specs):
        parents = list(dict.fromkeys(_parents(specs, positions, spec, at)))
        if at in parents:
            raise TaskFileError([f"key `after`: task {spec.name} waits for itself"])
        found.append(parents)
    return found


def _parents(specs: Sequence[TaskSpec], positions: Mapping[str, int], spec: TaskSpec, at: int) -> Iterator[int]:
    yield from (positions[name] for name in spec.after if name in positions)
    base, producer = dataset_of(spec)
    if producer is not None and producer in positions:
        yield positions[producer]
    elif spec.inputs.wait_for_dataset and producer is None:
        yield from (other for other, task in enumerate(specs) if other != at and writes(task, base))


def storing_order(specs: Sequence[TaskSpec], parents: Sequence[Sequence[int]]) -> list[int]:
    """Return the positions of tasks such that each comes after its parents.

    Args:
        specs: The tasks, for the message.
        parents: Positions of the parents of each.

    Raises:
        TaskFileError: Tasks wait for each other in a circle, which is named.
    """
    order: list[int] = []
    path: list[int] = []

    def visit(at: int) -> None:
        if at in order:
            return
        if at in path:
            circle = " -> ".join(specs[one].name for one in [*path[path.index(at) :], at])
            raise TaskFileError([f"key `after`: the tasks wait for each other: {circle}"])
        path.append(at)
        for parent in parents[at]:
            visit(parent)
        path.pop()
        order.append(at)

    for at in range(len(specs)):
        visit(at)
    return order
