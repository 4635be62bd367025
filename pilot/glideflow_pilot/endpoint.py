# SPDX-License-Identifier: Apache-2.0
"""The HTTPS client of the server: kept-open connections, our CA pinned, no redirect followed."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Union
from urllib.parse import urlsplit

from glideflow_pilot import __version__

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
TRANSFER_SECONDS = 60.0
BLOCK_BYTES = 256 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024

Body = Union[bytes, IO[bytes], None]


class Unreachable(Exception):
    """The server could not be asked, or its answer did not come."""


class Refused(Exception):
    """A server, or for status 0 the node, said no; carries HTTP status and problem code."""

    def __init__(self, status: int, detail: str, code: str = "", document: Optional[Dict[str, Any]] = None) -> None:
        """Keep the subjects of the answer."""
        self.status = status
        self.code = code
        self.document = document or {}
        self.is_transient = status >= 500 or status in (408, 429)
        answer = f"{status} {http.client.responses.get(status, '')}".strip() if status else ""
        super().__init__(": ".join(part for part in (answer, detail) if part))


class Channel:
    """One kept-open connection, used by one thread at a time."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        """Prepare; the connection is opened with the first request."""
        self._address = (host, port)
        self._context = context
        self._connection: Optional[http.client.HTTPSConnection] = None
        self._asking = False
        self._interrupted = False

    def ask(
        self, method: str, path: str, body: Body, headers: Mapping[str, str], answer_seconds: float
    ) -> http.client.HTTPResponse:
        """Send a request and return the response, its body unread.

        Raises:
            Unreachable: No connection, or it broke before the answer.
            Refused: The certificate is not of our CA, so nothing was sent.
        """
        self._asking, self._interrupted = True, False
        try:
            reused = self._connection is not None
            try:
                return self._ask_once(method, path, body, headers, answer_seconds)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                # Servers close idle connections at any time; every request of the protocol may be repeated.
                if not reused or self._interrupted:
                    raise
                self.close()
                return self._ask_once(method, path, body, headers, answer_seconds)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise Refused(0, f"its certificate is not accepted: {error.verify_message}") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(str(error) or type(error).__name__) from error
        finally:
            self._asking = False

    def _ask_once(
        self, method: str, path: str, body: Body, headers: Mapping[str, str], answer_seconds: float
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            host, port = self._address
            connection = http.client.HTTPSConnection(
                host, port, timeout=CONNECT_SECONDS, context=self._context, blocksize=BLOCK_BYTES
            )
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._connection = connection
        if self._interrupted:
            raise ConnectionAbortedError("interrupted by a signal")
        if body is not None and not isinstance(body, bytes):
            body.seek(0)
        self._connection.sock.settimeout(answer_seconds)
        self._connection.request(method, path, body=body, headers=dict(headers))
        return self._connection.getresponse()

    def interrupt(self) -> None:
        """Make a waiting `ask` of the same thread fail at once; called by a signal handler."""
        if not self._asking:
            return
        self._interrupted = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            # The plain shutdown: that of the SSL socket would forget its session in mid-read.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Endpoint:
    """The server, for all threads of the pilot."""

    def __init__(self, server_url: str, ca_file: Path) -> None:
        """Read the CA.

        Raises:
            ValueError: The URL is not an https one.
            OSError: The CA file cannot be read (`ssl.SSLError` when it is no certificate).
        """
        parts = urlsplit(server_url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"the server's URL must be of the form https://host:port, not {server_url}")
        self.url = server_url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._context = ssl.create_default_context(cafile=str(ca_file))
        self._host, self._port = parts.hostname, parts.port or 443
        self._idle: List[Channel] = []
        self._lock = threading.Lock()
        self._bearer = ""
        self.exchanges = self._channel()
        """The main thread's own connection."""

    def authenticate(self, bearer: str) -> None:
        """Send this bearer from now on."""
        self._bearer = bearer

    def call(
        self,
        method: str,
        path: str,
        document: Optional[Mapping[str, Any]] = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> Dict[str, Any]:
        """Ask on the main connection with JSON, for the main thread.

        Raises:
            Unreachable: No answer.
            Refused: Any answer but success.
        """
        body = None if document is None else json.dumps(document, separators=(",", ":")).encode()
        return self._finish(self.exchanges, method, path, body, {"Content-Type": "application/json"}, answer_seconds)

    def send(self, method: str, path: str, body: Body, headers: Mapping[str, str]) -> Dict[str, Any]:
        """Send bytes or a file on a connection of the pool, for any thread; raises as `call`."""
        with self._borrow() as channel:
            return self._finish(channel, method, path, body, headers, TRANSFER_SECONDS)

    @contextmanager
    def fetch(self, path: str) -> Iterator[http.client.HTTPResponse]:
        """Give a response to read, for any thread; raises as `call`."""
        with self._borrow() as channel:
            response = channel.ask("GET", self._prefix + path, None, self._headers({}), TRANSFER_SECONDS)
            if response.status != 200:
                raise _refusal(response.status, self._read(channel, response))
            try:
                yield response
            finally:
                if not response.isclosed():
                    # A response after which the server hangs up is not closed with its connection.
                    response.close()
                    channel.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            for channel in (self.exchanges, *self._idle):
                channel.close()

    def _finish(
        self,
        channel: Channel,
        method: str,
        path: str,
        body: Body,
        headers: Mapping[str, str],
        answer_seconds: float,
    ) -> Dict[str, Any]:
        response = channel.ask(method, self._prefix + path, body, self._headers(headers), answer_seconds)
        data = self._read(channel, response)
        if response.status not in (200, 201):
            raise _refusal(response.status, data)
        try:
            document = json.loads(data)
        except ValueError as error:
            raise Unreachable(f"the answer to {method} {path} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise Unreachable(f"the answer to {method} {path} is not a JSON object")
        return document

    def _read(self, channel: Channel, response: http.client.HTTPResponse) -> bytes:
        try:
            data = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            channel.close()
            raise Unreachable(str(error) or type(error).__name__) from error
        if not response.isclosed() or response.will_close:
            response.close()
            channel.close()
        return data

    def _headers(self, headers: Mapping[str, str]) -> Dict[str, str]:
        complete = {"User-Agent": f"glideflow-pilot/{__version__}", **headers}
        if self._bearer:
            complete["Authorization"] = f"Bearer {self._bearer}"
        return complete

    def _channel(self) -> Channel:
        return Channel(self._host, self._port, self._context)

    @contextmanager
    def _borrow(self) -> Iterator[Channel]:
        with self._lock:
            channel = self._idle.pop() if self._idle else self._channel()
        try:
            yield channel
        except BaseException:
            channel.close()
            raise
        finally:
            with self._lock:
                self._idle.append(channel)


def _refusal(status: int, data: bytes) -> Refused:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    detail = document.get("detail") or document.get("title") or ""
    return Refused(status, str(detail), str(document.get("code", "")), document)
