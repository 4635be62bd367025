# SPDX-License-Identifier: Apache-2.0
"""Prepare a start: folders, certificates, the database's cluster, and ports that stay the same from start to start."""

import socket
from urllib.parse import urlsplit

from glideflow.errors import SettingsError
from glideflow.instance.certificates import ensure_certificates, is_wildcard
from glideflow.instance.components import PREFECT_HOST
from glideflow.instance.health import https_url
from glideflow.instance.home import Home, InstanceInfo
from glideflow.instance.ports import free_port, port_is_free
from glideflow.instance.postgres import DATABASE, HOST, PREFECT_DATABASE, EmbeddedPostgres
from glideflow.instance.site_database import prefect_url
from glideflow.settings import Settings

USUAL_REST_PORT = 8443
USUAL_PREFECT_PORT = 4200
USUAL_POSTGRES_PORT = 25432
DEFAULT_LAUNCHER = "htcondor"


def prepare(settings: Settings, home: Home, launcher: str | None = None, slots: int | None = None) -> InstanceInfo:
    """Make everything that must be there before the first process, and note it in the home.

    Only for the holder of the home's supervisor lock.

    Args:
        settings: The home's settings.
        home: The home.
        launcher: What `up --launcher` said; remembered for the next start.
        slots: What `up --slots` said; remembered, too.

    Returns:
        What was noted.

    Raises:
        SettingsError: Something is set that cannot be had; the message says what and why.
        DatabaseUnavailable: The cluster cannot be made.
    """
    home.create()
    ensure_certificates(home, settings.host)
    before = home.read_instance()
    rest_url, rest_port = _rest(settings, before)
    prefect_api_url, prefect_port = _prefect(settings, before)
    database_url, prefect_database_url = _databases(settings, home, before)
    info = InstanceInfo(
        rest_url=rest_url,
        prefect_api_url=prefect_api_url,
        prefect_ui_url=prefect_api_url.removesuffix("/api"),
        database_url=database_url,
        rest_port=rest_port,
        prefect_port=prefect_port,
        prefect_database_url="" if settings.prefect_api_url else prefect_database_url,
        launcher=launcher or (before.launcher if before else ""),
        slots=slots or (before.slots if before else 0),
    )
    home.write_instance(info)
    return info


def launcher_of(settings: Settings, info: InstanceInfo | None) -> str:
    """Return how the default site starts pilots: the settings, else what `up` was told, else HTCondor."""
    return settings.launcher or (info.launcher if info else "") or DEFAULT_LAUNCHER


def _rest(settings: Settings, before: InstanceInfo | None) -> tuple[str, int]:
    kept = before.rest_port if before else 0
    port = _port(settings.host, settings.port, "port", [kept, USUAL_REST_PORT])
    return https_url(socket.getfqdn() if is_wildcard(settings.host) else settings.host, port), port


def _prefect(settings: Settings, before: InstanceInfo | None) -> tuple[str, int]:
    if settings.prefect_api_url:
        return settings.prefect_api_url.rstrip("/"), 0
    kept = before.prefect_port if before else 0
    port = _port(PREFECT_HOST, settings.prefect_port, "prefect_port", [kept, USUAL_PREFECT_PORT])
    return f"http://{PREFECT_HOST}:{port}/api", port


def _databases(settings: Settings, home: Home, before: InstanceInfo | None) -> tuple[str, str]:
    if settings.database_url:
        return settings.database_url, prefect_url(settings.database_url)
    kept = urlsplit(before.database_url).port or 0 if before else 0
    server = EmbeddedPostgres(home.postgres, _port(HOST, 0, "", [kept, USUAL_POSTGRES_PORT]), settings.instance)
    server.initialise()
    return server.url(DATABASE), server.url(PREFECT_DATABASE)


def _port(host: str, wanted: int, setting: str, preferred: list[int]) -> int:
    """The port that is set, which must be free; else the kept one, the usual one or any."""
    if not wanted:
        return free_port(host, [port for port in preferred if port])
    if not port_is_free(host, wanted):
        raise SettingsError(
            f"{setting}: {wanted} on {host} is taken by another program, or {host} is no address of this machine; "
            "set another one, or leave it out to have a free one chosen"
        )
    return wanted
