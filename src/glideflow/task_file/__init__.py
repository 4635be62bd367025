# SPDX-License-Identifier: Apache-2.0
"""Read a task file: YAML with line numbers, changes by `--set`, and a sentence for everything that is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glideflow.documents.document import Document, Places, read_document, read_documents
from glideflow.documents.sentences import sentences
from glideflow.domain import placeholders
from glideflow.domain.task import TaskSpec
from glideflow.errors import TaskFileError
from glideflow.task_file.overrides import apply_overrides
from glideflow.task_file.version import schema_version_problem

__all__ = ["Places", "TaskFile", "read_task_file", "read_task_files", "task_schema"]


@dataclass(frozen=True)
class TaskFile:
    """A task file that was read and found to be in order."""

    spec: TaskSpec
    """The task."""
    source: str
    """Its YAML text, with what `--set` changed."""
    folder: Path
    """Local files are relative to this folder."""
    path: Path
    """The file, as it was named."""
    places: Places
    """Where each key stands, for later messages."""


def read_task_file(path: Path, overrides: Sequence[str] = ()) -> TaskFile:
    """Read and check a task file.

    Args:
        path: The file.
        overrides: Changes in the form `key=value`, as `--set` takes them: dotted key, value in YAML. Relative files
            in them are relative to the current folder.

    Returns:
        The task, with its text and the places of its keys.

    Raises:
        TaskFileError: The file cannot be read or accepted; one line per problem, with file, line and key.
    """
    document = read_document(path)
    return _task_file(document, path, overrides)


def read_task_files(path: Path, overrides: Sequence[str] = (), *, everywhere: Sequence[str] = ()) -> list[TaskFile]:
    """Read and check a task file that may hold several tasks, separated by lines `---`.

    Args:
        path: The file.
        overrides: As for `read_task_file`; of several tasks, `task:key=value` changes the one of that name.
        everywhere: Changes of every task, in the form `key=value`.

    Returns:
        The tasks in the order of the file.

    Raises:
        TaskFileError: As for `read_task_file`.
    """
    documents = read_documents(path)
    if len(documents) == 1:
        return [_task_file(documents[0], path, [*overrides, *everywhere])]
    names = [str(document.root.get("name")) for document in documents]
    chosen: dict[str, list[str]] = {name: [] for name in names}
    for option in overrides:
        name, colon, rest = option.partition("=")[0].partition(":")
        if not colon or name not in chosen:
            example = f"{names[0]}:{rest or name}=..."
            text = f"--set {option}: the file holds several tasks; name the one to change, for example `{example}`"
            raise TaskFileError([text], path)
        chosen[name].append(option.partition(":")[2])
    return [
        _task_file(document, path, [*chosen[name], *everywhere])
        for document, name in zip(documents, names, strict=True)
    ]


def _task_file(document: Document, path: Path, overrides: Sequence[str]) -> TaskFile:
    places = document.places
    problems = apply_overrides(document, overrides, Path.cwd()) if overrides else []
    values = document.values()
    outdated = schema_version_problem(values)
    if outdated:
        raise TaskFileError([places.sentence(("schema_version",), outdated)], path)
    spec = _validate(values, places, problems, path)
    found = [places.sentence(problem.key, problem.text) for problem in placeholders.problems(spec)]
    if found:
        raise TaskFileError(found, path)
    return TaskFile(spec=spec, source=_source(document, overrides), folder=path.parent, path=path, places=places)


def _validate(values: dict[str, Any], places: Places, problems: list[str], path: Path) -> TaskSpec:
    """Return the task; wrong overrides and wrong keys are reported together."""
    try:
        spec = TaskSpec.model_validate(values)
    except ValidationError as error:
        found = sorted(sentences(error, TaskSpec), key=lambda problem: places.line(problem.key))
        raise TaskFileError(
            problems + [places.sentence(problem.key, problem.text) for problem in found], path
        ) from error
    if problems:
        raise TaskFileError(problems, path)
    return spec


def _source(document: Document, overrides: Sequence[str]) -> str:
    return document.dump() if overrides else document.text


def task_schema() -> dict[str, Any]:
    """Return the JSON schema of task files, for editors."""
    schema = TaskSpec.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "glideflow task",
        "description": "A task of glideflow: one command over inputs, split into jobs.",
    }
