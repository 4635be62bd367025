# SPDX-License-Identifier: Apache-2.0
"""Send pilots where jobs wait for them, and keep what we know of pilots true.

Pilots are written down before they are submitted and found again by their identifier: a crash at any point leaves no
pilot unknown. Where the batch system could not be asked, nothing is sent and nothing is given up.
"""

import logging
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from glideflow.domain.identifiers import PilotId
from glideflow.domain.provisioning import Decision, SiteView, decide
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.site import Site
from glideflow.domain.states import PilotState
from glideflow.errors import GlideflowError, ServiceError
from glideflow.identity.secrets import hashed, new_secret
from glideflow.launching.launcher import LaunchedPilot, Launcher, LaunchStatus, PilotLaunch, SettledPilot
from glideflow.services.completion import announce_ended_stages
from glideflow.services.policies import Policies
from glideflow.services.settlement import give_up
from glideflow.services.watchdog import lose
from glideflow.store import demands, pilots, tally
from glideflow.store.engine import Connection, Database
from glideflow.store.moves import move, reason_values

logger = logging.getLogger(__name__)

_RECENT_SECONDS = 600.0
_SHORT_SECONDS = 60.0
_SUBMIT_GRACE = timedelta(seconds=60)
_SILENCE_GRACE = timedelta(seconds=15)
_UNWANTED_AFTER = timedelta(seconds=30)
_HEARD = timedelta(seconds=60)
_REMOVED_PER_CYCLE = 5
_GHOST_SECONDS = 60.0
"""An orderly end, with its output transferred, takes less."""

_Row = Mapping[str, Any]


class Provisioner:
    """Runs the cycle of each site.

    Args:
        database: The store.
        policies: What becomes of the jobs of pilots that are gone.
        launcher_of: What starts the pilots of each site, by site name.
        server_url: The endpoint that pilots call.
    """

    def __init__(
        self, database: Database, policies: Policies, launcher_of: Mapping[str, Launcher], server_url: str
    ) -> None:
        self._database = database
        self._policies = policies
        self._launcher_of = launcher_of
        self._server_url = server_url

    def cycle(self, site: Site) -> Decision:
        """Look at one site: settle what went wrong, note what changed, and send pilots if jobs wait for some.

        Returns:
            What was decided; it is kept for `glideflow sites` and `explain`.

        Raises:
            DatabaseUnavailable: Nothing was done.
        """
        launcher = self._launcher_of[site.name]
        try:
            settled = launcher.settle(site)
            found = launcher.poll(site)
        except ServiceError as error:
            decision = Decision(n=0, reasons=(f"nothing is sent: {error}",))
            logger.warning("site %s: %s", site.name, error)
        else:
            self._note_changes(site, settled, found)
            self._remove_ghosts(site, launcher, found)
            decision = self._send(site, launcher)
        with self._database.transaction() as connection:
            pilots.save_decision(connection, site.name, decision.n, decision.reasons)
        return decision

    def _note_changes(
        self, site: Site, settled: Sequence[SettledPilot], found: Mapping[PilotId, LaunchedPilot]
    ) -> None:
        """Make our rows agree with the batch system; read after it was asked, so that no row is newer."""
        with self._database.transaction() as connection:
            ended = _end_settled(connection, self._policies, settled)
            rows = pilots.open_at(connection, site.name)
            pilots.submitted(
                connection,
                {
                    PilotId(row["id"]): found[row["id"]].batch_id
                    for row in rows
                    if row["state"] in (PilotState.PLANNED, PilotState.HELD) and _is_well(found.get(row["id"]))
                },
            )
            for row in rows:
                pilot = found.get(row["id"])
                if pilot is not None and pilot.status is LaunchStatus.HELD:
                    reason = _reason(f"held by HTCondor ({pilot.hold_code}/{pilot.hold_subcode}): {pilot.hold_reason}")
                    if row["state"] != PilotState.HELD:
                        move(connection, PilotState.HELD, [row["id"]], reason=reason)
                elif not _is_well(pilot):
                    ended |= _note_gone(connection, self._policies, row)
        announce_ended_stages(self._database, ended)

    def _remove_ghosts(self, site: Site, launcher: Launcher, found: Mapping[PilotId, LaunchedPilot]) -> None:
        """Remove pilots that the batch system still shows although they ended here, for example with its node."""
        with self._database.transaction() as connection:
            ghosts = pilots.ended_before(connection, found, _GHOST_SECONDS)
        if not ghosts:
            return
        try:
            launcher.remove(site, ghosts[:_REMOVED_PER_CYCLE], "it has ended")
        except ServiceError as error:
            logger.warning("site %s: pilots that ended could not be removed: %s", site.name, error)

    def _send(self, site: Site, launcher: Launcher) -> Decision:
        with self._database.transaction() as connection:
            rows = pilots.open_at(connection, site.name)
            decision = decide(site, _view(connection, site, rows))
            unwanted = [] if tally.any_open(connection) else _unwanted(rows)
            planned = {PilotId(secrets.token_hex(8)): new_secret() for _ in range(decision.n)}
            pilots.plan(connection, site.name, {pilot: hashed(secret) for pilot, secret in planned.items()})
        if unwanted:
            self._remove(site, launcher, unwanted)
        if not planned:
            return decision
        return self._launch(site, launcher, planned, decision)

    def _launch(self, site: Site, launcher: Launcher, planned: Mapping[PilotId, str], decision: Decision) -> Decision:
        wanted = [
            PilotLaunch(pilot_id=pilot, secret=secret, server_url=self._server_url) for pilot, secret in planned.items()
        ]
        try:
            started = launcher.launch(site, wanted)
        except GlideflowError as error:
            logger.warning("site %s: %d pilots were not taken: %s", site.name, len(wanted), error)
            self._fail(planned, f"the batch system did not take it: {error}")
            return Decision(n=0, reasons=(*decision.reasons, f"but they were not taken: {error}"))
        with self._database.transaction() as connection:
            pilots.submitted(connection, started)
        self._fail(planned.keys() - started.keys(), "the batch system did not take it")
        logger.info("site %s: %d pilots sent (%s)", site.name, len(started), "; ".join(decision.reasons))
        return decision

    def _fail(self, pilot_ids: Any, text: str) -> None:
        reason = Reason(code=ReasonCode.SUBMIT_FAILED, text=text, source=Source.SITE)
        rows = [{"id": pilot, **reason_values(reason), "log": None} for pilot in pilot_ids]
        with self._database.transaction() as connection:
            pilots.end(connection, PilotState.FAILED, rows)

    def _remove(self, site: Site, launcher: Launcher, pilot_ids: list[PilotId]) -> None:
        text = "no job is waiting any more"
        try:
            launcher.remove(site, pilot_ids, text)
        except ServiceError as error:
            logger.warning("site %s: queued pilots could not be removed: %s", site.name, error)
            return
        reason = Reason(code=ReasonCode.PILOT_IDLE, text=text, source=Source.SERVER)
        rows = [{"id": pilot, **reason_values(reason), "log": None} for pilot in pilot_ids]
        with self._database.transaction() as connection:
            pilots.end(connection, PilotState.REMOVED, rows)


def _is_well(pilot: LaunchedPilot | None) -> bool:
    return pilot is not None and pilot.status in (LaunchStatus.QUEUED, LaunchStatus.RUNNING)


def _reason(text: str) -> Reason:
    return Reason(code=ReasonCode.PILOT_FAILED, text=text, source=Source.SITE)


def _end_settled(connection: Connection, policies: Policies, settled: Sequence[SettledPilot]) -> set[int]:
    """Note the pilots that the hold policy removed; returns the tasks of which a job failed for good."""
    ended: set[int] = set()
    for pilot in settled:
        if not pilot.removed:
            continue
        log = _output_of(pilot)
        rows = [{"id": pilot.pilot_id, **reason_values(_reason(pilot.text)), "log": log}]
        if pilots.end(connection, PilotState.FAILED, rows):
            lost = Reason(
                code=ReasonCode.PILOT_LOST, text=f"pilot {pilot.pilot_id} failed: {pilot.text}", source=Source.SITE
            )
            ended |= give_up(connection, policies, [pilot.pilot_id], lost)
    return ended


def _output_of(pilot: SettledPilot) -> str | None:
    if pilot.output is None:
        return None
    try:
        return (pilot.output / "pilot.err").read_text(encoding="utf-8", errors="replace")[-20_000:]
    except OSError:
        return None


def _note_gone(connection: Connection, policies: Policies, row: _Row) -> set[int]:
    """Judge a pilot that the batch system does not know (any more); returns tasks of which a job failed for good."""
    state = PilotState(row["state"])
    if state in (PilotState.REGISTERED, PilotState.DRAINING):
        # Its good-bye may be on its way; after that time it was killed.
        if row["now"] - row["last_seen_at"] > _SILENCE_GRACE:
            return lose(
                connection, policies, [PilotId(row["id"])], "left the batch system without a good-bye (killed?)"
            )
    elif state is PilotState.HELD:
        gone = _reason("removed from the batch system while it was held")
        pilots.end(connection, PilotState.REMOVED, [{"id": row["id"], **reason_values(gone), "log": None}])
    elif row["now"] - row["planned_at"] > _SUBMIT_GRACE:
        gone = _reason("left the batch system before it registered: see its output in the home's folder `pilots`")
        pilots.end(connection, PilotState.FAILED, [{"id": row["id"], **reason_values(gone), "log": None}])
    return set()


def _view(connection: Connection, site: Site, rows: Sequence[_Row]) -> SiteView:
    fitting = [(demand, ready) for demand, ready, _ in demands.with_work(connection) if site.name in demand.sites]
    recent = pilots.recent_ends(connection, site.name, _RECENT_SECONDS, _SHORT_SECONDS)
    states = [(row["state"], row["holding"]) for row in rows]
    return SiteView(
        ready_jobs=sum(ready for _, ready in fitting),
        ready_cores=sum(demand.cores * ready for demand, ready in fitting),
        queued=sum(state in (PilotState.PLANNED, PilotState.SUBMITTED) for state, _ in states),
        idle=sum(row["state"] == PilotState.REGISTERED and not row["holding"] and _is_heard(row) for row in rows),
        running=sum(
            state == PilotState.DRAINING or (state == PilotState.REGISTERED and holding > 0)
            for state, holding in states
        ),
        held=sum(state == PilotState.HELD for state, _ in states),
        recent_ends=recent["ended"],
        recent_short_failures=recent["failed"],
    )


def _is_heard(row: _Row) -> bool:
    """Tell whether an idle pilot can be counted on: it renews its question about every half minute."""
    return bool(row["now"] - row["last_seen_at"] < _HEARD)


def _unwanted(rows: Sequence[_Row]) -> list[PilotId]:
    """Return queued pilots for which no job waits any more, a few at a time: one wrong look must not drain a site."""
    old = [
        PilotId(row["id"])
        for row in rows
        if row["state"] == PilotState.SUBMITTED and row["now"] - row["planned_at"] > _UNWANTED_AFTER
    ]
    return old[:_REMOVED_PER_CYCLE]
