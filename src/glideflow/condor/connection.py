# SPDX-License-Identifier: Apache-2.0
"""Which HTCondor pool an instance uses, and what a client of it needs in its environment."""

from dataclasses import dataclass
from pathlib import Path

from glideflow.condor.errors import SchedulerUnreachable
from glideflow.launching.launcher import HomePaths
from glideflow.settings import Settings, process_environment

CLIENT_CONFIG = "client_config"
TOKENS = "tokens.d"
_SYSTEM_CONFIG = (Path("/etc/condor/condor_config"), Path("/usr/local/etc/condor_config"))
PRIVATE_REMEDY = "run `glideflow pool up`, which makes a new one"
_CONFIGURED_REMEDY = "ask the pool's administrator for a new one (condor_token_create or condor_token_request)"
_PREFIX = "_CONDOR_"
_CONFIG = "CONDOR_CONFIG"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach one schedd."""

    pool: str
    """The pool, for people."""
    environment: dict[str, str]
    """Complete environment of a client process."""
    schedd: str | None = None
    """Name of the schedd; None where the pool has only one, or one on this machine."""
    tokens: Path | None = None
    """Folder whose token must be usable; None where HTCondor may find another way."""
    remedy: str = _CONFIGURED_REMEDY
    """What to do when the token is bad."""
    advice: str = "check that the pool runs and that condor_collector and condor_schedd are right"
    """What to do when nothing answers."""


def private_connection(pool_folder: Path) -> Connection:
    """Return how to reach the private pool of a home.

    Args:
        pool_folder: The home's `pool` folder.
    """
    inherited = process_environment()
    # What points elsewhere must not change what the private pool's file says.
    environment = {key: value for key, value in inherited.items() if not key.upper().startswith(_PREFIX)}
    return Connection(
        pool="the private pool",
        environment={**environment, _CONFIG: str(pool_folder / CLIENT_CONFIG)},
        tokens=pool_folder / TOKENS,
        remedy=PRIVATE_REMEDY,
        advice="start it with `glideflow pool up`",
    )


def configured_connection(settings: Settings) -> Connection | None:
    """Return how to reach the pool that the settings or HTCondor's own configuration name; None without one."""
    environment = process_environment()
    has_system_config = _CONFIG in environment or any(path.is_file() for path in _SYSTEM_CONFIG)
    if settings.condor_collector is None and not has_system_config:
        return None
    if not has_system_config:
        environment[_CONFIG] = "/dev/null"
    if settings.condor_collector is not None:
        environment["_CONDOR_COLLECTOR_HOST"] = settings.condor_collector
    if settings.condor_token_directory is not None:
        environment["_CONDOR_SEC_TOKEN_DIRECTORY"] = str(settings.condor_token_directory.expanduser())
    return Connection(
        pool=f"the pool of collector {settings.condor_collector}"
        if settings.condor_collector
        else "this machine's pool",
        environment=environment,
        schedd=settings.condor_schedd,
        tokens=settings.condor_token_directory and settings.condor_token_directory.expanduser(),
    )


def connection_of(settings: Settings, home: HomePaths) -> Connection:
    """Return how to reach the pool of an instance: the setting's, the home's private one, or the machine's.

    Args:
        settings: Settings of the instance.
        home: Its home.

    Raises:
        SchedulerUnreachable: There is none.
    """
    if settings.condor_collector is None and (home.pool / CLIENT_CONFIG).exists():
        return private_connection(home.pool)
    configured = configured_connection(settings)
    if configured is None:
        raise SchedulerUnreachable(
            "there is no HTCondor pool: start a private one with `glideflow pool up`, or name yours with the setting "
            "condor_collector"
        )
    return configured
