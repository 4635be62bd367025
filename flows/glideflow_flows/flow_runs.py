# SPDX-License-Identifier: Apache-2.0
"""The flow runs of glideflow's deployment at the Prefect server: create, read, resume, cancel, run again."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from uuid import UUID, uuid4

import httpx
from prefect import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectException, PrefectHTTPStatusError
from prefect.states import Cancelled, Scheduled

from glideflow.errors import PrefectUnavailable, ServiceError
from glideflow_flows.watching import run_name, run_tags

BY_ID = FlowRunSort.ID_DESC
PAGE = 200
"""Most flow runs that Prefect returns at once."""


@contextmanager
def _asking() -> Iterator[None]:
    """Turn what Prefect's client raises into our error."""
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError) as error:
        raise PrefectUnavailable(f"the Prefect server did not do it: {type(error).__name__}: {error}") from error


class DeploymentLost(ServiceError):
    """The Prefect server does not know our deployment: its database was replaced, or it is another server."""

    code = "deployment_lost"


class FlowRuns:
    """Speaks to the Prefect server about the flow runs of tasks.

    Args:
        deployment_id: The deployment that new runs are made from.
        instance: Name of this instance; others may use the same server.
    """

    def __init__(self, deployment_id: UUID, instance: str) -> None:
        self._deployment_id = deployment_id
        self._instance = instance
        self.client = get_client(sync_client=True)

    def create(self, task_id: int, task_name: str, owner: str, vo: str, generation: int) -> UUID:
        """Create the flow run of a task; the same generation gives the same run.

        Args:
            task_id: The task.
            task_name: Its name, for people.
            owner: Its owner, for the tags.
            vo: Its virtual organisation, for the tags.
            generation: Rises when the task needs a new run.

        Returns:
            The flow run's id.

        Raises:
            PrefectUnavailable: The server did not do it.
            DeploymentLost: It does not know our deployment.
        """
        key, name = f"{self._instance}-task-{task_id}-{generation}", run_name(task_name, task_id)
        tags = run_tags(task_id, vo, owner)
        with _asking(), self._known():
            run = self._create(key, task_id, name, tags)
            if run.name != name or (run.state and run.state.is_final()):
                # A Prefect server that outlives the home knows this number already, from another task.
                run = self._create(f"{key}-{uuid4()}", task_id, name, tags)
        return run.id

    @contextmanager
    def _known(self) -> Iterator[None]:
        """Tell a missing deployment from a server that is away: it has to be registered again."""
        try:
            yield
        except PrefectHTTPStatusError as error:
            if error.response.status_code != HTTPStatus.NOT_FOUND:
                raise
            raise DeploymentLost(f"the Prefect server does not know deployment {self._deployment_id}") from error

    def _create(self, key: str, task_id: int, name: str, tags: Iterable[str]) -> FlowRun:
        return self.client.create_flow_run_from_deployment(
            self._deployment_id, parameters={"task_id": task_id}, name=name, tags=tags, idempotency_key=key
        )

    def read(self, ids: Iterable[UUID], types: Sequence[StateType] | None = None) -> dict[UUID, FlowRun]:
        """Return the flow runs that exist, by id.

        Args:
            ids: Which ones.
            types: Only those in these types of state, which costs the server less than all.

        Raises:
            PrefectUnavailable: The server did not answer.
        """
        state = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))) if types else None
        found: dict[UUID, FlowRun] = {}
        with _asking():
            for page in _pages(list(ids)):
                wanted = FlowRunFilter(id=FlowRunFilterId(any_=page), state=state)
                runs = self.client.read_flow_runs(flow_run_filter=wanted, sort=BY_ID, limit=PAGE)
                found |= {run.id: run for run in runs}
        return found

    def in_states(self, types: Sequence[StateType]) -> list[FlowRun]:
        """Return the deployment's flow runs in some types of state."""
        found: list[FlowRun] = []
        with _asking():
            while True:
                page = self.client.read_flow_runs(
                    deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self._deployment_id])),
                    flow_run_filter=FlowRunFilter(
                        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types)))
                    ),
                    sort=BY_ID,
                    limit=PAGE,
                    offset=len(found),
                )
                found += page
                if len(page) < PAGE:
                    return found

    def is_ours(self, run: FlowRun) -> bool:
        """Tell whether a run was made from our deployment, not by a user's own flow."""
        return run.deployment_id == self._deployment_id

    def resume(self, run_id: UUID) -> None:
        """Resume a suspended flow run; nothing happens when it is not suspended any more."""
        with _asking():
            self.client.resume_flow_run(run_id)

    def cancel(self, run_id: UUID, message: str) -> None:
        """Set a flow run that has no process to Cancelled."""
        self._set(run_id, Cancelled(message=message))

    def run_again(self, run_id: UUID, message: str) -> None:
        """Let the same flow run start once more; its persisted steps are not repeated."""
        self._set(run_id, Scheduled(message=message))

    def _set(self, run_id: UUID, state: State[None]) -> None:
        with _asking():
            try:
                self.client.set_flow_run_state(run_id, state, force=True)
            except ObjectNotFound:
                return


def _pages(ids: list[UUID]) -> Iterator[list[UUID]]:
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))
