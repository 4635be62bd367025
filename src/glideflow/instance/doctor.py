# SPDX-License-Identifier: Apache-2.0
"""Check each part of an instance and say what to do."""

import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

from glideflow.condor.gateway import Gateway
from glideflow.errors import GlideflowError, ServiceError
from glideflow.instance.certificates import RENEW_BEFORE, inspect
from glideflow.instance.health import ask, ask_endpoint
from glideflow.instance.home import Home, InstanceInfo
from glideflow.instance.site_database import check_site_databases
from glideflow.instance.status import ComponentState, InstanceState, read_status
from glideflow.settings import SETTINGS_FILE, Settings
from glideflow.shares import SHARES_FILE, load_shares
from glideflow.sites import SITES_FILE, load_sites
from glideflow.store.migration import schema_revision
from glideflow.store.server import ask_server
from glideflow.system_policy import load_system_policy

PATIENCE_SECONDS = 10.0
"""For the endpoint, which says after 3 s why its database does not answer."""
FAILED_FREE_BYTES = 1_000_000_000
WARNING_FREE_BYTES = 10_000_000_000
WARNING_CLOCK_SECONDS = 5.0
FAILED_CLOCK_SECONDS = 60.0
LOG_REMEDY = "look at the last lines of {logs}"


class Result(StrEnum):
    """How a check ended."""

    OK = "ok"
    """Nothing to do."""
    WARNING = "warning"
    """Works, but not for long or not well."""
    FAILED = "failed"
    """Does not work."""


@dataclass(frozen=True)
class Check:
    """One part of the instance."""

    name: str
    """What was checked."""
    result: Result
    """How it ended."""
    sentence: str
    """What was found."""
    remedy: str = ""
    """What to do; empty when there is nothing to do."""


def examine(settings: Settings, home: Home) -> Iterator[Check]:
    """Check every part, one after the other; a part that cannot be checked is a failed one.

    Args:
        settings: The home's settings.
        home: The home.

    Yields:
        One check or more per part, as soon as it is known.
    """
    try:
        info = home.read_instance()
    except GlideflowError as error:
        yield Check("instance", Result.FAILED, str(error))
        return
    if info is None:
        yield Check("instance", Result.FAILED, f"{home.root} was never started", "run `glideflow up`")
        return
    yield from _processes(home)
    parts: list[tuple[str, Callable[[], Check]]] = [
        ("configuration", lambda: _configuration(settings, home, info)),
        ("database", lambda: _database(settings, home, info)),
        ("schema", lambda: _schema(info)),
        ("endpoint", lambda: _endpoint(home, info)),
        ("prefect", lambda: _prefect(info)),
        ("schedd", lambda: _schedd(settings, home, info)),
        ("ca", lambda: _certificate("ca", home.ca / "ca.pem", home)),
        ("certificate", lambda: _certificate("certificate", home.server_cert, home)),
        ("token", lambda: _token(home)),
        ("home", lambda: _folder(home)),
        ("disk", lambda: _disk("disk", home.root)),
        ("cache", lambda: _disk("cache", settings.cache)),
    ]
    for name, check in parts:
        yield _guarded(name, check)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except GlideflowError as error:
        return Check(name, Result.FAILED, str(error))
    except OSError as error:
        return Check(name, Result.FAILED, f"{error.filename or name}: {error.strerror}", "correct its owner or mode")


def _processes(home: Home) -> Iterator[Check]:
    status = read_status(home)
    if status.state is not InstanceState.RUNNING:
        why = f": {status.message}" if status.message else ""
        remedy = "wait a moment" if status.state is InstanceState.STARTING else "run `glideflow up`"
        yield Check("processes", Result.FAILED, f"the instance is {status.state}{why}", remedy)
        return
    for part in status.components:
        if part.state not in {ComponentState.READY, ComponentState.DONE}:
            remedy = LOG_REMEDY.format(logs=home.logs / f"{part.name}.log")
            yield Check(part.name, Result.FAILED, f"{part.name} is {part.state}: {part.detail}", remedy)
        elif part.restarts:
            remedy = LOG_REMEDY.format(logs=home.logs / "supervisor.log")
            yield Check(part.name, Result.WARNING, f"{part.name} was restarted {part.restarts} times", remedy)
    if status.is_up():
        yield Check("processes", Result.OK, f"all {len(status.components)} components work")


def _configuration(settings: Settings, home: Home, info: InstanceInfo) -> Check:
    """Read the files as the next start will, and notice those that were changed since the last one."""
    load_sites(settings, info.launcher or None)
    load_shares(settings)
    files = [
        settings.home / SETTINGS_FILE,
        settings.sites_file or settings.home / SITES_FILE,
        settings.shares_file or settings.home / SHARES_FILE,
        load_system_policy(settings).path,
    ]
    present = [file for file in files if file.exists()]
    status = read_status(home)
    if status.state is InstanceState.RUNNING and status.started_at is not None:
        # The noted time has whole seconds.
        noted = datetime.fromisoformat(status.started_at).timestamp() + 1
        newer = [str(file) for file in present if file.stat().st_mtime > noted]
        if newer:
            sentence = f"changed after the start, and not in use yet: {', '.join(newer)}"
            return Check("configuration", Result.WARNING, sentence, "run `glideflow down`, then `glideflow up`")
    return Check("configuration", Result.OK, f"{len(present)} files are in order")


def _database(settings: Settings, home: Home, info: InstanceInfo) -> Check:
    try:
        if settings.database_url:
            facts = check_site_databases(info.database_url, info.prefect_database_url)
        else:
            facts = ask_server(info.database_url)
    except GlideflowError as error:
        own = f"correct `database_url` in {home.root / SETTINGS_FILE}, or have that server repaired"
        remedy = own if settings.database_url else LOG_REMEDY.format(logs=home.logs / "postgres.log")
        return Check("database", Result.FAILED, str(error), remedy)
    return _clock("database", f"PostgreSQL {facts.major} answers", facts.now)


def _schema(info: InstanceInfo) -> Check:
    current, newest = schema_revision(info.database_url)
    if current != newest:
        sentence = f"the schema is at {current or 'nothing'}, and this version needs {newest}"
        return Check("schema", Result.FAILED, sentence, "run `glideflow down`, then `glideflow up`, which migrates it")
    return Check("schema", Result.OK, f"the schema is at {current}, the newest")


def _endpoint(home: Home, info: InstanceInfo) -> Check:
    answer = ask_endpoint(home, info, PATIENCE_SECONDS)
    return _clock("endpoint", f"{info.rest_url} answers", answer.date)


def _prefect(info: InstanceInfo) -> Check:
    api = info.prefect_api_url.rstrip("/")
    if ask(f"{api}/health").body is not True:
        return Check("prefect", Result.FAILED, f"{api} says that it is not well", "look at its log")
    theirs, ours = str(ask(f"{api}/admin/version").body), version("prefect")
    if _series(theirs) != _series(ours):
        sentence = f"{api} is Prefect {theirs}, and glideflow runs with Prefect {ours}"
        return Check("prefect", Result.WARNING, sentence, f"use a Prefect server {_series(ours)}")
    return Check("prefect", Result.OK, f"Prefect {theirs} answers at {info.prefect_ui_url}")


def _series(text: str) -> str:
    return ".".join(text.split(".")[:2])


def _schedd(settings: Settings, home: Home, info: InstanceInfo) -> Check:
    sites = load_sites(settings, info.launcher or None)
    if all(site.launcher == "local" for site in sites.values()):
        return Check("schedd", Result.OK, "no site needs HTCondor")
    with Gateway.of(settings, home) as gateway:
        return Check("schedd", Result.OK, f"the schedd knows us as {gateway.ping()}")


def _certificate(name: str, path: Path, home: Home) -> Check:
    found = inspect(path, home.ca / "ca.pem")
    remedy = "run `glideflow down`, then `glideflow up`, which renews it"
    if found.problem:
        return Check(name, Result.FAILED, f"{path}: {found.problem}", remedy)
    if found.days_left < RENEW_BEFORE.days:
        return Check(name, Result.WARNING, f"{path} ends in {found.days_left:.0f} days", remedy)
    return Check(name, Result.OK, f"{path} is valid for {found.days_left:.0f} more days")


def _token(home: Home) -> Check:
    home.read_token()
    return Check("token", Result.OK, f"{home.token_file} is readable by its owner only")


def _folder(home: Home) -> Check:
    mode = stat.S_IMODE(home.root.stat().st_mode)
    if mode & 0o022:
        sentence = f"{home.root} has mode {mode:04o}, so others may replace its files"
        return Check("home", Result.FAILED, sentence, f"run `chmod 700 {home.root}`")
    if mode & 0o055:
        sentence = f"{home.root} has mode {mode:04o}, so others may look into it"
        return Check("home", Result.WARNING, sentence, f"run `chmod 700 {home.root}`")
    return Check("home", Result.OK, f"{home.root} is closed to other accounts")


def _disk(name: str, folder: Path) -> Check:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    sentence = f"{free / 1e9:.1f} GB are free for {folder}"
    remedy = "make room, or move it to a larger disk"
    if free < FAILED_FREE_BYTES:
        return Check(name, Result.FAILED, sentence, remedy)
    if free < WARNING_FREE_BYTES:
        return Check(name, Result.WARNING, sentence, remedy)
    return Check(name, Result.OK, sentence)


def _clock(name: str, sentence: str, theirs: datetime | None) -> Check:
    """A working server's check, with its clock compared to ours."""
    if theirs is None:
        raise ServiceError(f"{sentence}, but does not tell its time")
    off = abs((datetime.now(UTC) - theirs).total_seconds())
    if off < WARNING_CLOCK_SECONDS:
        return Check(name, Result.OK, f"{sentence}, and its clock agrees")
    result = Result.FAILED if off > FAILED_CLOCK_SECONDS else Result.WARNING
    remedy = "synchronise the clocks of both machines with NTP"
    return Check(name, result, f"{sentence}, but its clock is {off:.0f} s off", remedy)
