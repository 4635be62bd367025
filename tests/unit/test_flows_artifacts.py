# SPDX-License-Identifier: Apache-2.0
"""What the artifacts of a flow run show."""

import json
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from glideflow_flows.artifacts import Artifacts, failure_table, json_markdown, site_table
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import Artifact

RUN = uuid4()


class Shelf:
    """As much of Prefect's client as artifacts need, in memory."""

    def __init__(self) -> None:
        self.items: dict[UUID, dict[str, Any]] = {}
        self.calls = 0

    def create_artifact(self, artifact: ArtifactCreate) -> Artifact:
        """Keep a new one."""
        self.calls += 1
        made = Artifact(key=artifact.key, type=artifact.type, data=artifact.data, flow_run_id=artifact.flow_run_id)
        self.items[made.id] = {"key": artifact.key, "data": artifact.data, "description": artifact.description}
        return made

    def update_artifact(self, artifact_id: UUID, artifact: ArtifactUpdate) -> None:
        """Change one."""
        self.calls += 1
        self.items[artifact_id] |= {"data": artifact.data, "description": artifact.description}

    def request(self, _method: str, _path: str, *, json: dict[str, Any]) -> httpx.Response:
        """Find by key."""
        wanted = json["artifacts"]["key"]["any_"]
        return httpx.Response(200, json=[{"id": str(i)} for i, item in self.items.items() if item["key"] in wanted])

    def by_key(self) -> dict[str, dict[str, Any]]:
        """All, by key."""
        return {item["key"]: item for item in self.items.values()}


@pytest.fixture
def shelf() -> Shelf:
    """An empty one."""
    return Shelf()


def artifacts(shelf: Shelf, instance: str = "glideflow") -> Artifacts:
    """The artifacts of a flow run, as a process that just started has them."""
    return Artifacts(cast(SyncPrefectClient, shelf), RUN, 7, instance)


def progress(**changes: Any) -> dict[str, Any]:
    """The endpoint's progress of a task."""
    return {
        "task": {"name": "zpeak", "state": "running"},
        "stage": "main",
        "total": 20,
        "by_state": {"done": 5, "failed": 1, "running": 10, "ready": 4},
        "by_site": [
            {"site": "-", "states": {"ready": 4}},
            {"site": "south", "states": {"done": 5, "failed": 1, "running": 10}},
        ],
        "failures": [],
        **changes,
    }


def test_progress_counts_every_ended_job(shelf: Shelf) -> None:
    artifacts(shelf).show_progress(progress())
    shown = shelf.by_key()["task-7-progress"]
    assert shown["data"] == 30.0
    assert shown["description"] == "**zpeak**, running: 5/20 jobs done, 4 ready, 10 running, 1 failed"
    assert "task-7-failures" not in shelf.by_key()


def test_another_process_changes_the_same_artifacts(shelf: Shelf) -> None:
    artifacts(shelf).show_progress(progress())
    artifacts(shelf).show_progress(progress(by_state={"done": 20}))
    assert sorted(shelf.by_key()) == ["task-7-progress", "task-7-sites"]
    assert len(shelf.items) == 2
    assert shelf.by_key()["task-7-progress"]["data"] == 100.0


def test_nothing_is_sent_when_nothing_changed(shelf: Shelf) -> None:
    shown = artifacts(shelf)
    shown.show_progress(progress())
    calls = shelf.calls
    shown.show_progress(progress())
    assert shelf.calls == calls


def test_keys_tell_instances_apart_and_keep_to_what_prefect_allows(shelf: Shelf) -> None:
    artifacts(shelf, "CMS.Test_2").show_progress(progress())
    assert "cms-test-2-task-7-progress" in shelf.by_key()


def test_task_without_jobs_yet_shows_no_progress(shelf: Shelf) -> None:
    artifacts(shelf).show_progress(progress(total=0, by_state={}, by_site=[]))
    assert shelf.by_key()["task-7-progress"]["data"] == 0.0


def test_site_table_has_the_states_that_occur_and_jobs_at_no_site_last() -> None:
    assert site_table(progress()["by_site"]) == [
        {"site": "south", "ready": 0, "running": 10, "done": 5, "failed": 1},
        {"site": "(none yet)", "ready": 4, "running": 0, "done": 0, "failed": 0},
    ]


def test_failure_table_begins_with_the_most_frequent_reason() -> None:
    rows = failure_table(
        [
            {
                "code": "pilot_lost",
                "text": "silent",
                "exit_code": None,
                "site": "a",
                "count": 1,
                "total": 10,
                "job_id": 1,
            },
            {
                "code": "payload_exit",
                "text": "exit 3",
                "exit_code": 3,
                "site": None,
                "count": 9,
                "total": 10,
                "job_id": 2,
            },
        ]
    )
    assert rows[0] == {
        "count": 9, "share": "90 %", "code": "payload_exit", "exit_code": 3, "site": "", "job_id": 2, "text": "exit 3"
    }  # fmt: skip
    assert rows[1]["exit_code"] == ""


def test_json_result_is_a_table_of_its_single_values_and_the_text() -> None:
    text = json_markdown(b'{"peak_gev": 91.2, "name": "a|b", "counts": [1, 2]}')
    assert "| peak_gev | 91.2 |" in text
    assert "| name | a\\|b |" in text
    assert "| counts" not in text
    assert '  "counts": [1, 2]' in text
    assert "```json" in text


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b""])
def test_result_that_is_no_json_is_said_to_be_none(content: bytes) -> None:
    assert json_markdown(content) == "This file is not valid JSON."


def test_large_json_is_cut() -> None:
    assert len(json_markdown(json.dumps(list(range(100_000))).encode())) < 5_000


def test_result_shows_pictures_and_json_and_names_everything_else(shelf: Shelf, tmp_path: Path) -> None:
    contents = {"plot.svg": b"<svg/>", "histogram.json": b'{"peak": 1}', "events.root": b"binary", "huge.png": b"x"}
    sizes = {"huge.png": 10**9}
    fetched: list[str] = []

    def fetch(found: Any) -> Path:
        fetched.append(found["file"])
        path = tmp_path / found["file"]
        path.write_bytes(contents[found["file"]])
        return path

    outputs = [
        {"name": Path(f).stem, "file": f, "url": f"/storage/{f}", "size_bytes": sizes.get(f, len(c))}
        for f, c in contents.items()
    ]
    artifacts(shelf).show_result(outputs, fetch)
    shown = shelf.by_key()
    assert sorted(shown) == ["task-7-result"]
    assert shown["task-7-result"]["data"].startswith("![plot](data:image/svg+xml;base64,PHN2Zy8+)")
    assert fetched == ["plot.svg", "histogram.json"]
    for name in contents:
        assert name in shown["task-7-result"]["data"]
