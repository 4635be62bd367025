# SPDX-License-Identifier: Apache-2.0
"""Changes of a task file by `--set`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from glideflow.domain.task import InputFile
from glideflow.errors import TaskFileError
from glideflow.task_file import TaskFile, read_task_file

TEXT = """\
# A task.
schema_version: 1
name: zpeak  # its name
command: >-
  python3 a.py {inputs}
inputs:
  files: ["data/*.csv"]
  events: lines
split: {jobs: 3}
"""

Set = Callable[..., TaskFile]


@pytest.fixture
def set_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Read `tasks/task.yaml` with options `--set`, from another folder."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "task.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return lambda *options: read_task_file(Path("tasks/task.yaml"), options)


def problems_of(set_: Set, *options: str) -> list[str]:
    with pytest.raises(TaskFileError) as caught:
        set_(*options)
    return caught.value.problems


def test_values_are_yaml(set_: Set) -> None:
    spec = set_("resources.cores=4", "outputs={a: {file: x}, b: {file: y}}", "environment={A: '1'}").spec
    assert spec.resources.cores == 4
    assert list(spec.outputs) == ["a", "b"]
    assert spec.environment == {"A": "1"}


def test_text_keys_take_the_text_as_it_stands(set_: Set) -> None:
    spec = set_("name=2026", "command=run: {inputs} #x", "environment.A=4", "environment.B=", "site='007'").spec
    assert (spec.name, spec.command, spec.site) == ("2026", "run: {inputs} #x", "007")
    assert spec.environment == {"A": "4", "B": ""}


def test_another_split_rule_replaces_the_one_of_the_file(set_: Set) -> None:
    split = set_("split.events_per_job=1000").spec.split
    assert (split.events_per_job, split.jobs) == (1000, None)


def test_another_source_of_inputs_replaces_the_one_of_the_file(set_: Set) -> None:
    inputs = set_("inputs.dataset=zpeak.events@12").spec.inputs
    assert (inputs.dataset, inputs.files, inputs.events) == ("zpeak.events@12", None, "lines")


def test_a_key_beside_the_sources_leaves_them_alone(set_: Set) -> None:
    inputs = set_("inputs.header_lines=1", "inputs.events=lines").spec.inputs
    assert (inputs.files, inputs.header_lines) == (["data/*.csv"], 1)


def test_two_options_that_exclude_each_other_are_refused_with_both(set_: Set) -> None:
    assert problems_of(set_, "split.files_per_job=2", "split.events_per_job=3") == [
        "--set split.files_per_job=2, --set split.events_per_job=3: key `split`: give at most one of files_per_job, "
        "bytes_per_job, events_per_job, jobs, target_wall_seconds (given: files_per_job, events_per_job)"
    ]


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_an_empty_value_removes_a_key(set_: Set, value: str) -> None:
    assert set_(f"split.jobs={value}").spec.split.jobs is None
    assert set_(f"split={value}").spec.split.jobs is None


def test_a_single_file_needs_no_brackets(set_: Set, tmp_path: Path) -> None:
    assert set_("inputs.files=data/*.csv").spec.inputs.files == [f"{tmp_path}/data/*.csv"]
    assert set_("inputs.files={path: a, events: 3}").spec.inputs.files == [InputFile(path=f"{tmp_path}/a", events=3)]


def test_files_of_options_are_relative_to_the_current_folder(set_: Set, tmp_path: Path) -> None:
    spec = set_("inputs.files=[../x.csv, /y.csv, https://h/z.csv, {path: q.csv}]", "sandbox=[lib/*.py]").spec
    assert spec.inputs.files == [
        f"{tmp_path}/../x.csv",
        "/y.csv",
        "https://h/z.csv",
        InputFile(path=f"{tmp_path}/q.csv"),
    ]
    assert spec.sandbox == [f"{tmp_path}/lib/*.py"]
    assert set_("inputs={files: [x.csv]}").spec.inputs.files == [f"{tmp_path}/x.csv"]


def test_the_text_keeps_its_comments_and_shows_the_change(set_: Set) -> None:
    source = set_("split.events_per_job=1000", "name=other").source
    assert source == TEXT.replace("jobs: 3", "events_per_job: 1000").replace("name: zpeak  #", "name: other  #")
    assert set_().source == TEXT


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("split.event_per_job=5", "key `split.event_per_job`: unknown; did you mean `events_per_job`? allowed: "),
        ("splitt.jobs=5", "key `splitt`: unknown; did you mean `split`? allowed: "),
        ("outputs.a.fil=x", "key `outputs.a.fil`: unknown; did you mean `file`? "),
        ("name.x=5", "key `name.x`: unknown: there are no keys at this place"),
        ("jobs", "expected `key=value`, for example `split.events_per_job=1000`"),
        ("=5", "expected `key=value`"),
        ("split..jobs=5", "expected `key=value`"),
        ("inputs.files=[a", "the value is not valid YAML: expected ',' or ']'"),
        ("retries=x", 'key `retries`: must be a whole number, not "x"'),
        ("schema_version=2", "key `schema_version`: must be 1, the version"),
        ("command={x}", "key `command`: unknown placeholder `{x}`"),
        ("inputs.jobs=5", ""),
    ],
)
def test_a_wrong_option_is_named(set_: Set, option: str, problem: str) -> None:
    (found, *_) = problems_of(set_, option)
    assert found.startswith(f"--set {option}: {problem}" if problem else "tasks/task.yaml, line 9: key `split.jobs`: ")


def test_wrong_options_and_wrong_lines_are_reported_together(set_: Set) -> None:
    Path("tasks/task.yaml").write_text(TEXT + "cpus: 3\n")
    found = problems_of(set_, "retry=3", "foo")
    assert [problem.partition(": ")[0] for problem in found] == [
        "--set retry=3",
        "--set foo",
        "tasks/task.yaml, line 10",
    ]


def test_an_option_below_a_scalar_of_the_file_is_refused(set_: Set) -> None:
    Path("tasks/task.yaml").write_text(TEXT.replace("{jobs: 3}", "none"))
    assert "`split` is no mapping in tasks/task.yaml" in problems_of(set_, "split.jobs=3")[0]
