# SPDX-License-Identifier: Apache-2.0
"""Pilots as HTCondor jobs: one cluster per call, found again by the attributes in their ads."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from glideflow.condor.gateway import Gateway, Submitted
from glideflow.condor.handover import INSIDE, Handover
from glideflow.condor.private_pool import PrivatePool
from glideflow.condor.templates import checked, item, render
from glideflow.domain.holds import HoldAction, Verdict, decide
from glideflow.domain.identifiers import PilotId
from glideflow.domain.site import Site
from glideflow.errors import CondorError, PoolError, SettingsError
from glideflow.launching.archive import pilot_archive
from glideflow.launching.launcher import HomePaths, LaunchedPilot, LaunchStatus, PilotLaunch, SettledPilot
from glideflow.settings import Settings

_SECRET = "secret"
_ARCHIVE, _CA_FILE = "pilot.pyz", "ca.pem"
_PATHS_OF_THE_POOL = """\
skip_filechecks = True
initialdir = /
MY.Iwd = "$(pilot_folder)"
log = $(pilot_folder)/pilot.log
"""
"""Overrides where the files are in the pool already: the bindings would look for its folders here."""
_SPOOLING = 16
_RETRIEVE_AT_ONCE = 20
_IDLE, _RUNNING, _REMOVED, _COMPLETED, _HELD, _TRANSFERRING, _SUSPENDED = range(1, 8)
_STATUS = {
    _IDLE: LaunchStatus.QUEUED,
    _RUNNING: LaunchStatus.RUNNING,
    _REMOVED: LaunchStatus.GONE,
    _COMPLETED: LaunchStatus.GONE,
    _HELD: LaunchStatus.HELD,
    _TRANSFERRING: LaunchStatus.RUNNING,
    _SUSPENDED: LaunchStatus.RUNNING,
}
"""HTCondor's JobStatus in our words. Source: HTCondor manual, job ClassAd attributes."""
_ATTRIBUTES = (
    "ClusterId", "ProcId", "JobStatus", "GlideflowPilotId", "HoldReasonCode", "HoldReasonSubCode", "HoldReason",
    "EnteredCurrentStatus", "NumSystemHolds", "NumHolds", "ServerTime",
)  # fmt: skip


class HTCondorLauncher:
    """Starts, lists and removes the pilots of one instance at its schedd."""

    def __init__(
        self,
        settings: Settings,
        home: HomePaths,
        *,
        gateway: Gateway | None = None,
        archive: Callable[[], Path] | None = None,
    ) -> None:
        """Name the instance; nothing is asked or started.

        Args:
            settings: Settings of the instance.
            home: Its home.
            gateway: The gateway to use; without it, the one to the instance's pool.
            archive: Returns the pilot as one executable file; without it, the product's.
        """
        self._settings = settings
        self._home = home
        self._given = gateway
        self._gateway: Gateway | None = gateway
        self._archive = archive or pilot_archive
        self._pool = PrivatePool(settings, home)
        self._handing_over = threading.Lock()

    def launch(self, site: Site, pilots: Sequence[PilotLaunch]) -> Mapping[PilotId, str]:
        """Submit pilots as one cluster.

        Args:
            site: Where they belong; names the template and the size.
            pilots: The pilots, already stored.

        Returns:
            `cluster.proc` of each.

        Raises:
            CondorError: None of them was taken.
            SettingsError: The site's template is wrong.
        """
        if not pilots:
            return {}
        if not self._home.ca_file.is_file():
            raise SettingsError(f"the CA certificate {self._home.ca_file} is missing: `glideflow up` makes it")
        handover = self._handover
        if handover is None:
            submitted = self._launch_there(site, pilots)
        else:
            # Else the sweep could take a pilot that is not yet in the queue for one that has left it.
            with self._handing_over:
                submitted = self._launch_here(site, pilots, handover)
        return {pilot.pilot_id: submitted.batch_id(position) for position, pilot in enumerate(pilots)}

    def poll(self, site: Site) -> Mapping[PilotId, LaunchedPilot]:
        """List the pilots of this instance at a site that the schedd knows; those that ended well have left it."""
        return {PilotId(str(ad["GlideflowPilotId"])): launched(ad) for ad in self._ads(site)}

    def remove(self, site: Site, pilot_ids: Sequence[PilotId], reason: str) -> None:
        """Remove pilots; the running ones get TERM first, and the site's `vacate_seconds` to end."""
        known = self.poll(site)
        batch_ids = [known[pilot_id].batch_id for pilot_id in pilot_ids if pilot_id in known]
        self._connected().remove(batch_ids, f"glideflow: {reason}")

    def settle(self, site: Site) -> Sequence[SettledPilot]:
        """Apply the hold policy: release what may heal, fetch the output of the rest and remove it.

        Returns:
            The held pilots that something was done about.
        """
        settled: list[SettledPilot] = []
        for ad in self._ads(site):
            if ad["JobStatus"] != _HELD:
                continue
            verdict = _verdict(ad)
            pilot = launched(ad)
            if verdict.action is HoldAction.RELEASE:
                self._connected().release([pilot.batch_id], verdict.text)
            elif verdict.action is HoldAction.REMOVE and len(settled) < _RETRIEVE_AT_ONCE:
                self._collect(pilot)
                self._connected().remove([pilot.batch_id], verdict.text)
            else:
                continue
            removed = verdict.action is HoldAction.REMOVE
            output = self._folder(pilot.pilot_id) if removed else None
            settled.append(SettledPilot(pilot_id=pilot.pilot_id, removed=removed, text=verdict.text, output=output))
        self._sweep()
        return settled

    def _sweep(self) -> None:
        """Delete what was handed over to pilots that have left the queue, of whatever site and instance."""
        handover = self._handover
        if handover is None:
            return
        with self._handing_over:
            present = handover.pilots()
            if present:
                handover.drop(present - {str(ad["GlideflowPilotId"]) for ad in self._query("true")})

    def close(self) -> None:
        """End the gateway process."""
        if self._gateway is not None:
            self._gateway.close()

    def _launch_there(self, site: Site, pilots: Sequence[PilotLaunch]) -> Submitted:
        """Send the files along: the schedd may be on another machine."""
        items = [self._item(pilot, self._folder(pilot.pilot_id)) for pilot in pilots]
        description = self._description(site, self._archive(), self._home.ca_file)
        with self._secrets(pilots):
            return self._connected().submit(description, items)

    def _launch_here(self, site: Site, pilots: Sequence[PilotLaunch], handover: Handover) -> Submitted:
        """Put the files into the private pool, where its schedd reads them itself: a second faster."""
        items = [self._item(pilot, INSIDE / pilot.pilot_id) for pilot in pilots]
        self._pool.renew_token_when_old()
        files = {_ARCHIVE: self._archive(), _CA_FILE: self._home.ca_file}
        folder = handover.put(files, {pilot.pilot_id: pilot.secret for pilot in pilots})
        description = self._description(site, folder / _ARCHIVE, folder / _CA_FILE)
        try:
            return self._connected().submit(f"{description}\n{_PATHS_OF_THE_POOL}", items, spool=False)
        except CondorError:
            handover.drop([pilot.pilot_id for pilot in pilots])
            raise

    def _item(self, pilot: PilotLaunch, folder: PurePath) -> dict[str, str]:
        return item(pilot_id=pilot.pilot_id, folder=folder, server_url=pilot.server_url)

    def _description(self, site: Site, archive: PurePath, ca_file: PurePath) -> str:
        return render(site, instance=self._settings.instance, archive=archive, ca_file=ca_file)

    @property
    def _handover(self) -> Handover | None:
        """The way into the private pool, when that is the one in use and runs."""
        if self._given is not None or self._settings.condor_collector is not None or not self._pool.is_running():
            return None
        return Handover(self._pool)

    def _connected(self) -> Gateway:
        """Return the gateway; which pool it is may only be known after the launcher was made."""
        if self._gateway is None:
            self._gateway = Gateway.of(self._settings, self._home)
        return self._gateway

    def _ads(self, site: Site) -> list[dict[str, Any]]:
        name = checked("site", site.name)
        return self._query(f'GlideflowInstance =?= "{self._name()}" && GlideflowSite =?= "{name}"')

    def _query(self, constraint: str) -> list[dict[str, Any]]:
        return [ad for ad in self._connected().query(constraint, _ATTRIBUTES) if "GlideflowPilotId" in ad]

    def _name(self) -> str:
        return checked("instance", self._settings.instance)

    def _collect(self, pilot: LaunchedPilot) -> None:
        """Fetch a failed pilot's own output; without it the hold reason has to do."""
        folder = self._folder(pilot.pilot_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if self._handover is not None:
                self._handover.fetch(pilot.pilot_id, folder)
            else:
                self._connected().retrieve([pilot.batch_id])
        except (CondorError, PoolError) as error:
            (folder / "pilot.err").write_text(f"the output could not be fetched: {error}\n", encoding="utf-8")

    def _folder(self, pilot_id: PilotId) -> Path:
        return self._home.pilots / checked("pilot_id", pilot_id)

    @contextmanager
    def _secrets(self, pilots: Sequence[PilotLaunch]) -> Iterator[None]:
        """Have the secrets in files while they are sent, and no longer."""
        folders = [self._folder(pilot.pilot_id) for pilot in pilots]
        try:
            for folder, pilot in zip(folders, pilots, strict=True):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_secret(folder / _SECRET, pilot.secret)
            yield
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)


def write_secret(path: Path, secret: str) -> None:
    """Write a file that only its owner can read, from its first moment on."""
    with open(path, "w", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(secret + "\n")


def launched(ad: Mapping[str, Any]) -> LaunchedPilot:
    """Translate a job's ad.

    Args:
        ad: The attributes of `_ATTRIBUTES`.
    """
    status = _STATUS.get(ad["JobStatus"], LaunchStatus.GONE)
    code = ad.get("HoldReasonCode")
    held = status is LaunchStatus.HELD
    if held and code == _SPOOLING:
        # Not a failure: its input files are on their way.
        return LaunchedPilot(
            pilot_id=PilotId(str(ad["GlideflowPilotId"])), batch_id=_batch_id(ad), status=LaunchStatus.QUEUED
        )
    return LaunchedPilot(
        pilot_id=PilotId(str(ad["GlideflowPilotId"])),
        batch_id=_batch_id(ad),
        status=status,
        hold_code=code if held else None,
        hold_subcode=ad.get("HoldReasonSubCode") if held else None,
        hold_reason=ad.get("HoldReason") if held else None,
    )


def _batch_id(ad: Mapping[str, Any]) -> str:
    return f"{ad['ClusterId']}.{ad['ProcId']}"


def _verdict(ad: Mapping[str, Any]) -> Verdict:
    return decide(
        code=int(ad.get("HoldReasonCode", 0)),
        subcode=int(ad.get("HoldReasonSubCode", 0)),
        holds=int(ad.get("NumHolds", 1)),
        held_seconds=float(ad.get("ServerTime", 0) - ad.get("EnteredCurrentStatus", 0)),
        text=str(ad.get("HoldReason", "")),
    )
