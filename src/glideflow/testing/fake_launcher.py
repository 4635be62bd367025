# SPDX-License-Identifier: Apache-2.0
"""A launcher without a batch system, with faults on demand: for tests of what provisions pilots."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from glideflow.domain.holds import HoldAction, decide
from glideflow.domain.identifiers import PilotId
from glideflow.domain.site import Site
from glideflow.errors import CondorError
from glideflow.launching.launcher import LaunchedPilot, LaunchStatus, PilotLaunch, SettledPilot


class FakeLauncher:
    """Keeps pilots in memory; the test moves them along with `set_status`, `hold` and `vanish`."""

    def __init__(self) -> None:
        """Know no pilot."""
        self.launches: list[PilotLaunch] = []
        """Every pilot ever launched, in order."""
        self.removed: dict[PilotId, str] = {}
        """The pilots that were removed, with the reasons."""
        self.failure: CondorError | None = None
        """Raised by every method while it is set."""
        self.refuse_after: int | None = None
        """So many pilots of a launch are taken, the others are not."""
        self._pilots: dict[PilotId, tuple[str, LaunchedPilot]] = {}
        self._clusters = 0

    def launch(self, site: Site, pilots: Sequence[PilotLaunch]) -> Mapping[PilotId, str]:
        """Take pilots into the queue."""
        self._fail()
        taken = list(pilots)[: self.refuse_after]
        self._clusters += 1
        self.launches += taken
        for number, pilot in enumerate(taken):
            launched = LaunchedPilot(
                pilot_id=pilot.pilot_id, batch_id=f"{self._clusters}.{number}", status=LaunchStatus.QUEUED
            )
            self._pilots[pilot.pilot_id] = (site.name, launched)
        return {pilot.pilot_id: self._pilots[pilot.pilot_id][1].batch_id for pilot in taken}

    def poll(self, site: Site) -> Mapping[PilotId, LaunchedPilot]:
        """List the pilots of a site."""
        self._fail()
        return {pilot_id: pilot for pilot_id, (name, pilot) in self._pilots.items() if name == site.name}

    def remove(self, site: Site, pilot_ids: Sequence[PilotId], reason: str) -> None:
        """Remove pilots."""
        self._fail()
        for pilot_id in pilot_ids:
            if self._pilots.pop(pilot_id, None) is not None:
                self.removed[pilot_id] = reason

    def settle(self, site: Site) -> Sequence[SettledPilot]:
        """Remove or release held pilots as the hold policy says, as if each had been held for a day."""
        self._fail()
        settled = []
        for pilot_id, pilot in list(self.poll(site).items()):
            if pilot.status is not LaunchStatus.HELD:
                continue
            verdict = decide(
                code=pilot.hold_code or 0, subcode=pilot.hold_subcode or 0, holds=1, held_seconds=86_400,
                text=pilot.hold_reason or "",
            )  # fmt: skip
            removed = verdict.action is HoldAction.REMOVE
            if removed:
                self.remove(site, [pilot_id], verdict.text)
            else:
                self.set_status(pilot_id, LaunchStatus.QUEUED)
            settled.append(SettledPilot(pilot_id=pilot_id, removed=removed, text=verdict.text))
        return settled

    def close(self) -> None:
        """Nothing to end."""

    def set_status(self, pilot_id: PilotId, status: LaunchStatus) -> None:
        """Let a pilot be queued, running or gone."""
        site, pilot = self._pilots[pilot_id]
        changed = replace(pilot, status=status, hold_code=None, hold_subcode=None, hold_reason=None)
        self._pilots[pilot_id] = (site, changed)

    def hold(self, pilot_id: PilotId, code: int, subcode: int, reason: str) -> None:
        """Let the batch system hold a pilot."""
        site, pilot = self._pilots[pilot_id]
        held = replace(pilot, status=LaunchStatus.HELD, hold_code=code, hold_subcode=subcode, hold_reason=reason)
        self._pilots[pilot_id] = (site, held)

    def vanish(self, pilot_id: PilotId) -> None:
        """Let the batch system forget a pilot."""
        del self._pilots[pilot_id]

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure
