# SPDX-License-Identifier: Apache-2.0
"""Reading task files, and the sentences about wrong ones."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from glideflow.errors import TaskFileError
from glideflow.task_file import TaskFile, read_task_file, task_schema

HEAD = "schema_version: 1\nname: zpeak\ncommand: python3 a.py\n"

Read = Callable[..., TaskFile]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Write a text as `task.yaml` into the current folder and read it."""
    monkeypatch.chdir(tmp_path)

    def read_text(text: str, *overrides: str) -> TaskFile:
        Path("task.yaml").write_text(text, encoding="utf-8")
        return read_task_file(Path("task.yaml"), list(overrides))

    return read_text


def problems_of(read: Read, text: str, *overrides: str) -> list[str]:
    with pytest.raises(TaskFileError) as caught:
        read(text, *overrides)
    assert str(caught.value).splitlines() == caught.value.problems
    return caught.value.problems


def test_a_file_gives_the_task_its_text_and_its_folder(read: Read) -> None:
    text = HEAD + "inputs:\n  jobs: 20   # twenty\noutputs:\n  hist: {file: 'h{index}.json', events: lines}\n"
    task_file = read(text)
    assert task_file.spec.name == "zpeak"
    assert task_file.spec.inputs.jobs == 20
    assert task_file.spec.dataset_of("hist") == "zpeak.hist"
    assert task_file.source == text
    assert task_file.folder == Path()


def test_an_unknown_key_names_file_line_key_and_what_was_meant(read: Read) -> None:
    assert problems_of(read, HEAD + "inputs: {files: [a]}\nsplit:\n  event_per_job: 5\n") == [
        "task.yaml, line 6: key `split.event_per_job`: unknown; did you mean `events_per_job`? "
        "allowed: `files_per_job`, `bytes_per_job`, `events_per_job`, `jobs`, `target_wall_seconds`, `unit`, "
        "`scouts`, `scout_size`, `min_per_job`, `max_per_job`"
    ]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("cpus: 4", "line 4: key `cpus`: unknown; did you mean `resources.cores`? allowed: `schema_version`, "),
        ("resources: {walltime: 4}", "key `resources.walltime`: unknown; did you mean `wall_seconds`? allowed: "),
        ("events_per_job: 4", "key `events_per_job`: unknown; did you mean `split.events_per_job`? "),
        ("input: 4", "key `input`: unknown; did you mean `inputs`? "),
        ("memory: 4", "key `memory`: unknown; did you mean `resources.memory_mb`? "),
        ("xyzzy: 4", "key `xyzzy`: unknown; allowed: `schema_version`, "),
        ("inputs: {files: [{pth: a}]}", "key `inputs.files[0].pth`: unknown; did you mean `path`? "),
        ("outputs: {h: {fil: a}}", "key `outputs.h.fil`: unknown; did you mean `file`? "),
        ("split: {jobs: 0}", "key `split.jobs`: must be a whole number of at least 1, not 0"),
        ("priority: 1001", "key `priority`: must be a whole number of at most 1000, not 1001"),
        ("retries: many", 'key `retries`: must be a whole number, not "many"'),
        ("retries: true", "key `retries`: must be a whole number, not true"),
        ("retries: '3'", 'key `retries`: must be a whole number, not "3"'),
        ("resources: {cores: 1.5}", "key `resources.cores`: must be a whole number, not 1.5"),
        (
            "site: no way",
            "key `site`: must be letters, digits, `.`, `_` and `-`, at most 100 of them, starting with a ",
        ),
        ("environment: {THREADS: 4}", 'key `environment.THREADS`: must be text, not 4; write it in quotes: "4"'),
        ("environment: {DAY: 2026-01-02}", "must be text, not the date 2026-01-02; write it in quotes"),
        ("environment: {2X: a}", "key `environment`: `2X` is no name of a variable"),
        ("environment: {GLIDEFLOW_X: a}", "names that start with GLIDEFLOW_ are glideflow's own"),
        ("sandbox: a.py", 'key `sandbox`: must be a list, such as `[a, b]`, not "a.py"'),
        ("sandbox:", "key `sandbox`: must be a list, such as `[a, b]`, not empty; give a value or remove the key"),
        ("split: 4", "key `split`: must be a mapping with the keys `files_per_job`, "),
        ("environment: 4", "key `environment`: must be a mapping of `key: value`, not 4"),
        ("inputs: {jobs: 2, events: line}", 'key `inputs.events`: must be `lines`, not "line"'),
        ("inputs: {}", "key `inputs`: give exactly one of `files`, `dataset`, `jobs` (given: none)"),
        ("inputs: {files: [a], jobs: 2}", "key `inputs`: give exactly one of `files`, `dataset`, `jobs` (given: files"),
        ("inputs: {files: []}", "key `inputs.files`: must not be empty, not a list"),
        (
            "inputs: {files: [7]}",
            "key `inputs.files[0]`: must be a path, a pattern or a URL, or a mapping with `path` ",
        ),
        ("inputs: {files: [{events: 7}]}", "key `inputs.files[0]`: give either `path` or `url`"),
        ("inputs: {files: [{url: a.csv}]}", "key `inputs.files[0].url`: must be a URL; write a local file as `path`"),
        (
            "inputs: {files: [{path: 'http://a/b'}]}",
            "`inputs.files[0].path`: must be a local path; write a URL as `url`",
        ),
        ("inputs: {files: ['root://a/b']}", "must begin with `https://`, `http://`, `file://`, or be a local path"),
        ("inputs: {files: ['https://me:secret@a/b']}", "must not hold a user name or password in the URL"),
        ("inputs: {dataset: 'a b'}", "key `inputs.dataset`: must be the name of a dataset, as `name`, or `name@12`"),
        ("inputs: {files: [a]}\nsplit: {jobs: 2, files_per_job: 3}", "key `split`: give at most one of "),
        ("inputs: {jobs: 3}\nsplit: {jobs: 2}", "line 5: key `split.jobs`: divides input files, but the task has none"),
        (
            "tolerance: {failed_percent: 101}",
            "key `tolerance.failed_percent`: must be a number of at most 100, not 101",
        ),
        ("tolerance: {failed_percent: few}", 'key `tolerance.failed_percent`: must be a number, not "few"'),
        ("tolerance: {}", "key `tolerance`: give exactly one of `failed_percent`, `failed_jobs` (given: none)"),
        ("tolerance: {failed_jobs: 1, end: done}", "key `tolerance.end`: must be `partly_done` or `failed`, not "),
        ("tolerance: {failed: 1}", "key `tolerance.failed`: unknown; did you mean `failed_jobs`? allowed: "),
        (
            "failure_policy: {name: x}",
            "key `failure_policy`: must be a list, such as `[a, b]`, not a mapping",
        ),
        (
            "failure_policy: [{name: x, retry: {delay: 3}}]",
            "key `failure_policy[0].retry.delay`: unknown; did you mean `delay_seconds`? allowed: `times`, ",
        ),
        (
            "failure_policy: [{name: x, retry: {memory_factor: 1, max_memory_mb: 5}}]",
            "key `failure_policy[0].retry.memory_factor`: must be a number of more than 1, not 1",
        ),
        (
            "failure_policy: [{name: x, match: {exit_code: [3]}, fail: true}]",
            "key `failure_policy[0].match.exit_code`: unknown; did you mean `exit_codes`? allowed: `reasons`, ",
        ),
        (
            "failure_policy:\n- name: x\n  match: {exit_codes: [3-x]}\n  fail: true",
            "line 6: key `failure_policy[0].match.exit_codes[0]`: must be exit codes, one as `137` or several as ",
        ),
        ("failure_policy: [{name: x, fail: false}]", "key `failure_policy[0].fail`: must be `true`, not false"),
        ("failure_policy: [{name: x}]", "key `failure_policy[0]`: give exactly one of `retry`, `fail`"),
        ("failure_policy: [{name: x, fail: true, active: 1}]", "`failure_policy[0].active`: must be `true` or `false`"),
        (
            "failure_policy: [{name: x, retry: {delay_seconds: 9, max_delay_seconds: 8}}]",
            "key `failure_policy[0].retry.max_delay_seconds`: must not be less than `delay_seconds` (9)",
        ),
        ("outputs: {Hist: {file: a}}", "key `outputs.Hist`: must be small letters, digits and `_`, at most 40 of them"),
        ("outputs: {h: {}}", "key `outputs.h.file`: missing; write for example `file: result.txt`"),
        ("outputs: {h: {file: ../x}}", "key `outputs.h.file`: must stay inside the job's working folder: `..` is not "),
        ("outputs: {h: {file: a/../../x}}", "must stay inside the job's working folder"),
        ("outputs: {h: {file: /etc/x}}", "must be relative to the job's working folder, not an absolute path"),
        ("outputs: {h: {file: job.json}}", "must be the name of a file, and not `job.json`, which glideflow writes"),
        ("outputs: {h: {file: a/}}", "must be the name of a file"),
        ('outputs: {h: {file: "a\\nb"}}', "must not contain control characters"),
        ("outputs: {h: {file: ''}}", 'key `outputs.h.file`: must not be empty, not ""'),
        ("outputs: {a: {file: x}, b: {file: ./x}}", "key `outputs.b.file`: `./x` is the file of output `a` already"),
        ("merge: {command: x}", "key `merge`: there is nothing to merge: the task has no `outputs`"),
        (
            "outputs: {a: {file: x}, b: {file: y}}\nmerge: {command: x}",
            "key `merge`: `input` is missing: say which of ",
        ),
        (
            "outputs: {a: {file: x}}\nmerge: {command: x, input: b}",
            "key `merge.input`: the task has no output `b`; it ",
        ),
        (
            "outputs: {a: {file: x}}\nmerge: {command: x, outputs: {a: {file: y}}}",
            "line 5: key `merge.outputs.a`: would go into dataset `zpeak.a` together with output `a` of the jobs",
        ),
        ("outputs: {a: {file: '{idx}'}}", "key `outputs.a.file`: unknown placeholder `{idx}`"),
    ],
)
def test_wrong_keys_and_values_say_what_is_allowed(read: Read, lines: str, problem: str) -> None:
    (found,) = problems_of(read, HEAD + lines + "\n")
    assert found.startswith("task.yaml, line ")
    assert problem in found


def test_a_secret_in_a_url_is_not_repeated(read: Read) -> None:
    assert "secret" not in problems_of(read, HEAD + "inputs: {files: ['https://me:secret@a/b']}\n")[0]


def test_unknown_placeholders_are_found_with_their_line(read: Read) -> None:
    assert problems_of(read, "schema_version: 1\nname: a\ncommand: |\n  echo {idnex}\n")[0].startswith(
        "task.yaml, line 3: key `command`: unknown placeholder `{idnex}`; did you mean `{index}`?"
    )


def test_all_problems_are_reported_in_the_order_of_the_file(read: Read) -> None:
    found = problems_of(read, HEAD + "cpus: 1\nretries: x\nresources:\n  memory_mb: 0\n")
    assert [problem.partition(":")[0] for problem in found] == [f"task.yaml, line {line}" for line in (4, 5, 7)]


def test_missing_keys_come_with_an_example(read: Read) -> None:
    assert problems_of(read, "retries: 1\n") == [
        "task.yaml: key `schema_version`: missing; write for example `schema_version: 1`",
        "task.yaml: key `name`: missing; write for example `name: my-task`",
        "task.yaml: key `command`: missing; write for example `command: python3 analyse.py {inputs}`",
    ]


@pytest.mark.parametrize("version", ["2", "'1'", "1.0", "true", "null"])
def test_another_schema_version_is_the_only_problem(read: Read, version: str) -> None:
    (found,) = problems_of(read, f"schema_version: {version}\nnew_key: 1\n")
    assert found.startswith("task.yaml, line 1: key `schema_version`: must be 1, the version that this glideflow (")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "task.yaml, line 3: key `a`: is given twice"),
        ("a: [1\n", "task.yaml, line 2: is not valid YAML: expected ',' or ']'"),
        ("a:\n\tb: 1\n", "task.yaml, line 2: is not valid YAML: found character '\\t' that cannot start any token"),
        ("a: *x\n", "task.yaml, line 1: is not valid YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 1\n", "task.yaml: holds 2 documents; one is expected here"),
        ("a: !x b\n", "task.yaml, line 1: key `a`: YAML tags such as `!name` are not used here"),
        ("a: !x {b: 1}\n", "task.yaml, line 1: key `a`: YAML tags such as `!name` are not used here"),
        ("", "task.yaml: is empty; a task file starts with `schema_version: 1`"),
        ("# nothing\n", "task.yaml: is empty"),
        ("- a\n", "task.yaml: does not hold lines of the form `key: value`"),
        ("a" * 1_000_001, "task.yaml: is longer than 1,000,000 bytes"),
        ("a: \x07\n", "task.yaml: is not valid YAML: "),
    ],
)
def test_broken_yaml_names_the_line(read: Read, text: str, problem: str) -> None:
    (found,) = problems_of(read, text)
    assert found.startswith(problem)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, reason in [
        ("none.yaml", "cannot be read: No such file or directory"),
        ("", "cannot be read: Is a directory"),
        ("binary.yaml", "is not a text file in UTF-8"),
    ]:
        with pytest.raises(TaskFileError) as caught:
            read_task_file(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {reason}"


@given(st.text(alphabet=st.sampled_from(list("ab:-[]{}&*!|>'\"#%@`, \n\t1.~?<=")), max_size=60))
def test_any_text_ends_in_sentences_and_never_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TaskFileError):
        read_task_file(path)


def test_aliases_and_merge_keys_work(read: Read) -> None:
    text = HEAD + "environment: &e {A: x}\nresources: &r {cores: 2}\noutputs: {a: {file: x}}\n"
    task_file = read(text + "merge:\n  command: m\n  resources: {<<: *r, memory_mb: 5}\n")
    assert task_file.spec.merge is not None
    assert task_file.spec.merge.resources.cores == 2
    assert task_file.spec.merge.resources.memory_mb == 5


def test_the_published_schema_accepts_what_the_reader_accepts(read: Read) -> None:
    text = HEAD + "inputs: {files: [a, {path: b, events: 3}]}\nsplit: {events_per_job: 3}\n"
    read(text)
    schema = task_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(YAML(typ="safe").load(text), schema)
    assert json.loads(json.dumps(schema)) == schema
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(YAML(typ="safe").load(text + "cpus: 1\n"), schema)


def test_every_key_of_the_schema_is_described() -> None:
    schema = task_schema()
    for model in [schema, *schema["$defs"].values()]:
        for name, field in model["properties"].items():
            assert field.get("description"), name
