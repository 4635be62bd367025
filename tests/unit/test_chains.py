# SPDX-License-Identifier: Apache-2.0
"""Tasks of one file that wait for each other: parents, order, circles."""

from pathlib import Path
from typing import Any

import pytest

from glideflow.domain.chains import dataset_of, parents_within, storing_order, writes
from glideflow.domain.task import TaskSpec
from glideflow.errors import TaskFileError
from glideflow.task_file import read_task_files

OUT = {"events": {"file": "e.csv"}}


def spec(name: str, **more: Any) -> TaskSpec:
    return TaskSpec.model_validate({"schema_version": 1, "name": name, "command": "true", **more})


def order(*specs: TaskSpec) -> list[str]:
    return [specs[at].name for at in storing_order(specs, parents_within(specs))]


def test_parents_come_first_wherever_they_stand() -> None:
    assert order(spec("c", after=["b", "a"]), spec("b", after=["a"]), spec("a")) == ["a", "b", "c"]


def test_a_dataset_of_a_task_in_the_file_makes_it_a_parent() -> None:
    reader = spec("read", inputs={"dataset": "write.events@write"})
    assert parents_within([reader, spec("write", outputs=OUT)]) == [[1], []]
    assert dataset_of(reader) == ("write.events", "write")


def test_waiting_for_a_dataset_means_the_tasks_that_write_it() -> None:
    merge = {"command": "true", "outputs": {"all": {"file": "a", "dataset": "shared"}}}
    writers = [spec("one", outputs={"o": {"file": "o", "dataset": "shared"}}), spec("two", outputs=OUT, merge=merge)]
    reader = spec("read", inputs={"dataset": "shared", "wait_for_dataset": True})
    assert parents_within([reader, *writers, spec("other", outputs=OUT)]) == [[1, 2], [], [], []]
    assert not writes(spec("other", outputs=OUT), "shared")


def test_names_from_before_are_no_parents_within_the_file() -> None:
    assert parents_within([spec("a", after=["yesterday", "12"])]) == [[]]


@pytest.mark.parametrize(
    ("specs", "sentence"),
    [
        ([spec("a", after=["a"])], "task a waits for itself"),
        ([spec("a", inputs={"dataset": "x@a"})], "task a waits for itself"),
        ([spec("a", after=["b"]), spec("b", after=["c"]), spec("c", after=["b"])], "b -> c -> b"),
        ([spec("a"), spec("a")], "two tasks of the file are called a"),
    ],
)
def test_circles_and_doubtful_names_are_refused_with_the_path(specs: list[TaskSpec], sentence: str) -> None:
    with pytest.raises(TaskFileError, match=sentence):
        order(*specs)


FILE = """\
# A chain.
---
schema_version: 1
name: first
command: echo "---"
inputs: {jobs: 2}
---
schema_version: 1
name: second
command: "true"
after: [first]
"""


def test_a_file_of_several_tasks_keeps_lines_and_texts_apart(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(FILE)
    first, second = read_task_files(path)
    assert (first.spec.name, second.spec.after) == ("first", ["first"])
    assert first.source.startswith("schema_version: 1\nname: first")
    assert second.source == FILE.rpartition("---\n")[2]
    assert second.places.line(("after",)) == 11


def test_an_override_names_the_task_that_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(FILE)
    first, second = read_task_files(path, ["first:inputs.jobs=7", "second:priority=3"])
    assert (first.spec.inputs.jobs, second.spec.priority, second.spec.inputs.jobs) == (7, 3, 1)
    with pytest.raises(
        TaskFileError, match=r"--set inputs.jobs=7: the file holds several tasks; .*`first:inputs.jobs="
    ):
        read_task_files(path, ["inputs.jobs=7"])


def test_a_mistake_in_the_second_task_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(FILE.replace("after:", "afer:"))
    with pytest.raises(TaskFileError, match=r"line 11: key `afer`: unknown; did you mean `after`"):
        read_task_files(path)
