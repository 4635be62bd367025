# SPDX-License-Identifier: Apache-2.0
"""Send scout jobs before the rest of a task is split, and decide by what they needed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glideflow.domain.identifiers import TaskId
from glideflow.domain.job import JobPlan
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.scouting import Expedition, expedition, scout_jobs, without
from glideflow.domain.sizing import Measured, Question, record, without_scouts
from glideflow.domain.splitting import Cursor, Extent, Piece, make_jobs, rule_of
from glideflow.domain.states import JobState
from glideflow.domain.task import Resources, TaskSpec
from glideflow.store import scouts
from glideflow.store.engine import Connection

Row = Mapping[str, Any]


def plan_scouts(spec: TaskSpec, extent: Extent, total: int | None, pieces: Iterable[Piece]) -> Sequence[JobPlan]:
    """Return the scout jobs of a task.

    Args:
        spec: The task.
        extent: Its input.
        total: Number of its jobs, where that is known already.
        pieces: Its input files.

    Returns:
        The scouts; none where the task wants none, or has so little input that they are not worth it.
    """
    if spec.split.target_wall_seconds is not None:
        chosen = expedition(spec.split, extent)
        return list(scout_jobs(pieces, chosen)) if chosen.is_worth_it else []
    number = spec.split.scouts
    if number is None or total is None or total < 2 * number:
        return []
    made = make_jobs(rule_of(spec, extent), pieces, Cursor())
    return [job for job, _ in zip(made, range(number), strict=False)]


def unscouted(spec: TaskSpec, extent: Extent) -> dict[str, Any] | None:
    """Return the decision of a task that wants scouts and sends none; None for one that wants none."""
    split = spec.split
    if split.target_wall_seconds is not None:
        chosen = expedition(split, extent)
        text = (
            f"{chosen.total:,} {chosen.unit} are too little input for {chosen.number} scouts, which would take "
            f"{chosen.units:,} of them"
        )
        return without_scouts(max(split.min_per_job or 1, chosen.size), text)
    if split.scouts is not None:
        return without_scouts(1, f"with {split.scouts} scouts, hardly any other jobs would be left")
    return None


def reason(number: int) -> Reason:
    """Return why a task stays in planning."""
    text = f"{number} scout jobs are measured first; the rest is split when they have ended"
    return Reason(code=ReasonCode.SCOUTING, text=text, source=Source.SERVER)


def judge(
    connection: Connection, task: Row, extent: Extent, total: int | None, max_jobs: int
) -> dict[str, Any] | Reason:
    """Decide about the rest of a task whose scouts have ended.

    Args:
        connection: The caller's transaction.
        task: Its row.
        extent: Its input.
        total: Number of its jobs, where that is known already.
        max_jobs: Most jobs of a task.

    Returns:
        What is kept with the task, or why it fails.
    """
    found = scouts.results(connection, TaskId(task["id"]), task["scouts"])
    done = [row for row in found if row["state"] == JobState.DONE and (row["usage"] or {}).get("wall_seconds")]
    if 2 * len(done) < len(found):
        return _failure(found, len(done))
    spec = TaskSpec(**task["spec"])
    chosen = expedition(spec.split, extent) if spec.split.target_wall_seconds is not None else None
    return record(_question(spec, chosen, tuple(_measured(row, chosen) for row in done), total, max_jobs - len(found)))


def _failure(found: Sequence[Row], done: int) -> Reason:
    worst = next((row["id"] for row in found if row["state"] != JobState.DONE), None)
    text = f"only {done} of {len(found)} scout jobs were done and could be measured, so the rest was not started"
    if worst is not None:
        text += f"; see `glideflow explain {worst}`, and `glideflow retry {found[0]['task_id']}` when it is mended"
    return Reason(code=ReasonCode.SCOUTS_FAILED, text=text, source=Source.SERVER)


def _question(
    spec: TaskSpec, chosen: Expedition | None, measured: tuple[Measured, ...], total: int | None, most_jobs: int
) -> Question:
    return Question(
        unit=chosen.unit if chosen else "jobs",
        target_seconds=spec.split.target_wall_seconds,
        left=chosen.total - chosen.units if chosen else total or 0,
        most_jobs=max(most_jobs, 1),
        most_per_job=spec.split.max_per_job,
        least_per_job=spec.split.min_per_job or 1,
        memory_mb=spec.resources.memory_mb,
        wall_seconds=spec.resources.wall_seconds,
        measured=measured,
    )


def _measured(row: Row, chosen: Expedition | None) -> Measured:
    return Measured(
        index=row["index"],
        units=chosen.size_of(row["index"]) if chosen else 1,
        wall_seconds=row["usage"]["wall_seconds"],
        max_rss_mb=row["usage"].get("max_rss_mb"),
        output_bytes=row["output_bytes"],
    )


def left_of(extent: Extent, spec: TaskSpec) -> Extent:
    """Return what the scouts of a task with a target wall time leave of its input."""
    chosen = expedition(spec.split, extent)
    if chosen.unit == "events":
        return Extent(files=extent.files, events=extent.events - chosen.units)
    return Extent(files=extent.files - chosen.units)


def rest_of(connection: Connection, task: Row, pieces: Iterable[Piece]) -> Iterable[Piece]:
    """Return the pieces that the scouts of a task have left."""
    return without(pieces, scouts.taken(connection, TaskId(task["id"]), task["scouts"]))


def resources_of(spec: TaskSpec, decision: Mapping[str, Any] | None) -> Resources:
    """Return what the jobs of a task ask for: as it says, or as was decided by its scouts."""
    decided = (decision or {}).get("decision", {})
    changed = {key: decided[key] for key in ("memory_mb", "wall_seconds") if key in decided}
    return spec.resources.model_copy(update=changed)
