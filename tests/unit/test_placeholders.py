# SPDX-License-Identifier: Apache-2.0
"""Placeholders in commands and file names."""

import re
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glideflow.domain.identifiers import TaskId
from glideflow.domain.job import InputSlice
from glideflow.domain.placeholders import check, file_names, fill, job_values, merge_values, problems, seed_of
from glideflow.domain.task import TaskSpec
from glideflow.errors import TaskFileError


def make_spec(**changes: Any) -> TaskSpec:
    values: dict[str, Any] = {
        "schema_version": 1,
        "name": "zpeak",
        "command": "true",
        "inputs": {"files": ["a"]},
        "outputs": {"hist": {"file": "hist-{index}.json"}},
    }
    return TaskSpec.model_validate(values | changes)


def values_of(spec: TaskSpec, *inputs: tuple[str, InputSlice], index: int = 3) -> dict[str, Any]:
    return dict(job_values(spec, task_id=TaskId(7), index=index, jobs=20, attempt=2, inputs=inputs))


def test_every_placeholder_of_a_job_is_filled() -> None:
    spec = make_spec(split={"events_per_job": 10})
    parts = [
        ("a.csv", InputSlice(file=0, first_event=40, events=4)),
        ("b.csv", InputSlice(file=1, first_event=0, events=6)),
    ]
    text = "{task} {index}/{jobs} {seed} {attempt} {inputs} {ranges} {first_event} {events} {output.hist} {outputs}"
    filled = fill(text, values_of(spec, *parts))
    seed = seed_of(TaskId(7), 3)
    assert filled == f"zpeak 3/20 {seed} 2 a.csv b.csv a.csv:40:4 b.csv:0:6 40 10 hist-3.json hist-3.json"


def test_whole_files_have_ranges_with_an_open_end() -> None:
    assert fill("{ranges}", values_of(make_spec(), ("a.csv", InputSlice(file=0)))) == "a.csv:0:"


def test_values_are_quoted_for_the_shell() -> None:
    values = values_of(make_spec(), ("my file.csv", InputSlice(file=0)), ("$(rm -rf x)", InputSlice(file=1)))
    assert fill("cat {inputs}", values) == "cat 'my file.csv' '$(rm -rf x)'"


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)))
def test_the_shell_sees_exactly_the_names(names: list[str]) -> None:
    assert shlex.split(fill("{inputs}", {"inputs": names})) == names


def test_doubled_braces_are_plain_braces() -> None:
    assert fill("awk '{{print $1}}' ${{HOME}} {{{index}}}", {"index": 5}) == "awk '{print $1}' ${HOME} {5}"


def test_a_value_is_not_filled_again() -> None:
    assert fill("{inputs}", {"inputs": ["{index}"], "index": 1}) == "'{index}'"


def test_a_placeholder_without_value_raises() -> None:
    with pytest.raises(TaskFileError, match=r"`\{events\}` cannot be filled"):
        fill("{events}", {})


def test_file_names_are_filled_but_not_quoted() -> None:
    spec = make_spec(outputs={"a": {"file": "{task} {index} {{x}}.txt"}})
    assert file_names(spec.outputs, values_of(spec)) == {"a": "zpeak 3 {x}.txt"}


def test_the_merge_job_has_its_own_placeholders() -> None:
    spec = make_spec(
        merge={"command": "m {inputs} {output.sum} {outputs} {task}", "outputs": {"sum": {"file": "{task}.json"}}}
    )
    assert check(spec) == []
    assert spec.merge is not None
    filled = fill(spec.merge.command, merge_values(spec, ["hist.0", "hist.1"]))
    assert filled == "m hist.0 hist.1 zpeak.json zpeak.json zpeak"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("{idnex}", r"unknown placeholder `\{idnex\}`; did you mean `\{index\}`\? allowed: `\{task\}`, "),
        ("{output.hits}", r"did you mean `\{output\.hist\}`"),
        ("echo ${HOME}", r"unknown placeholder `\{HOME\}`; .*write `\{\{` and `\}\}` for plain braces"),
        ("awk '{print $1}'", r"unknown placeholder `\{print \$1\}`"),
        ("echo {", r"a single `\{`: write `\{\{`"),
        ("echo }", r"a single `\}`"),
        ("{}", r"unknown placeholder `\{\}`"),
        ("{events}", r"`\{events\}` has a value only with `split\.events_per_job`"),
        ("{first_event}", r"`\{first_event\}` has a value only with `split\.events_per_job`"),
    ],
)
def test_what_cannot_be_filled_is_found_at_submit(command: str, problem: str) -> None:
    (found,) = problems(make_spec(command=command))
    assert found.key == ("command",)
    assert re.search(problem, found.text)


def test_inputs_of_a_task_without_inputs_are_a_problem() -> None:
    assert check(make_spec(inputs={"jobs": 3}, command="{inputs} {index}")) == [
        "key `command`: `{inputs}` has no value: the task has no input files"
    ]


def test_a_problem_is_reported_once_and_with_its_key() -> None:
    spec = make_spec(
        command="{nope} {nope}",
        outputs={"hist": {"file": "{attempt}.json"}},
        merge={"command": "{index}", "outputs": {"sum": {"file": "{seed}"}}},
    )
    assert [problem.key for problem in problems(spec)] == [
        ("command",),
        ("outputs", "hist", "file"),
        ("merge", "command"),
        ("merge", "outputs", "sum", "file"),
    ]


@given(task=st.integers(1, 10**9), first=st.integers(0, 2**31 - 200))
def test_seeds_are_positive_31_bit_and_distinct_within_a_task(task: int, first: int) -> None:
    seeds = [seed_of(TaskId(task), first + index) for index in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 < seed < 2**31 for seed in seeds)


def test_seeds_of_large_and_many_tasks_never_collide() -> None:
    seeds = [seed_of(TaskId(task), index) for task in range(1, 101) for index in range(1000)]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_never_changes() -> None:
    assert [seed_of(TaskId(1), 0), seed_of(TaskId(1), 1), seed_of(TaskId(2), 0)] == [389601261, 1053701717, 69982544]
