# SPDX-License-Identifier: Apache-2.0
"""`glideflow retry`: what its options mean, and what a dry run prints."""

import json

import pytest
from fake_endpoint import Answer, FakeEndpoint, task_with

from glideflow.cli import run
from glideflow.domain.retrying import Changes
from glideflow.errors import UserError
from glideflow.task_file.changes import read_changes

PLAN = {
    "task": {"id": 12, "name": "zpeak", "state": "failed"},
    "jobs_total": 20, "total": 2, "by_state": {"failed": 2}, "unwritten": 0, "done": 17, "files": 34, "left": 1,
    "merge": "follows",
    "changes": [
        {"key": "memory_mb", "old": 2000, "new": 4000, "jobs": 2},
        {"key": "failure_policy", "old": [], "new": [{"name": "x", "fail": True}]},
    ],
    "jobs": [
        {"id": 4, "task": "zpeak", "stage": "main", "index": 3, "state": "failed", "paused": False, "site": "north",
         "node": "wn7", "attempts": 1, "exit_code": 3, "priority": 0, "reason": {"text": "exit code 3"}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ([], {}),
        (["resources.memory_mb=4000", "resources.cores=2"], {"resources": {"memory_mb": 4000, "cores": 2}}),
        (["priority=-5", "retries=0"], {"priority": -5, "retries": 0}),
        (["resources={wall_seconds: 60}"], {"resources": {"wall_seconds": 60}}),
        (["failure_policy=[]"], {"failure_policy": []}),
        (
            ["failure_policy=[{name: x, match: {exit_codes: [64-78]}, fail: true}]"],
            {"failure_policy": [{"name": "x", "match": {"exit_codes": ["64-78"]}, "fail": True}]},
        ),
    ],
)
def test_options_are_read_as_those_of_submit(options: list[str], changes: dict[str, object]) -> None:
    assert read_changes(options) == Changes.model_validate(changes)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("command=true", "--set command=true: `command` cannot be changed when jobs run again, since what is d"),
        ("outputs.x.file=y", "`outputs` cannot be changed when jobs run again"),
        ("resources.memory=4", "key `resources.memory`: unknown; did you mean `memory_mb`? allowed: `cores`, "),
        ("resources.memory_mb=lots", 'key `resources.memory_mb`: must be a whole number, not "lots"'),
        ("resources.memory_mb=0", "key `resources.memory_mb`: must be a whole number of at least 1, not 0"),
        ("priority=2000", "key `priority`: must be a whole number of at most 1000, not 2000"),
        ("memory_mb=4", "key `memory_mb`: unknown; did you mean `resources.memory_mb`? allowed: `resources`, "),
        ("resources.memory_mb=", "--set resources.memory_mb=: give a value, for example `resources.memory_mb=4000`"),
        ("resources.memory_mb", "--set resources.memory_mb: expected `key=value`"),
        ("failure_policy=[{name: x}]", "key `failure_policy[0]`: give exactly one of `retry`, `fail`"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_refused_before_anything_is_sent(
    cli_endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str], option: str, problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_changes([option])
    assert problem in str(caught.value)
    assert run(["retry", "zpeak", "--set", option]) == 2
    assert "error: --set" in capsys.readouterr().err
    assert cli_endpoint.requests == []


def test_several_problems_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read_changes(["priority=x", "resources.cores=0"])
    assert len(str(caught.value).splitlines()) == 2


def test_the_order_has_what_was_chosen(cli_endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    cli_endpoint.on("POST", "/v1/tasks/zpeak/retry", Answer.json(task_with(state="running")))
    options = [
        "--only",
        "failed",
        "--only",
        "disk_full",
        "--set",
        "resources.memory_mb=4000",
        "--reason",
        "more memory",
    ]
    assert run(["retry", "zpeak", *options]) == 0
    assert cli_endpoint.requests[-1].json == {
        "reason": "more memory",
        "only": ["failed", "disk_full"],
        "changes": {"resources": {"memory_mb": 4000}},
    }
    assert capsys.readouterr().out == "task 12 (zpeak) is running, with 20 jobs\n"
    assert run(["retry", "--job", "zpeak.3", "--only", "failed"]) == 2
    assert "--only chooses jobs of a task" in capsys.readouterr().err


def test_a_dry_run_prints_the_difference(cli_endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    cli_endpoint.on("POST", "/v1/tasks/zpeak/retry", Answer.json(PLAN))
    assert run(["retry", "zpeak", "--dry-run"]) == 0
    assert cli_endpoint.requests[-1].json == {"dry_run": True}
    printed = capsys.readouterr()
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert lines[:8] == [
        "2 jobs of task 12 (zpeak) would run again: 2 failed",
        "17 jobs done, with 34 files: these stay as they are",
        "1 failed or cancelled job would not run again",
        "the merge step follows when they have ended",
        "",
        "key now then for",
        "memory_mb 2000 4000 2 jobs",
        "failure_policy 0 rules 1 rule the task",
    ]
    assert "zpeak.3" in lines[-1]
    assert "exit code 3" in lines[-1]
    assert printed.err.splitlines() == [
        "the first 1 of them; --json has all numbers",
        "nothing was changed: this was a dry run",
    ]
    assert run(["retry", "zpeak", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == PLAN
