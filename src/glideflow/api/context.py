# SPDX-License-Identifier: Apache-2.0
"""What every route needs, made once when the endpoint starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from glideflow.api.exchanges import ExchangeDesk
from glideflow.domain.shares import ShareConfig
from glideflow.domain.site import Site
from glideflow.identity.home_token import HomeToken
from glideflow.instance.home import Home, InstanceInfo
from glideflow.services.dispatch import Dispatcher
from glideflow.services.policies import Policies
from glideflow.services.registration import PilotKeys
from glideflow.services.storage import Storage
from glideflow.services.submit import Place
from glideflow.settings import Settings
from glideflow.shares import load_shares
from glideflow.sites import load_sites
from glideflow.store.engine import Database
from glideflow.system_policy import load_system_policy


@dataclass(frozen=True, kw_only=True)
class Context:
    """The endpoint's parts."""

    settings: Settings
    instance: InstanceInfo
    database: Database
    storage: Storage
    sandboxes: Storage
    attempt_logs: Path
    flow_results: Path
    sites: Mapping[str, Site]
    shares: ShareConfig
    policies: Policies
    token: HomeToken
    keys: PilotKeys
    desk: ExchangeDesk
    started_at: datetime

    @property
    def place(self) -> Place:
        """Where tasks are accepted."""
        return Place(
            database=self.database,
            storage=self.storage,
            sandboxes=self.sandboxes,
            sites=self.sites,
            max_jobs=self.settings.max_jobs_per_task,
            ready_jobs=self.settings.ready_jobs_per_task,
        )


def make_context(settings: Settings, home: Home, instance: InstanceInfo, database: Database) -> Context:
    """Put the endpoint's parts together.

    Args:
        settings: The instance's settings.
        home: Its home, created.
        instance: What `up` chose.
        database: A migrated database.

    Raises:
        SettingsError: The sites file, the shares file or the failure policy cannot be used.
    """
    storage = Storage(home.storage)
    shares = load_shares(settings)
    sites = load_sites(settings, instance.launcher or None, instance.slots or None)
    system = load_system_policy(settings)
    policies = Policies(sites=sites, system=system.rules, system_file=system.path)
    return Context(
        settings=settings,
        instance=instance,
        database=database,
        storage=storage,
        sandboxes=Storage(home.sandboxes),
        attempt_logs=home.attempt_logs,
        flow_results=home.flow_results,
        sites=sites,
        shares=shares,
        policies=policies,
        token=HomeToken(home.token_file, settings.vo),
        keys=PilotKeys(database),
        desk=ExchangeDesk(Dispatcher(database, storage, policies, shares)),
        started_at=datetime.now(UTC),
    )
