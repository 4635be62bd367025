# SPDX-License-Identifier: Apache-2.0
"""What the endpoint does by itself: spread news, wake delayed jobs, watch over pilots, plan what was left, tidy up."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from glideflow.api.context import Context
from glideflow.errors import ServiceError
from glideflow.services.brokerage import broker_new
from glideflow.services.flow_results import remove_old_results
from glideflow.services.planning import go_on, plan_all
from glideflow.services.shares import COUNT_SECONDS, count_usage
from glideflow.services.watchdog import Limits, Watch, wake_delayed
from glideflow.store import tally
from glideflow.store.engine import Channel

logger = logging.getLogger(__name__)

_WAKE_SECONDS = 0.5
_SWEEP_SECONDS = 5.0
_FOLD_SECONDS = 1.0
_TIDY_SECONDS = 600.0


class Housekeeping:
    """Threads that end with the endpoint.

    Args:
        context: The endpoint's parts.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stop = threading.Event()
        self._watch = Watch(
            context.database,
            context.policies,
            started_at=context.started_at,
            limits=Limits(
                lost_seconds=context.settings.pilot_lost_seconds,
                unheld_seconds=context.settings.attempt_unheld_seconds,
                verifying_seconds=context.settings.verifying_seconds,
            ),
        )
        self._threads = [
            threading.Thread(target=self._listen, name="listener", daemon=True),
            threading.Thread(target=self._plan, name="planner", daemon=True),
            threading.Thread(target=self._repeat, args=(_WAKE_SECONDS, self._wake), name="waker", daemon=True),
            threading.Thread(target=self._repeat, args=(_FOLD_SECONDS, self._fold), name="tally", daemon=True),
            threading.Thread(target=self._repeat, args=(COUNT_SECONDS, self._count), name="usage", daemon=True),
            threading.Thread(target=self._repeat, args=(_TIDY_SECONDS, self._tidy), name="tidier", daemon=True),
            threading.Thread(target=self._repeat, args=(_SWEEP_SECONDS, self._sweep), name="watchdog", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads; returns within about a second."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _listen(self) -> None:
        for channel in self._context.database.listen([Channel.JOBS, Channel.COMMANDS], self._stop):
            if channel is not None:
                self._context.desk.announce()

    def _plan(self) -> None:
        """Go on with tasks when something happened to them, and about once a second."""
        for _ in self._context.database.listen([Channel.PLANS], self._stop):
            self._try(self._go_on)

    def _go_on(self) -> None:
        plan_all(self._context.place)
        go_on(self._context.place)

    def _repeat(self, seconds: float, work: Callable[[], object]) -> None:
        while not self._stop.wait(seconds):
            self._try(work)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except ServiceError as error:
            logger.warning("housekeeping: %s", error)
        except Exception:
            # A mistake here must not end the watch over everything else.
            logger.exception("housekeeping failed; it goes on")

    def _wake(self) -> None:
        wake_delayed(self._context.database)
        broker_new(self._context.database, self._context.sites)

    def _fold(self) -> None:
        with self._context.database.transaction() as connection:
            tally.fold(connection)

    def _count(self) -> None:
        count_usage(self._context.database, self._context.shares)

    def _tidy(self) -> None:
        removed = remove_old_results(self._context.database, self._context.flow_results, datetime.now(UTC))
        if removed:
            logger.info("%d old results of flow steps were removed", removed)

    def _sweep(self) -> None:
        lost = self._watch.look(datetime.now(UTC))
        for pilot_id in lost:
            logger.warning("pilot %s was silent for too long; its jobs run elsewhere", pilot_id)
