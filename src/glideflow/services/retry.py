# SPDX-License-Identifier: Apache-2.0
"""Plan a retry as a difference: which jobs run again, what they ask for then, and what stays as it is."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from glideflow.domain.brokerage import Needs, refusal
from glideflow.domain.demand import Demand
from glideflow.domain.identifiers import DemandId, JobId, TaskId
from glideflow.domain.retrying import Changes, Selection
from glideflow.domain.site import Site
from glideflow.domain.states import FINAL_TASKS, JobState
from glideflow.errors import UserError
from glideflow.services.views import View, job_view
from glideflow.store import demands, files, jobs, tally, tasks
from glideflow.store.engine import Connection

Row = Mapping[str, Any]

SHOWN_JOBS = 20


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a user wants to run again, and how."""

    selection: Selection = field(default_factory=Selection)
    """Which jobs."""
    changes: Changes = field(default_factory=Changes)
    """What is different."""
    sites: Mapping[str, Site] = field(default_factory=dict)
    """Where the jobs may run, to refuse numbers that no site has."""


@dataclass(frozen=True, kw_only=True)
class RetryPlan:
    """What a retry does."""

    task: Row
    """The task as it is before."""
    rows: Sequence[Row]
    """The jobs that run again: `id`, `stage`, `state`, `demand_id`."""
    changed: Sequence[Mapping[str, Any]]
    """What jobs ask for then: `key`, `old`, `new` and how many `jobs`."""
    of_task: Sequence[Mapping[str, Any]]
    """What is different in the task: `key`, `old`, `new`."""
    counts: Mapping[str, int]
    """The task's main jobs by state, before."""
    unwritten: int
    """Jobs that were not written when the task ended; they run, too."""

    @property
    def job_ids(self) -> list[JobId]:
        """The jobs that run again."""
        return [JobId(row["id"]) for row in self.rows]

    @property
    def total(self) -> int:
        """How many run again."""
        return len(self.rows)

    @property
    def note(self) -> str:
        """What is different, for the reason of the retry; empty for nothing."""
        news = {change["key"]: change["new"] for change in (*self.changed, *self.of_task)}
        return ", ".join("another failure_policy" if key == "failure_policy" else f"{key} {news[key]}" for key in news)


def plan_task(connection: Connection, task: Row, wish: Wish) -> RetryPlan:
    """Plan a retry of a task's failed and cancelled jobs.

    The merge job is one of them only where no main job is: it follows by itself when these have ended.

    Raises:
        UserError: Numbers that no site has, or changes where there is no job yet.
    """
    task_id = TaskId(task["id"])
    rows = jobs.unsuccessful(connection, task_id, wish.selection, stage=jobs.MAIN) or jobs.unsuccessful(
        connection, task_id, wish.selection, stage=jobs.MERGE
    )
    if not rows and (wish.changes.of_jobs or wish.changes.of_task) and not task["jobs_total"]:
        raise UserError(f"task {task_id} has no jobs yet whose numbers could change: submit it again with others")
    return _plan(connection, task, rows, wish)


def plan_job(connection: Connection, task: Row, job: Row, wish: Wish) -> RetryPlan:
    """Plan a retry of one failed or cancelled job.

    Raises:
        UserError: Numbers that no site has, or changes that belong to the task.
    """
    if wish.changes.of_task:
        keys = " and ".join(f"`{key}`" for key in wish.changes.of_task)
        raise UserError(f"{keys} hold for a whole task: leave `--job` out")
    return replace(_plan(connection, task, [job], wish), unwritten=0)


def _plan(connection: Connection, task: Row, rows: Sequence[Row], wish: Wish) -> RetryPlan:
    number = Counter(DemandId(row["demand_id"]) for row in rows)
    asked = demands.read(connection, number) if number else {}
    _check_sites(asked.values(), task["spec"], wish)
    spec, unwritten = task["spec"], 0
    if task["state"] in FINAL_TASKS:
        unwritten = max(0, (task["jobs_total"] or 0) - task["jobs_written"])
    return RetryPlan(
        task=task,
        rows=rows,
        changed=list(_changed(asked, number, wish.changes)),
        of_task=[
            {"key": key, "old": spec.get(key, []), "new": new}
            for key, new in wish.changes.of_task.items()
            if rows and spec.get(key, []) != new
        ],
        counts=tally.by_state(connection, [task["id"]], stage=jobs.MAIN)[task["id"]],
        unwritten=unwritten,
    )


def _changed(
    asked: Mapping[DemandId, Demand], number: Mapping[DemandId, int], changes: Changes
) -> Iterator[dict[str, Any]]:
    for key, new in changes.of_jobs.items():
        olds: Counter[int] = Counter()
        for demand_id, demand in asked.items():
            olds[getattr(demand, key)] += number[demand_id]
        for old, count in sorted(olds.items()):
            if old != new:
                yield {"key": key, "old": old, "new": new, "jobs": count}


def _check_sites(asked: Any, spec: Row, wish: Wish) -> None:
    """Refuse numbers that no site will ever have."""
    if not set(wish.changes.of_jobs) - {"priority"}:
        return
    for demand in asked:
        needs = Needs(
            demand=replace(demand, **wish.changes.of_jobs),
            pinned_site=spec.get("site"),
            requires=frozenset(spec.get("requires") or ()),
        )
        refused = {name: refusal(needs, site) for name, site in wish.sites.items()}
        if all(why is not None and why.lasting for why in refused.values()):
            found = "; ".join(f"{name}: {why.text}" for name, why in refused.items() if why)
            raise UserError(f"no site may run the jobs with these numbers ({found}); nothing was changed")


def apply(connection: Connection, plan: RetryPlan, wish: Wish, reason: Any) -> list[JobId]:
    """Make the jobs of a plan ready with their new numbers, anywhere and not paused; returns those that were ended.

    Args:
        connection: The caller's transaction, which has locked the task and made the plan.
        plan: The plan.
        wish: What it was made for.
        reason: Who wants it.
    """
    anew = {"paused": False, "avoid_sites": [], "avoid_nodes": [], **wish.changes.of_jobs}
    moved = jobs.run_again(connection, plan.job_ids, reason)
    jobs.ask_otherwise(connection, moved, anew)
    spec: dict[str, Any] = {change["key"]: change["new"] for change in plan.of_task}
    if plan.unwritten:
        # Those that are written from now on ask for the same.
        resources = {key: value for key, value in wish.changes.of_jobs.items() if key != "priority"}
        if resources:
            tasks.change_resources(connection, TaskId(plan.task["id"]), resources)
        if wish.changes.priority is not None:
            tasks.set_priority(connection, TaskId(plan.task["id"]), wish.changes.priority)
    if spec:
        tasks.change_spec(connection, TaskId(plan.task["id"]), spec)
    return moved


def view(connection: Connection, plan: RetryPlan) -> View:
    """Return a plan as users see it, with its first jobs."""
    again = Counter(str(row["state"]) for row in plan.rows)
    task_id = TaskId(plan.task["id"])
    main = any(row["stage"] == jobs.MAIN for row in plan.rows)
    ended = sum(plan.counts.get(state, 0) for state in (JobState.FAILED, JobState.CANCELLED))
    return {
        "task": {key: plan.task[key] for key in ("id", "name", "state")},
        "jobs_total": plan.task["jobs_total"],
        "total": plan.total,
        "by_state": dict(again),
        "unwritten": plan.unwritten,
        "done": plan.counts.get(JobState.DONE, 0),
        "files": files.count_of_task(connection, task_id, stage=jobs.MAIN),
        "left": ended - plan.total if main else ended,
        "merge": "follows" if main and plan.task["spec"].get("merge") else "again" if plan.rows and not main else None,
        "changes": [*plan.changed, *plan.of_task],
        "jobs": [job_view(row) for row in jobs.some(connection, plan.job_ids[:SHOWN_JOBS])],
    }
