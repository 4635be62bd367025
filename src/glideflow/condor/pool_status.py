# SPDX-License-Identifier: Apache-2.0
"""Which HTCondor pool serves a home, and whether it answers."""

from dataclasses import dataclass
from datetime import datetime

from glideflow.condor.connection import configured_connection
from glideflow.condor.gateway import Gateway
from glideflow.errors import CondorError
from glideflow.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PoolStatus:
    """Which pool serves the home, and whether it answers."""

    kind: str
    """`private`, `configured`, or `none`."""
    running: bool
    """Whether it answers."""
    text: str
    """The same as a sentence, with what to do."""
    address: str | None = None
    """Address of the collector."""
    pid: int | None = None
    """First process of the private pool."""
    slots: int | None = None
    """Cores that the private pool advertises."""
    started_at: datetime | None = None
    """When the private pool was started."""
    identity: str | None = None
    """Who we are at the schedd."""


def ask_configured(settings: Settings) -> PoolStatus | None:
    """Ask the pool that the settings, or this machine's HTCondor, name; None when none is named."""
    connection = configured_connection(settings)
    if connection is None:
        return None
    address = settings.condor_collector
    try:
        with Gateway(connection, settings.condor_timeout_seconds) as gateway:
            identity = gateway.ping()
    except CondorError as error:
        return PoolStatus(kind="configured", running=False, text=str(error), address=address)
    text = f"using {connection.pool} as {identity}"
    return PoolStatus(kind="configured", running=True, text=text, address=address, identity=identity)
