# SPDX-License-Identifier: Apache-2.0
"""The flows process: serves the deployment, carries the outbox, reconciles. It ends at SIGTERM within a second."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import httpx
import psutil
from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException
from prefect.runner import Runner

from glideflow.errors import PrefectUnavailable
from glideflow.instance.home import Home
from glideflow.settings import Settings
from glideflow.store.engine import Database
from glideflow_flows.artifacts import DEFAULT_INSTANCE
from glideflow_flows.flow_runs import FlowRuns
from glideflow_flows.reconcile import Reconciler
from glideflow_flows.relay import Relay
from glideflow_flows.task_flow import run_task

logger = logging.getLogger(__name__)

FLOWS_AT_ONCE = 10
"""Flow processes at once, about 100 MB each; suspended flows do not count."""
POLL_SECONDS = 1.0
ALIVE_SECONDS = 2.0
LOST_TYPES = [StateType.RUNNING, StateType.PENDING]
DEPLOYMENT = "run-task"


def deployment_name(instance: str) -> str:
    """Return the name of an instance's deployment: several instances may share one Prefect server."""
    return DEPLOYMENT if instance == DEFAULT_INSTANCE else f"{DEPLOYMENT}-{instance}"


def heal(runs: FlowRuns) -> None:
    """Bring back the flow runs of an earlier life of this process, the only one that runs them.

    Args:
        runs: The Prefect server's flow runs.

    Raises:
        PrefectUnavailable: The server does not answer.
    """
    for run in runs.in_states(LOST_TYPES):
        runs.run_again(run.id, "run again: the process that served it is gone")
        logger.info("flow run %s had lost its process", run.id)


class Flows:
    """All threads of the flows process.

    Args:
        settings: Settings of the home.
        database: Our database.
        alive_file: Touched every few seconds while everything works.
    """

    def __init__(self, settings: Settings, database: Database, alive_file: Path) -> None:
        self._settings = settings
        self._database = database
        self._alive_file = alive_file
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self) -> int:
        """Work until SIGTERM or SIGINT, or until a thread dies.

        Returns:
            The process's exit status: 0 when it was asked to stop.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        self._start("runner", lambda: asyncio.run(self._serve()))
        while not self._stop.wait(ALIVE_SECONDS):
            if not all(thread.is_alive() for thread in self._threads):
                logger.error("a thread of the flows process died; the process ends, to be started again")
                break
            self._alive_file.touch()
        asked = self._stop.is_set()
        self._stop.set()
        end_children()
        return 0 if asked else 1

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    async def _serve(self) -> None:
        """Keep a runner going: Prefect's own gives up after three failed polls."""
        while not self._stop.is_set():
            try:
                await asyncio.to_thread(self._wait_for_prefect)
                runner = Runner(
                    name=deployment_name(self._settings.instance),
                    query_seconds=POLL_SECONDS,
                    limit=FLOWS_AT_ONCE,
                    pause_on_shutdown=False,
                )
                deployment_id = await runner.aadd_flow(run_task, tags=["glideflow"])
                await asyncio.to_thread(self._prepare, deployment_id)
                logger.info("serving deployment %s", deployment_id)
                await runner.start()
            except (httpx.HTTPError, PrefectException, PrefectUnavailable, RuntimeError, ExceptionGroup) as error:
                logger.warning("the runner starts again: %s: %s", type(error).__name__, error)
                await asyncio.sleep(POLL_SECONDS)

    def _wait_for_prefect(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._stop.is_set() and (error := client.api_healthcheck()):
                logger.info("waiting for the Prefect server: %s", error)
                self._stop.wait(POLL_SECONDS)

    def _prepare(self, deployment_id: UUID) -> None:
        """Heal before the runner takes runs; then, once, start relay and reconciler."""
        runs = FlowRuns(deployment_id, self._settings.instance)
        heal(runs)
        if len(self._threads) > 1:
            return
        relay = Relay(self._database, runs)
        reconciler = Reconciler(
            self._database, runs, instance=self._settings.instance, seconds=self._settings.reconcile_seconds
        )
        self._start("relay", lambda: relay.follow(self._stop))
        self._start("reconciler", lambda: reconciler.follow(self._stop))


def end_children() -> None:
    """End this process's flow processes at once: their runs go on from the last step in the next life.

    Prefect's own shutdown would cancel the runs instead, and with them the tasks.
    """
    children = psutil.Process().children(recursive=True)
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=2.0)


def serve(settings: Settings) -> int:
    """Run the flows process of a home.

    Args:
        settings: Settings of the home; the environment must point Prefect to the home's server already.

    Returns:
        The process's exit status.
    """
    # One line per request, several a second for ever, would hide what matters.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    home = Home(settings)
    info = home.read_instance()
    if info is None:
        logger.error("%s is not running: start it with `glideflow up`", home.root)
        return 1
    alive_file = home.alive_file("flows")
    status = Flows(settings, Database(info.database_url, connections=4), alive_file).run()
    # The runner's threads wait for processes that are gone; nothing of theirs is worth waiting for.
    logging.shutdown()
    os._exit(status)
