# SPDX-License-Identifier: Apache-2.0
"""The reconciler: compares our open tasks with Prefect's flow runs, and repairs what was missed or broken."""

import logging
import threading
import time
from collections.abc import Collection, Mapping
from enum import StrEnum
from uuid import UUID

import httpx
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException

from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.errors import GlideflowError
from glideflow.services import orchestration
from glideflow.services.orchestration import OpenTask
from glideflow.store.engine import Database
from glideflow_flows.artifacts import Artifacts
from glideflow_flows.connection import endpoint
from glideflow_flows.flow_runs import FlowRuns

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Time between two looks for tasks whose stage has ended, and for flow runs that were cancelled."""
CANCEL_TYPES = [StateType.CANCELLING, StateType.CANCELLED]
SHOW_SECONDS = 5.0
SHOW_BUDGET_SECONDS = 2.0
"""Longest time spent on artifacts at once; with very many open tasks each is shown less often."""
FIRST_DELAY_SECONDS = 5.0
LONGEST_DELAY_SECONDS = 600.0
ADOPT_SECONDS = 120.0
"""A user's flow that does nothing for so long after its jobs have ended is taken for dead."""

CANCELLED_IN_PREFECT = Reason(code=ReasonCode.KILLED, text="its flow run was cancelled in Prefect", source=Source.USER)


class Action(StrEnum):
    """What the reconciler does about one task."""

    NOTHING = "nothing"
    """All is well, or somebody else is at it."""
    RESUME = "resume"
    """The jobs have ended and the flow is still suspended."""
    START = "start"
    """No living flow run drives the task: make a new one."""
    RUN_AGAIN = "run_again"
    """The flow's process died, or a service was away for too long."""
    KILL = "kill"
    """A person cancelled the flow run in Prefect."""


def decide(task: OpenTask, run: FlowRun | None, *, ours: bool, idle_seconds: float) -> Action:
    """Choose what to do about one open task.

    Args:
        task: The task.
        run: Its flow run, or None when Prefect does not know it.
        ours: Whether the run was made from our deployment; else a user's flow drives the task.
        idle_seconds: For how long the task's jobs have ended without anything happening.

    Returns:
        The action.
    """
    if run is None or run.state is None:
        return Action.START
    state = run.state
    if state.is_cancelled() or state.is_cancelling():
        return Action.KILL
    if state.is_crashed() or state.is_failed():
        return Action.RUN_AGAIN if ours else Action.START
    if state.is_completed():
        return Action.START
    if state.is_paused():
        return Action.RESUME if task.stage_ended else Action.NOTHING
    return Action.START if not ours and idle_seconds > ADOPT_SECONDS else Action.NOTHING


class Reconciler:
    """Repairs flow runs, and shows the progress of tasks whose flow is suspended.

    Args:
        database: Our database.
        runs: The Prefect server's flow runs.
        instance: Name of this instance, for the artifacts' keys.
        seconds: Time between two comparisons of everything.
    """

    def __init__(self, database: Database, runs: FlowRuns, *, instance: str, seconds: float) -> None:
        self._database = database
        self._runs = runs
        self._instance = instance
        self._seconds = seconds
        self._artifacts: dict[UUID, Artifacts] = {}
        self._shown_at: dict[UUID, float] = {}
        self._ended_at: dict[int, float] = {}
        self._delays: dict[UUID, tuple[int, float]] = {}

    def follow(self, stop: threading.Event) -> None:
        """Compare and repair until told to stop."""
        compared_at = float("-inf")
        while not stop.wait(TICK_SECONDS):
            everything = time.monotonic() - compared_at >= self._seconds
            try:
                self.compare(everything=everything)
                self.show_progress()
            except GlideflowError as error:
                logger.warning("the comparison with Prefect waits: %s", error)
                continue
            if everything:
                compared_at = time.monotonic()

    def compare(self, *, everything: bool) -> None:
        """Compare once.

        Args:
            everything: Look at all open tasks, not only at those whose stage has ended or whose run was cancelled.

        Raises:
            PrefectUnavailable: The server does not answer.
            DatabaseUnavailable: Ours does not.
        """
        tasks = {UUID(t.flow_run_id): t for t in orchestration.open_tasks(self._database) if t.flow_run_id}
        now = time.monotonic()
        self._ended_at = {t.task_id: self._ended_at.get(t.task_id, now) for t in tasks.values() if t.stage_ended}
        suspects = {run_id for run_id, task in tasks.items() if everything or task.stage_ended}
        runs = self._runs.read(suspects)
        cancelled = self._runs.read(tasks.keys() - suspects, CANCEL_TYPES)
        runs |= cancelled
        actions = {tasks[run_id]: self._choose(tasks[run_id], runs) for run_id in suspects | cancelled.keys()}
        if everything:
            self._end_cancelling(tasks)
        if not any(action is not Action.NOTHING for action in actions.values()):
            return
        # A flow may have ended its task between the two looks: act only on what is still as it was.
        still = set(orchestration.open_tasks(self._database))
        for task, action in actions.items():
            if action is not Action.NOTHING and task in still:
                self._act(task, action)

    def _end_cancelling(self, driving: Collection[UUID]) -> None:
        """End the runs that were cancelled when their task had ended, and whose process ended without saying so."""
        for run in self._runs.in_states([StateType.CANCELLING]):
            if run.id not in driving:
                self._runs.cancel(run.id, "cancelled after its task had ended")

    def _choose(self, task: OpenTask, runs: Mapping[UUID, FlowRun]) -> Action:
        run = runs.get(UUID(task.flow_run_id)) if task.flow_run_id else None
        idle = time.monotonic() - self._ended_at.get(task.task_id, time.monotonic())
        return decide(task, run, ours=run is not None and self._runs.is_ours(run), idle_seconds=idle)

    def _act(self, task: OpenTask, action: Action) -> None:
        run_id = UUID(str(task.flow_run_id))
        if action is Action.RUN_AGAIN and not self._is_due(run_id):
            return
        logger.info("task %s, flow run %s: %s", task.task_id, run_id, action)
        match action:
            case Action.RESUME:
                self._runs.resume(run_id)
            case Action.START:
                orchestration.request_start(self._database, task.task_id)
            case Action.RUN_AGAIN:
                self._runs.run_again(run_id, "run again: its process died, or a service was away for too long")
            case Action.KILL:
                orchestration.kill_task(self._database, task.task_id, CANCELLED_IN_PREFECT)

    def _is_due(self, run_id: UUID) -> bool:
        """Tell whether a broken run may start again: with growing pauses, so that a hopeless one costs little."""
        times, due_at = self._delays.get(run_id, (0, 0.0))
        if time.monotonic() < due_at:
            return False
        delay = min(FIRST_DELAY_SECONDS * 2**times, LONGEST_DELAY_SECONDS)
        self._delays[run_id] = (times + 1, time.monotonic() + delay)
        return True

    def show_progress(self) -> None:
        """Bring the artifacts of suspended flow runs up to date, those first that waited longest.

        Raises:
            DatabaseUnavailable: Ours does not answer.
        """
        deadline = time.monotonic() + SHOW_BUDGET_SECONDS
        tasks = {UUID(t.flow_run_id): t for t in orchestration.open_tasks(self._database) if t.flow_run_id}
        self._shown_at = {run_id: self._shown_at.get(run_id, 0.0) for run_id in tasks}
        self._artifacts = {run_id: found for run_id, found in self._artifacts.items() if run_id in tasks}
        for run_id in sorted(tasks, key=lambda run_id: self._shown_at[run_id]):
            now = time.monotonic()
            if now > deadline or now - self._shown_at[run_id] < SHOW_SECONDS:
                return
            self._shown_at[run_id] = now
            self._show(run_id, tasks[run_id].task_id)

    def _show(self, run_id: UUID, task_id: int) -> None:
        artifacts = self._artifacts.setdefault(run_id, Artifacts(self._runs.client, run_id, task_id, self._instance))
        try:
            artifacts.show_progress(endpoint().progress(task_id))
        except (GlideflowError, httpx.HTTPError, PrefectException) as error:
            logger.warning("the progress of task %s could not be shown: %s", task_id, error)
