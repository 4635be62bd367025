# SPDX-License-Identifier: Apache-2.0
"""Inputs from servers that are not ours, and from the node's own files."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from glideflow_pilot import retries
from glideflow_pilot.endpoint import Endpoint
from glideflow_pilot.orders import InputFile, OutputFile
from glideflow_pilot.reasons import Failure
from glideflow_pilot.retries import Abandoned, Patience
from glideflow_pilot.staging import Stager
from pilot_endpoint import PILOT_ID, SESSION_KEY, PilotEndpoint

HALT = threading.Event()
DATA = b"events\n" * 1000


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.seen.append((self.path, self.headers.get("Authorization")))
        kind = self.path.split("?")[0].strip("/")
        if kind == "busy" and len(server.seen) < 3:
            self.send_error(503)
        elif kind.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", kind.removeprefix("to/").replace("SELF", server.url))
            self.end_headers()
        elif kind in ("data", "busy", "a%20b"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA)
        elif kind == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA[:100])
        else:
            self.send_error(404)


@pytest.fixture
def foreign() -> Iterator[Any]:
    """A server of somebody else, without TLS."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.seen, server.url = [], f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[PilotEndpoint]:
    server = PilotEndpoint(tmp_path / "server")
    yield server
    server.stop()


@pytest.fixture
def stager(endpoint: PilotEndpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stager]:
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.01)
    client = Endpoint(endpoint.url, endpoint.ca_file)
    client.authenticate(f"{PILOT_ID}.{SESSION_KEY}")
    yield Stager(client, Patience(), file_limit_bytes=1_000_000)
    client.close()


def wanted(url: str, **facts: Any) -> InputFile:
    return InputFile("in", url, facts.get("size_bytes"), facts.get("sha256"))


def test_foreign_server_gives_the_file_and_never_sees_our_bearer(stager: Stager, foreign: Any, tmp_path: Path) -> None:
    facts = {"size_bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
    stager.fetch_input(wanted(f"{foreign.url}/data?x=1", **facts), tmp_path / "in", HALT)
    assert (tmp_path / "in").read_bytes() == DATA
    assert foreign.seen == [("/data?x=1", None)]


def test_blank_in_a_url_is_sent_quoted(stager: Stager, foreign: Any, tmp_path: Path) -> None:
    stager.fetch_input(wanted(f"{foreign.url}/a b"), tmp_path / "in", HALT)
    assert foreign.seen == [("/a%20b", None)]


def test_redirect_of_a_foreign_server_is_followed(stager: Stager, foreign: Any, tmp_path: Path) -> None:
    stager.fetch_input(wanted(f"{foreign.url}/to/SELF/data"), tmp_path / "in", HALT)
    assert (tmp_path / "in").read_bytes() == DATA


def test_redirect_to_our_own_storage_gets_no_bearer(
    stager: Stager, foreign: Any, endpoint: PilotEndpoint, tmp_path: Path
) -> None:
    endpoint.files["/storage/inputs/a"] = DATA
    with pytest.raises(Failure, match="certificate is not accepted"):
        stager.fetch_input(wanted(f"{foreign.url}/to/{endpoint.url}/storage/inputs/a"), tmp_path / "in", HALT)
    assert endpoint.requests == []


def test_redirects_in_a_circle_end(stager: Stager, foreign: Any, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="more than 5 redirects"):
        stager.fetch_input(wanted(f"{foreign.url}/to/" + "SELF/to/" * 9 + "SELF/data"), tmp_path / "in", HALT)


def test_redirect_of_our_own_server_is_an_error(stager: Stager, endpoint: PilotEndpoint, tmp_path: Path) -> None:
    endpoint.before = lambda method, path: 307
    with pytest.raises(Failure, match="307 Temporary Redirect"):
        stager.fetch_input(wanted("/storage/inputs/a"), tmp_path / "in", HALT)


def test_absolute_url_of_our_own_storage_gets_the_bearer(
    stager: Stager, endpoint: PilotEndpoint, tmp_path: Path
) -> None:
    endpoint.files["/storage/inputs/a b"] = DATA
    stager.fetch_input(wanted(f"{endpoint.url}/storage/inputs/a%20b"), tmp_path / "in", HALT)
    assert (tmp_path / "in").read_bytes() == DATA


def test_server_that_is_busy_is_asked_again(stager: Stager, foreign: Any, tmp_path: Path) -> None:
    stager.fetch_input(wanted(f"{foreign.url}/busy"), tmp_path / "in", HALT)
    assert len(foreign.seen) == 3


def test_transfer_that_breaks_off_is_no_file(stager: Stager, foreign: Any, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"broke after 100 of 7000 bytes|IncompleteRead"):
        stager.fetch_input(wanted(f"{foreign.url}/cut"), tmp_path / "in", HALT)
    assert len(foreign.seen) == retries.TRIES


def test_missing_file_of_a_foreign_server_fails_at_once(stager: Stager, foreign: Any, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=f"{foreign.url}/none: 404 Not Found") as caught:
        stager.fetch_input(wanted(f"{foreign.url}/none"), tmp_path / "in", HALT)
    assert caught.value.reason["code"] == "stage_in_failed"
    assert len(foreign.seen) == 1


def test_foreign_server_that_is_not_there_fails_soon(stager: Stager, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="Connection refused"):
        stager.fetch_input(wanted("http://127.0.0.1:1/data"), tmp_path / "in", HALT)


def test_file_of_the_node_is_copied(stager: Stager, tmp_path: Path) -> None:
    (tmp_path / "my data").write_bytes(DATA)
    url = f"file://{tmp_path}/my%20data"
    stager.fetch_input(wanted(url, size_bytes=len(DATA)), tmp_path / "in", HALT)
    assert (tmp_path / "in").read_bytes() == DATA


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///no/such/file", "No such file or directory on this node"),
        ("file://elsewhere/file", "another host"),
        ("root://eos/file", "use https, http or file"),
        ("/etc/passwd", "use https, http or file"),
    ],
)
def test_url_that_cannot_be_read_fails_with_the_cause(stager: Stager, tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(Failure, match=words):
        stager.fetch_input(wanted(url), tmp_path / "in", HALT)


def test_stopped_attempt_fetches_nothing(stager: Stager, foreign: Any, tmp_path: Path) -> None:
    halt = threading.Event()
    halt.set()
    with pytest.raises(Abandoned):
        stager.fetch_input(wanted(f"{foreign.url}/data"), tmp_path / "in", halt)
    assert foreign.seen == []


def test_output_with_an_odd_name_is_stored_under_it(stager: Stager, endpoint: PilotEndpoint, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(DATA)
    path = "/storage/tasks/7/1/a b%20#?ü.txt"
    entry = stager.store_output(OutputFile("o", "out", path), tmp_path / "out", HALT)
    assert endpoint.files[path] == DATA
    assert entry == {"name": "o", "path": path, "size_bytes": 7000, "sha256": hashlib.sha256(DATA).hexdigest()}


def test_output_that_arrived_spoiled_is_sent_again(stager: Stager, endpoint: PilotEndpoint, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(DATA)
    put, spoiled = endpoint.put_file, []

    def spoil_first(path: str, checksum: str, data: bytes) -> tuple[int, dict[str, Any]]:
        spoiled.append(path)
        return put(path, checksum, data if len(spoiled) > 1 else data[:-1] + b"x")

    endpoint.put_file = spoil_first  # type: ignore[method-assign]
    stager.store_output(OutputFile("o", "out", "/storage/o"), tmp_path / "out", HALT)
    assert len(spoiled) == 2
    assert endpoint.files["/storage/o"] == DATA


def test_empty_output_is_stored(stager: Stager, endpoint: PilotEndpoint, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert stager.store_output(OutputFile("o", "out", "/storage/o"), tmp_path / "out", HALT)["size_bytes"] == 0
    assert endpoint.files["/storage/o"] == b""
