# SPDX-License-Identifier: Apache-2.0
"""Every command of the command line against a whole instance: its JSON and its exit status."""

import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest
from real_instance import RESOURCES, Instance

from glideflow.cli import COMMANDS

pytest_plugins = ("instance_fixtures",)
pytestmark = [pytest.mark.pool, pytest.mark.prefect]

GREET = f"""
schema_version: 1
name: greet
command: echo "hello from {{index}}" | tee greeting.txt
inputs: {{jobs: 2}}
outputs: {{greeting: {{file: greeting.txt, dataset: greetings}}}}
resources: {RESOURCES}
"""
FAIL = f"{{schema_version: 1, name: fail, command: 'false', retries: 0, resources: {RESOURCES}}}"
WITH_JSON = {
    "submit": ("submit", "{file}", "--dry-run"),
    "wait": ("wait", "{task}"),
    "tasks": ("tasks", "--all"),
    "jobs": ("jobs", "{task}", "--state", "done"),
    "explain": ("explain", "{task}.0"),
    "failures": ("failures", "{failed}"),
    "policy": ("policy", "{task}"),
    "log": ("log", "{task}.0"),
    "outputs": ("outputs", "{task}"),
    "kill": ("kill", "{task}"),
    "retry": ("retry", "{failed}"),
    "pause": ("pause", "{failed}"),
    "resume": ("resume", "{failed}"),
    "priority": ("priority", "{failed}", "--to", "5"),
    "pilots": ("pilots", "--all"),
    "sites": ("sites",),
    "shares": ("shares",),
    "datasets": ("datasets", "greetings"),
    "status": ("status",),
    "doctor": ("doctor",),
    "pool": ("pool", "status"),
    "schema": ("schema",),
    "version": ("version",),
}
WITHOUT_JSON = {"up", "down", "database"}


@pytest.fixture(scope="module")
def greeted(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A task that is done, its file, and a task that failed."""
    folder = tmp_path_factory.mktemp("greet")
    number = instance.submit(folder, GREET)
    failed = instance.submit(folder / "failed", FAIL)
    instance.ended(number)
    instance.ended(failed, "failed")
    return {"task": str(number), "file": str(folder / "task.yaml"), "failed": str(failed)}


def test_each_command_is_tried_here() -> None:
    assert {command.name for command in COMMANDS} == set(WITH_JSON) | WITHOUT_JSON
    for command in COMMANDS:
        module, name = command.target.split(":")
        target = getattr(import_module(f"glideflow.cli.{module}"), name)
        if command.name in WITHOUT_JSON and inspect.isfunction(target):
            assert not any("json" in parameter for parameter in inspect.signature(target).parameters)


@pytest.mark.parametrize("name", WITH_JSON)
def test_each_command_speaks_json(instance: Instance, greeted: dict[str, str], name: str) -> None:
    answer = instance.say(*(word.format(**greeted) for word in WITH_JSON[name]), "--json")
    assert answer.json()


@pytest.mark.parametrize("name", WITH_JSON)
def test_each_command_speaks_to_people(instance: Instance, greeted: dict[str, str], name: str) -> None:
    # An empty list is said, too: nobody may have used anything yet.
    assert instance.say(*(word.format(**greeted) for word in WITH_JSON[name])).words


def test_the_log_and_the_outputs_are_what_the_command_wrote(
    instance: Instance, greeted: dict[str, str], tmp_path: Path
) -> None:
    assert instance.say("log", f"{greeted['task']}.1").out == "hello from 1\n"
    instance.say("outputs", greeted["task"], "--to", str(tmp_path))
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["hello from 0\n", "hello from 1\n"]


def test_exit_status_tells_success_failure_and_wrong_use(
    instance: Instance, greeted: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "fail.yaml").write_text(FAIL)
    instance.run("wait", greeted["task"], status=0)
    instance.run("submit", "fail.yaml", "--wait", status=1, folder=tmp_path)
    instance.run("submit", "no-such-file.yaml", status=2, folder=tmp_path)
    instance.say("explain", "no-such-task.0", status=2)
    instance.say("retry", greeted["task"], status=2)
    instance.say("jobs", "--no-such-option", status=2)


def test_a_dry_run_stores_nothing(instance: Instance, greeted: dict[str, str]) -> None:
    before = [task["id"] for task in instance.ask("tasks", "--all")]
    plan = instance.ask("submit", greeted["file"], "--dry-run", "--set", "inputs.jobs=7")
    assert plan["jobs_total"] == 7
    assert [task["id"] for task in instance.ask("tasks", "--all")] == before


def test_a_dump_is_written_while_the_instance_runs(instance: Instance, tmp_path: Path) -> None:
    instance.say("database", "dump", str(tmp_path / "copy.dump"))
    assert (tmp_path / "copy.dump").stat().st_mode & 0o777 == 0o600
    assert instance.all_work()


def test_starting_twice_changes_nothing(instance: Instance) -> None:
    before = instance.processes()
    assert "runs already" in instance.run("up").words
    assert instance.processes() == before


def test_status_and_doctor_find_nothing_wrong(instance: Instance) -> None:
    status = json.loads(instance.say("status", "--json").out)
    assert {part["name"] for part in status["components"]} >= {"postgres", "prefect", "endpoint", "flows", "factory"}
    checks = {check["name"]: check["result"] for check in instance.ask("doctor")}
    assert "failed" not in checks.values()
    assert {"database", "endpoint", "prefect", "schedd", "certificate", "disk"} <= set(checks)
