# SPDX-License-Identifier: Apache-2.0
"""Take ready jobs for pilots."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from glideflow.domain.identifiers import DemandId, PilotId
from glideflow.domain.matching import Offer
from glideflow.services.board import Board
from glideflow.store import attempts, jobs
from glideflow.store.engine import Connection

Row = dict[str, Any]

_ROUNDS = 3
"""Jobs that were gone are made up for so often; the pilots that are still empty-handed ask again soon."""


def claim_jobs(connection: Connection, board: Board, offers: Sequence[Offer]) -> list[Row]:
    """Give ready jobs to pilots.

    Args:
        connection: The caller's transaction.
        board: What there is.
        offers: What the pilots have free, the longest waiting first.

    Returns:
        The claimed jobs, each with its `demand`, `attempt_id`, `number` and `pilot_id`.
    """
    claims: list[Row] = []
    if not offers:
        return claims
    board.refresh(connection)
    empty_handed = list(offers)
    for _ in range(_ROUNDS):
        pairs = board.choose(empty_handed)
        taken = _lock(connection, board, pairs) if pairs else []
        claims += taken
        if len(taken) == len(pairs):
            break
        served = {claim["pilot_id"] for claim in claims}
        empty_handed = [offer for offer in offers if offer.pilot_id not in served]
    if claims:
        _store(connection, claims, {offer.pilot_id: offer for offer in offers})
    return claims


def _lock(connection: Connection, board: Board, pairs: Sequence[tuple[DemandId, PilotId]]) -> list[Row]:
    """Lock as many ready jobs of each demand as were chosen, and give them to the pilots that they were chosen for."""
    asked = Counter(demand for demand, _ in pairs)
    chosen: dict[DemandId, list[PilotId]] = defaultdict(list)
    for key, pilot in pairs:
        chosen[key].append(pilot)
    found = jobs.take_ready(connection, asked)
    board.took(Counter(row["demand_id"] for row in found), asked)
    return [
        {
            **row,
            "demand": board.demand(row["demand_id"]),
            "pilot_id": chosen[row["demand_id"]].pop(0),
            "number": row["attempts"] + 1,
        }
        for row in found
    ]


def _store(connection: Connection, claims: Sequence[Row], offers: dict[PilotId, Offer]) -> None:
    jobs.claim(
        connection,
        [
            {"id": claim["id"], "site": offers[claim["pilot_id"]].site, "node": offers[claim["pilot_id"]].node}
            for claim in claims
        ],
    )
    keys = ("task_id", "pilot_id", "number")
    made = attempts.insert(connection, [{"job_id": row["id"], **{key: row[key] for key in keys}} for row in claims])
    for claim in claims:
        claim["attempt_id"] = made[claim["id"]]
