# SPDX-License-Identifier: Apache-2.0
"""The client of the REST endpoint: what the command line and the flows know of it.

Each method mirrors one route and returns its JSON as plain values. An answer that is a problem document raises the
error of `glideflow.errors` with the same code; no answer raises `EndpointUnavailable`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import httpx

from glideflow import __version__
from glideflow.client.download import Target
from glideflow.client.orders import Orders
from glideflow.client.problems import error_of
from glideflow.client.transport import TIMEOUT, Translated, api_path, tls_context
from glideflow.errors import NotFound, ServiceError, SettingsError
from glideflow.instance.home import Home
from glideflow.settings import Settings

if TYPE_CHECKING:
    # Only commands that submit need the reader of task files, which is slow to import.
    from glideflow.submission import LocalSubmission, Upload

Json = dict[str, Any]
OnUpload = Callable[["Upload", int], None]
OnBytes = Callable[[int], None]

CHUNK_BYTES = 1 << 20
"""Bytes that are sent or written at once."""

PAGE_ITEMS = 1000
"""Items asked for at once."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class LogPart:
    """A part of a job's log."""

    data: bytes
    """The bytes from the asked offset."""
    final: bool
    """Whether nothing will be added."""
    attempt: int | None
    """Which attempt of the job printed it."""


class Client(Orders):
    """A connection to one endpoint; may be used by several threads.

    Args:
        url: The endpoint's base URL.
        token: The bearer token.
        ca_file: The CA that its certificate is checked with; None takes the system's.
    """

    def __init__(self, url: str, token: str, ca_file: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._ca_file = ca_file
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise SettingsError(
                f"the endpoint's URL {self.url} must begin with https://, so that the token stays secret"
            )
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}", "User-Agent": f"glideflow/{__version__}"},
            timeout=TIMEOUT,
            verify=tls_context(ca_file, parts.scheme),
            # A proxy for the world outside has no business with a server on this machine.
            trust_env=parts.hostname not in LOOPBACK,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Connect to the endpoint that the settings name, or to the one of the home.

        Raises:
            SettingsError: The home was never started, or its token cannot be read.
        """
        home = Home(settings)
        url = settings.server_url
        if url is None:
            instance = home.read_instance()
            if instance is None:
                raise SettingsError(
                    f"there is no instance in {home.root}: run `glideflow up`, or set GLIDEFLOW_SERVER_URL, "
                    "GLIDEFLOW_TOKEN_FILE and GLIDEFLOW_CA_FILE to use one elsewhere"
                )
            url = instance.rest_url
        try:
            token = home.read_token()
        except NotFound as error:
            raise SettingsError(
                f"there is no token in {home.token_file}: run `glideflow up`, or set GLIDEFLOW_TOKEN_FILE"
            ) from error
        return cls(url, token, home.ca_file if home.ca_file.exists() or settings.ca_file else None)

    def __enter__(self) -> Self:
        """Use the client in a `with` statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Tasks and jobs

    def submit(self, local: "LocalSubmission", *, dry_run: bool = False, on_upload: OnUpload | None = None) -> Json:
        """Send a task; files that the endpoint has already are not sent again.

        Args:
            local: The task with its local files.
            dry_run: Only ask which jobs would come out; nothing is uploaded or stored.
            on_upload: Told of each file and of the bytes just done with.

        Returns:
            The new task; for a dry run `jobs_total`, the first `jobs` and `warnings`.

        Raises:
            TaskFileError: The endpoint refuses the task.
        """
        if not dry_run:
            self._upload(local.uploads, lambda: self.submit(local, dry_run=True), on_upload or _ignore)
        body = local.submission.model_dump_json(exclude_none=True)
        return self._call(
            "POST",
            "/v1/tasks",
            params={"dry_run": "true"} if dry_run else None,
            content=body,
            headers={"Content-Type": "application/json"},
        )

    def submit_all(
        self, locals_: "Sequence[LocalSubmission]", *, dry_run: bool = False, on_upload: OnUpload | None = None
    ) -> list[Json]:
        """Send tasks that belong together; the endpoint takes all or none.

        Args:
            locals_: The tasks with their local files.
            dry_run: Only ask which jobs would come out; nothing is uploaded or stored.
            on_upload: Told of each file and of the bytes just done with.

        Returns:
            What `submit` returns, for each.

        Raises:
            TaskFileError: The endpoint refuses one of them.
        """
        if not dry_run:
            uploads = {upload.url: upload for local in locals_ for upload in local.uploads}
            listed = list(uploads.values())
            self._upload(listed, lambda: self.submit_all(locals_, dry_run=True), on_upload or _ignore)
        bodies = [local.submission.model_dump(mode="json", exclude_none=True) for local in locals_]
        params = {"dry_run": "true"} if dry_run else None
        items: list[Json] = self._call("POST", "/v1/submissions", params=params, json={"tasks": bodies})["items"]
        return items

    def tasks(self, *, state: str | None = None, limit: int | None = None) -> list[Json]:
        """Return tasks, the newest first."""
        return self._items("/v1/tasks", {"state": state}, limit)

    def task(self, task: int | str) -> Json:
        """Return a task by number or name; of several with one name, the latest."""
        return self._call("GET", api_path("tasks", task))

    def jobs(
        self, task: int | str, *, state: str | None = None, stage: str | None = None, limit: int | None = None
    ) -> list[Json]:
        """Return a task's jobs in their order."""
        return self._items(api_path("tasks", task, "jobs"), {"state": state, "stage": stage}, limit)

    def job(self, job: int | str) -> Json:
        """Return a job by number, or by `TASK.INDEX`."""
        return self._call("GET", api_path("jobs", job))

    def explain(self, job: int | str) -> Json:
        """Return a job with its attempts, and why it is where it is."""
        return self._call("GET", api_path("jobs", job, "explain"))

    def explain_task(self, task: int | str) -> Json:
        """Return a task, and in sentences where it is, how it was split and why."""
        return self._call("GET", api_path("tasks", task, "explain"))

    def log(self, job: int | str, *, attempt: int | None = None, offset: int = 0) -> LogPart:
        """Return what an attempt has printed so far.

        Args:
            job: The job.
            attempt: Which of its attempts, from 1; without it the last one.
            offset: First byte.
        """
        response = self._send(
            "GET", api_path("jobs", job, "log"), params=_known({"attempt": attempt, "offset": offset})
        )
        number = response.headers.get("X-Glideflow-Attempt")
        final = response.headers.get("X-Glideflow-Log-Final") == "true"
        return LogPart(response.content, final, int(number) if number else None)

    def policy(self, task: int | str | None = None) -> Json:
        """Return the rules for failed jobs that are in force, for a task or without one."""
        return self._call("GET", "/v1/policy" if task is None else api_path("tasks", task, "policy"))

    def failures(self, task: int | str, by: Sequence[str] | None = None) -> Json:
        """Return how many jobs of a task failed, by `reason`, `exit_code`, `site` or `node`."""
        return self._call("GET", api_path("tasks", task, "failures"), params=_known({"by": by}))

    def outputs(self, task: int | str) -> list[Json]:
        """Return the files that a task has made."""
        return self._items(api_path("tasks", task, "outputs"), {}, None)

    def progress(self, task: int | str, *, first: int | None = None, last: int | None = None) -> Json:
        """Return how far the present stage of a task, or a range of its jobs, is."""
        return self._call("GET", api_path("tasks", task, "progress"), params=_known({"first": first, "last": last}))

    # Steps of the flow

    def plan(self, task: int | str) -> Json:
        """Split a task into jobs, unless that was done."""
        return self._call("POST", api_path("tasks", task, "plan"))

    def merge(self, task: int | str) -> Json:
        """Make the merge job of a task, unless there is one."""
        return self._call("POST", api_path("tasks", task, "merge"))

    def finish(self, task: int | str) -> Json:
        """Settle the final state of a task, unless that was done."""
        return self._call("POST", api_path("tasks", task, "finish"))

    # What is there

    def health(self) -> Json:
        """Return whether the endpoint works, and its version."""
        return self._call("GET", "/health")

    def whoami(self) -> Json:
        """Return who the endpoint takes us for."""
        return self._call("GET", "/v1/whoami")

    def datasets(self) -> list[Json]:
        """Return all datasets."""
        return self._items("/v1/datasets", {}, None)

    def dataset(self, name: str) -> Json:
        """Return a dataset with its files; `name@12` only what task 12 wrote."""
        return self._call("GET", f"/v1/datasets/{quote(name, safe='@')}")

    def pilots(self, *, site: str | None = None, everything: bool = False, limit: int = PAGE_ITEMS) -> list[Json]:
        """Return pilots, the newest first.

        Args:
            site: Only those of this site.
            everything: Those that have ended, too.
            limit: Most that are returned, up to 1000.
        """
        wanted = {"site": site, "all": "true" if everything else None}
        return self._items("/v1/pilots", wanted, limit)

    def sites(self) -> list[Json]:
        """Return all sites."""
        return self._items("/v1/sites", {}, None)

    def shares(self) -> Json:
        """Return the tree of shares, with the half-life and the limits."""
        return self._call("GET", "/v1/shares")

    # Files

    def download(
        self,
        url: str,
        path: Path,
        size_bytes: int | None = None,
        sha256: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Fetch a file; it appears under its name when it is complete and right.

        Args:
            url: Path at the endpoint, `/storage/...`.
            path: Where to put it; its folder is made.
            size_bytes: Expected size.
            sha256: Expected checksum.
            on_bytes: Told of the number of bytes that just arrived.

        Raises:
            ServiceError: What arrived is not what was expected.
            UserError: The file cannot be written here.
        """
        with Target(path, size_bytes, sha256) as target, self._errors():
            with self._http.stream("GET", url) as response:
                if response.is_error:
                    response.read()
                    raise error_of(response)
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    target.write(chunk)
                    if on_bytes:
                        on_bytes(len(chunk))
            target.complete(url)

    def _upload(self, uploads: "Sequence[Upload]", check: Callable[[], object], on_upload: OnUpload) -> None:
        missing = {upload.url for upload in uploads if not self._has(upload.url)}
        if missing:
            # A task that is refused leaves no files behind.
            check()
        for upload in uploads:
            if upload.url in missing:
                headers = {"X-Checksum-Sha256": upload.sha256, "Content-Length": str(upload.size_bytes)}
                self._send("PUT", upload.url, content=_chunks(upload, on_upload), headers=headers)
            else:
                on_upload(upload, upload.size_bytes)

    def _has(self, url: str) -> bool:
        try:
            self._send("HEAD", url)
        except NotFound:
            return False
        return True

    # Transport

    def _items(self, path: str, params: Mapping[str, Any], limit: int | None) -> list[Json]:
        """Return all items of a list, page by page, or the first `limit`."""
        items: list[Json] = []
        cursor: Any = None
        while limit is None or len(items) < limit:
            size = PAGE_ITEMS if limit is None else min(PAGE_ITEMS, limit - len(items))
            page = self._call("GET", path, params=_known({**params, "limit": size, "cursor": cursor}))
            items += page["items"]
            cursor = page.get("next")
            if cursor is None:
                break
        return items

    def _call(self, method: str, path: str, **arguments: Any) -> Json:
        """Send a request and return its JSON."""
        response = self._send(method, path, **arguments)
        try:
            answer: Json = response.json()
        except ValueError as error:
            raise ServiceError(f"{self.url} answered {method} {path} with something that is no JSON") from error
        return answer

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self._errors():
            response = self._http.request(method, path, **arguments)
        if response.is_error:
            raise error_of(response)
        return response

    def _errors(self) -> Translated:
        return Translated(self.url, self._ca_file)


def _known(values: Mapping[str, Any]) -> Json:
    return {key: value for key, value in values.items() if value is not None}


def _chunks(upload: "Upload", on_upload: OnUpload) -> Iterator[bytes]:
    """Read a file for sending. When it changed since it was measured, the endpoint refuses it."""
    with upload.path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            on_upload(upload, len(chunk))


def _ignore(_: "Upload", __: int) -> None:
    """Nobody wants to know."""
