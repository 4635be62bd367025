# SPDX-License-Identifier: Apache-2.0
"""The commands for tasks and jobs, against an endpoint with prepared answers."""

import json

import pytest
from fake_endpoint import AT, LATER, Answer, FakeEndpoint, Request, job_with, progress_with, task_with

from glideflow.cli import following, run
from glideflow.domain.task import TaskSpec


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask more often than for people."""
    monkeypatch.setattr(following, "FIRST_POLL_SECONDS", 0.001)
    monkeypatch.setattr(following, "LONGEST_POLL_SECONDS", 0.001)


@pytest.fixture
def endpoint(cli_endpoint: FakeEndpoint) -> FakeEndpoint:
    """The endpoint of the command line."""
    return cli_endpoint


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_submit_says_the_number_and_how_to_follow(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "task.yaml", "--set", "priority=5", "--set", "name=other"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "task 12 (zpeak) is submitted\n"
    assert "glideflow wait 12" in captured.err
    *_, request = endpoint.seen("POST", "/v1/tasks")
    assert (request.json["spec"]["priority"], request.json["spec"]["name"]) == (5, "other")
    assert request.json["sandbox"][0]["name"] == "a.py"


def test_submit_prints_the_task_as_json(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "task.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == 12


def test_submit_to_one_site_prints_what_the_endpoint_warns_of(
    endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.on("POST", "/v1/tasks", Answer.json(task_with(warnings=["it will wait 5 min"]), 201))
    assert run(["submit", "task.yaml", "--site", "cluster"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "task 12 (zpeak) is submitted\n"
    assert "warning: it will wait 5 min" in captured.err.splitlines()
    *_, request = endpoint.seen("POST", "/v1/tasks")
    assert request.json["spec"]["site"] == "cluster"


def test_problems_of_a_file_come_one_per_line(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "task.yaml", "--set", "retrys=5", "--set", "priority=many"]) == 2
    allowed = ", ".join(f"`{name}`" for name in TaskSpec.model_fields)
    assert capsys.readouterr().err.splitlines() == [
        f"error: --set retrys=5: key `retrys`: unknown; did you mean `retries`? allowed: {allowed}",
        'error: --set priority=many: key `priority`: must be a whole number, not "many"',
    ]
    assert endpoint.requests == []


def test_problems_that_the_endpoint_finds_get_their_line(
    endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = ["key `name`: taken", "key `inputs.files[2].url`: bad", "something else"]
    endpoint.on("POST", "/v1/tasks", Answer.problem(422, "task_file", "x", problems=problems))
    assert run(["submit", "task.yaml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: task.yaml, line 2: key `name`: taken",
        "error: task.yaml: key `inputs.files[2].url`: bad",
        "error: something else",
    ]


def test_a_dry_run_shows_the_jobs(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {
        "jobs_total": 1234,
        "jobs": [
            {
                "index": 0,
                "inputs": [
                    {"name": "a.csv", "first_event": 5, "events": 10},
                    {"name": "b.csv", "first_event": None, "events": None},
                ],
                "command": "python3 a.py\n  --all",
                "outputs": ["x.json"],
            }
        ],
        "warnings": ["the task declares no outputs"],
    }
    endpoint.on("POST", "/v1/tasks", Answer.json(plan))
    assert run(["submit", "task.yaml", "--dry-run"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "1,234 jobs would come out; the first 1:"
    assert [cell.strip() for cell in lines[2].strip().split("  ")] == [
        "0",
        "a.csv (5 to 14), b.csv",
        "python3 a.py --all",
        "x.json",
    ]
    assert captured.err == "warning: the task declares no outputs\n"
    assert [request.method for request in endpoint.requests] == ["POST"]
    assert run(["submit", "task.yaml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plan


def test_waiting_ends_with_the_result_and_what_to_do_next(
    endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"total": 20, "done": 20}
    done = {"state": "done", "ended_at": LATER, "jobs": counts, "merge": {"job_id": 99, "state": "done"}}
    endpoint.get(
        "/v1/tasks/12/progress",
        progress_with(state="submitted", jobs={"total": 0}),
        progress_with(),
        progress_with(**done, flow_run_url="http://prefect/runs/flow-run/1"),
    )
    assert run(["submit", "task.yaml", "--wait"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "task 12 (zpeak) is done: 20 jobs and the merge in 0:01:30",
        "  in Prefect:  http://prefect/runs/flow-run/1",
        "  fetch its files:  glideflow outputs 12 --to FOLDER",
    ]
    assert captured.err.splitlines() == [
        "task 12: submitted",
        "task 12: 12 of 20 jobs done, 3 running, 1 failed",
        "task 12: 20 of 20 jobs done, merge done",
    ]


def test_a_task_without_outputs_points_to_its_logs(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.get("/v1/tasks/12", task_with())
    endpoint.get("/v1/tasks/12/progress", progress_with(state="done", ended_at=LATER, spec={"outputs": {}}))
    assert run(["wait", "12"]) == 0
    assert lines_of(capsys)[-1] == "  it kept no files; read a log:  glideflow log 12.0"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_waiting_for_a_task_that_fails_ends_with_1_and_says_why(
    endpoint: FakeEndpoint, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.get("/v1/tasks/zpeak", task_with())
    reason = {"code": "jobs_failed", "text": "1 of 20 jobs failed", "source": "server"}
    failure = {"code": "payload_exit", "text": "exit code 3", "exit_code": 3, "site": "local", "count": 1, "job_id": 7}
    ended = progress_with(state=state, ended_at=LATER, reason=reason)
    endpoint.get("/v1/tasks/12/progress", {**ended, "failures": [failure]})
    assert run(["wait", "zpeak"]) == 1
    text = capsys.readouterr().out
    assert f"task 12 (zpeak) is {state}: 20 jobs in 0:01:30\n  1 of 20 jobs failed\n" in text
    assert "exit code 3" in text
    assert "glideflow explain 7; glideflow log 7" in text
    assert "glideflow retry 12" in text
    assert "outputs" not in text


def test_waiting_with_json_prints_the_task_alone(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.get("/v1/tasks/12/progress", progress_with(state="failed", ended_at=LATER))
    assert run(["submit", "task.yaml", "--wait", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "failed"


def test_waiting_survives_an_endpoint_that_restarts(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.get("/v1/tasks/12", task_with())
    away = Answer.problem(503, "endpoint_unavailable", "restarting")
    end = Answer.json(progress_with(state="done", ended_at=LATER))
    endpoint.on("GET", "/v1/tasks/12/progress", away, away, end)
    assert run(["wait", "12"]) == 0
    assert capsys.readouterr().err.count("restarting; trying again") == 1


def test_waiting_gives_up_when_the_endpoint_stays_away(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.0)
    endpoint.get("/v1/tasks/12", task_with())
    endpoint.on("GET", "/v1/tasks/12/progress", Answer.problem(503, "endpoint_unavailable", "restarting"))
    assert run(["wait", "12"]) == 1
    assert "error: restarting" in capsys.readouterr().err


def test_ctrl_c_says_that_the_task_goes_on(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    endpoint.get("/v1/tasks/12/progress", progress_with())
    monkeypatch.setattr("glideflow.cli.following.time.sleep", interrupt)
    assert run(["submit", "task.yaml", "--wait"]) == 130
    text = capsys.readouterr().err
    assert "task 12 goes on; `glideflow wait 12` follows it again, `glideflow kill 12` ends it" in text


def test_on_a_terminal_a_bar_moves(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    endpoint.get("/v1/tasks/12/progress", progress_with(), progress_with(state="done", ended_at=LATER))
    assert run(["submit", "task.yaml", "--wait"]) == 0
    text = capsys.readouterr().err
    assert "zpeak" in text
    assert "\x1b[" in text
    assert "12 of 20 jobs done" in text


def test_tasks_are_a_table(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    paused = task_with(id=13, paused=True, reason={"code": "x", "text": "[red]no[/red]", "source": "user"})
    endpoint.get("/v1/tasks", {"items": [paused, task_with()], "next": 12})
    assert run(["tasks", "--state", "running"]) == 0
    lines = lines_of(capsys)
    assert lines[0].split() == [
        "id", "name", "state", "jobs", "done", "running", "failed", "priority", "owner", "created", "reason"
    ]  # fmt: skip
    assert "running (paused)" in lines[1]
    assert lines[1].rstrip().endswith("[red]no[/red]")
    assert lines[2].split()[:9] == ["12", "zpeak", "running", "20", "12", "3", "1", "0", "ada"]
    assert endpoint.requests[0].query == {"state": "running", "limit": "20"}


def test_all_tasks_are_read_page_by_page(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.get("/v1/tasks", {"items": [task_with(id=13)], "next": 13}, {"items": [task_with()], "next": None})
    assert run(["tasks", "--all", "--json"]) == 0
    assert [task["id"] for task in json.loads(capsys.readouterr().out)] == [13, 12]


def test_an_empty_list_says_so_on_standard_error(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.get("/v1/tasks", {"items": [], "next": None})
    endpoint.get("/v1/tasks/12/jobs", {"items": [], "next": None})
    assert run(["tasks"]) == 0
    assert run(["tasks", "--state", "failed"]) == 0
    assert run(["jobs", "12", "--state", "failed"]) == 0
    assert run(["tasks", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "[]\n"
    assert captured.err == "there are no tasks yet\nno task is failed\nno job of 12 is failed\n"


def test_jobs_are_a_table_with_a_limit(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    items = [job_with(id=4), job_with(id=5, index=4, state="ready", exit_code=None, reason=None, node=None)]
    endpoint.get("/v1/tasks/zpeak/jobs", {"items": [*items, job_with(id=6)], "next": 6})
    assert run(["jobs", "zpeak", "--limit", "2"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:7] == ["4", "zpeak.3", "failed", "0", "local", "wn7", "2"]
    assert lines[2].split() == ["5", "zpeak.4", "ready", "0", "local", "-", "2", "-", "-"]
    assert "--limit 0 lists all" in captured.err


def test_explain_prints_sentences_and_attempts(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    attempt = {**job_with(), "number": 1, "claimed_at": AT, "signal": 9, "rule": "task/oom"}
    endpoint.get(
        "/v1/jobs/zpeak.3/explain", {"job": job_with(), "sentences": ["It failed.", "Retry it."], "attempts": [attempt]}
    )
    assert run(["explain", "zpeak.3"]) == 0
    lines = lines_of(capsys)
    assert lines[:3] == ["job 4, zpeak.3 of task 12: failed", "  It failed.", "  Retry it."]
    assert lines[-1].split()[:4] == ["1", "failed", "local", "wn7"]
    assert "signal 9  task/oom" in lines[-1]
    assert run(["explain", "zpeak.3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"] == ["It failed.", "Retry it."]


@pytest.mark.parametrize("command", ["kill", "retry", "pause", "resume"])
def test_each_order_acts_on_a_task_or_a_job(
    endpoint: FakeEndpoint, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.on("POST", f"/v1/tasks/zpeak/{command}", Answer.json(task_with(state="cancelled")))
    endpoint.on("POST", f"/v1/jobs/zpeak.3/{command}", Answer.json(job_with(state="ready")))
    assert run([command, "zpeak", "--reason", "wrong input"]) == 0
    assert run([command, "--job", "zpeak.3"]) == 0
    assert lines_of(capsys) == ["task 12 (zpeak) is cancelled, with 20 jobs", "job 4 (zpeak.3) is ready"]
    assert endpoint.requests[0].json == {"reason": "wrong input"}
    assert run([command, "zpeak", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "cancelled"


def test_what_is_paused_says_so(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.on("POST", "/v1/tasks/zpeak/pause", Answer.json(task_with(paused=True)))
    endpoint.on("POST", "/v1/jobs/zpeak.3/pause", Answer.json(job_with(state="ready", paused=True)))
    assert run(["pause", "zpeak"]) == 0
    assert run(["pause", "--job", "zpeak.3"]) == 0
    assert lines_of(capsys) == [
        "task 12 (zpeak) is running (paused), with 20 jobs",
        "job 4 (zpeak.3) is ready (paused)",
    ]


def test_a_priority_is_set_for_a_task_or_a_job(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.on("POST", "/v1/tasks/zpeak/priority", Answer.json(task_with(priority=-5)))
    endpoint.on("POST", "/v1/jobs/zpeak.3/priority", Answer.json(job_with(state="ready", priority=9)))
    assert run(["priority", "zpeak", "--to", "-5", "--reason", "others first"]) == 0
    assert run(["priority", "--job", "zpeak.3", "--to", "9"]) == 0
    assert lines_of(capsys) == [
        "task 12 (zpeak) is running, with 20 jobs; its priority is -5",
        "job 4 (zpeak.3) is ready; its priority is 9",
    ]
    assert [request.json for request in endpoint.requests] == [
        {"priority": -5, "reason": "others first"},
        {"priority": 9},
    ]
    assert run(["priority", "zpeak", "--to", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["priority"] == -5
    assert run(["priority", "zpeak"]) == 2
    assert run(["priority", "--to", "9"]) == 2


def test_shares_are_a_tree(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"used": 0.75, "core_seconds": 7200.0, "cores": 4, "running": 2, "ready": 3}
    user = {"kind": "user", "name": "ada", "share": 1.0, "target": 0.6, **numbers, "items": []}
    group = {"kind": "group", "name": "", "share": 2.5, "target": 0.6, **numbers, "items": [user]}
    page = {
        "half_life_hours": 168.0,
        "urgent_priority": 900,
        "limits": {"running_per_user": 5000, "running_per_task": None, "users": {"bob": 7}},
        "items": [
            {"kind": "vo", "name": "atlas", "share": 60.0, "target": 0.6, **numbers, "items": [group]},
            {"kind": "vo", "name": "belle", "share": 30.0, "target": None, **numbers, "items": []},
        ],
    }
    endpoint.get("/v1/shares", page)
    assert run(["shares"]) == 0
    captured = capsys.readouterr()
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in captured.out.splitlines()]
    assert lines[0] == [
        "vo, group, user", "share", "may have", "has used", "core hours", "cores now", "jobs running", "jobs ready",
    ]  # fmt: skip
    assert lines[1] == ["atlas", "60", "60.0%", "75.0%", "2.0", "4", "2", "3"]
    assert [line[0] for line in lines[2:]] == ["(no group)", "ada", "belle"]
    assert captured.out.splitlines()[3].startswith("    ada")
    assert captured.err.splitlines() == [
        "what was used counts half after 168 hours",
        "tasks of priority 900 or more go before all shares",
        "at most 5,000 jobs of one user run at once",
        "at most 7 jobs of bob run at once",
    ]
    assert run(["shares", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == page


def test_resources_are_tables(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    pilot = {
        "id": "ab12",
        "site": "local",
        "state": "registered",
        "node": "wn7",
        "batch_id": "12.0",
        "cores": 1,
        "running": 1,
        "last_seen_at": AT,
        "reason": None,
    }
    site = {
        "name": "local",
        "launcher": "htcondor",
        "status": "online",
        "cores": 1,
        "memory_mb": 1000,
        "max_pilots": 8,
        "pilots": {"registered": 2},
        "decision": {"n": 3, "reasons": ["5 jobs wait"], "at": AT},
    }
    endpoint.get("/v1/pilots", {"items": [pilot]})
    endpoint.get("/v1/sites", {"items": [site, {**site, "pilots": {}, "decision": None}]})
    dataset = {"name": "zpeak.events", "files": 2, "size_bytes": 1_500_000, "events": 10, "owner": "ada"}
    endpoint.get("/v1/datasets", {"items": [dataset]})
    file = {"file": "e.csv", "size_bytes": 999, "events": 5, "task_id": 12, "url": "/storage/x"}
    endpoint.get("/v1/datasets/zpeak.events@12", {"name": "zpeak.events@12", "files": [file]})
    for arguments in (["pilots", "--site", "local", "--all"], ["sites"], ["datasets"], ["datasets", "zpeak.events@12"]):
        assert run(arguments) == 0
    text = capsys.readouterr().out
    for expected in ("registered", "2 registered", "3 more: 5 jobs wait", "1.5 MB", "999 B", "none"):
        assert expected in text
    assert endpoint.requests[0].query == {"site": "local", "all": "true", "limit": "1000"}
    for arguments in (["pilots"], ["sites"], ["datasets"], ["datasets", "zpeak.events@12"]):
        assert run([*arguments, "--json"]) == 0
        json.loads(capsys.readouterr().out)


def test_no_output_shows_the_token(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(request: Request) -> Answer:
        return Answer.problem(401, "not_authenticated", "the token is not the one of this instance")

    endpoint.on("GET", "/v1/tasks", refuse)
    assert run(["tasks"]) == 2
    text = capsys.readouterr().err
    assert "check the token file" in text
    assert "secret-token" not in text
