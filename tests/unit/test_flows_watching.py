# SPDX-License-Identifier: Apache-2.0
"""Waiting for the jobs of a task, without Prefect and without an endpoint."""

import logging
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from glideflow_flows import watching
from prefect.client.schemas.objects import FlowRun


def progress(state: str, *, ended: bool = False) -> dict[str, Any]:
    """What the endpoint says of a task."""
    return {"task": {"state": state}, "stage": "main", "ended": ended}


@pytest.fixture
def suspended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that the flow suspended with; Prefect refuses, as it does when the run was cancelled just then."""
    keys: list[str] = []

    def refuse(*, timeout: None, key: str) -> None:
        keys.append(key)
        raise RuntimeError("Flow run cannot be suspended: Run is already in terminal state CANCELLED.")

    monkeypatch.setattr(watching, "suspend_flow_run", refuse)
    monkeypatch.setattr(watching, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(watching, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(watching.Watch, "show", lambda self, shown: None)
    return keys


def watch(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> watching.Watch:
    """Return a watch whose endpoint gives these answers."""
    left = list(answers)
    monkeypatch.setattr(watching, "endpoint", lambda: SimpleNamespace(progress=lambda task_id: left.pop(0)))
    return watching.Watch(FlowRun(flow_id=uuid4()), 7, suspends=True)


def test_run_cancelled_while_it_suspends_looks_at_its_task_again(
    monkeypatch: pytest.MonkeyPatch, suspended: list[str]
) -> None:
    follows = watch(monkeypatch, progress("running"), progress("running"), progress("cancelled", ended=True))
    assert not follows.wait("main")
    assert len(set(suspended)) == 2


def test_task_whose_jobs_have_ended_goes_on(monkeypatch: pytest.MonkeyPatch, suspended: list[str]) -> None:
    assert watch(monkeypatch, progress("running", ended=True)).wait("main")
    assert not suspended
