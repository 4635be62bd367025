# SPDX-License-Identifier: Apache-2.0
"""Bring a job's files in and its outputs home: size and checksum checked, transient trouble tried again."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ssl
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Callable, ContextManager, Dict, Iterator, Optional
from urllib.parse import quote, unquote, urljoin, urlsplit

from glideflow_pilot import __version__
from glideflow_pilot.endpoint import BLOCK_BYTES, CONNECT_SECONDS, TRANSFER_SECONDS, Endpoint, Refused, Unreachable
from glideflow_pilot.orders import InputFile, OutputFile, SandboxFile
from glideflow_pilot.reasons import OUTPUT_TOO_LARGE, STAGE_IN_FAILED, STAGE_OUT_FAILED, Failure
from glideflow_pilot.retries import Abandoned, Patience

MAX_REDIRECTS = 5
_STORAGE = "/storage/"


class Corrupt(Refused):
    """What came has the wrong size or checksum; worth another try."""

    def __init__(self, text: str) -> None:
        """Keep the sentence."""
        super().__init__(0, text)
        self.is_transient = True


class Stager:
    """Moves files for all payloads of the pilot."""

    def __init__(self, endpoint: Endpoint, patience: Patience, file_limit_bytes: int) -> None:
        """Work with the server's storage, which takes files up to a limit, and with foreign servers."""
        self._endpoint, self._patience, self._file_limit_bytes = endpoint, patience, file_limit_bytes

    def fetch_task_file(self, file: SandboxFile, target: Path, halt: threading.Event) -> None:
        """Fetch one file of the task; raises `Failure`."""
        wanted = InputFile(file.name, f"/pilot/v1/sandboxes/{file.sha256}", file.size_bytes, file.sha256)
        self._fetch(wanted, target, lambda: self._endpoint.fetch(wanted.url), halt, foreign=False)

    def fetch_input(self, file: InputFile, target: Path, halt: threading.Event) -> None:
        """Fetch one input; the bearer goes to our own server and nowhere else; raises `Failure`."""
        url, own = file.url, self._endpoint.url + _STORAGE
        if url.startswith(own):
            url = _STORAGE + url[len(own) :]
        if url.startswith(_STORAGE):
            path = quote(url, safe="/%")
            self._fetch(file, target, lambda: self._endpoint.fetch(path), halt, foreign=False)
            return
        scheme = urlsplit(url).scheme
        if scheme in ("http", "https"):
            self._fetch(file, target, lambda: _open_url(url), halt, foreign=True)
        elif scheme == "file":
            self._fetch(file, target, lambda: _open_file(url), halt, foreign=True)
        else:
            raise Failure(STAGE_IN_FAILED, f"input {file.name}: the pilot cannot read {url}; use https, http or file")

    def check_size(self, file: OutputFile, source: Path) -> None:
        """Refuse, before anything is sent, an output that the server would refuse; raises `Failure`."""
        size = source.stat().st_size
        if size > self._file_limit_bytes:
            text = (
                f"output {file.file} has {size} bytes, and the server takes {self._file_limit_bytes} at most for one"
                " file: write several files"
            )
            raise Failure(OUTPUT_TOO_LARGE, text, source="payload")

    def store_output(self, file: OutputFile, source: Path, halt: threading.Event) -> Dict[str, Any]:
        """Store one output and return its entry in the report; raises `Failure`."""
        with source.open("rb") as stream:
            digest = hashlib.sha256()
            size = _copy(stream, None, digest, halt)
            headers = {"Content-Length": str(size), "X-Checksum-Sha256": digest.hexdigest()}
            headers["Content-Type"] = "application/octet-stream"
            path = quote(file.path)
            try:
                self._patience.persist(lambda: self._put(path, stream, headers), halt)
            except (Refused, Unreachable) as error:
                text = f"output {file.file} could not be stored as {file.path}: {error}"
                if isinstance(error, Refused) and error.code == "too_large":
                    raise Failure(OUTPUT_TOO_LARGE, text, source="payload") from error
                raise Failure(STAGE_OUT_FAILED, text) from error
        return {"name": file.name, "path": file.path, "size_bytes": size, "sha256": digest.hexdigest()}

    def _put(self, path: str, stream: IO[bytes], headers: Dict[str, str]) -> None:
        try:
            self._endpoint.send("PUT", path, stream, headers)
        except Refused as error:
            if error.code == "checksum_mismatch":
                raise Corrupt(str(error)) from error
            raise

    def _fetch(
        self,
        file: InputFile,
        target: Path,
        source: Callable[[], ContextManager[Any]],
        halt: threading.Event,
        *,
        foreign: bool,
    ) -> None:
        def once() -> None:
            try:
                with source() as stream:
                    _receive(stream, file, target, halt)
            except http.client.HTTPException as error:
                raise Unreachable(str(error) or type(error).__name__) from error

        try:
            self._patience.persist(once, halt, foreign=foreign)
        except (Refused, Unreachable) as error:
            raise Failure(STAGE_IN_FAILED, f"{file.name} could not be fetched from {file.url}: {error}") from error


def _receive(stream: Any, file: InputFile, target: Path, halt: threading.Event) -> None:
    """Write a stream to a file and check what came.

    Raises:
        OSError: The target cannot be written.
        Corrupt, Unreachable: It is not what was wanted.
    """
    promised: Optional[int] = getattr(stream, "length", None)
    digest = hashlib.sha256() if file.sha256 else None
    with target.open("wb") as sink:
        size = _copy(stream, sink, digest, halt)
    if promised is not None and size != promised:
        raise Unreachable(f"the connection broke after {size} of {promised} bytes")
    if file.size_bytes is not None and size != file.size_bytes:
        raise Corrupt(f"it has {size} bytes instead of {file.size_bytes}")
    if digest is not None and digest.hexdigest() != file.sha256:
        raise Corrupt(f"its SHA-256 is {digest.hexdigest()} instead of {file.sha256}")


def _copy(stream: Any, sink: Optional[IO[bytes]], digest: Any, halt: threading.Event) -> int:
    size = 0
    while True:
        try:
            block = stream.read(BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        if not block:
            return size
        if halt.is_set():
            raise Abandoned
        size += len(block)
        if digest is not None:
            digest.update(block)
        if sink is not None:
            sink.write(block)


@contextmanager
def _open_file(url: str) -> Iterator[IO[bytes]]:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise Refused(0, f"a file URL of another host ({parts.netloc}) cannot be read here")
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open(unquote(parts.path), "rb"))
        except OSError as error:
            raise Refused(0, f"{error.strerror} on this node") from error
        yield stream


@contextmanager
def _open_url(url: str) -> Iterator[http.client.HTTPResponse]:
    """Open a URL of a foreign server, which never gets a credential of ours."""
    for _ in range(MAX_REDIRECTS + 1):
        connection, target = _connection(url)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            try:
                connection.request("GET", target, headers={"User-Agent": f"glideflow-pilot/{__version__}"})
                response = stack.enter_context(connection.getresponse())
            except ssl.SSLCertVerificationError as error:
                raise Refused(0, f"its certificate is not accepted: {error.verify_message}") from error
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(str(error) or type(error).__name__) from error
            if response.status == 200:
                yield response
                return
            if response.status not in (301, 302, 303, 307, 308):
                raise Refused(response.status, "")
            location = urljoin(url, response.headers.get("Location", ""))
            if url.startswith("https:") and not location.startswith("https:"):
                raise Refused(response.status, f"it leads from https to {location}")
            url = location
    raise Refused(0, f"more than {MAX_REDIRECTS} redirects")


def _connection(url: str) -> Any:
    parts = urlsplit(url)
    host = parts.hostname or ""
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
    timeout = max(CONNECT_SECONDS, TRANSFER_SECONDS)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, parts.port or 443, timeout=timeout, context=context), target
    return http.client.HTTPConnection(host, parts.port or 80, timeout=timeout), target
