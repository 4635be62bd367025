# SPDX-License-Identifier: Apache-2.0
"""The hot path: many pilots' exchanges in one transaction.

One exchange carries a pilot's heartbeat, the reports of its attempts and its wish for work; the answer carries
receipts, commands and orders. Exchanges that arrive together share a transaction, so that its cost is shared too.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glideflow.domain.identifiers import PilotId
from glideflow.domain.matching import Offer
from glideflow.domain.messages import Answer, Command, Exchange, Order, ReasonMessage
from glideflow.domain.shares import ShareConfig
from glideflow.domain.states import PilotState
from glideflow.errors import NotAllowed
from glideflow.services.board import Board
from glideflow.services.claims import claim_jobs
from glideflow.services.completion import announce_ended_stages
from glideflow.services.orders import TaskCache, make_orders
from glideflow.services.policies import Policies
from glideflow.services.settlement import settle
from glideflow.services.storage import Storage
from glideflow.store import attempts, demands, pilots
from glideflow.store.engine import Connection, Database
from glideflow.store.moves import move

Row = dict[str, Any]


class PilotRefused(NotAllowed):
    """The pilot is not current any more: it ended, was removed, or was given up as lost."""

    code = "pilot_refused"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One pilot's exchange."""

    pilot_id: PilotId
    exchange: Exchange


class Dispatcher:
    """Answers exchanges.

    Args:
        database: The store.
        storage: Where outputs are verified.
        policies: What becomes of failed jobs.
        shares: The shares and limits by which jobs are handed out.
    """

    def __init__(self, database: Database, storage: Storage, policies: Policies, shares: ShareConfig) -> None:
        self._database = database
        self._storage = storage
        self._policies = policies
        self._cache = TaskCache()
        self._board = Board(shares)
        # Another thread than the one that claims looks for news.
        self._waiting_board = Board(shares)

    def announce(self) -> None:
        """Note that jobs became ready; may be called by any thread."""
        self._board.announce()
        self._waiting_board.announce()

    def answer(self, calls: Sequence[Call]) -> list[Answer | PilotRefused]:
        """Answer exchanges of different pilots in one transaction.

        Args:
            calls: At most one of each pilot.

        Returns:
            Each one's answer, in the order of the calls; a refusal for a pilot that is not current.

        Raises:
            DatabaseUnavailable: Nothing was changed; the pilots ask again.
        """
        with self._database.transaction() as connection:
            current = self._hear(connection, calls)
            heard = [call for call in calls if call.pilot_id in current]
            reports = [(call.pilot_id, report) for call in heard for report in call.exchange.reports]
            settled = settle(connection, self._storage, self._policies, self._cache, reports)
            self._board.ended(settled.freed)
            commands = self._commands(connection, heard, current)
            orders = self._orders(connection, heard, current)
        # A task of which a job was just handed out goes on.
        going_on = {order.task_id for given in orders.values() for order in given}
        announce_ended_stages(self._database, settled.ended_tasks - going_on)
        return [
            Answer(
                jobs=tuple(orders.get(call.pilot_id, ())),
                commands=tuple(commands.get(call.pilot_id, ())),
                receipts=tuple(
                    settled.receipts[report.attempt_id, report.sequence] for report in call.exchange.reports
                ),
            )
            if call.pilot_id in current
            else _refuse(call.pilot_id)
            for call in calls
        ]

    def chosen(self, calls: Sequence[Call]) -> set[PilotId]:
        """Say which of some waiting pilots would hear something new now.

        Args:
            calls: What they asked, the longest waiting first.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer.
        """
        with self._database.transaction() as connection:
            current = pilots.current(connection, [call.pilot_id for call in calls])
            heard = [call for call in calls if call.pilot_id in current]
            commanded = self._commands(connection, heard, current)
            self._waiting_board.refresh(connection)
        offers = [_offer(call, current[call.pilot_id]) for call in heard if _wants(call, current)]
        working = {pilot for _, pilot in self._waiting_board.choose(offers)}
        return working | {PilotId(pilot) for pilot in commanded} | {call.pilot_id for call in calls} - current.keys()

    def _hear(self, connection: Connection, calls: Sequence[Call]) -> dict[str, Row]:
        """Note that the pilots spoke; returns those that are current."""
        words = [
            {"id": call.pilot_id, "sequence": call.exchange.sequence, "holding": call.exchange.holding}
            for call in calls
        ]
        current = pilots.heard(connection, words)
        draining = [
            call.pilot_id
            for call in calls
            if call.exchange.draining and current.get(call.pilot_id, {}).get("state") == PilotState.REGISTERED
        ]
        move(connection, PilotState.DRAINING, draining)
        return current

    def _commands(
        self, connection: Connection, calls: Sequence[Call], current: Mapping[str, Row]
    ) -> dict[str, list[Command]]:
        """Say which attempts a pilot must end, because they ended here, and whether it shall drain."""
        found: dict[str, list[Command]] = defaultdict(list)
        reported = {report.attempt_id for call in calls for report in call.exchange.reports if report.outcome}
        held = [key for call in calls for key in call.exchange.holding if key not in reported]
        ended = attempts.ended_among(connection, held) if held else {}
        for call in calls:
            for key in call.exchange.holding:
                if key in ended:
                    found[call.pilot_id].append(Command(command="kill", attempt_id=key, reason=_reason(ended[key])))
            pilot = current[call.pilot_id]
            if pilot["state"] == PilotState.DRAINING and not call.exchange.draining:
                found[call.pilot_id].append(Command(command="drain", reason=_reason(pilot)))
        return found

    def _orders(
        self, connection: Connection, calls: Sequence[Call], current: Mapping[str, Row]
    ) -> dict[str, list[Order]]:
        """Claim jobs for the pilots that want some, and repeat orders whose answer was lost."""
        holding = {call.pilot_id: set(call.exchange.holding) for call in calls}
        claims = [
            claim
            for claim in attempts.unheard(connection, holding)
            if claim["attempt_id"] not in holding[claim["pilot_id"]]
        ]
        if claims:
            asked = demands.read(connection, (claim["demand_id"] for claim in claims))
            claims = [{**claim, "demand": asked[claim["demand_id"]]} for claim in claims]
        repeated = {claim["pilot_id"] for claim in claims}
        offers = [
            _offer(call, current[call.pilot_id])
            for call in calls
            if _wants(call, current) and call.pilot_id not in repeated
        ]
        claims += claim_jobs(connection, self._board, offers)
        found: dict[str, list[Order]] = defaultdict(list)
        for claim, order in zip(claims, make_orders(connection, self._cache, claims), strict=True):
            found[claim["pilot_id"]].append(order)
        return found


def _wants(call: Call, current: Mapping[str, Row]) -> bool:
    return call.exchange.want > 0 and current[call.pilot_id]["state"] == PilotState.REGISTERED


def _offer(call: Call, pilot: Row) -> Offer:
    free = call.exchange.free
    return Offer(
        pilot_id=call.pilot_id,
        site=pilot["site"],
        node=pilot["node"],
        want=call.exchange.want,
        cores=free.cores,
        memory_mb=free.memory_mb,
        disk_mb=free.disk_mb,
        seconds=free.seconds,
    )


def _reason(row: Mapping[str, Any]) -> ReasonMessage:
    if row["reason_code"] is None:
        return ReasonMessage(code="task_ended", text="the server has no more use for it", source="server")
    return ReasonMessage(code=row["reason_code"], text=row["reason_text"], source=row["reason_source"])


def _refuse(pilot_id: PilotId) -> PilotRefused:
    return PilotRefused(
        f"pilot {pilot_id} is not current any more: it ended, was removed, or was silent for too long; "
        "its jobs run elsewhere"
    )
