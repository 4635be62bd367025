# SPDX-License-Identifier: Apache-2.0
"""`glideflow failures` and `policy`: tables of what the endpoint says."""

import json
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint

from glideflow.cli import run
from glideflow.cli.failures import BAR_CHARACTERS, bar

FULL = "\N{FULL BLOCK}"
HISTOGRAM = {
    "task": {"id": 12, "name": "zpeak", "state": "failed", "jobs_total": 20},
    "by": ["reason", "site"],
    "failed": 9,
    "items": [
        {"code": "payload_exit", "site": "north", "count": 8, "job_id": 4, "text": "exit code 3:\nno answer"},
        {"code": "disk_full", "site": None, "count": 1, "job_id": 7, "text": None},
    ],
}
RULES: list[dict[str, Any]] = [
    {
        "origin": "task", "key": "task/oom", "name": "oom", "active": True,
        "match": {"signals": ["SIGKILL"], "exit_codes": [137, "64-78"]},
        "retry": {"times": 3, "delay_seconds": 0, "delay_factor": 2, "elsewhere": "node", "memory_factor": 1.5,
                  "max_memory_mb": 6000},
    },
    {
        "origin": "site north", "key": "site north/mount", "name": "mount", "active": False,
        "match": {"text": "not connected", "sources": ["payload"]},
        "retry": {"times": 1, "delay_seconds": 60, "delay_factor": 1, "elsewhere": "site", "wall_factor": 2,
                  "max_wall_seconds": 7200},
    },
    {"origin": "system", "key": "system/wall-time", "name": "wall-time", "active": True, "fail": True,
     "match": {"reasons": ["wall_time_exceeded"]}},
    {"origin": "system", "key": "system/any", "name": "any", "active": True, "match": {},
     "retry": {"delay_seconds": 2, "delay_factor": 2}},
]  # fmt: skip
POLICY = {"task": None, "retries": None, "tolerance": None, "system_file": "/etc/policy.yaml", "rules": RULES}


def test_failures_are_a_histogram_with_an_example_each(
    cli_endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_endpoint.get("/v1/tasks/zpeak/failures", HISTOGRAM)
    assert run(["failures", "zpeak", "--by", "reason", "--by", "site"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "task 12 (zpeak) is failed: 9 failed jobs"
    assert lines[2].split() == ["jobs", "reason", "site", "for", "example", "which", "says"]
    assert lines[3].split() == [
        "8",
        FULL * BAR_CHARACTERS,
        "payload_exit",
        "north",
        "4",
        *["exit", "code", "3:", "no", "answer"],
    ]
    assert lines[4].split() == ["1", FULL * 3, "disk_full", "-", "7"]
    assert cli_endpoint.requests[-1].query == {"by": "reason,site"}
    assert run(["failures", "zpeak", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == HISTOGRAM


def test_a_task_without_failed_jobs_is_one_sentence(
    cli_endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_endpoint.get("/v1/tasks/zpeak/failures", {**HISTOGRAM, "failed": 0, "items": []})
    assert run(["failures", "zpeak"]) == 0
    assert capsys.readouterr().out == "task 12 (zpeak) is failed: 0 failed jobs\n"


def test_an_unknown_dimension_is_wrong_use(cli_endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["failures", "zpeak", "--by", "colour"]) == 2
    assert "exit_code" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "most", "length"), [(1, 1, 24), (1, 2, 12), (1, 1000, 1), (999, 1000, 24)])
def test_bars_are_as_long_as_their_numbers_and_never_empty(number: int, most: int, length: int) -> None:
    assert len(bar(number, most)) == length


def test_policy_shows_each_rule_in_words(cli_endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    cli_endpoint.get("/v1/policy", POLICY)
    assert run(["policy"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "from rule for then",
        "task oom exit code 137, 64-78; signal SIGKILL run again up to 3 times, at once, not on that node, with 1.5 "
        "times the memory up to 6000 MB",
        "site north mount (inactive) said by payload; text has not connected run again once, after 60 s, not at "
        "that site, with 2 times the run time up to 7200 s",
        "system wall-time reason wall_time_exceeded fail at once",
        "system any every failure run again as often as `retries` says, after 2 s, then 2 times as long, at most 300 s",
        "the system's rules are those of /etc/policy.yaml",
    ]


def test_policy_of_a_task_names_its_numbers(cli_endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    tolerance = {"failed_percent": 2.5, "end": "partly_done"}
    cli_endpoint.get("/v1/tasks/zpeak/policy", {**POLICY, "retries": 4, "tolerance": tolerance})
    assert run(["policy", "zpeak"]) == 0
    printed = capsys.readouterr().out
    assert "as often as `retries` says (4)" in printed
    assert "the task ends as partly_done with up to 2.5 % of its jobs failed" in printed
    assert run(["policy", "zpeak", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rules"] == RULES
