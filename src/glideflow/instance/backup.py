# SPDX-License-Identifier: Apache-2.0
"""Dump an instance's databases into one file, and make them anew from it."""

import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from glideflow.errors import DatabaseUnavailable, NotFound, UserError
from glideflow.instance.home import AlreadyLocked, Home, InstanceInfo, lock_holder, locked
from glideflow.instance.ports import free_port
from glideflow.instance.postgres import DATABASE, HOST, PREFECT_DATABASE, EmbeddedPostgres
from glideflow.instance.postgres_programs import client_command, words_of
from glideflow.instance.processes import run
from glideflow.instance.site_database import prefect_url
from glideflow.settings import Settings

MANIFEST = "manifest.json"
FORMAT = 1
NAMES = (DATABASE, PREFECT_DATABASE)
_PROGRAM_SECONDS = 6 * 3600.0
_NOTHING = 0
_COUNT_TABLES = (
    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p')"
)


class RestoreRefused(UserError):
    """The dump cannot be restored into this home as it is."""

    code = "restore_refused"
    status = 409


def dump(settings: Settings, home: Home, target: Path) -> list[str]:
    """Write both databases into one new file, mode 0600; the instance may be running.

    Args:
        settings: The home's settings.
        home: The home.
        target: The file; must not exist.

    Returns:
        The databases that it holds.

    Raises:
        UserError: The file exists or cannot be written, or the home has no database.
        DatabaseUnavailable: PostgreSQL refuses.
    """
    if target.exists():
        raise UserError(f"{target} exists already: choose another name, a dump overwrites nothing")
    with _databases(settings, home) as urls, _folder_beside(target) as folder:
        for name, url in urls.items():
            arguments = ["--format=custom", "--no-owner", f"--file={folder / name}"]
            _client("pg_dump", arguments, url)
        manifest = {
            "format": FORMAT,
            "glideflow": version("glideflow"),
            "instance": settings.instance,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "databases": list(urls),
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        draft = folder / "dump.tar"
        with tarfile.open(draft, "w") as archive:
            for name in (MANIFEST, *urls):
                archive.add(folder / name, arcname=name)
        draft.chmod(0o600)
        draft.rename(target)
    return list(urls)


def restore(settings: Settings, home: Home, source: Path, *, force: bool = False) -> Path | None:
    """Make the databases anew from a dump; the instance must be down.

    Args:
        settings: The home's settings.
        home: The home; created when it is new.
        source: A file that `dump` wrote.
        force: Whether a cluster that exists is put aside; it is never deleted.

    Returns:
        Where the previous cluster is now, or None when there was none.

    Raises:
        RestoreRefused: The instance runs, or there is a database already.
        UserError: The file is no dump.
        DatabaseUnavailable: PostgreSQL refuses; everything is as it was before.
    """
    home.create()
    try:
        with locked(home.supervisor_lock), _folder_beside(home.root / "restore") as folder:
            names = _unpack(source, folder)
            if settings.database_url:
                _restore_into_empty(settings, folder, names)
                return None
            return _restore_embedded(home, folder, names, force=force)
    except AlreadyLocked as error:
        raise RestoreRefused("the instance is running: stop it with `glideflow down`, then restore") from error


def _restore_embedded(home: Home, folder: Path, names: list[str], *, force: bool) -> Path | None:
    server = EmbeddedPostgres(home.postgres, free_port(HOST, ()))
    server.end_leftovers()
    if server.exists() and not force:
        raise RestoreRefused(
            f"there is a database in {server.data} already: add --force to put it aside (it is kept) and restore"
        )
    aside = _put_aside(home.postgres) if server.exists() else None
    try:
        server.initialise()
        with server.running(home.logs / "postgres.log"):
            server.create_databases()
            for name in names:
                _load(server.url(name), folder / name)
    except BaseException:
        # Also after Ctrl-C: half a database must not be taken for the whole.
        if aside is not None:
            shutil.rmtree(home.postgres, ignore_errors=True)
            aside.rename(home.postgres)
        elif server.exists():
            shutil.rmtree(server.data)
        raise
    return aside


def _put_aside(folder: Path) -> Path:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return folder.rename(folder.with_name(f"{folder.name}.before-restore-{now}"))


def _restore_into_empty(settings: Settings, folder: Path, names: list[str]) -> None:
    urls = {name: url for name, url in _site_urls(settings).items() if name in names}
    for url in urls.values():
        if int(_client("psql", ["--no-psqlrc", "-Atqc", _COUNT_TABLES], url)) != _NOTHING:
            raise RestoreRefused(
                f"the database {urlsplit(url).path.lstrip('/')} has tables already: make an empty one; a site's own "
                "databases are not put aside"
            )
    for name, url in urls.items():
        _load(url, folder / name)


def _load(url: str, file: Path) -> None:
    _client("pg_restore", ["--no-owner", "--exit-on-error", "--single-transaction", str(file)], url)


def _unpack(source: Path, folder: Path) -> list[str]:
    """Unpack the members a dump has, under the names it gives them, and no others."""
    try:
        with tarfile.open(source, "r:") as archive:
            manifest = json.loads(_member(archive, MANIFEST).read())
            if manifest["format"] != FORMAT:
                raise UserError(f"{source} has format {manifest['format']}, and this glideflow reads {FORMAT}")
            names = [name for name in NAMES if name in manifest["databases"]]
            for name in names:
                with _member(archive, name) as member, (folder / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
    except FileNotFoundError as error:
        raise NotFound("file", source) from error
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source} is no dump of glideflow, or damaged: {error}") from error
    return names


def _member(archive: tarfile.TarFile, name: str) -> tarfile.ExFileObject:
    member = archive.extractfile(name)
    if not isinstance(member, tarfile.ExFileObject):
        raise ValueError(f"{name} is not a file in it")
    return member


@contextmanager
def _databases(settings: Settings, home: Home) -> Iterator[dict[str, str]]:
    """Give the URLs of the databases, of a server that runs: the instance's, a site's, or one started for this."""
    info = home.read_instance()
    if settings.database_url:
        yield _site_urls(settings)
    elif info is not None and lock_holder(home.supervisor_lock) is not None:
        yield _urls_of(info)
    else:
        server = EmbeddedPostgres(home.postgres, free_port(HOST, ()))
        if not server.exists():
            raise NotFound("database", server.data, "start the instance once with `glideflow up`")
        with locked(home.supervisor_lock):
            server.end_leftovers()
            server.initialise()
            with server.running(home.logs / "postgres.log"):
                present = server.query("SELECT datname FROM pg_database").split()
                yield {name: server.url(name) for name in NAMES if name in present}


def _urls_of(info: InstanceInfo) -> dict[str, str]:
    urls = dict(zip(NAMES, (info.database_url, info.prefect_database_url), strict=True))
    return {name: url for name, url in urls.items() if url}


def _site_urls(settings: Settings) -> dict[str, str]:
    url = settings.database_url or ""
    urls = {DATABASE: url}
    return urls if settings.prefect_api_url else urls | {PREFECT_DATABASE: prefect_url(url)}


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Give a private folder on the same file system, so that the result can be moved into place at once."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _client(program: str, arguments: list[str], url: str) -> str:
    """Run a client of PostgreSQL; the password does not show in its command line."""
    parts = urlsplit(url)
    address = parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@", 1)).geturl()
    command = client_command(program, [*arguments, "--no-password", "--dbname", address], unquote(parts.password or ""))
    done = run(command, timeout_seconds=_PROGRAM_SECONDS)
    if done.returncode:
        raise DatabaseUnavailable(f"{program} failed: {words_of(done)}")
    return done.stdout
