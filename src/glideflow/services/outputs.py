# SPDX-License-Identifier: Apache-2.0
"""The outputs of an attempt: where they must be, and whether they are there as the pilot says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glideflow.domain.messages import StoredOutput
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.task import Output, TaskSpec
from glideflow.services.storage import Storage

MERGE = "merge"


@dataclass(frozen=True, kw_only=True)
class Produced:
    """One verified output."""

    dataset: str
    output: str
    name: str
    url: str
    size_bytes: int
    sha256: str
    events: int | None

    def columns(self) -> dict[str, Any]:
        """Return the columns of its row in `files`, but for the identifiers."""
        return {
            "output": self.output,
            "name": self.name,
            "url": self.url,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "events": self.events,
        }


def declared(spec: TaskSpec, stage: str) -> dict[str, Output]:
    """Return the outputs that a job of a stage must write."""
    if stage == MERGE:
        return spec.merge.outputs if spec.merge else {}
    return spec.outputs


def storage_path(task_id: int, attempt_id: int, file: str) -> str:
    """Return where an attempt stores a file; no two attempts share a path."""
    return f"tasks/{task_id}/{attempt_id}/{file}"


def dataset_of(spec: TaskSpec, name: str, output: Output) -> str:
    """Return the dataset that takes an output."""
    return output.dataset or f"{spec.name}.{name}"


def verify(
    spec: TaskSpec,
    row: Mapping[str, Any],
    outputs: Sequence[StoredOutput],
    objects: Mapping[str, Mapping[str, Any]],
    storage: Storage,
) -> tuple[tuple[Produced, ...], Reason | None]:
    """Check that an attempt's outputs exist with the right size and checksum.

    Args:
        spec: The task.
        row: The attempt with its job.
        outputs: What the pilot says it stored.
        objects: What the storage knows, by path.
        storage: Where the objects are.

    Returns:
        The verified outputs, and why the attempt fails, or None.
    """
    told = {output.name: output for output in outputs}
    produced = []
    for name, output in declared(spec, row["stage"]).items():
        said = told.get(name)
        if said is None:
            return (), _reason(ReasonCode.OUTPUT_MISSING, f"the pilot reported no file for the output {name}")
        prefix = storage_path(row["task_id"], row["id"], "")
        path = said.path.removeprefix("/storage/")
        known = objects.get(path)
        if not path.startswith(prefix) or known is None:
            text = f"the output {name} is not in the storage as {path}, where attempt {row['id']} should have put it"
            return (), _reason(ReasonCode.OUTPUT_MISSING, text)
        actual = (known["size_bytes"], known["sha256"])
        if actual != (said.size_bytes, said.sha256) or storage.size(path) != said.size_bytes:
            text = (
                f"the output {name} was written with {said.size_bytes} bytes and SHA-256 {said.sha256}, "
                f"but {actual[0]} bytes with {actual[1]} are stored"
            )
            return (), _reason(ReasonCode.OUTPUT_CORRUPT, text)
        produced.append(
            Produced(
                dataset=dataset_of(spec, name, output),
                output=name,
                name=path.removeprefix(prefix),
                url=f"/storage/{path}",
                size_bytes=said.size_bytes,
                sha256=said.sha256,
                events=max(known["lines"] - output.header_lines, 0) if output.events == "lines" else None,
            )
        )
    return tuple(produced), None


def _reason(code: ReasonCode, text: str) -> Reason:
    return Reason(code=code, text=text, source=Source.SERVER)
