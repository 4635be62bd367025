# SPDX-License-Identifier: Apache-2.0
"""How a task's jobs failed, as a histogram: by reason, exit code, site and node."""

from collections.abc import Sequence
from typing import Any

from glideflow.domain.identifiers import TaskId
from glideflow.errors import NotFound
from glideflow.store import tally, tasks
from glideflow.store.engine import Database

MOST_BARS = 200


def histogram(database: Database, task_id: TaskId, by: Sequence[str] | None = None) -> dict[str, Any]:
    """Count the failed jobs of a task.

    Args:
        database: The store.
        task_id: The task.
        by: Names of `store.tally.DIMENSIONS`; without them, the usual ones.

    Returns:
        The dimensions, the number of failed jobs, and the groups, the most frequent first, each with one example.

    Raises:
        NotFound: There is no such task.
    """
    chosen = list(dict.fromkeys(by or tally.USUAL_DIMENSIONS))
    with database.snapshot() as connection:
        task = tasks.get(connection, task_id)
        if task is None:
            raise NotFound("task", task_id, "see `glideflow tasks`")
        rows = tally.failures(connection, task_id, by=chosen, limit=MOST_BARS)
    shown = ["code" if name == "reason" else name for name in chosen]
    return {
        "task": {"id": task["id"], "name": task["name"], "state": task["state"], "jobs_total": task["jobs_total"]},
        "by": chosen,
        "failed": rows[0]["total"] if rows else 0,
        "items": [{key: row[key] for key in (*shown, "count", "job_id", "text")} for row in rows],
    }
