# SPDX-License-Identifier: Apache-2.0
"""Finding and measuring the files of a task."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glideflow.errors import TaskFileError
from glideflow.submission import LocalSubmission, measure, resolve
from glideflow.task_file import read_task_file

HEAD = "schema_version: 1\nname: t\ncommand: 'true'\n"

Resolve = Callable[..., LocalSubmission]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a few files, in which the task file goes."""
    files = {
        "data/b.csv": "head\n1\n2\n3",
        "data/a.csv": "head\n1\n",
        "run1/x.csv": "1\n",
        "run2/x.csv": "2\n2\n",
        "analyse.py": "pass\n",
        "lib/tools.py": "tools\n",
        "lib/more/deep.py": "deep\n",
        "other/tools.py": "other tools\n",
    }
    for name, text in files.items():
        path = tmp_path / "task" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "task" / "analyse.py").chmod(0o755)
    (tmp_path / "outside.py").write_text("outside\n")
    return tmp_path / "task"


@pytest.fixture
def resolve_text(folder: Path) -> Resolve:
    """Write a task file and find its files."""

    def run(text: str, *overrides: str, max_sandbox_mb: int | None = None) -> LocalSubmission:
        (folder / "task.yaml").write_text(HEAD + text)
        return resolve(read_task_file(folder / "task.yaml", overrides), max_sandbox_mb=max_sandbox_mb)

    return run


def problems_of(resolve_text: Resolve, text: str, max_sandbox_mb: int | None = None) -> list[str]:
    with pytest.raises(TaskFileError) as caught:
        resolve_text(text, max_sandbox_mb=max_sandbox_mb)
    return caught.value.problems


def test_inputs_are_found_sorted_measured_and_counted(resolve_text: Resolve) -> None:
    local = resolve_text("inputs: {files: ['data/*.csv'], events: lines, header_lines: 1}\n")
    a, b = local.submission.inputs
    digest = hashlib.sha256(b"head\n1\n").hexdigest()
    assert (a.name, a.size_bytes, a.sha256, a.events) == ("a.csv", 7, digest, 1)
    assert a.url == f"/storage/inputs/{digest}/a.csv"
    assert (b.name, b.events) == ("b.csv", 3)
    assert next((upload.kind, upload.path.name, upload.url) for upload in local.uploads) == ("input", "a.csv", a.url)


def test_events_are_not_counted_unless_the_task_says_what_they_are(resolve_text: Resolve) -> None:
    assert resolve_text("inputs: {files: [data/a.csv]}\n").submission.inputs[0].events is None
    assert resolve_text("inputs: {files: [{path: data/a.csv, events: 7}]}\n").submission.inputs[0].events == 7


@pytest.mark.parametrize(
    ("content", "lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2), (b"x" * 3_000_000, 1)]
)
def test_a_last_line_without_newline_counts(tmp_path: Path, content: bytes, lines: int) -> None:
    (tmp_path / "f").write_bytes(content)
    measured = measure(tmp_path / "f")
    assert (measured.lines, measured.size_bytes) == (lines, len(content))
    assert measured.sha256 == hashlib.sha256(content).hexdigest()


def test_a_header_alone_is_no_event(resolve_text: Resolve, folder: Path) -> None:
    (folder / "empty.csv").write_text("")
    assert (
        resolve_text("inputs: {files: [empty.csv], events: lines, header_lines: 1}\n").submission.inputs[0].events == 0
    )


def test_urls_are_taken_as_they_are_and_not_uploaded(resolve_text: Resolve) -> None:
    local = resolve_text(
        "inputs:\n  files:\n    - https://h/a%20b.root?x=1\n    - {url: 'file:///data/c', events: 5, size_bytes: 9}\n"
    )
    first, second = local.submission.inputs
    assert (first.name, first.url, first.events) == ("a b.root", "https://h/a%20b.root?x=1", None)
    assert (second.name, second.events, second.size_bytes) == ("c", 5, 9)
    assert local.uploads == []


def test_equal_base_names_get_their_folder_in_front(resolve_text: Resolve) -> None:
    inputs = resolve_text("inputs: {files: [run1/x.csv, run2/x.csv, data/a.csv, 'https://h/v/x.csv']}\n")
    assert [file.name for file in inputs.submission.inputs] == ["run1_x.csv", "run2_x.csv", "a.csv", "v_x.csv"]


def test_names_that_stay_equal_get_a_number(resolve_text: Resolve) -> None:
    inputs = resolve_text("inputs: {files: ['https://h/x?a=1', 'https://h/x?a=2']}\n").submission.inputs
    assert [file.name for file in inputs] == ["h_x", "2-h_x"]


def test_an_input_never_takes_the_name_of_a_sandbox_file_or_of_an_output(resolve_text: Resolve) -> None:
    local = resolve_text(
        "sandbox: [analyse.py]\noutputs: {o: {file: a.csv}}\ninputs: {files: [data/a.csv, 'https://h/analyse.py']}\n"
    )
    assert [file.name for file in local.submission.inputs] == ["data_a.csv", "h_analyse.py"]


def test_names_with_spaces_are_quoted_in_the_url(resolve_text: Resolve, folder: Path) -> None:
    (folder / "my file.csv").write_text("1\n")
    (file,) = resolve_text("inputs: {files: ['my *.csv']}\n").submission.inputs
    assert file.name == "my file.csv"
    assert file.url.endswith("/my%20file.csv")


def test_a_file_with_pattern_characters_is_found_by_its_name(resolve_text: Resolve, folder: Path) -> None:
    (folder / "a[1].csv").write_text("1\n")
    assert resolve_text("inputs: {files: ['a[1].csv']}\n").submission.inputs[0].name == "a[1].csv"


def test_sandbox_files_keep_their_folder_and_their_executable_bit(resolve_text: Resolve) -> None:
    local = resolve_text("sandbox: [analyse.py, 'lib/**/*.py', ../outside.py]\n")
    assert [(file.name, file.executable) for file in local.submission.sandbox] == [
        ("analyse.py", True),
        ("lib/more/deep.py", False),
        ("lib/tools.py", False),
        ("outside.py", False),
    ]
    assert {upload.url for upload in local.uploads} == {
        f"/v1/sandboxes/{file.sha256}" for file in local.submission.sandbox
    }


def test_the_merge_step_may_name_a_sandbox_file_again(resolve_text: Resolve) -> None:
    local = resolve_text(
        "sandbox: [analyse.py]\noutputs: {a: {file: x}}\n"
        "merge: {command: m, sandbox: [analyse.py, ./analyse.py, lib/tools.py]}\n"
    )
    assert [file.name for file in local.submission.sandbox] == ["analyse.py", "lib/tools.py"]
    assert len(local.uploads) == 2


def test_two_sandbox_files_with_one_name_are_refused(resolve_text: Resolve, tmp_path: Path) -> None:
    (tmp_path / "analyse.py").write_text("another\n")
    (problem,) = problems_of(resolve_text, "sandbox:\n  - analyse.py\n  - ../analyse.py\n")
    assert "task.yaml, line 6: key `sandbox[1]`: " in problem
    assert problem.endswith("would both be `analyse.py` in the job's folder")


def test_missing_files_are_named_with_their_line(resolve_text: Resolve, folder: Path) -> None:
    found = problems_of(
        resolve_text, "sandbox: [anlyse.py]\ninputs:\n  files:\n    - data/*.root\n    - data/c.csv\n    - data\n"
    )
    assert found == [
        f"{folder}/task.yaml, line 4: key `sandbox[0]`: there is no file `anlyse.py` in the folder "
        f"{folder}; did you mean `analyse.py`?",
        f"{folder}/task.yaml, line 7: key `inputs.files[0]`: the pattern `data/*.root` matches no file in the folder "
        f"{folder}",
        f"{folder}/task.yaml, line 8: key `inputs.files[1]`: there is no file `data/c.csv` in the folder "
        f"{folder}; did you mean `b.csv`?",
        f"{folder}/task.yaml, line 9: key `inputs.files[2]`: `data` is a folder; write `data/*` for the files in it",
    ]


def test_a_missing_file_of_an_option_names_the_option(resolve_text: Resolve) -> None:
    with pytest.raises(TaskFileError, match=r"^--set inputs\.files=/none\.csv: key .*there is no file `/none\.csv`$"):
        resolve_text("", "inputs.files=/none.csv")


def test_an_input_that_is_given_twice_is_refused(resolve_text: Resolve) -> None:
    (problem,) = problems_of(resolve_text, "inputs:\n  files:\n    - data/a.csv\n    - data/*.csv\n")
    assert "line 7: key `inputs.files[1]`" in problem
    assert "a.csv` is given twice, first at " in problem
    assert problem.endswith("task.yaml, line 6")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(resolve_text: Resolve, folder: Path) -> None:
    (folder / "data/a.csv").chmod(0)
    assert problems_of(resolve_text, "inputs: {files: [data/a.csv]}\n")[0].endswith("cannot be read: Permission denied")


def test_a_pipe_is_no_input(resolve_text: Resolve, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert problems_of(resolve_text, "inputs: {files: [pipe]}\n")[0].endswith("`pipe` is no regular file")


def test_a_large_sandbox_file_names_the_limit_and_the_way_out(resolve_text: Resolve, folder: Path) -> None:
    (folder / "big").write_bytes(b"0" * 1_100_000)
    (problem,) = problems_of(resolve_text, "sandbox: [big]\n", max_sandbox_mb=1)
    assert problem.endswith(
        "has 1.1 MB, more than the 1 MB of the setting `max_sandbox_mb`; give large files under `inputs`"
    )


def test_names_that_a_job_cannot_have_are_refused(resolve_text: Resolve, folder: Path) -> None:
    (folder / "job.json").write_text("{}")
    (folder / "a\nb").write_text("1\n")
    (folder / "-rf").write_text("1\n")
    assert "must be renamed" in problems_of(resolve_text, "sandbox: [job.json]\n")[0]
    (problem,) = problems_of(resolve_text, "inputs: {files: ['a?b']}\n")
    assert "'a\\nb' must be renamed" in problem
    assert resolve_text("inputs: {files: [-rf]}\n").submission.inputs[0].name == "rf"


def test_without_inputs_nothing_is_listed(resolve_text: Resolve) -> None:
    local = resolve_text("inputs: {jobs: 3}\n")
    assert (local.submission.inputs, local.submission.sandbox, local.uploads) == ([], [], [])
    assert local.submission.source == HEAD + "inputs: {jobs: 3}\n"
