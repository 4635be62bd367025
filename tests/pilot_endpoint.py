# SPDX-License-Identifier: Apache-2.0
"""A small real HTTPS server that speaks the pilots' part of the REST contract, and a runner of the real pilot.

It keeps everything in memory, can be stopped and started again on the same port, and can be told to fail.
"""

import contextlib
import datetime
import hashlib
import http.server
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# Another interpreter to run the pilot with, for example one of the oldest supported version.
PYTHON = os.environ.get("GLIDEFLOW_TEST_PILOT_PYTHON", sys.executable)
SECRET = "one-time-registration-secret"
SESSION_KEY = "session-key-of-this-run"
PILOT_ID = "pilot1"
SETTINGS = {
    "heartbeat_seconds": 1.0,
    "long_poll_seconds": 5.0,
    "idle_seconds": 60.0,
    "grace_seconds": 2.0,
    "log_interval_seconds": 0.2,
    "log_limit_bytes": 1_000_000,
    "file_limit_bytes": 10_000_000,
    "retry_seconds": 60.0,
}


CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Make a throw-away CA and a server certificate for 127.0.0.1; returns CA, certificate and key."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, key: Any, issuer: str, signer: Any, is_ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            # What Python 3.13 and newer insist on.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if is_ca:
            builder = builder.add_extension(CA_USAGE, critical=True)
        else:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    files = {
        "ca.pem": certificate("test CA", ca_key, "test CA", ca_key, True).public_bytes(serialization.Encoding.PEM),
        "server.pem": certificate("server", server_key, "test CA", ca_key, False).public_bytes(
            serialization.Encoding.PEM
        ),
        "server.key": server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / "ca.pem", folder / "server.pem", folder / "server.key"


class PilotEndpoint:
    """The server's state, its listening thread, and what tests do with both."""

    def __init__(self, folder: Path, **settings: float) -> None:
        """Make certificates in a folder and start listening."""
        self.settings = {**SETTINGS, **settings}
        self.ca_file, self._certificate, self._key = make_certificates(folder)
        self.changed = threading.Condition()
        self.ready: list[dict[str, Any]] = []
        self.claimed: dict[int, dict[str, Any]] = {}
        self.reports: list[dict[str, Any]] = []
        self.commands: list[dict[str, Any]] = []
        self.exchanges: list[dict[str, Any]] = []
        self.logs: dict[int, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.task_files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.registration: dict[str, Any] | None = None
        self.goodbye: dict[str, Any] | None = None
        self.refuse_pilot = False
        self.before: Callable[[str, str], int | None] = lambda method, path: None
        """Called with each request; a status makes it fail, -1 does the work but loses the answer."""
        self.port = 0
        self._server: _Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key)
        self._server = _Server(("127.0.0.1", self.port), self, context)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Close the port and every connection."""
        server, self._server = self._server, None
        if server is None:
            return
        with self.changed:
            self.changed.notify_all()
        server.shutdown()
        server.server_close()
        server.cut()

    def add_job(self, command: str = "true", **changes: Any) -> int:
        """Make a job ready; returns its attempt id."""
        with self.changed:
            attempt_id = len(self.ready) + len(self.claimed) + 1
            order = {
                "attempt_id": attempt_id,
                "job_id": 1000 + attempt_id,
                "task_id": 7,
                "number": 1,
                "name": f"test[{attempt_id}]",
                "command": command,
                "environment": {},
                "sandbox": [],
                "inputs": [],
                "outputs": [],
                "document": {"task_id": 7, "index": attempt_id},
                "cores": 1,
                "memory_mb": 1,
                "disk_mb": 1,
                "wall_seconds": 60,
                **changes,
            }
            for output in order["outputs"]:
                output.setdefault("path", f"/storage/tasks/7/{attempt_id}/{output['file']}")
            self.ready.append(order)
            self.changed.notify_all()
        return attempt_id

    def add_task_file(self, name: str, data: bytes, executable: bool = False) -> dict[str, Any]:
        """Store a task file; returns its entry for an order."""
        digest = hashlib.sha256(data).hexdigest()
        self.task_files[digest] = data
        return {"name": name, "sha256": digest, "size_bytes": len(data), "executable": executable}

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """Wait until a condition of the state holds; returns its value."""
        until = time.monotonic() + seconds
        with self.changed:
            while not (value := condition()):
                left = until - time.monotonic()
                assert left > 0, f"no {what} within {seconds} s; reports: {self.reports[-3:]}"
                self.changed.wait(min(left, 0.5))
            return value

    def report(self, attempt_id: int, seconds: float = 30) -> dict[str, Any]:
        """Wait for the last word on an attempt."""
        return self.wait(lambda: self.finished().get(attempt_id), f"final report of attempt {attempt_id}", seconds)

    def finished(self) -> dict[int, dict[str, Any]]:
        """Return the final reports by attempt."""
        return {report["attempt_id"]: report for report in self.reports if report["state"] == "finished"}

    def wait_running(self, attempt_id: int) -> None:
        """Wait until an attempt is reported as running."""
        self.wait(
            lambda: any(r["attempt_id"] == attempt_id and r["state"] == "running" for r in self.reports),
            f"running report of attempt {attempt_id}",
        )

    # --- the contract

    def register(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["secret"] != SECRET or body["pilot_id"] != PILOT_ID:
            return 403, {"code": "registration_refused", "detail": "wrong secret"}
        self.registration = body
        return 200, {"session_key": SESSION_KEY, "settings": self.settings}

    def exchange(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        server = self._server
        with self.changed:
            if self.refuse_pilot:
                return 403, {"code": "pilot_refused", "detail": "the pilot is lost"}
            self.exchanges.append(body)
            receipts = [self._take_report(report) for report in body["reports"]]
            self.changed.notify_all()
            until = time.monotonic() + body["wait_seconds"]
            while not (jobs := self._claim(body)) and not self.commands and self._server is server:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self.changed.wait(left)
            commands, self.commands = self.commands, []
        return 200, {"jobs": jobs, "commands": commands, "receipts": receipts}

    def _take_report(self, report: dict[str, Any]) -> dict[str, Any]:
        known = {(r["attempt_id"], r["sequence"]) for r in self.reports[-1000:]}
        if (report["attempt_id"], report["sequence"]) not in known:
            self.reports.append(report)
        return {"attempt_id": report["attempt_id"], "sequence": report["sequence"], "accepted": True}

    def _claim(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        over = self.finished() if len(self.claimed) < 100 else {}
        jobs = [o for a, o in self.claimed.items() if a not in body["holding"] and a not in over]
        jobs = jobs if len(self.claimed) < 100 else []
        free = body["free"]["cores"] - sum(order["cores"] for order in jobs)
        while self.ready and len(jobs) < body["want"] and self.ready[0]["cores"] <= free:
            order = self.ready.pop(0)
            free -= order["cores"]
            self.claimed[order["attempt_id"]] = order
            jobs.append(order)
        return jobs

    def put_log(self, attempt_id: int, offset: int, data: bytes) -> tuple[int, dict[str, Any]]:
        with self.changed:
            log = self.logs.get(attempt_id, b"")
            if offset > len(log):
                return 409, {"code": "offset", "size_bytes": len(log)}
            self.logs[attempt_id] = log[:offset] + data
            self.changed.notify_all()
            return 200, {"size_bytes": len(self.logs[attempt_id])}

    def put_file(self, path: str, checksum: str, data: bytes) -> tuple[int, dict[str, Any]]:
        digest = hashlib.sha256(data).hexdigest()
        if digest != checksum:
            return 422, {"code": "checksum_mismatch", "detail": "the checksum differs"}
        self.files[path] = data
        return 201, {"path": path, "size_bytes": len(data), "sha256": digest}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], endpoint: PilotEndpoint, context: ssl.SSLContext) -> None:
        self.endpoint, self.context = endpoint, context
        self.connections: set[Any] = set()
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError):
            secure = self.context.wrap_socket(request, server_side=True)
            self.connections.add(secure)
            try:
                super().finish_request(secure, client_address)
            finally:
                self.connections.discard(secure)
                secure.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what these tests are about."""

    def cut(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(2)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, *words: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        endpoint = self.server.endpoint
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        endpoint.requests.append((self.command, path))
        fault = endpoint.before(self.command, path)
        if fault is not None and fault > 0:
            self._answer(fault, {"code": "injected", "detail": "told to fail"})
            return
        status, answer = self._dispatch(endpoint, path, parse_qs(parts.query), body)
        if fault == -1:
            self.close_connection = True
            return
        self._answer(status, answer)

    do_GET = do_PUT = do_POST = _serve  # noqa: N815 - names of the base class

    def _dispatch(self, endpoint: PilotEndpoint, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        if path == "/pilot/v1/register":
            return endpoint.register(json.loads(body))
        if self.headers.get("Authorization") != f"Bearer {PILOT_ID}.{SESSION_KEY}":
            return 401, {"code": "pilot_refused", "detail": "wrong bearer"}
        if path == "/pilot/v1/exchange":
            return endpoint.exchange(json.loads(body))
        if path == "/pilot/v1/goodbye":
            with endpoint.changed:
                endpoint.goodbye = json.loads(body)
                endpoint.changed.notify_all()
            return 200, {}
        if path.startswith("/pilot/v1/sandboxes/"):
            return self._file(endpoint.task_files.get(path.rsplit("/", 1)[1]))
        if path.startswith("/pilot/v1/attempts/"):
            return endpoint.put_log(int(path.split("/")[4]), int(query["offset"][0]), body)
        if self.command == "PUT":
            return endpoint.put_file(path, self.headers["X-Checksum-Sha256"], body)
        return self._file(endpoint.files.get(path))

    def _file(self, data: bytes | None) -> tuple[int, Any]:
        return (404, {"code": "not_found", "detail": "no such file"}) if data is None else (200, data)

    def _answer(self, status: int, answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


class PilotProcess:
    """The real archive as a process, under an isolated interpreter without site-packages."""

    def __init__(
        self, endpoint: Any, archive: Path, folder: Path, *words: str, pilot_id: str = PILOT_ID, secret: str = SECRET
    ) -> None:
        """Start it.

        Args:
            endpoint: Its server, with `url` and `ca_file`.
            archive: The zipapp.
            folder: Folder for its scratch, secret and stderr.
            words: More arguments.
            pilot_id: Its identifier.
            secret: Its registration secret.
        """
        self.id = pilot_id
        folder.mkdir(parents=True, exist_ok=True)
        self.scratch = folder / "scratch"
        self.secret_file = folder / "secret"
        self.secret_file.write_text(secret + "\n")
        self.secret_file.chmod(0o600)
        self._stderr = folder / "stderr"
        command = [PYTHON, "-I", "-S", str(archive), "--server", endpoint.url]
        command += ["--pilot-id", pilot_id, "--site", "local", "--ca", str(endpoint.ca_file)]
        command += ["--secret-file", str(self.secret_file), "--scratch", str(self.scratch), *words]
        environment = {**os.environ, "PILOT_ENVIRONMENT_MARK": "not for payloads"}
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, env=environment)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def root(self) -> Path:
        return self.scratch / f"glideflow-{self.id}"

    def wait(self, seconds: float = 30) -> int:
        """Wait for its end; returns the exit status."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextlib.contextmanager
def pilot_at_work(
    folder: Path, archive: Path, *words: str, **settings: float
) -> Iterator[tuple[PilotEndpoint, PilotProcess]]:
    """Run an endpoint and a pilot, and end both."""
    endpoint = PilotEndpoint(folder / "server", **settings)
    pilot = PilotProcess(endpoint, archive, folder / "pilot", *words)
    try:
        yield endpoint, pilot
    finally:
        pilot.end()
        endpoint.stop()


def is_alive(process_id: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(process_ids: Iterable[int], seconds: float = 5) -> None:
    """Wait until none of the processes runs."""
    until = time.monotonic() + seconds
    while alive := [process_id for process_id in process_ids if is_alive(process_id)]:
        assert time.monotonic() < until, f"processes {alive} still run after {seconds} s"
        time.sleep(0.02)
