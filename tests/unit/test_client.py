# SPDX-License-Identifier: Apache-2.0
"""The client of the REST endpoint, against prepared answers."""

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_endpoint import Answer, FakeEndpoint, Request, fake_endpoint

from glideflow.client import Client
from glideflow.client.download import Damaged, NotWritable, is_same
from glideflow.client.problems import _by_code
from glideflow.errors import (
    EndpointUnavailable,
    GlideflowError,
    IllegalTransition,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    ServiceError,
    SettingsError,
    TaskFileError,
    UserError,
)
from glideflow.instance.certificates import ensure_certificates
from glideflow.instance.home import Home, InstanceInfo
from glideflow.settings import Settings, load_settings
from glideflow.submission import LocalSubmission, Upload, resolve
from glideflow.task_file import read_task_file


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as served:
        yield served


@pytest.fixture
def client(endpoint: FakeEndpoint) -> Iterator[Client]:
    with Client(endpoint.url, "secret-token") as connected:
        yield connected


@pytest.fixture
def local(tmp_path: Path) -> LocalSubmission:
    (tmp_path / "a.py").write_text("a\n")
    (tmp_path / "x y.csv").write_text("1\n2\n")
    (tmp_path / "task.yaml").write_text(
        "schema_version: 1\nname: t\ncommand: 'true'\nsandbox: [a.py]\ninputs: {files: [x y.csv], events: lines}\n"
    )
    return resolve(read_task_file(tmp_path / "task.yaml"))


def note_of(*, rest_url: str) -> InstanceInfo:
    return InstanceInfo(rest_url=rest_url, prefect_api_url="", prefect_ui_url="", database_url="")


def test_a_task_is_sent_after_the_files_that_are_missing(
    endpoint: FakeEndpoint, client: Client, local: LocalSubmission
) -> None:
    sandbox, data = local.uploads
    endpoint.on("HEAD", sandbox.url, Answer(body=b""))
    data_path = data.url.replace("%20", " ")
    endpoint.on("PUT", data_path, Answer.json({}, 201))
    endpoint.on("POST", "/v1/tasks", Answer.json({"id": 7}, 201))
    told: list[tuple[Upload, int]] = []
    assert client.submit(local, on_upload=lambda upload, size: told.append((upload, size))) == {"id": 7}
    assert [(request.method, request.path) for request in endpoint.requests] == [
        ("HEAD", sandbox.url),
        ("HEAD", data_path),
        ("POST", "/v1/tasks"),
        ("PUT", data_path),
        ("POST", "/v1/tasks"),
    ]
    assert endpoint.requests[2].query == {"dry_run": "true"}
    put = endpoint.requests[3]
    assert put.body == b"1\n2\n"
    assert put.headers["x-checksum-sha256"] == data.sha256
    assert put.headers["content-length"] == "4"
    assert told == [(sandbox, 2), (data, 4)]
    body = endpoint.requests[4].json
    assert body["spec"]["name"] == "t"
    assert body["inputs"][0]["events"] == 2
    assert {request.headers["authorization"] for request in endpoint.requests} == {"Bearer secret-token"}


def test_a_dry_run_uploads_nothing(endpoint: FakeEndpoint, client: Client, local: LocalSubmission) -> None:
    endpoint.on("POST", "/v1/tasks", Answer.json({"jobs_total": 1}))
    assert client.submit(local, dry_run=True) == {"jobs_total": 1}
    (request,) = endpoint.requests
    assert request.query == {"dry_run": "true"}


def test_a_file_that_changed_since_it_was_measured_is_refused_by_a_sentence(
    endpoint: FakeEndpoint, client: Client, local: LocalSubmission
) -> None:
    refusal = Answer.problem(422, "checksum_mismatch", "the bytes that arrived are not the ones announced")
    endpoint.on("PUT", local.uploads[0].url, refusal)
    endpoint.on("POST", "/v1/tasks", Answer.json({"jobs_total": 1}))
    with pytest.raises(UserError, match="are not the ones announced"):
        client.submit(local)


def test_the_files_of_a_refused_task_are_not_sent(
    endpoint: FakeEndpoint, client: Client, local: LocalSubmission
) -> None:
    endpoint.on("POST", "/v1/tasks", Answer.problem(422, "task_file", "no events", problems=["no events"]))
    with pytest.raises(TaskFileError, match="no events"):
        client.submit(local)
    assert "PUT" not in {request.method for request in endpoint.requests}


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (Answer.problem(404, "not_found", "there is no task 9"), NotFound, "there is no task 9"),
        (Answer.problem(409, "illegal_transition", "no way"), IllegalTransition, "no way"),
        (Answer.problem(403, "not_allowed", "not yours"), NotAllowed, "not yours"),
        (Answer.problem(401, "not_authenticated", "bad token"), NotAuthenticated, "bad token: check the token file"),
        (Answer.problem(422, "bad_request", "body.x: wrong"), UserError, "body.x: wrong"),
        (Answer.problem(503, "database_unavailable", "no database"), ServiceError, "no database"),
        (Answer.problem(500, "internal", "a bug"), ServiceError, "a bug"),
        (Answer(502, b"<html>"), ServiceError, "GET /v1/tasks/9 was answered with 502 Bad Gateway"),
        (Answer(400, b"[]"), UserError, "was answered with 400 Bad Request"),
    ],
)
def test_problem_documents_become_the_errors_they_stand_for(
    endpoint: FakeEndpoint, client: Client, answer: Answer, kind: type[GlideflowError], text: str
) -> None:
    endpoint.on("GET", "/v1/tasks/9", answer)
    with pytest.raises(kind, match=text) as caught:
        client.task(9)
    assert "secret-token" not in str(caught.value)


def test_all_problems_of_a_refused_task_arrive(endpoint: FakeEndpoint, client: Client, local: LocalSubmission) -> None:
    endpoint.on("POST", "/v1/tasks", Answer.problem(422, "task_file", "a\nb", problems=["a", "b"]))
    with pytest.raises(TaskFileError) as caught:
        client.submit(local, dry_run=True)
    assert caught.value.problems == ["a", "b"]


def test_every_error_class_has_a_code_of_its_own() -> None:
    def below(kind: type[GlideflowError]) -> Iterator[type[GlideflowError]]:
        yield kind
        for sub in kind.__subclasses__():
            yield from below(sub)

    kinds = [
        kind for root in (UserError, ServiceError) for kind in below(root) if kind.__module__ == "glideflow.errors"
    ]
    assert {kind.code: kind for kind in kinds}.items() <= _by_code().items()


def test_an_answer_that_is_no_json_is_a_service_error(endpoint: FakeEndpoint, client: Client) -> None:
    endpoint.on("GET", "/health", Answer(200, b"<html>"))
    with pytest.raises(ServiceError, match="answered GET /health with something that is no JSON"):
        client.health()


def test_lists_are_read_page_by_page(endpoint: FakeEndpoint, client: Client) -> None:
    endpoint.get("/v1/tasks/z/jobs", {"items": [{"id": 1}, {"id": 2}], "next": 2}, {"items": [{"id": 3}], "next": None})
    assert [job["id"] for job in client.jobs("z", state="failed")] == [1, 2, 3]
    assert [request.query.get("cursor") for request in endpoint.requests] == [None, "2"]
    assert {request.query["state"] for request in endpoint.requests} == {"failed"}


def test_a_limit_reads_no_more_than_needed(endpoint: FakeEndpoint, client: Client) -> None:
    endpoint.get("/v1/tasks", {"items": [{"id": 9}, {"id": 8}], "next": 8})
    assert [task["id"] for task in client.tasks(limit=2)] == [9, 8]
    assert [request.query for request in endpoint.requests] == [{"limit": "2"}]


def test_names_cannot_break_out_of_their_place(endpoint: FakeEndpoint, client: Client) -> None:
    with pytest.raises(NotFound):
        client.task("../../storage/x?y=1")
    assert endpoint.requests[0].path == "/v1/tasks/../../storage/x?y=1"
    assert endpoint.requests[0].query == {}


def test_a_log_comes_with_whether_it_is_complete(endpoint: FakeEndpoint, client: Client) -> None:
    endpoint.on(
        "GET",
        "/v1/jobs/z.3/log",
        Answer(200, b"lo\xffg", {"X-Glideflow-Log-Final": "true", "X-Glideflow-Attempt": "2"}),
    )
    part = client.log("z.3", attempt=2, offset=10)
    assert (part.data, part.final, part.attempt) == (b"lo\xffg", True, 2)
    assert endpoint.requests[0].query == {"attempt": "2", "offset": "10"}


def test_commands_carry_their_reason(endpoint: FakeEndpoint, client: Client) -> None:
    for path in ("tasks/z", "jobs/4"):
        for order in ("kill", "retry", "pause", "resume", "priority"):
            endpoint.on("POST", f"/v1/{path}/{order}", Answer.json({}))
    client.kill_task("z", "wrong input")
    client.retry_task("z")
    client.kill_job(4, "slow")
    client.retry_job(4)
    client.pause_task("z")
    client.resume_task("z", "go on")
    client.set_task_priority("z", 0)
    client.pause_job(4)
    client.resume_job(4)
    client.set_job_priority(4, -7, "later")
    assert [(request.path, request.json) for request in endpoint.requests] == [
        ("/v1/tasks/z/kill", {"reason": "wrong input"}),
        ("/v1/tasks/z/retry", {}),
        ("/v1/jobs/4/kill", {"reason": "slow"}),
        ("/v1/jobs/4/retry", {}),
        ("/v1/tasks/z/pause", {}),
        ("/v1/tasks/z/resume", {"reason": "go on"}),
        ("/v1/tasks/z/priority", {"priority": 0}),
        ("/v1/jobs/4/pause", {}),
        ("/v1/jobs/4/resume", {}),
        ("/v1/jobs/4/priority", {"priority": -7, "reason": "later"}),
    ]


def test_a_download_appears_when_it_is_complete(endpoint: FakeEndpoint, client: Client, tmp_path: Path) -> None:
    data = b"x" * 2_500_000
    endpoint.on("GET", "/storage/a", Answer(200, data))
    sizes: list[int] = []
    path = tmp_path / "new" / "a.bin"
    client.download("/storage/a", path, len(data), hashlib.sha256(data).hexdigest(), sizes.append)
    assert path.read_bytes() == data
    assert sum(sizes) == len(data)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]
    assert is_same(path, len(data), hashlib.sha256(data).hexdigest())
    assert not is_same(path, len(data), "0" * 64)
    assert not is_same(tmp_path / "none", 0, "0" * 64)


@pytest.mark.parametrize(("size", "sha256", "text"), [(4, None, "3 bytes, not 4"), (3, "0" * 64, "another checksum")])
def test_a_damaged_download_leaves_nothing(
    endpoint: FakeEndpoint, client: Client, tmp_path: Path, size: int, sha256: str | None, text: str
) -> None:
    endpoint.on("GET", "/storage/a", Answer(200, b"abc"))
    with pytest.raises(Damaged, match=text):
        client.download("/storage/a", tmp_path / "a", size, sha256)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_not_found_and_leaves_nothing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        client.download("/storage/none", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_named(endpoint: FakeEndpoint, client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    endpoint.on("GET", "/storage/a", Answer(200, b"abc"))
    with pytest.raises(NotWritable, match="cannot be written: "):
        client.download("/storage/a", tmp_path / "file" / "a")


def test_a_connection_that_breaks_off_is_unavailable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_half() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        thread = threading.Thread(target=answer_half)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, "t") as client, pytest.raises(EndpointUnavailable):
            client.download("/storage/a", tmp_path / "a")
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_no_answer_names_the_url_and_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with (
        Client(url, "t") as client,
        pytest.raises(EndpointUnavailable, match=f"{url} does not answer .*`glideflow up`"),
    ):
        client.health()


def test_a_token_is_never_sent_in_the_clear() -> None:
    with pytest.raises(SettingsError, match="must begin with https://"):
        Client("http://glideflow.example.org", "t")


def test_a_home_that_was_never_started_gives_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=f"there is no instance in {tmp_path}: run `glideflow up`, or set GLIDEFLOW_SE"
    ):
        Client.from_settings(load_settings(tmp_path))


def test_a_missing_token_gives_the_remedy(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    home = Home(settings)
    home.create()
    home.write_instance(note_of(rest_url="https://127.0.0.1:1"))
    home.token_file.unlink()
    with pytest.raises(
        SettingsError, match=r"there is no token in .*: run `glideflow up`, or set GLIDEFLOW_TOKEN_FILE"
    ):
        Client.from_settings(settings)


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    home = Home(settings)
    home.create()
    home.write_instance(note_of(rest_url="https://127.0.0.1:1"))
    home.token_file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        Client.from_settings(settings)


def test_a_broken_ca_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(SettingsError, match=r"the CA certificate .*ca\.pem cannot be read"):
        Client("https://127.0.0.1:1", "t", tmp_path / "ca.pem")


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Settings, int]]:
    """A home, and a port that answers one request over TLS with its certificate."""
    settings = load_settings(tmp_path)
    home = Home(settings)
    home.create()
    ensure_certificates(home, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_cert, home.server_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(65536)
                    secured.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}')
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        home.write_instance(note_of(rest_url=f"https://127.0.0.1:{port}"))
        yield settings, port
        thread.join()


def test_the_homes_ca_is_what_the_certificate_is_checked_with(secure: tuple[Settings, int]) -> None:
    with Client.from_settings(secure[0]) as client:
        assert client.health() == {"status": "ok"}


def test_another_certificate_is_refused_with_the_remedy(secure: tuple[Settings, int]) -> None:
    remedy = "cannot be verified with the CAs of this system: set GLIDEFLOW_CA_FILE"
    with Client(f"https://127.0.0.1:{secure[1]}", "t") as client, pytest.raises(EndpointUnavailable, match=remedy):
        client.health()


def test_the_answer_may_depend_on_the_request(endpoint: FakeEndpoint, client: Client) -> None:
    def echo(request: Request) -> Answer:
        return Answer.json({"name": request.path})

    endpoint.on("GET", "/v1/datasets/z.events@12", echo)
    assert client.dataset("z.events@12") == {"name": "/v1/datasets/z.events@12"}
