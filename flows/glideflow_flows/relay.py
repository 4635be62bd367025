# SPDX-License-Identifier: Apache-2.0
"""The relay: carries the outbox of our database to Prefect, in order, as often as it takes."""

import logging
import threading
import time
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, StateType

from glideflow.errors import DatabaseUnavailable, GlideflowError, PrefectUnavailable
from glideflow.services import orchestration
from glideflow.services.orchestration import OutboxEntry
from glideflow.store.engine import Channel, Database
from glideflow_flows.flow_runs import DeploymentLost, FlowRuns

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""So long a flow's process may take to see that its task was killed: it ends its run once, with all figures."""
WITH_PROCESS = {StateType.PENDING, StateType.RUNNING}


class Relay:
    """Creates, resumes and cancels flow runs as the outbox says.

    Args:
        database: Our database.
        runs: The Prefect server's flow runs.
    """

    def __init__(self, database: Database, runs: FlowRuns) -> None:
        self._database = database
        self._runs = runs
        self._seen_at: dict[int, float] = {}

    def follow(self, stop: threading.Event) -> None:
        """Carry entries until told to stop: at once when notified, and about every second.

        Raises:
            DeploymentLost: The flows process must register its deployment again, by starting anew.
        """
        for _ in self._database.listen([Channel.OUTBOX], stop):
            try:
                self.carry_all()
            except PrefectUnavailable as error:
                logger.warning("entries wait for Prefect: %s", error)
                stop.wait(1.0)
            except DatabaseUnavailable as error:
                logger.warning("%s", error)

    def carry_all(self) -> None:
        """Carry every waiting entry once.

        Raises:
            PrefectUnavailable: The server does not answer; the entries stay.
            DatabaseUnavailable: Ours does not.
        """
        entries, now = orchestration.pending(self._database), time.monotonic()
        self._seen_at = {entry.id: self._seen_at.get(entry.id, now) for entry in entries}
        for entry in entries:
            try:
                self._carry(entry)
            except PrefectUnavailable as error:
                orchestration.failed(self._database, entry.id, str(error))
                raise
            except (DatabaseUnavailable, DeploymentLost):
                raise
            except GlideflowError as error:
                orchestration.failed(self._database, entry.id, str(error))
                logger.error("entry %s of task %s: %s", entry.action, entry.task_id, error)

    def _carry(self, entry: OutboxEntry) -> None:
        if entry.action == "start":
            run_id = self._runs.create(entry.task_id, entry.task_name, entry.owner, entry.vo, entry.generation)
            orchestration.record_started(self._database, entry.id, entry.task_id, str(run_id))
            logger.info("task %s is driven by flow run %s", entry.task_id, run_id)
            return
        run = self._find(entry)
        if run is None or run.state is None or run.state.is_completed() or run.state.is_cancelled():
            orchestration.done(self._database, entry.id)
        elif entry.action == "resume":
            # A run with a process looks for itself; when it suspends just now, the reconciler sees it soon.
            if run.state.is_paused():
                self._runs.resume(run.id)
            orchestration.done(self._database, entry.id)
        elif run.state.type in WITH_PROCESS and time.monotonic() - self._seen_at[entry.id] < PATIENCE_SECONDS:
            orchestration.failed(self._database, entry.id, f"its flow run is {run.state.name}")
        else:
            # Whatever its process may still do, it ends as Cancelled: the flow looks at its task first.
            self._runs.cancel(run.id, entry.reason or "the task was killed")
            orchestration.done(self._database, entry.id)

    def _find(self, entry: OutboxEntry) -> FlowRun | None:
        if entry.flow_run_id is None:
            return None
        run_id = UUID(entry.flow_run_id)
        return self._runs.read([run_id]).get(run_id)
