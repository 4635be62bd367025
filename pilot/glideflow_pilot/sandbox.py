# SPDX-License-Identifier: Apache-2.0
"""The folder of one attempt, and the task files that the pilot keeps between attempts."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from pathlib import Path
from typing import Callable, Dict, List

from glideflow_pilot.orders import SandboxFile
from glideflow_pilot.reasons import OUTPUT_MISSING, Failure

# Smaller files are copied, so that a payload that changes its copy changes nothing else; larger ones are linked.
COPY_BYTES = 1_000_000
LISTED_FILES = 20


class Sandbox:
    """The working folder of one attempt."""

    def __init__(self, root: Path, attempt_id: int) -> None:
        """Make the folder and its `tmp`."""
        self.folder = root / f"attempt-{attempt_id}"
        os.mkdir(self.folder, 0o700)
        os.mkdir(self.folder / "tmp", 0o700)

    def place(self, name: str) -> Path:
        """Return the path of a checked name, its parent folders made."""
        path = self.folder / name
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_document(self, document: Dict[str, object]) -> None:
        """Write `job.json`, for commands that read it instead of placeholders."""
        (self.folder / "job.json").write_text(json.dumps(document), encoding="utf-8")

    def output(self, name: str) -> Path:
        """Return the path of a declared output.

        Raises:
            Failure: It is missing, no regular file, or a link that leads out of the folder.
        """
        path = self.folder / name
        real = Path(os.path.realpath(path))
        try:
            mode = os.lstat(real).st_mode
        except OSError:
            raise Failure(OUTPUT_MISSING, f"the command wrote no {name}; {self.listing()}", source="payload") from None
        if Path(os.path.realpath(self.folder)) not in real.parents:
            raise Failure(
                OUTPUT_MISSING, f"the output {name} is a link to outside of the job's folder", source="payload"
            )
        if not stat.S_ISREG(mode):
            raise Failure(OUTPUT_MISSING, f"the output {name} is no regular file; {self.listing()}", source="payload")
        return real

    def listing(self) -> str:
        """Return a sentence on what is in the folder."""
        names: List[str] = []
        for folder, folders, files in os.walk(self.folder):
            folders.sort()
            relative = os.path.relpath(folder, self.folder)
            names += [os.path.normpath(os.path.join(relative, file)) for file in sorted(files)]
            if len(names) > LISTED_FILES:
                break
        shown = ", ".join(names[:LISTED_FILES]) + (", ..." if len(names) > LISTED_FILES else "")
        return f"its folder holds {shown}"

    def remove(self) -> None:
        """Delete the folder; what cannot be deleted goes with the slot."""
        shutil.rmtree(self.folder, ignore_errors=True)


class TaskFiles:
    """Task files by SHA-256, fetched once per pilot."""

    def __init__(self, folder: Path, fetch: Callable[[SandboxFile, Path, threading.Event], None]) -> None:
        """Keep them in a folder.

        Args:
            folder: Where.
            fetch: Fetches and checks one file into a path.
        """
        self._folder, self._fetch = folder, fetch
        self._known: Dict[str, List[int]] = {}
        self._locks: Dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def provide(self, file: SandboxFile, target: Path, halt: threading.Event) -> None:
        """Put a task file into a sandbox, fetching it first when it is not there or was changed."""
        kind = "x" if file.executable else "r"
        cached = self._folder / f"{file.sha256}.{kind}"
        with self._lock:
            lock = self._locks.setdefault(cached.name, threading.Lock())
        with lock:
            if self._known.get(cached.name) != _state(cached):
                self._store(file, cached, halt)
        if file.size_bytes <= COPY_BYTES:
            shutil.copyfile(cached, target)
            os.chmod(target, 0o755 if file.executable else 0o644)
        else:
            os.link(cached, target)

    def _store(self, file: SandboxFile, cached: Path, halt: threading.Event) -> None:
        fresh = cached.with_suffix(".new")
        try:
            self._fetch(file, fresh, halt)
            os.chmod(fresh, 0o555 if file.executable else 0o444)
            os.replace(fresh, cached)
        finally:
            fresh.unlink(missing_ok=True)
        self._known[cached.name] = _state(cached)


def _state(path: Path) -> List[int]:
    """Return what changes when somebody writes to a file."""
    try:
        state = os.stat(path)
    except OSError:
        return [-1]
    return [state.st_ino, state.st_size, state.st_mtime_ns, state.st_mode]
