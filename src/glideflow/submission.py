# SPDX-License-Identifier: Apache-2.0
"""Find and measure the local files of a task, so that it can be sent. Nothing is sent here."""

import difflib
import glob
import hashlib
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from glideflow.documents.document import Keys
from glideflow.domain.naming import unique_names
from glideflow.domain.task import (
    MOST_LISTED_FILES,
    RESERVED_FILE,
    Inputs,
    ResolvedInput,
    SandboxFile,
    Submission,
    is_url,
)
from glideflow.domain.task import InputFile as InputEntry
from glideflow.errors import TaskFileError
from glideflow.task_file import TaskFile

CHUNK_BYTES = 1 << 20
MEGABYTE = 10**6
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EXECUTABLE = 0o111


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A local file that the endpoint must have before it accepts the task."""

    path: Path
    """The file."""
    kind: Literal["sandbox", "input"]
    """Where it goes: among the content-addressed task files, or into the embedded storage."""
    sha256: str
    """Its checksum when it was measured."""
    size_bytes: int
    """Its size when it was measured."""
    url: str
    """Where it is sent, relative to the endpoint."""


@dataclass(frozen=True, kw_only=True)
class LocalSubmission:
    """A task that is ready to be sent."""

    submission: Submission
    """What the endpoint gets."""
    uploads: list[Upload]
    """What must be there before; files of the same content once."""


@dataclass(frozen=True)
class Measure:
    """What is known of a local file after it was read once."""

    size_bytes: int
    sha256: str
    lines: int
    """Lines of text; a last one without a newline counts."""


@dataclass
class _Search:
    """The state of one search: what was found, what is wrong, which names are taken."""

    task_file: TaskFile
    max_sandbox_mb: int | None
    problems: list[str] = field(default_factory=list)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def problem(self, keys: Keys, text: str) -> None:
        """Note a problem with its place."""
        self.problems.append(self.task_file.places.sentence(keys, text))

    def measure(self, path: Path, keys: Keys) -> Measure | None:
        """Read a file; a problem is noted."""
        try:
            return measure(path)
        except OSError as error:
            self.problem(keys, f"`{path}` cannot be read: {error.strerror}")
            return None

    def local_files(self, text: str, keys: Keys) -> list[Path]:
        """Return the files behind a path or pattern, sorted; a problem is noted."""
        path = self.task_file.folder / Path(text).expanduser()
        if path.is_file():
            return [path]
        if path.is_dir():
            self.problem(keys, f"`{text}` is a folder; write `{text.rstrip('/')}/*` for the files in it")
        elif path.exists():
            self.problem(keys, f"`{text}` is no regular file")
        elif not glob.has_magic(text):
            self.problem(keys, f"there is no file `{text}`{self._where(text)}{_similar(path)}")
        else:
            found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
            if files := [name for name in found if name.is_file()]:
                return files
            self.problem(keys, f"the pattern `{text}` matches no file{self._where(text)}")
        return []

    def _where(self, text: str) -> str:
        folder = self.task_file.folder.absolute()
        return "" if text.startswith(("/", "~")) else f" in the folder {folder}"


def resolve(task_file: TaskFile, *, max_sandbox_mb: int | None = None) -> LocalSubmission:
    """Find and measure the local files of a task.

    Args:
        task_file: The task, as it was read.
        max_sandbox_mb: Largest sandbox file, MB (10^6 bytes), setting `max_sandbox_mb`; None leaves it to the endpoint.

    Returns:
        What to send, and which files to upload before.

    Raises:
        TaskFileError: Files that are missing, unreadable, too large or given twice; a line for each.
    """
    search = _Search(task_file, max_sandbox_mb)
    sandbox = _find_sandbox(search)
    inputs = _find_inputs(search, {file.name for file in sandbox})
    if len(inputs) > MOST_LISTED_FILES:
        text = (
            f"gives {len(inputs):,} files, but a task may list {MOST_LISTED_FILES:,} at most; make several tasks that "
            "write one dataset, and read that: a dataset may have any number of files"
        )
        search.problem(("inputs", "files"), text)
    if search.problems:
        raise TaskFileError(search.problems, task_file.path)
    submission = Submission(spec=task_file.spec, source=task_file.source, sandbox=sandbox, inputs=inputs)
    return LocalSubmission(submission=submission, uploads=list(search.uploads.values()))


def measure(path: Path) -> Measure:
    """Read a file once.

    Returns:
        Its size, SHA-256 and number of lines; a last line without a newline counts.
    """
    digest = hashlib.sha256()
    size = lines = 0
    last = b"\n"
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            lines += chunk.count(b"\n")
            last = chunk
    return Measure(size, digest.hexdigest(), lines + (not last.endswith(b"\n")))


def _find_sandbox(search: _Search) -> list[SandboxFile]:
    """Find the files that travel with the task and with its merge step; each may be named by both."""
    spec = search.task_file.spec
    entries: list[tuple[Keys, str]] = [(("sandbox", number), text) for number, text in enumerate(spec.sandbox)]
    if spec.merge is not None:
        entries += [(("merge", "sandbox", number), text) for number, text in enumerate(spec.merge.sandbox)]
    found: dict[str, SandboxFile] = {}
    origin: dict[str, Path] = {}
    for keys, text in entries:
        for path in search.local_files(text, keys):
            name = _sandbox_name(path, search.task_file.folder)
            if name in origin and not path.samefile(origin[name]):
                search.problem(keys, f"`{path}` and `{origin[name]}` would both be `{name}` in the job's folder")
            elif name not in origin and (file := _sandbox_file(search, path, name, keys)):
                found[name], origin[name] = file, path
    return list(found.values())


def _sandbox_name(path: Path, folder: Path) -> str:
    """Files below the task file keep their folders, so that the command finds them as it does there."""
    try:
        relative = Path(os.path.abspath(path)).relative_to(os.path.abspath(folder))
    except ValueError:
        return path.name
    return str(relative)


def _sandbox_file(search: _Search, path: Path, name: str, keys: Keys) -> SandboxFile | None:
    if not _usable(search, name, keys):
        return None
    try:
        status = path.stat()
        if search.max_sandbox_mb is not None and status.st_size > search.max_sandbox_mb * MEGABYTE:
            search.problem(
                keys,
                f"`{path}` has {status.st_size / MEGABYTE:,.1f} MB, more than the {search.max_sandbox_mb} MB of the "
                "setting `max_sandbox_mb`; give large files under `inputs`",
            )
            return None
        measured = measure(path)
    except OSError as error:
        search.problem(keys, f"`{path}` cannot be read: {error.strerror}")
        return None
    _note_upload(search, path, measured, "sandbox", f"/v1/sandboxes/{measured.sha256}")
    return SandboxFile(
        name=name,
        sha256=measured.sha256,
        size_bytes=measured.size_bytes,
        executable=bool(status.st_mode & _EXECUTABLE),
    )


def _usable(search: _Search, name: str, keys: Keys) -> bool:
    if _CONTROL.search(name) or name == RESERVED_FILE or len(name) > 255:
        search.problem(
            keys,
            f"the file {name!r} must be renamed: control characters, names above 255 characters and "
            f"`{RESERVED_FILE}` are not possible in the job's folder",
        )
        return False
    return True


def _note_upload(search: _Search, path: Path, measured: Measure, kind: Literal["sandbox", "input"], url: str) -> None:
    search.uploads.setdefault(
        url, Upload(path=path, kind=kind, sha256=measured.sha256, size_bytes=measured.size_bytes, url=url)
    )


@dataclass(frozen=True)
class _Found:
    """An input before it has its final name."""

    keys: Keys
    entry: InputEntry
    path: Path | None
    """The local file, when it is to be uploaded."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders and name, from which a unique name is made."""
        if self.path is not None:
            return Path(os.path.abspath(self.path)).parts[1:]
        url = urllib.parse.urlsplit(self.entry.url or "")
        path = urllib.parse.unquote(url.path)
        return tuple(part for part in (url.hostname or "", *PurePosixPath(path).parts) if part not in {"", "/", ".."})


def _find_inputs(search: _Search, taken: set[str]) -> list[ResolvedInput]:
    spec = search.task_file.spec
    inputs = spec.inputs
    # A job that wrote over its own input would not give the same result again.
    taken |= {output.file for output in spec.outputs.values()}
    found = list(_listed(search, inputs))
    names = unique_names([entry.parts for entry in found], taken)
    resolved = (_resolved(search, entry, name, inputs) for entry, name in zip(found, names, strict=True))
    return [entry for entry in resolved if entry is not None]


def _listed(search: _Search, inputs: Inputs) -> Iterator[_Found]:
    """The inputs in their order, patterns expanded; a file that is given twice is a problem."""
    seen: dict[str, str] = {}
    for number, item in enumerate(inputs.files or []):
        keys: Keys = ("inputs", "files", number)
        if isinstance(item, str):
            item = InputEntry(url=item) if is_url(item) else InputEntry(path=item)
        for entry in _expanded(search, item, keys):
            identity = os.path.realpath(entry.path) if entry.path else str(item.url)
            if identity in seen:
                search.problem(keys, f"`{entry.path or item.url}` is given twice, first at {seen[identity]}")
            else:
                seen[identity] = search.task_file.places.place(keys)
                yield entry


def _expanded(search: _Search, item: InputEntry, keys: Keys) -> Iterator[_Found]:
    if item.path is None:
        yield _Found(keys, item, None)
        return
    for path in search.local_files(item.path, keys):
        yield _Found(keys, item, path)


def _resolved(search: _Search, found: _Found, name: str, inputs: Inputs) -> ResolvedInput | None:
    entry = found.entry
    if not _usable(search, name, found.keys):
        return None
    if found.path is None:
        return ResolvedInput(
            name=name, url=str(entry.url), size_bytes=entry.size_bytes, sha256=entry.sha256, events=entry.events
        )
    measured = search.measure(found.path, found.keys)
    if measured is None:
        return None
    url = f"/storage/inputs/{measured.sha256}/{urllib.parse.quote(name)}"
    _note_upload(search, found.path, measured, "input", url)
    return ResolvedInput(
        name=name,
        url=url,
        size_bytes=measured.size_bytes,
        sha256=measured.sha256,
        events=_events(measured, entry, inputs),
    )


def _events(measured: Measure, entry: InputEntry, inputs: Inputs) -> int | None:
    """A number in the task wins; lines are counted when the task says that they are events."""
    if entry.events is not None or inputs.events is None:
        return entry.events
    return max(0, measured.lines - inputs.header_lines)


def _similar(path: Path) -> str:
    """Name a file of the same folder that was probably meant."""
    if not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"; did you mean `{near[0]}`?" if near else ""
