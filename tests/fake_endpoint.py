# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server with prepared answers, for tests of the client and the command line."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Answer:
    """One prepared answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Self:
        """An answer with a JSON document."""
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @classmethod
    def problem(cls, status: int, code: str, detail: str, **more: Any) -> Self:
        """A problem document."""
        return cls.json({"type": "about:blank", "status": status, "code": code, "detail": detail, **more}, status)


@dataclass(frozen=True)
class Request:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body as JSON."""
        return json.loads(self.body)


Prepared = Answer | Callable[[Request], Answer]


class FakeEndpoint:
    """Prepared answers by method and path; of several for one route, each is given once and the last for ever."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self._answers: dict[tuple[str, str], list[Prepared]] = defaultdict(list)

    def on(self, method: str, path: str, *answers: Prepared) -> None:
        """Prepare answers of a route."""
        self._answers[method, path] = list(answers)

    def get(self, path: str, *values: Any) -> None:
        """Prepare JSON answers of a GET route."""
        self.on("GET", path, *(Answer.json(value) for value in values))

    def answer(self, request: Request) -> Answer:
        """Return the next answer."""
        self.requests.append(request)
        prepared = self._answers.get((request.method, request.path))
        if not prepared:
            return Answer.problem(404, "not_found", f"there is no {request.path}")
        answer = prepared.pop(0) if len(prepared) > 1 else prepared[0]
        return answer(request) if callable(answer) else answer

    def seen(self, method: str, path: str) -> list[Request]:
        """Return the requests of a route."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]


@contextmanager
def fake_endpoint() -> Iterator[FakeEndpoint]:
    """Serve a fake endpoint on a free port of the loopback interface."""
    endpoint = FakeEndpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {key: ",".join(values) for key, values in parse_qs(parts.query).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            answer = endpoint.answer(Request(self.command, unquote(parts.path), query, headers, body))
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_PUT = do_POST = do_HEAD = handle_any  # noqa: N815 - names of the standard library

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


AT = "2026-11-20T12:00:00.000Z"
LATER = "2026-11-20T12:01:30.000Z"


def task_with(**changes: Any) -> dict[str, Any]:
    return {
        "id": 12,
        "name": "zpeak",
        "owner": "ada",
        "vo": "local",
        "state": "running",
        "paused": False,
        "priority": 0,
        "created_at": AT,
        "ended_at": None,
        "reason": None,
        "jobs": {"total": 20, "done": 12, "running": 3, "failed": 1},
        "merge": None,
        "flow_run_id": None,
        "flow_run_url": None,
        **changes,
    }


def job_with(**changes: Any) -> dict[str, Any]:
    return {
        "id": 4,
        "task_id": 12,
        "task": "zpeak",
        "stage": "main",
        "index": 3,
        "state": "failed",
        "paused": False,
        "priority": 0,
        "site": "local",
        "node": "wn7",
        "attempts": 2,
        "retries": 1,
        "exit_code": 3,
        "reason": {"code": "payload_exit", "text": "the command ended with exit code 3", "source": "payload"},
        "created_at": AT,
        "started_at": AT,
        "ended_at": LATER,
        "not_before": None,
        **changes,
    }


def progress_with(**changes: Any) -> dict[str, Any]:
    task = task_with(**changes)
    return {"task": task, "stage": "main", "ended": False, "total": 20, "by_state": {}, "by_site": [], "failures": []}
