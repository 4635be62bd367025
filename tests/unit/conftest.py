# SPDX-License-Identifier: Apache-2.0
"""What unit tests of the command line share."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_endpoint import Answer, FakeEndpoint, fake_endpoint, task_with


@pytest.fixture
def cli_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    """An endpoint that the settings name, and a task file in the current folder."""
    (tmp_path / "token").write_text("secret-token\n")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "task.yaml").write_text("schema_version: 1\nname: zpeak\ncommand: 'true'\nsandbox: [a.py]\n")
    (tmp_path / "a.py").write_text("pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLIDEFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GLIDEFLOW_TOKEN_FILE", str(tmp_path / "token"))
    with fake_endpoint() as served:
        monkeypatch.setenv("GLIDEFLOW_SERVER_URL", served.url)
        sandbox = f"/v1/sandboxes/{hashlib.sha256(b'pass' + bytes([10])).hexdigest()}"
        served.on("PUT", sandbox, Answer.json({}, 201))
        served.on("POST", "/v1/tasks", Answer.json(task_with(state="submitted"), 201))
        yield served
