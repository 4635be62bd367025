# SPDX-License-Identifier: Apache-2.0
"""Placeholders such as `{index}` in commands and output file names: which there are, and how they are filled."""

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from glideflow.domain.identifiers import TaskId
from glideflow.domain.job import InputSlice
from glideflow.domain.task import Output, TaskSpec
from glideflow.errors import TaskFileError

Value = str | int | Sequence[str]

JOB_PLACEHOLDERS: Mapping[str, str] = {
    "task": "the task's name",
    "index": "the job's number within the task, from 0",
    "jobs": "the number of jobs of the task",
    "seed": "a positive number below 2^31 for random generators: unique within the task, the same at each attempt",
    "attempt": "which run of the job this is, from 1",
    "inputs": "its input files, separated by spaces",
    "ranges": "its input files with their events, as `file:first:count`; the count is empty for a whole file",
    "first_event": "the first event within the first of its files, from 0; only with `split.events_per_job`",
    "events": "the number of its events over all its files; only with `split.events_per_job`",
    "outputs": "its output files, separated by spaces",
    "output.NAME": "the file of one output",
}
"""What `command` may hold."""

MERGE_PLACEHOLDERS: Mapping[str, str] = {
    "task": "the task's name",
    "inputs": "the files to merge, separated by spaces",
    "outputs": "its output files, separated by spaces",
    "output.NAME": "the file of one of its outputs",
}
"""What `merge.command` may hold."""

FILE_PLACEHOLDERS = ("task", "index", "seed")
"""What the `file` of an output may hold: what is the same at each attempt."""

_EVENT_PLACEHOLDERS = frozenset({"first_event", "events"})
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SEEDS = 2**31
_PLAIN_BRACES = "write `{{` and `}}` for plain braces"


@dataclass(frozen=True)
class Problem:
    """Something in a text that cannot be filled."""

    key: tuple[str, ...]
    """Path of the key that holds the text."""
    text: str
    """What is wrong with it and what is allowed."""

    def __str__(self) -> str:
        """The problem with its key, for messages that know no file and line."""
        return f"key `{'.'.join(self.key)}`: {self.text}"


def seed_of(task_id: TaskId, index: int) -> int:
    """Return the seed of a job's random generator.

    Each task takes a run of numbers, far from those of other tasks, and a permutation scatters them over 31 bits. So
    jobs of one task never share a seed (random 31-bit numbers would, in a task of 100,000 jobs), and a job that is
    run again gets its seed again.

    Args:
        task_id: The task.
        index: The job's number within the task, 0 to 2^31 - 2.

    Returns:
        A number from 1 to 2^31 - 1.
    """
    seed = _scatter(index + 1, task_id)
    # 0 stands for "seed by the clock" in many generators. 0 is no input above, so its image is free.
    return seed if seed else _scatter(0, task_id)


def _scatter(value: int, task_id: int) -> int:
    """A permutation of 0 to 2^31 - 1: odd factors and xor with the own high bits can be undone."""
    # Steps of the golden ratio keep the runs of any number of tasks as far apart as can be.
    value = (value + task_id * 0x9E3779B1) % _SEEDS
    for factor in (0x45D9F3B, 0x119DE1F3, 0x2C1B3C6D):
        value = (value ^ (value >> 16)) * factor % _SEEDS
    return value ^ (value >> 16)


def fill(text: str, values: Mapping[str, Value]) -> str:
    """Fill the placeholders of a shell command; each value is quoted for the shell, lists are joined by spaces.

    Args:
        text: The command with placeholders.
        values: A value for each placeholder, as `job_values` and `merge_values` make them.

    Raises:
        TaskFileError: A placeholder has no value; `check` finds this when the task is submitted.
    """
    return _replace(text, {name: _quoted(value) for name, value in values.items()})


def _quoted(value: Value) -> str:
    if isinstance(value, str | int):
        return shlex.quote(str(value))
    return " ".join(shlex.quote(item) for item in value)


def _replace(text: str, values: Mapping[str, str]) -> str:
    def one(match: re.Match[str]) -> str:
        if match[0] in {"{{", "}}"}:
            return match[0][0]
        if match[1] not in values:
            raise TaskFileError([f"`{match[0]}` cannot be filled in `{text}`"])
        return values[match[1]]

    return _TOKEN.sub(one, text)


def file_names(outputs: Mapping[str, Output], values: Mapping[str, Value]) -> dict[str, str]:
    """Return the file name of each output, with its placeholders filled and nothing quoted.

    Args:
        outputs: The outputs of the task or of its merge step.
        values: At least the values of `FILE_PLACEHOLDERS` that the names hold.
    """
    plain = {name: str(values[name]) for name in FILE_PLACEHOLDERS if name in values}
    return {key: _replace(output.file, plain) for key, output in outputs.items()}


def job_values(
    spec: TaskSpec,
    *,
    task_id: TaskId,
    index: int,
    jobs: int,
    attempt: int,
    inputs: Sequence[tuple[str, InputSlice]],
) -> dict[str, Value]:
    """Return the values of all placeholders of one attempt of a job.

    Args:
        spec: The task.
        task_id: Its number.
        index: The job's number within the task, from 0.
        jobs: Number of jobs of the task.
        attempt: Which run of the job this is, from 1.
        inputs: Name in the working folder, and slice, of each input file.
    """
    values: dict[str, Value] = {
        "task": spec.name,
        "index": index,
        "jobs": jobs,
        "seed": seed_of(task_id, index),
        "attempt": attempt,
        "inputs": [name for name, _ in inputs],
        "ranges": [_range(name, part) for name, part in inputs],
    }
    if spec.split.by_events:
        values["first_event"] = inputs[0][1].first_event or 0 if inputs else 0
        values["events"] = sum(part.events or 0 for _, part in inputs)
    return values | _output_values(spec.outputs, values)


def _range(name: str, part: InputSlice) -> str:
    return f"{name}:{part.first_event or 0}:{'' if part.events is None else part.events}"


def merge_values(spec: TaskSpec, inputs: Sequence[str]) -> dict[str, Value]:
    """Return the values of all placeholders of the merge job.

    Args:
        spec: A task with a merge step.
        inputs: Names of the files to merge, in its working folder.
    """
    values: dict[str, Value] = {"task": spec.name, "inputs": list(inputs)}
    return values | _output_values(spec.merge.outputs if spec.merge else {}, values)


def _output_values(outputs: Mapping[str, Output], values: Mapping[str, Value]) -> dict[str, Value]:
    files = file_names(outputs, values)
    return {"outputs": list(files.values()), **{f"output.{key}": file for key, file in files.items()}}


def check(spec: TaskSpec) -> list[str]:
    """Return what is wrong with the placeholders of a task: a sentence with the key for each, or nothing."""
    return [str(problem) for problem in problems(spec)]


def problems(spec: TaskSpec) -> Iterator[Problem]:
    """Find placeholders that do not exist or have no meaning in this task, and stray braces."""
    yield from _check_text(("command",), spec.command, _names(JOB_PLACEHOLDERS, spec.outputs), _missing(spec))
    yield from _check_files(("outputs",), spec.outputs, FILE_PLACEHOLDERS)
    if spec.merge is not None:
        names = _names(MERGE_PLACEHOLDERS, spec.merge.outputs)
        yield from _check_text(("merge", "command"), spec.merge.command, names, {})
        yield from _check_files(("merge", "outputs"), spec.merge.outputs, ("task",))


def _names(placeholders: Mapping[str, str], outputs: Mapping[str, Output]) -> list[str]:
    return [name for name in placeholders if name != "output.NAME"] + [f"output.{key}" for key in outputs]


def _missing(spec: TaskSpec) -> dict[str, str]:
    """Placeholders that have no value in this task, with why."""
    missing = {}
    if spec.inputs.jobs is not None:
        missing = dict.fromkeys(("inputs", "ranges"), "has no value: the task has no input files")
    if not spec.split.by_events:
        missing |= dict.fromkeys(_EVENT_PLACEHOLDERS, "has a value only with `split.events_per_job`")
    if spec.split.target_wall_seconds is not None:
        missing["jobs"] = "has no value: with `split.target_wall_seconds` the first jobs run before it is known"
    return missing


def _check_files(place: tuple[str, ...], outputs: Mapping[str, Output], names: Sequence[str]) -> Iterator[Problem]:
    for key, output in outputs.items():
        yield from _check_text((*place, key, "file"), output.file, names, {})


def _check_text(key: tuple[str, ...], text: str, names: Sequence[str], missing: Mapping[str, str]) -> Iterator[Problem]:
    reported = set()
    for match in _TOKEN.finditer(text):
        if match[0] in {"{{", "}}"} or match[0] in reported:
            continue
        reported.add(match[0])
        if match[1] is None:
            yield Problem(key, f"a single `{match[0]}`: {_PLAIN_BRACES}")
        elif match[1] in missing:
            yield Problem(key, f"`{match[0]}` {missing[match[1]]}")
        elif match[1] not in names:
            yield Problem(key, _unknown(match[1], names))


def _unknown(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean `{{{near[0]}}}`? " if near else ""
    allowed = ", ".join(f"`{{{known}}}`" for known in names)
    return f"unknown placeholder `{{{name}}}`; {hint}allowed: {allowed}; {_PLAIN_BRACES}"
