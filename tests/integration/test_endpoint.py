# SPDX-License-Identifier: Apache-2.0
"""The REST endpoint on a real PostgreSQL, with a pilot made of plain requests."""

import errno
import hashlib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from glideflow.domain.identifiers import PilotId
from glideflow.identity.secrets import hashed
from glideflow.services.storage import Storage
from glideflow.settings import load_settings
from glideflow.store import files, pilots
from glideflow.store.engine import Connection
from glideflow.testing.endpoint import RunningEndpoint, run_endpoint

REASON = {"code": "payload_exit", "text": "the command ended with exit code 3", "source": "payload"}


@pytest.fixture
def endpoint(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningEndpoint]:
    monkeypatch.setenv("GLIDEFLOW_PILOT_LOST_SECONDS", "1")
    with run_endpoint(load_settings(tmp_path / "home"), database_url) as running:
        yield running
        while PILOTS:
            PILOTS.pop().http.close()


@pytest.fixture
def user(endpoint: RunningEndpoint) -> Iterator[httpx.Client]:
    with client(endpoint) as session:
        session.headers["authorization"] = f"Bearer {endpoint.home.read_token()}"
        yield session


def client(endpoint: RunningEndpoint) -> httpx.Client:
    trust = ssl.create_default_context(cafile=str(endpoint.home.ca_file))
    return httpx.Client(base_url=endpoint.url, verify=trust, timeout=20)


PILOTS: list["Pilot"] = []


class Pilot:
    """A pilot in the hands of a test."""

    def __init__(self, endpoint: RunningEndpoint, name: str = "pilot-number-one") -> None:
        self.id = PilotId(name)
        self.secret = f"secret of {name}"
        self.http = client(endpoint)
        self.sequence = 0
        PILOTS.append(self)
        with endpoint.context.database.transaction() as connection:
            pilots.plan(connection, "local", {self.id: hashed(self.secret)})

    def register(self) -> httpx.Response:
        facts = {"site": "local", "node": "node-1", "version": "0", "python": "3.11.0", "batch_id": "1.0"}
        size = {"cores": 4, "memory_mb": 4000, "disk_mb": 8000, "seconds_left": 80000}
        answer = self.http.post(
            "/pilot/v1/register", json={"pilot_id": self.id, "secret": self.secret, **facts, **size}
        )
        if answer.is_success:
            self.http.headers["authorization"] = f"Bearer {self.id}.{answer.json()['session_key']}"
        return answer

    def exchange(self, want: int = 0, **more: Any) -> dict[str, Any]:
        answer = self.ask(want, **more)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def ask(self, want: int = 0, **more: Any) -> httpx.Response:
        self.sequence += 1
        free = {"cores": 4, "memory_mb": 4000, "disk_mb": 8000, "seconds": 80000}
        return self.http.post(
            "/pilot/v1/exchange", json={"sequence": self.sequence, "want": want, "free": free, **more}
        )

    def finished(self, order: dict[str, Any], outcome: str = "succeeded", **more: Any) -> dict[str, Any]:
        report = {"attempt_id": order["attempt_id"], "sequence": 2, "state": "finished", "outcome": outcome}
        return {**report, "started_at": "2026-11-20T10:00:00Z", "ended_at": "2026-11-20T10:00:01Z", **more}

    def store(self, order: dict[str, Any], content: bytes) -> list[dict[str, Any]]:
        output = order["outputs"][0]
        answer = self.http.put(output["path"], content=content)
        assert answer.status_code == 201, answer.text
        sha256 = hashlib.sha256(content).hexdigest()
        return [{"name": output["name"], "path": output["path"], "size_bytes": len(content), "sha256": sha256}]


@pytest.fixture
def pilot(endpoint: RunningEndpoint) -> Pilot:
    made = Pilot(endpoint)
    assert made.register().is_success
    return made


def submit(user: httpx.Client, **spec: Any) -> dict[str, Any]:
    document = {"schema_version": 1, "name": "demo", "command": "true", **spec}
    answer = user.post("/v1/tasks", json={"spec": document})
    assert answer.status_code == 201, answer.text
    return until(lambda: user.get(f"/v1/tasks/{answer.json()['id']}").json(), lambda task: task["state"] == "running")


def until(look: Any, good: Any, seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def state_of(user: httpx.Client, order: dict[str, Any]) -> str:
    return str(user.get(f"/v1/jobs/{order['job_id']}").json()["state"])


def test_a_job_goes_from_ready_to_done_with_its_verified_output(user: httpx.Client, pilot: Pilot) -> None:
    outputs = {"result": {"file": "r-{index}.txt", "events": "lines", "header_lines": 1}}
    task = submit(user, command="make {output.result} {seed}", inputs={"jobs": 2}, outputs=outputs)
    first, second = pilot.exchange(want=2)["jobs"]
    assert first["command"].startswith("make r-0.txt ")
    answer = pilot.exchange(
        holding=[first["attempt_id"], second["attempt_id"]],
        reports=[
            {"attempt_id": first["attempt_id"], "sequence": 1, "state": "running", "started_at": "2026-11-20T10:00:00Z"}
        ],
    )
    assert answer["receipts"][0]["accepted"]
    assert (state_of(user, first), state_of(user, second)) == ("running", "claimed")
    for order in (first, second):
        stored = pilot.store(order, b"x\n1\n2\n")
        pilot.exchange(reports=[pilot.finished(order, exit_code=0, outputs=stored)])
    items = user.get(f"/v1/tasks/{task['id']}/outputs").json()["items"]
    assert [(item["file"], item["events"], item["dataset"]) for item in items] == [
        ("r-0.txt", 2, "demo.result"),
        ("r-1.txt", 2, "demo.result"),
    ]
    assert user.get(items[0]["url"]).content == b"x\n1\n2\n"
    assert user.post(f"/v1/tasks/{task['id']}/merge").json() == {"job_id": None}
    assert user.post(f"/v1/tasks/{task['id']}/finish").json()["state"] == "done"
    moves = user.get("/v1/events", params={"kind": "job", "subject": first["job_id"]}).json()["items"]
    assert [move["new_state"] for move in moves] == ["claimed", "running", "verifying", "done"]


def test_the_merge_reads_what_all_jobs_wrote_and_ends_the_task(user: httpx.Client, pilot: Pilot) -> None:
    merge = {"command": "cat {inputs} > {output.all}", "outputs": {"all": {"file": "all.txt"}}}
    task = submit(user, inputs={"jobs": 2}, outputs={"part": {"file": "part.txt"}}, merge=merge)
    for order in pilot.exchange(want=2)["jobs"]:
        pilot.exchange(reports=[pilot.finished(order, exit_code=0, outputs=pilot.store(order, b"p"))])
    made = user.post(f"/v1/tasks/{task['id']}/merge").json()["job_id"]
    assert user.post(f"/v1/tasks/{task['id']}/merge").json()["job_id"] == made
    order = pilot.exchange(want=1)["jobs"][0]
    assert order["command"] == "cat 0-part.txt 1-part.txt > all.txt"
    assert len(order["inputs"]) == 2
    assert user.post(f"/v1/tasks/{task['id']}/finish").status_code == 409
    pilot.exchange(reports=[pilot.finished(order, exit_code=0, outputs=pilot.store(order, b"pp"))])
    assert user.post(f"/v1/tasks/{task['id']}/finish").json()["state"] == "done"


def test_a_failing_job_is_retried_and_then_fails_the_task_with_its_reason(user: httpx.Client, pilot: Pilot) -> None:
    task = submit(user, retries=1)
    for expected in ("waiting", "failed"):
        order = until(lambda: pilot.exchange(want=1)["jobs"], bool)[0]
        pilot.exchange(reports=[pilot.finished(order, "failed", exit_code=3, reason=REASON)])
        assert state_of(user, order) == expected
    ended = user.post(f"/v1/tasks/{task['id']}/finish").json()
    assert (ended["state"], ended["reason"]["code"]) == ("failed", "jobs_failed")
    assert "exit code 3" in ended["reason"]["text"]
    sentences = " ".join(user.get(f"/v1/jobs/{task['id']}.0/explain").json()["sentences"])
    assert "tried 2 times" in sentences
    assert "exit code 3" in sentences
    again = user.post(f"/v1/tasks/{task['id']}/retry").json()
    assert (again["state"], again["jobs"]["ready"]) == ("running", 1)


def test_a_success_without_its_output_is_a_failure(user: httpx.Client, pilot: Pilot) -> None:
    submit(user, retries=0, outputs={"result": {"file": "r.txt"}})
    order = pilot.exchange(want=1)["jobs"][0]
    told = [{"name": "result", "path": order["outputs"][0]["path"], "size_bytes": 1, "sha256": "0" * 64}]
    pilot.exchange(reports=[pilot.finished(order, exit_code=0, outputs=told)])
    job = user.get(f"/v1/jobs/{order['job_id']}").json()
    assert (job["state"], job["reason"]["code"]) == ("failed", "output_missing")


def test_a_repeated_report_is_answered_and_changes_nothing(user: httpx.Client, pilot: Pilot) -> None:
    submit(user)
    order = pilot.exchange(want=1)["jobs"][0]
    report = pilot.finished(order, exit_code=0)
    assert pilot.exchange(reports=[report])["receipts"][0]["accepted"]
    assert pilot.exchange(reports=[report])["receipts"][0]["accepted"]
    moves = user.get("/v1/events", params={"kind": "job", "subject": order["job_id"]}).json()["items"]
    assert [move["new_state"] for move in moves] == ["claimed", "verifying", "done"]


def test_an_order_whose_answer_was_lost_is_repeated(user: httpx.Client, pilot: Pilot) -> None:
    submit(user)
    first = pilot.exchange(want=1)["jobs"]
    assert pilot.exchange(want=1)["jobs"] == first
    assert pilot.exchange(want=1, holding=[first[0]["attempt_id"]])["jobs"] == []


def test_a_silent_pilots_job_goes_to_another_and_its_late_report_is_refused(
    user: httpx.Client, endpoint: RunningEndpoint, pilot: Pilot
) -> None:
    submit(user)
    lost = pilot.exchange(want=1)["jobs"][0]
    until(lambda: user.get(f"/v1/jobs/{lost['job_id']}").json()["state"], lambda state: state == "ready", 20)
    other = Pilot(endpoint, "pilot-number-two")
    other.register()
    order = other.exchange(want=1)["jobs"][0]
    assert (order["job_id"], order["number"]) == (lost["job_id"], 2)
    late = pilot.ask(reports=[pilot.finished(lost, exit_code=0)])
    assert (late.status_code, late.json()["code"]) == (403, "pilot_refused")
    report = {**other.finished(lost, exit_code=0), "attempt_id": lost["attempt_id"]}
    receipt = other.exchange(holding=[order["attempt_id"]], reports=[report])["receipts"][0]
    assert not receipt["accepted"]
    assert state_of(user, order) == "claimed"


def test_the_late_report_of_a_lost_attempt_is_refused_with_the_reason(
    endpoint: RunningEndpoint, user: httpx.Client, pilot: Pilot
) -> None:
    task = submit(user)
    (order,) = pilot.exchange(want=1)["jobs"]
    with endpoint.context.database.transaction() as connection:
        connection.execute("UPDATE attempts SET claimed_at = now() - interval '1 day'")
    # It says that it holds nothing, and the watchdog looks every few seconds.
    until(lambda: (pilot.exchange(), state_of(user, order))[1], lambda state: state == "ready", seconds=30)
    before = user.get(f"/v1/jobs/{order['job_id']}/explain").json()["attempts"]
    assert [(attempt["state"], attempt["reason"]["code"]) for attempt in before] == [("lost", "attempt_not_held")]
    answer = pilot.exchange(holding=[order["attempt_id"]], reports=[pilot.finished(order, exit_code=0)])
    assert not answer["receipts"][0]["accepted"]
    assert "was given up before (it is lost); the report changes nothing" in answer["receipts"][0]["text"]
    assert user.get(f"/v1/jobs/{order['job_id']}/explain").json()["attempts"] == before
    answer = pilot.exchange(holding=[order["attempt_id"]])
    assert [(command["command"], command["attempt_id"]) for command in answer["commands"]] == [
        ("kill", order["attempt_id"])
    ]
    assert user.get(f"/v1/tasks/{task['id']}").json()["jobs"]["ready"] == 1


def test_pause_priority_and_resume_reach_the_next_pilot_at_once(user: httpx.Client, pilot: Pilot) -> None:
    first, second = submit(user, name="first"), submit(user, name="second")
    assert user.post("/v1/tasks/second/priority", json={"priority": 10}).json()["priority"] == 10
    assert user.post("/v1/tasks/second/priority", json={"priority": 1001}).status_code == 422
    for _ in range(2):
        assert user.post("/v1/tasks/first/pause", json={"reason": "wait"}).json()["paused"]
    job = user.get(f"/v1/tasks/{second['id']}/jobs").json()["items"][0]
    assert user.post(f"/v1/jobs/{job['id']}/pause").json()["paused"]
    assert pilot.exchange(want=2)["jobs"] == []
    for path in (f"/v1/tasks/{first['id']}/resume", f"/v1/jobs/{job['id']}/resume"):
        assert not user.post(path).json()["paused"]
    assert user.post(f"/v1/jobs/{job['id']}/priority", json={"priority": -3}).json()["priority"] == -3
    taken = pilot.exchange(want=2, wait_seconds=5)["jobs"]
    assert [order["task_id"] for order in taken] == [first["id"], second["id"]]


def test_a_killed_task_tells_its_pilot_and_cancels_its_jobs(user: httpx.Client, pilot: Pilot) -> None:
    task = submit(user, inputs={"jobs": 3})
    order = pilot.exchange(want=1)["jobs"][0]
    killed = user.post(f"/v1/tasks/{task['id']}/kill", json={"reason": "wrong seed"}).json()
    assert (killed["state"], killed["jobs"]["cancelled"]) == ("cancelled", 3)
    commands = pilot.exchange(want=1, holding=[order["attempt_id"]])["commands"]
    assert [(item["command"], item["attempt_id"]) for item in commands] == [
        ("kill", order["attempt_id"]),
        ("drain", None),
    ]
    assert "wrong seed" in commands[0]["reason"]["text"]
    again = user.post(f"/v1/tasks/{task['id']}/kill").json()
    assert again["reason"] == killed["reason"]


def test_an_idle_pilot_gets_a_new_job_at_once(user: httpx.Client, pilot: Pilot) -> None:
    answers: list[tuple[float, dict[str, Any]]] = []
    waiting = threading.Thread(
        target=lambda: answers.append((time.monotonic(), pilot.exchange(want=1, wait_seconds=15))), daemon=True
    )
    waiting.start()
    until(lambda: user.get("/v1/pilots").json()["items"][0]["last_seen_at"], bool)
    began = time.monotonic()
    submit(user)
    waiting.join(timeout=10)
    assert answers
    assert len(answers[0][1]["jobs"]) == 1
    assert time.monotonic() - began < 5


def test_a_pilot_with_a_wrong_or_used_secret_is_refused(endpoint: RunningEndpoint, pilot: Pilot) -> None:
    pilot.exchange()
    assert pilot.register().json()["code"] == "registration_refused"
    stranger = Pilot(endpoint, "pilot-number-two")
    stranger.secret = "guessed"
    assert stranger.register().status_code == 403
    assert stranger.ask().status_code == 401


def test_a_pilot_writes_only_for_its_own_attempts(user: httpx.Client, endpoint: RunningEndpoint, pilot: Pilot) -> None:
    submit(user, outputs={"result": {"file": "r.txt"}})
    order = pilot.exchange(want=1)["jobs"][0]
    other = Pilot(endpoint, "pilot-number-two")
    other.register()
    assert other.http.put(order["outputs"][0]["path"], content=b"x").status_code == 403
    assert other.http.put(f"/pilot/v1/attempts/{order['attempt_id']}/log?offset=0", content=b"x").status_code == 403
    assert pilot.http.put("/storage/tasks/1/1/..%2f..%2fx", content=b"x").status_code in (400, 403)
    assert user.put(order["outputs"][0]["path"], content=b"x").status_code == 403


def test_log_chunks_are_appended_once_and_read_while_the_job_runs(user: httpx.Client, pilot: Pilot) -> None:
    submit(user)
    order = pilot.exchange(want=1)["jobs"][0]
    address = f"/pilot/v1/attempts/{order['attempt_id']}/log"
    for _ in range(2):
        assert pilot.http.put(f"{address}?offset=0", content=b"hello\n").json() == {"size_bytes": 6}
    assert pilot.http.put(f"{address}?offset=3", content=b"lo\nworld\n").json() == {"size_bytes": 12}
    gap = pilot.http.put(f"{address}?offset=99", content=b"x")
    assert (gap.status_code, gap.json()["size_bytes"]) == (409, 12)
    log = user.get(f"/v1/jobs/{order['job_id']}/log", params={"offset": 6})
    assert (log.text, log.headers["x-glideflow-log-final"]) == ("world\n", "false")


def test_a_pilot_that_says_goodbye_gives_its_jobs_back(user: httpx.Client, pilot: Pilot) -> None:
    submit(user)
    order = pilot.exchange(want=1)["jobs"][0]
    reason = {"code": "pilot_drained", "text": "received SIGTERM", "source": "pilot"}
    assert pilot.http.post("/pilot/v1/goodbye", json={"reason": reason, "log": "bye"}).is_success
    assert state_of(user, order) == "ready"
    assert user.get("/v1/pilots", params={"all": True}).json()["items"][0]["state"] == "ended"


def test_a_dry_run_shows_the_jobs_and_stores_nothing(user: httpx.Client) -> None:
    spec = {"schema_version": 1, "name": "demo", "command": "run {index}", "inputs": {"jobs": 30}}
    shown = user.post("/v1/tasks", params={"dry_run": True}, json={"spec": spec}).json()
    assert (shown["jobs_total"], len(shown["jobs"]), shown["jobs"][3]["command"]) == (30, 20, "run 3")
    assert user.get("/v1/tasks").json()["items"] == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inputs": {"jobs": 3_000_000}}, "more than the allowed 2,000,000"),
        ({"inputs": {"dataset": "nothing"}}, "no dataset nothing"),
        ({"resources": {"cores": 64}}, "no site has pilots that large"),
        ({"resources": {"wall_seconds": 86_400}}, "wall_seconds 86320"),
        ({"site": "mars"}, "there is no site mars"),
        ({"command": "run {idnex}"}, "did you mean `{index}`"),
    ],
)
def test_a_task_that_cannot_run_is_refused_and_nothing_is_stored(
    user: httpx.Client, change: dict[str, Any], sentence: str
) -> None:
    spec = {"schema_version": 1, "name": "demo", "command": "true", **change}
    answer = user.post("/v1/tasks", json={"spec": spec})
    assert (answer.status_code, answer.json()["code"]) == (422, "task_file")
    assert sentence in answer.json()["detail"]
    assert user.get("/v1/tasks").json()["items"] == []


def test_requests_without_the_right_token_are_refused(endpoint: RunningEndpoint) -> None:
    with client(endpoint) as stranger:
        assert stranger.get("/v1/tasks").status_code == 401
        stranger.headers["authorization"] = "Bearer guessed"
        assert stranger.get("/v1/tasks").json()["code"] == "not_authenticated"
        assert stranger.get("/health").json()["status"] == "ok"


def test_the_reference_of_the_endpoint_needs_no_other_server(endpoint: RunningEndpoint) -> None:
    with client(endpoint) as reader:
        page = reader.get("/docs").text
        assert "http://" not in page
        assert "https://" not in page.replace(endpoint.url, "")
        routes = reader.get("/openapi.json").json()["paths"]
    assert {"/v1/tasks", "/pilot/v1/exchange", "/storage/{path}"} <= set(routes)


def test_a_full_disk_of_the_endpoint_is_said_and_nothing_is_stored(
    endpoint: RunningEndpoint, user: httpx.Client, pilot: Pilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(user, outputs={"result": {"file": "r.txt"}})
    order = pilot.exchange(want=1)["jobs"][0]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("glideflow.services.storage.Incoming.write", full)
        answer = pilot.http.put(order["outputs"][0]["path"], content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert [path for path in endpoint.home.storage.rglob("*") if path.is_file()] == []
    pilot.exchange(reports=[pilot.finished(order, exit_code=0, outputs=pilot.store(order, b"x"))])
    assert state_of(user, order) == "done"


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_above_the_limit_is_refused_and_nothing_is_stored(
    endpoint: RunningEndpoint, user: httpx.Client, pilot: Pilot, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    monkeypatch.setitem(vars(endpoint.context.settings), "max_file_mb", 1)
    submit(user, outputs={"result": {"file": "r.txt"}})
    order = pilot.exchange(want=1)["jobs"][0]
    # Without an announced length the bytes come in chunks, and are counted.
    content = b"x" * 1_000_001
    body = content if announced else iter([content[:700_000], content[700_000:]])
    answer = pilot.http.put(order["outputs"][0]["path"], content=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "is larger than 1000000 bytes, the most that one file may have" in answer.json()["detail"]
    assert "max_file_mb" in answer.json()["detail"]
    assert [path for path in endpoint.home.storage.rglob("*") if path.is_file()] == []
    digest = hashlib.sha256(content).hexdigest()
    assert user.put(f"/storage/inputs/{digest}/input", content=content).status_code == 413
    pilot.exchange(reports=[pilot.finished(order, exit_code=0, outputs=pilot.store(order, content[:-1]))])
    assert state_of(user, order) == "done"


def test_an_object_is_on_the_disk_before_its_row_says_that_it_is_there(
    endpoint: RunningEndpoint, user: httpx.Client, pilot: Pilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    persist, record = Storage.persist, files.record_object

    def persisting(storage: Storage, folder: Path) -> None:
        persist(storage, folder)
        happened.append("on the disk")

    def recording(connection: Connection, facts: dict[str, Any]) -> None:
        happened.append("row")
        record(connection, facts)

    monkeypatch.setattr(Storage, "persist", persisting)
    monkeypatch.setattr(files, "record_object", recording)
    submit(user, outputs={"result": {"file": "r.txt"}})
    pilot.store(pilot.exchange(want=1)["jobs"][0], b"x")
    assert happened == ["on the disk", "row"]
