# SPDX-License-Identifier: Apache-2.0
"""The pilot factory of a home: `python -m glideflow.factory`."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence

from glideflow.condor.launcher import HTCondorLauncher
from glideflow.domain.site import Site
from glideflow.errors import GlideflowError, ServiceError
from glideflow.instance.home import Home, InstanceInfo
from glideflow.launching.launcher import Launcher
from glideflow.launching.local import LocalLauncher
from glideflow.services.policies import Policies
from glideflow.services.provisioning import Provisioner
from glideflow.settings import Settings, load_settings
from glideflow.sites import load_sites
from glideflow.store.engine import Channel, Database
from glideflow.system_policy import load_system_policy

logger = logging.getLogger(__name__)

_SHORTEST_SECONDS = 0.2
"""Between two cycles: a burst of small tasks is one look at the demand."""


def make_launchers(settings: Settings, home: Home, sites: Sequence[Site]) -> dict[str, Launcher]:
    """Return what starts the pilots of each site; sites of one kind share one."""
    kinds: dict[str, Launcher] = {}
    for site in sites:
        if site.launcher not in kinds:
            local = site.launcher == "local"
            kinds[site.launcher] = LocalLauncher(settings, home) if local else HTCondorLauncher(settings, home)
    return {site.name: kinds[site.launcher] for site in sites}


class Factory:
    """Runs a provisioning cycle when jobs appear, and now and then without that.

    Args:
        settings: The instance's settings.
        home: Its home.
        instance: What `up` chose.

    Raises:
        SettingsError: The sites file or the failure policy cannot be used.
    """

    def __init__(self, settings: Settings, home: Home, instance: InstanceInfo) -> None:
        self._settings = settings
        self._home = home
        self._database = Database(instance.database_url, connections=4)
        self._sites = load_sites(settings, instance.launcher or None, instance.slots or None)
        policies = Policies(sites=self._sites, system=load_system_policy(settings).rules)
        self._launchers = make_launchers(settings, home, list(self._sites.values()))
        self._provisioner = Provisioner(
            self._database,
            self._sites,
            policies,
            self._launchers,
            instance.rest_url,
            start_seconds=settings.pilot_start_seconds,
        )
        self.stop = threading.Event()

    def run(self) -> None:
        """Work until `stop` is set."""
        last, wanted = 0.0, True
        for channel in self._database.listen([Channel.JOBS], self.stop):
            self._home.alive_file("factory").touch()
            wanted = wanted or channel is not None
            age = time.monotonic() - last
            if (wanted and age > _SHORTEST_SECONDS) or age > self._settings.provision_seconds:
                self._cycle()
                last, wanted = time.monotonic(), False
        for launcher in set(self._launchers.values()):
            launcher.close()
        self._database.close()

    def _cycle(self) -> None:
        try:
            self._provisioner.cycle()
        except ServiceError as error:
            logger.warning("%s", error)
        except Exception:
            # A mistake here must not end the watch over the pilots.
            logger.exception("the cycle failed; it is tried again")


def main() -> int:
    """Work until SIGTERM; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings()
        home = Home(settings)
        instance = home.known_instance()
        factory = Factory(settings, home, instance)
    except GlideflowError as error:
        logger.critical("the factory cannot start: %s", error)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: factory.stop.set())
    signal.signal(signal.SIGINT, lambda *_: factory.stop.set())
    factory.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
