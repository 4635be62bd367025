# SPDX-License-Identifier: Apache-2.0
"""Send pilots where jobs wait for them, and keep what we know of pilots true.

Pilots are written down before they are submitted and found again by their identifier: a crash at any point leaves no
pilot unknown. Where the batch system could not be asked, nothing is sent and nothing is given up.
"""

import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from glideflow.domain.identifiers import PilotId
from glideflow.domain.provisioning import Decision, SiteView, decide
from glideflow.domain.reasons import Reason, ReasonCode, Source
from glideflow.domain.site import Site
from glideflow.domain.states import PilotState
from glideflow.errors import DatabaseUnavailable, GlideflowError, ServiceError
from glideflow.identity.secrets import hashed, new_secret
from glideflow.launching.launcher import LaunchedPilot, Launcher, LaunchStatus, PilotLaunch, SettledPilot
from glideflow.services.brokerage import broker_all
from glideflow.services.completion import announce_ended_stages
from glideflow.services.policies import Policies
from glideflow.services.settlement import give_up
from glideflow.services.site_states import states, views
from glideflow.services.watchdog import lose
from glideflow.store import pilots, tally
from glideflow.store.engine import Connection, Database
from glideflow.store.moves import move, reason_values

logger = logging.getLogger(__name__)

_SUBMIT_GRACE = timedelta(seconds=60)
_SILENCE_GRACE = timedelta(seconds=15)
_UNWANTED_AFTER = timedelta(seconds=30)
_REMOVED_PER_CYCLE = 5
_GHOST_SECONDS = 60.0
"""An orderly end, with its output transferred, takes less."""

_NOT_REGISTERED = frozenset({PilotState.PLANNED, PilotState.SUBMITTED})
_Row = Mapping[str, Any]


class Provisioner:
    """Runs the cycle of all sites.

    Args:
        database: The store.
        sites: The sites by name.
        policies: What becomes of the jobs of pilots that are gone.
        launcher_of: What starts the pilots of each site, by site name.
        server_url: The endpoint that pilots call.
        start_seconds: How long a pilot may run without registering, seconds.
    """

    def __init__(
        self,
        database: Database,
        sites: Mapping[str, Site],
        policies: Policies,
        launcher_of: Mapping[str, Launcher],
        server_url: str,
        *,
        start_seconds: float,
    ) -> None:
        self._database = database
        self._sites = sites
        self._policies = policies
        self._launcher_of = launcher_of
        self._server_url = server_url
        self._start_seconds = start_seconds
        self._mute_since: dict[str, dict[PilotId, datetime]] = {}

    def cycle(self) -> dict[str, Decision]:
        """Settle what went wrong and note what changed at each site, choose sites for the jobs, and send pilots there.

        Returns:
            What was decided for each site; it is kept for `glideflow sites` and `explain`.

        Raises:
            DatabaseUnavailable: Nothing was sent.
        """
        trouble = {name: self._look(site) for name, site in self._sites.items()}
        wanted = self._choose({name for name, decision in trouble.items() if decision})
        decisions = {name: trouble[name] or self._send(site, wanted[name]) for name, site in self._sites.items()}
        with self._database.transaction() as connection:
            for name, decision in decisions.items():
                pilots.save_decision(connection, name, decision.n, decision.reasons)
        return decisions

    def _look(self, site: Site) -> Decision | None:
        """Make our rows of one site agree with its batch system; returns why nothing is sent, if so."""
        if site.status == "offline":
            return Decision(n=0, reasons=("the status of the site is offline: its batch system is not asked",))
        launcher = self._launcher_of[site.name]
        try:
            settled = launcher.settle(site)
            found = launcher.poll(site)
            self._note_changes(site, settled, found)
            self._remove_ghosts(site, launcher, found)
        except DatabaseUnavailable:
            raise
        except ServiceError as error:
            logger.warning("site %s: %s", site.name, error)
            return Decision(n=0, reasons=(f"nothing is sent: {error}",))
        except Exception:
            # One site's trouble must not stop the pilots of the others.
            logger.exception("site %s: the cycle failed; it is tried again", site.name)
            return Decision(n=0, reasons=("nothing is sent: the last look at the site failed, see the factory's log",))
        return None

    def _choose(self, stale: Collection[str]) -> dict[str, SiteView]:
        """Choose sites for all open demands.

        Args:
            stale: Sites whose batch systems could not be asked: no pilot can be sent there now.

        Returns:
            What is known of each site, and the jobs that are meant for it.
        """
        with self._database.transaction() as connection:
            looks = {name: replace(look, stale=name in stale) for name, look in views(connection, self._sites).items()}
            found = states(connection, self._sites, looks)
            broker_all(connection, found)
        return {
            name: replace(
                looks[name],
                ready_jobs=state.promised_jobs,
                ready_cores=state.promised_cores,
                other_jobs=state.fitting_jobs - state.promised_jobs,
            )
            for name, state in found.items()
        }

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
            self._end_mute(connection, site, rows, found)
        announce_ended_stages(self._database, ended)

    def _end_mute(
        self, connection: Connection, site: Site, rows: Sequence[_Row], found: Mapping[PilotId, LaunchedPilot]
    ) -> None:
        """Give up pilots that run and do not register; later cycles remove them from the batch system.

        Since when they run is known from the first look at which they did: a factory that starts anew waits again.
        """
        known = self._mute_since.setdefault(site.name, {})
        since = self._mute_since[site.name] = {
            PilotId(row["id"]): known.get(PilotId(row["id"])) or row["now"]
            for row in rows
            if row["state"] in _NOT_REGISTERED
            and row["id"] in found
            and found[row["id"]].status is LaunchStatus.RUNNING
        }
        for row in rows:
            seconds = (row["now"] - since.get(row["id"], row["now"])).total_seconds()
            present = pilots.lock(connection, row["id"]) if seconds > self._start_seconds else None
            if present is not None and present["state"] in _NOT_REGISTERED:
                text = (
                    f"it runs for {seconds:.0f} s in the batch system and has not registered, "
                    f"{self._start_seconds:.0f} s are allowed: can its node reach {self._server_url}?"
                )
                reason = Reason(code=ReasonCode.PILOT_NOT_REGISTERED, text=text, source=Source.SITE)
                pilots.end(connection, PilotState.FAILED, [{"id": row["id"], **reason_values(reason), "log": None}])

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

    def _send(self, site: Site, view: SiteView) -> Decision:
        launcher = self._launcher_of[site.name]
        decision = decide(site, view)
        with self._database.transaction() as connection:
            needed = site.status == "online" and tally.any_open(connection)
            unwanted = [] if needed else _unwanted(pilots.open_at(connection, site.name))
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


def _unwanted(rows: Sequence[_Row]) -> list[PilotId]:
    """Return queued pilots for which no job waits any more, a few at a time: one wrong look must not drain a site."""
    old = [
        PilotId(row["id"])
        for row in rows
        if row["state"] == PilotState.SUBMITTED and row["now"] - row["planned_at"] > _UNWANTED_AFTER
    ]
    return old[:_REMOVED_PER_CYCLE]
