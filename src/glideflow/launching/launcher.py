# SPDX-License-Identifier: Apache-2.0
"""What the provisioning needs of whatever starts pilots: three methods on lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from glideflow.domain.identifiers import PilotId
from glideflow.domain.site import Site


@dataclass(frozen=True, kw_only=True)
class PilotLaunch:
    """One pilot to start."""

    pilot_id: PilotId
    """Its identifier, stored before it is started."""
    secret: str
    """The one-time registration secret; travels as a file and nowhere else."""
    server_url: str
    """The REST endpoint it calls."""

    def __repr__(self) -> str:
        """Show the pilot without its secret."""
        return f"PilotLaunch(pilot_id={self.pilot_id!r}, secret=***)"


class LaunchStatus(StrEnum):
    """What the batch system says of a pilot."""

    QUEUED = "queued"
    """Waits for a slot."""
    RUNNING = "running"
    """Has a slot."""
    HELD = "held"
    """Held; the hold policy decides."""
    GONE = "gone"
    """Ended or removed."""


@dataclass(frozen=True, kw_only=True)
class LaunchedPilot:
    """A pilot as the batch system shows it."""

    pilot_id: PilotId
    """Its identifier, from its ad."""
    batch_id: str
    """`cluster.proc` at the schedd, or the process id of a local pilot."""
    status: LaunchStatus
    """Where it is."""
    hold_code: int | None = None
    """HTCondor's HoldReasonCode."""
    hold_subcode: int | None = None
    """HTCondor's HoldReasonSubCode."""
    hold_reason: str | None = None
    """HTCondor's sentence."""


@dataclass(frozen=True, kw_only=True)
class SettledPilot:
    """A pilot that went wrong in the batch system, and what was done about it."""

    pilot_id: PilotId
    """Its identifier."""
    removed: bool
    """Whether it is gone now; otherwise it got another chance."""
    text: str
    """Why, as one sentence."""
    output: Path | None = None
    """Folder with what it wrote (`pilot.out`, `pilot.err`), where there is any."""


class Launcher(Protocol):
    """Starts pilots at a site, lists and removes them. Every method may raise `ServiceError`."""

    def launch(self, site: Site, pilots: Sequence[PilotLaunch]) -> Mapping[PilotId, str]:
        """Start pilots; returns the batch id of each that was started."""

    def poll(self, site: Site) -> Mapping[PilotId, LaunchedPilot]:
        """List the pilots of this instance at a site that the batch system knows."""

    def remove(self, site: Site, pilot_ids: Sequence[PilotId], reason: str) -> None:
        """Remove pilots; those that are gone already are no error."""

    def settle(self, site: Site) -> Sequence[SettledPilot]:
        """Do what the hold policy says about pilots that went wrong, and keep their output; to be called regularly."""

    def close(self) -> None:
        """End what runs for the launcher itself; the pilots go on."""


class HomePaths(Protocol):
    """The folders of a home that starting pilots needs; `glideflow.instance.home.Home` has them."""

    pilots: Path
    """A folder per pilot: its secret until it is submitted, its output afterwards."""
    pool: Path
    """The private pool."""
    ca_file: Path
    """CA certificate that pilots check the endpoint with."""
