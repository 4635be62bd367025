# SPDX-License-Identifier: Apache-2.0
"""The command line against the real endpoint, over HTTPS with the home's CA and token."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glideflow.cli import run
from glideflow.client import Client
from glideflow.client.download import is_same
from glideflow.settings import load_settings
from glideflow.submission import resolve
from glideflow.task_file import read_task_file
from glideflow.testing.endpoint import RunningEndpoint, run_endpoint

DEADLINE_SECONDS = 20.0
TASK = """\
schema_version: 1
name: count
command: python3 count.py {ranges} > {output.sums}
sandbox: [count.py]
inputs: {files: ["data/*.csv"], events: lines, header_lines: 1}
split: {events_per_job: 4}
outputs: {sums: {file: "sums-{index}.txt"}}
resources: {memory_mb: 50, disk_mb: 50}
"""


@pytest.fixture
def endpoint(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningEndpoint]:
    """An endpoint without pilots, and a task file with its data in the current folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("head\n1\n2\n3\n")
    (tmp_path / "data" / "b.csv").write_text("head\n4\n5\n6")
    (tmp_path / "count.py").write_text("pass\n")
    (tmp_path / "task.yaml").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLIDEFLOW_HOME", str(tmp_path / "home"))
    with run_endpoint(load_settings(), database_url) as served:
        yield served


Ask = Callable[..., Any]


@pytest.fixture
def ask(endpoint: RunningEndpoint, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command with `--json` and return its document."""

    def run_and_read(*arguments: str) -> Any:
        assert run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run_and_read


def wait_for(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := check()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_dry_run_shows_every_event_once_and_stores_nothing(ask: Ask) -> None:
    plan = ask("submit", "task.yaml", "--dry-run")
    assert plan["jobs_total"] == 2
    assert [job["command"] for job in plan["jobs"]] == [
        "python3 count.py a.csv:0:3 b.csv:0:1 > sums-0.txt",
        "python3 count.py b.csv:1:2 > sums-1.txt",
    ]
    assert ask("tasks") == []


def test_a_task_is_submitted_explained_killed_and_run_again(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    task = ask("submit", "task.yaml", "--set", "priority=5")
    assert (task["name"], task["priority"]) == ("count", 5)
    jobs = wait_for(lambda: ask("jobs", "count"))
    assert [(job["index"], job["state"]) for job in jobs] == [(0, "ready"), (1, "ready")]
    assert "It is ready" in ask("explain", "count.1")["sentences"][0]
    assert run(["log", "count.1"]) == 2
    assert "no pilot has taken it yet" in capsys.readouterr().err
    assert ask("kill", "--job", "count.1", "--reason", "enough")["state"] == "cancelled"
    assert "enough" in " ".join(ask("explain", "count.1")["sentences"])
    assert ask("kill", "count")["state"] == "cancelled"
    assert run(["wait", "count"]) == 1
    assert "is cancelled: 2 jobs" in capsys.readouterr().out
    assert ask("retry", "count")["state"] == "running"
    assert [job["state"] for job in ask("jobs", str(task["id"]), "--state", "ready")] == ["ready", "ready"]
    assert ask("tasks", "--state", "running")[0]["id"] == task["id"]


def test_a_retry_is_planned_refused_and_done_with_new_numbers(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    ask("submit", "task.yaml")
    wait_for(lambda: ask("jobs", "count"))
    ask("kill", "count")
    options = ["--only", "cancelled", "--set", "resources.memory_mb=300"]
    plan = ask("retry", "count", *options, "--dry-run")
    assert plan["changes"] == [{"key": "memory_mb", "old": 50, "new": 300, "jobs": 2}]
    assert ask("tasks")[0]["state"] == "cancelled"
    assert run(["retry", "count", "--set", "resources.memory_mb=99000000"]) == 2
    assert "no site may run the jobs with these numbers (local: its pilots are too small" in capsys.readouterr().err
    assert run(["retry", "count", "--only", "canceled"]) == 2
    assert "did you mean `cancelled`?" in capsys.readouterr().err
    assert ask("retry", "count", *options)["retry"] == {"total": 2, "changes": plan["changes"]}
    assert ask("retry", "count", *options)["retry"] == {"total": 0, "changes": []}
    assert ask("kill", "--job", "count.1")["state"] == "cancelled"
    assert ask("retry", "--job", "count.1", "--set", "priority=3", "--dry-run")["total"] == 1
    assert ask("retry", "--job", "count.1", "--set", "priority=3")["state"] == "ready"


def test_policy_and_failures_are_answered_for_a_task(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "failure_policy=[{name: oom, match: {signals: [SIGKILL]}, fail: true}]"
    ask("submit", "task.yaml", "--set", rule)
    keys = [rule["key"] for rule in ask("policy", "count")["rules"]]
    assert (keys[0], keys[-1]) == ("task/oom", "system/any-failure")
    assert [rule["key"] for rule in ask("policy")["rules"]] == keys[1:]
    found = ask("failures", "count", "--by", "site", "--by", "node")
    assert (found["by"], found["failed"], found["items"]) == (["site", "node"], 0, [])
    assert run(["failures", "nothing"]) == 2
    assert "there is no task nothing" in capsys.readouterr().err


def test_files_are_sent_once_and_come_back_unchanged(endpoint: RunningEndpoint, tmp_path: Path) -> None:
    local = resolve(read_task_file(Path("task.yaml")))
    sent: list[int] = []
    with Client.from_settings(endpoint.settings) as client:
        client.submit(local)
        before = {path: path.stat().st_mtime_ns for path in endpoint.home.storage.rglob("*.csv")}
        client.submit(local, on_upload=lambda _, size: sent.append(size))
        assert before == {path: path.stat().st_mtime_ns for path in endpoint.home.storage.rglob("*.csv")}
        for file in local.submission.inputs:
            target = tmp_path / "back" / file.name
            client.download(file.url, target, file.size_bytes, file.sha256)
            assert is_same(target, file.size_bytes or 0, file.sha256 or "")
        assert client.whoami()["vo"] == "local"
    assert len(before) == 2
    assert sum(sent) == sum(upload.size_bytes for upload in local.uploads)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("site=nowhere", "--set site=nowhere: key `site`: there is no site nowhere"),
        ("resources.cores=1000", "--set resources.cores=1000: key `resources`: no site has pilots that large"),
        ("inputs.dataset=none", "--set inputs.dataset=none: key `inputs.dataset`: there is no dataset none"),
        ("inputs.header_lines=9", "the 2 input files hold no events, so there is no job to run"),
    ],
)
def test_what_only_the_endpoint_knows_is_refused_with_its_place(
    endpoint: RunningEndpoint, option: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["submit", "task.yaml", "--set", option]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert problem in text
    assert text.count("\n") == 1


def test_unknown_things_are_named(endpoint: RunningEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["jobs", "none"], ["explain", "none.1"], ["outputs", "7"], ["datasets", "none"], ["kill", "7"]):
        assert run(arguments) == 2
        assert capsys.readouterr().err.startswith("error: there is no ")


def test_a_wrong_token_is_refused_and_not_shown(
    endpoint: RunningEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("wrong-secret\n")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv("GLIDEFLOW_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("GLIDEFLOW_SERVER_URL", endpoint.url)
    assert run(["tasks"]) == 2
    text = capsys.readouterr().err
    assert "check the token file" in text
    assert "wrong-secret" not in text


CHAIN = (
    TASK
    + """---
schema_version: 1
name: total
command: cat {inputs}
inputs: {dataset: count.sums@count}
"""
)


def test_a_file_of_several_tasks_is_submitted_as_a_whole(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(CHAIN)
    assert [plan["jobs_total"] for plan in ask("submit", "chain.yaml", "--dry-run")] == [2, 0]
    first, second = ask("submit", "chain.yaml", "--set", "total:priority=7")
    assert (second["state"], second["priority"]) == ("submitted", 7)
    assert second["reason"]["text"] == f"it waits for task {first['id']} (count)"
    told = ask("explain", "--task", "total")["sentences"]
    assert f"It comes after task {first['id']} (count), which is " in told[1]
    ask("kill", "count")
    assert ask("tasks")[0]["reason"]["code"] == "parent_failed"


def test_a_circle_in_a_file_stores_nothing(ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chain.yaml").write_text(CHAIN.replace("name: count\n", "name: count\nafter: [total]\n"))
    assert run(["submit", "chain.yaml"]) == 2
    assert "count -> total -> count" in " ".join(capsys.readouterr().err.split())
    assert ask("tasks") == []


def test_the_end_of_a_parent_starts_its_child_at_once(ask: Ask, tmp_path: Path) -> None:
    """The planner of the endpoint hears of it, without a flow and without waiting for its next round."""
    (tmp_path / "chain.yaml").write_text(
        CHAIN.replace("inputs: {dataset: count.sums@count}", "after: [count]\nafter_failed: run").replace(
            "{inputs}", "x"
        )
    )
    ask("submit", "chain.yaml")
    ask("kill", "count")
    ends = time.monotonic() + DEADLINE_SECONDS
    while ask("tasks")[0]["jobs"]["ready"] != 1:
        assert time.monotonic() < ends
    assert ask("tasks")[0]["state"] == "running"
