# SPDX-License-Identifier: Apache-2.0
"""Task files that cannot be run: refused with one clear sentence, and nothing is stored."""

from pathlib import Path

import pytest
from real_instance import Instance

pytest_plugins = ("instance_fixtures",)
pytestmark = [pytest.mark.pool, pytest.mark.prefect]

HEAD = "schema_version: 1\nname: wrong\n"
CASES = {
    "a typo in a key": (
        HEAD + "comand: echo\n",
        ["task.yaml", "line 3", "comand", "did you mean", "command"],
    ),
    "a typo in an inner key": (
        HEAD + "command: echo\nresources:\n  memory: 200\n",
        ["task.yaml", "line 5", "resources.memory", "did you mean", "memory_mb"],
    ),
    "a missing input file": (
        HEAD + "command: cat {inputs}\ninputs:\n  files: [here.txt, nowhere.txt]\n",
        ["task.yaml", "line 5", "nowhere.txt"],
    ),
    "a pattern that matches nothing": (
        HEAD + "command: cat {inputs}\ninputs:\n  files: ['nothing-*.csv']\n",
        ["task.yaml", "line 5", "nothing-*.csv", "match"],
    ),
    "a missing sandbox file": (
        HEAD + "command: ./nowhere.sh\nsandbox: [nowhere.sh]\n",
        ["task.yaml", "line 4", "nowhere.sh"],
    ),
    "a split that gives no job": (
        HEAD + "command: cat {ranges}\ninputs: {files: [header.csv], events: lines, header_lines: 1}\n"
        "split: {events_per_job: 10}\n",
        ["task.yaml", "no job"],
    ),
    "a split that gives too many jobs": (
        HEAD + "command: echo {ranges}\ninputs: {files: [long.txt], events: lines}\nsplit: {events_per_job: 1}\n",
        ["task.yaml", "100,000", "jobs"],
    ),
    "more jobs than the limit": (
        HEAD + "command: echo\ninputs: {jobs: 100001}\n",
        ["task.yaml", "100,000", "jobs"],
    ),
    "an output outside of the folder": (
        HEAD + "command: echo\noutputs: {stolen: {file: ../stolen.txt}}\n",
        ["task.yaml", "line 4", "outputs.stolen.file", "`..`"],
    ),
    "a dataset that nobody made": (
        HEAD + "command: cat {inputs}\ninputs: {dataset: no.such.dataset}\n",
        ["no.such.dataset"],
    ),
}  # fmt: skip


def everything_stored(instance: Instance) -> tuple[list[int], list[str], list[str]]:
    """Return the tasks, the datasets and the files that the instance has."""
    kept = [path for folder in (instance.home.sandboxes, instance.home.storage) for path in folder.rglob("*")]
    tasks = [task["id"] for task in instance.ask("tasks", "--all")]
    return tasks, [dataset["name"] for dataset in instance.ask("datasets")], sorted(map(str, kept))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", [[], ["--dry-run"]], ids=["submitted", "dry run"])
def test_a_wrong_task_is_refused_in_one_sentence(instance: Instance, tmp_path: Path, case: str, how: list[str]) -> None:
    text, words = CASES[case]
    (tmp_path / "task.yaml").write_text(text)
    (tmp_path / "here.txt").write_text(f"{case}\n")
    (tmp_path / "header.csv").write_text("a,b\n")
    if "long.txt" in text:
        (tmp_path / "long.txt").write_text("x\n" * 100_001)
    before = everything_stored(instance)
    answer = instance.say("submit", str(tmp_path / "task.yaml"), *how, status=2)
    print(answer.err)
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1
    assert all(word in answer.err for word in words)
    assert everything_stored(instance) == before


def test_a_wrong_value_on_the_command_line_names_its_option(instance: Instance, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(HEAD + "command: echo\n")
    answer = instance.say("submit", str(tmp_path / "task.yaml"), "--set", "inputs.jobs=none", status=2)
    print(answer.err)
    assert all(word in answer.err for word in ("--set", "inputs.jobs", "none"))
