# SPDX-License-Identifier: Apache-2.0
"""What the server asks for: orders, checked before anything is done for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple


@dataclass(frozen=True)
class SandboxFile:
    """A task file, by its content address."""

    name: str
    sha256: str
    size_bytes: int
    executable: bool


@dataclass(frozen=True)
class InputFile:
    """A file to fetch before the command starts."""

    name: str
    url: str
    size_bytes: Optional[int]
    sha256: Optional[str]


@dataclass(frozen=True)
class OutputFile:
    """A file that the command must write, and where it goes."""

    name: str
    file: str
    path: str


@dataclass(frozen=True)
class Order:
    """One attempt to run."""

    attempt_id: int
    job_id: int
    name: str
    command: str
    environment: Dict[str, str]
    sandbox: Tuple[SandboxFile, ...]
    inputs: Tuple[InputFile, ...]
    outputs: Tuple[OutputFile, ...]
    document: Dict[str, Any]
    cores: int
    memory_mb: int
    disk_mb: int
    wall_seconds: float

    @property
    def label(self) -> str:
        """The attempt in sentences."""
        return f"job {self.job_id} ({self.name}), attempt {self.attempt_id}"

    def unsafe_names(self) -> List[str]:
        """Return the file names that would leave the job's folder; the server refuses them too."""
        names = [file.name for file in self.sandbox] + [file.name for file in self.inputs]
        return [name for name in names + [file.file for file in self.outputs] if not is_safe(name)]


def is_safe(name: str) -> bool:
    """Tell whether a file name stays below the folder that it is relative to."""
    parts = name.split("/")
    return bool(name) and "\0" not in name and not any(part in ("", ".", "..") for part in parts)


def read_order(document: Dict[str, Any]) -> Order:
    """Read one order.

    Raises:
        KeyError, TypeError, ValueError: It is not one; nothing was done.
    """
    return Order(
        attempt_id=int(document["attempt_id"]),
        job_id=int(document["job_id"]),
        name=str(document["name"]),
        command=str(document["command"]),
        environment={str(key): str(value) for key, value in document.get("environment", {}).items()},
        sandbox=tuple(
            SandboxFile(str(file["name"]), str(file["sha256"]), int(file["size_bytes"]), bool(file["executable"]))
            for file in document.get("sandbox", ())
        ),
        inputs=tuple(
            InputFile(str(file["name"]), str(file["url"]), file.get("size_bytes"), file.get("sha256"))
            for file in document.get("inputs", ())
        ),
        outputs=tuple(
            OutputFile(str(file["name"]), str(file["file"]), str(file["path"])) for file in document.get("outputs", ())
        ),
        document=dict(document.get("document", {})),
        cores=int(document["cores"]),
        memory_mb=int(document["memory_mb"]),
        disk_mb=int(document["disk_mb"]),
        wall_seconds=float(document["wall_seconds"]),
    )
