# SPDX-License-Identifier: Apache-2.0
"""Say of a ready job where it stands in the shares, and of each site whether it may take it, and when it will."""

from collections.abc import Iterator, Mapping
from typing import Any

from glideflow.domain.identifiers import DemandId
from glideflow.domain.reasons import ReasonCode
from glideflow.domain.shares import ShareConfig
from glideflow.domain.states import PilotState
from glideflow.services.share_views import place_in_shares
from glideflow.store import demands, pilots
from glideflow.store.engine import Connection

Row = Mapping[str, Any]


def where_and_when(connection: Connection, shares: ShareConfig, job: Row) -> Iterator[str]:
    """Explain why a ready job waits.

    Args:
        connection: A snapshot.
        shares: The shares and limits.
        job: The job's row.
    """
    key = DemandId(job["demand_id"])
    yield from place_in_shares(connection, shares, demands.read(connection, [key])[key])
    choice = demands.brokerage(connection, key)
    if choice["sites"] is None:
        yield "Where it may run is worked out in a moment."
        return
    if not choice["sites"]:
        yield "No site may take it:"
    counts, decisions = pilots.counts(connection), pilots.decisions(connection)
    rank = 0
    for said in choice["brokerage"]:
        name = said["site"]
        if said["code"] == ReasonCode.SITE_CHOSEN:
            rank += 1
            yield f"Site {name} may take it, as number {rank} of {len(choice['sites'])}: {said['text']}."
            yield _site_sentence(name, counts.get(name, {}), decisions.get(name))
        else:
            yield f"Site {name} may not take it: {said['text']} [{said['code']}]."


def _site_sentence(name: str, counts: Mapping[str, int], decision: Row | None) -> str:
    running = counts.get(PilotState.REGISTERED, 0)
    queued = counts.get(PilotState.SUBMITTED, 0) + counts.get(PilotState.PLANNED, 0)
    held = counts.get(PilotState.HELD, 0)
    text = f"Site {name} has {running} pilots running, {queued} queued and {held} held."
    if decision is None:
        return f"{text} No decision about more pilots was made yet: is the factory running? See `glideflow doctor`."
    return f"{text} Last decision: {decision['pilots']} more pilots ({'; '.join(decision['reasons'])})."
