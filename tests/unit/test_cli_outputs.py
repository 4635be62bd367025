# SPDX-License-Identifier: Apache-2.0
"""The commands for logs and outputs, against an endpoint with prepared answers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Answer, FakeEndpoint, job_with

from glideflow.cli import log as log_command
from glideflow.cli import run
from glideflow.cli.outputs import local_names
from glideflow.errors import ServiceError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask more often than for people."""
    monkeypatch.setattr(log_command, "POLL_SECONDS", 0.001)


@pytest.fixture
def endpoint(cli_endpoint: FakeEndpoint) -> FakeEndpoint:
    """The endpoint of the command line."""
    return cli_endpoint


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def log_answer(data: bytes, *, final: bool) -> Answer:
    return Answer(200, data, {"X-Glideflow-Log-Final": str(final).lower(), "X-Glideflow-Attempt": "2"})


def test_a_log_is_printed_byte_by_byte(endpoint: FakeEndpoint, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    endpoint.on("GET", "/v1/jobs/4/log", log_answer(b"one\n\xff", final=False), log_answer(b"", final=False))
    assert run(["log", "4", "--attempt", "2"]) == 0
    assert capfdbinary.readouterr().out == b"one\n\xff"
    assert [request.query for request in endpoint.requests] == [
        {"attempt": "2", "offset": "0"},
        {"attempt": "2", "offset": "5"},
    ]


def test_following_waits_for_the_start_and_reads_to_the_end(
    endpoint: FakeEndpoint, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    missing = Answer.problem(404, "not_found", "no pilot has taken it yet")
    parts = [(b"a\n", False), (b"", False), (b"b\n", True), (b"", True)]
    endpoint.on("GET", "/v1/jobs/4/log", missing, missing, *(log_answer(data, final=final) for data, final in parts))
    endpoint.get("/v1/jobs/4", job_with(state="ready"))
    assert run(["log", "4", "--follow"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out == b"a\nb\n"
    assert captured.err.count(b"job 4 has not started") == 1


def test_a_log_that_will_never_be_is_an_error(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.on("GET", "/v1/jobs/4/log", Answer.problem(404, "not_found", "no pilot has taken it"))
    endpoint.get("/v1/jobs/4", job_with(state="cancelled"))
    assert run(["log", "4", "--follow"]) == 2
    assert run(["log", "4"]) == 2
    assert capsys.readouterr().err == "error: no pilot has taken it\n" * 2


def test_a_log_as_json_is_one_document(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.on("GET", "/v1/jobs/4/log", log_answer(b"one\n\xff", final=True), log_answer(b"", final=True))
    assert run(["log", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"job": "4", "attempt": 2, "final": True, "text": "one\n\ufffd"}


def output_with(file: str, data: bytes = b"abc", **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "zpeak.hist",
        "file": file,
        "url": f"/storage/tasks/12/{changes.get('job_id', 4)}/{file}",
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "events": None,
        "job_id": 4,
        "index": 3,
        "stage": "main",
        "name": "hist",
        **changes,
    }


@pytest.fixture
def files(endpoint: FakeEndpoint) -> FakeEndpoint:
    """A task with three files, two of one name."""
    items = [
        output_with("sum.json", b"sum", stage="merge", job_id=9, dataset="zpeak.sum"),
        output_with("h.json", b"one", job_id=4, index=0),
        output_with("h.json", b"two!", job_id=5, index=1),
    ]
    endpoint.get("/v1/tasks/zpeak/outputs", {"items": items})
    for item, data in zip(items, [b"sum", b"one", b"two!"], strict=True):
        endpoint.on("GET", item["url"], Answer(200, data))
    return endpoint


def test_outputs_are_listed(files: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["outputs", "zpeak", "--dataset", "zpeak.sum"]) == 0
    lines = lines_of(capsys)
    assert [line.split()[:3] for line in lines] == [["dataset", "file", "size"], ["zpeak.sum", "sum.json", "3"]]


def test_outputs_are_fetched_once_under_names_of_their_own(
    files: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["outputs", "zpeak", "--to", "new/results"]) == 0
    assert lines_of(capsys) == ["3 files fetched into new/results"]
    found = {path.name: path.read_bytes() for path in Path("new/results").iterdir()}
    assert found == {"sum.json": b"sum", "0-h.json": b"one", "1-h.json": b"two!"}
    assert run(["outputs", "zpeak", "--to", "new/results", "--json"]) == 0
    assert [item["path"] for item in json.loads(capsys.readouterr().out)] == [
        "new/results/sum.json",
        "new/results/0-h.json",
        "new/results/1-h.json",
    ]
    assert len(files.seen("GET", "/storage/tasks/12/9/sum.json")) == 1


def test_a_different_file_is_never_overwritten_unless_forced(
    files: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sum.json").write_text("mine")
    assert run(["outputs", "zpeak", "--to", "."]) == 2
    assert "sum.json exists and differs: choose another folder, or overwrite with --force" in capsys.readouterr().err
    assert Path("sum.json").read_text() == "mine"
    assert not Path("0-h.json").exists()
    assert run(["outputs", "zpeak", "--to", ".", "--force"]) == 0
    assert Path("sum.json").read_text() == "sum"


def test_a_damaged_file_ends_with_1(files: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    files.on("GET", "/storage/tasks/12/9/sum.json", Answer(200, b"sun"))
    assert run(["outputs", "zpeak", "--to", "."]) == 1
    assert "has another checksum than expected: try again" in capsys.readouterr().err
    assert not Path("sum.json").exists()


def test_names_of_outputs_stay_apart_and_inside_the_folder() -> None:
    same = [output_with("a/h", job_id=1, index=0), output_with("a/h", job_id=2, index=0), output_with("h")]
    assert local_names(same) == ["a/0-h", "a/2-h", "h"]
    for name in ("../h", "/etc/h", "a/../../h"):
        with pytest.raises(ServiceError, match="outside of the folder"):
            local_names([output_with(name)])
