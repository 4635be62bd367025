# SPDX-License-Identifier: Apache-2.0
"""What an instance consists of, as the supervisor sees it: processes, their order, and how to tell that they work."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

from glideflow.instance.health import endpoint_answers, prefect_answers
from glideflow.instance.home import Home, InstanceInfo
from glideflow.instance.postgres import EmbeddedPostgres
from glideflow.instance.processes import Command
from glideflow.instance.site_database import for_asyncpg
from glideflow.settings import Settings, process_environment

PREFECT_HOST = "127.0.0.1"
"""The Prefect server knows no users: whoever reaches it may start flows. So it is reached from this machine only."""

FLOWS = "glideflow_flows"

# Measured with Prefect 3.8.8: the defaults store 37 task runs a second, these 149, with a fifth of the CPU time.
PREFECT_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "50",
    # Old flow runs and events go away by themselves; the default is events only.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True, kw_only=True)
class Component:
    """One process of the instance."""

    name: str
    """Its name, in `status` and of its log."""
    command: Callable[[], Command]
    """How to start it; asked at each start."""
    is_ready: Callable[[], bool] = lambda: True
    """Whether it works; asked until it does. Must answer within about 2 s."""
    after: tuple[str, ...] = ()
    """The components that must work before it is started."""
    clean_up: Callable[[], None] = lambda: None
    """Called before each start: removes what a crash left behind."""
    once: bool = False
    """Whether it does one thing and ends; it works when it has ended with status 0."""
    heartbeat: bool = False
    """Whether it touches `run/<name>.alive` at least every 5 s: it works when it has, and hangs when it stops to."""
    port: int | None = None
    """The port it listens on, for `status`."""
    stop_signal: Signals = SIGTERM
    """What asks it to end."""
    death_signal: Signals = SIGKILL
    """What it gets when the supervisor was killed."""
    with_descendants: bool = False
    """Whether its children that lead sessions of their own end with it, too."""
    gives_way: bool = False
    """Whether others come first when the processors are busy."""
    start_seconds: float = 60.0
    """Time until it must work."""
    grace_seconds: float = 10.0
    """Time between the stop signal and KILL."""


def instance_components(settings: Settings, home: Home, info: InstanceInfo) -> list[Component]:
    """Return the components of a real instance, in the order of their start.

    Args:
        settings: The home's settings.
        home: The home.
        info: The ports and URLs that were chosen.
    """
    return [
        *([] if settings.database_url else [_postgres(settings, home, info)]),
        _schema(settings, home, info),
        *([] if settings.prefect_api_url else [_prefect(home, info)]),
        *(_endpoint(settings, home, info, number) for number in range(1, settings.endpoints + 1)),
        _flows(settings, home, info),
        _factory(settings, home, info),
    ]


def embedded_postgres(settings: Settings, home: Home, info: InstanceInfo) -> EmbeddedPostgres:
    """Return the embedded PostgreSQL of a home at the port that its URL names."""
    return EmbeddedPostgres(home.postgres, _port_of(info.database_url), settings.instance)


def _postgres(settings: Settings, home: Home, info: InstanceInfo) -> Component:
    server = embedded_postgres(settings, home, info)
    return Component(
        name="postgres",
        command=server.command,
        is_ready=server.is_ready,
        clean_up=server.end_leftovers,
        port=server.port,
        # INT is PostgreSQL's fast shutdown: it ends sessions and loses nothing.
        stop_signal=SIGINT,
        death_signal=SIGINT,
        grace_seconds=30,
    )


def _schema(settings: Settings, home: Home, info: InstanceInfo) -> Component:
    return Component(
        name="schema",
        command=lambda: _module(settings, home, info, "glideflow.instance.schema"),
        after=() if settings.database_url else ("postgres",),
        once=True,
        start_seconds=600,
    )


def _prefect(home: Home, info: InstanceInfo) -> Component:
    return Component(
        name="prefect",
        command=lambda: _prefect_command(home, info),
        is_ready=lambda: prefect_answers(info.prefect_api_url),
        after=("schema",),
        port=info.prefect_port,
        # Showing the jobs must not slow them down: a flow's start costs as much as hundreds of short jobs.
        gives_way=True,
        # The first start makes its tables: 4 to 9 s on a quiet machine.
        start_seconds=180,
    )


def _prefect_command(home: Home, info: InstanceInfo) -> Command:
    database, options = for_asyncpg(info.prefect_database_url)
    environment = process_environment(
        **options,
        **PREFECT_SERVER_SETTINGS,
        PREFECT_HOME=str(home.prefect),
        PREFECT_SERVER_DATABASE_CONNECTION_URL=database,
        PREFECT_API_URL=info.prefect_api_url,
        PREFECT_SERVER_UI_API_URL=info.prefect_api_url,
        GLIDEFLOW_HOME=str(home.root),
    )
    # The older name of the same setting, perhaps of another server of the user's.
    environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    argv = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        PREFECT_HOST,
        "--port",
        str(info.prefect_port),
    ]
    # Prefect reads .env, prefect.toml and pyproject.toml of its working directory: one where only we write.
    return Command(argv=argv, folder=home.prefect, environment=environment)


def _endpoint(settings: Settings, home: Home, info: InstanceInfo, number: int) -> Component:
    return Component(
        name="endpoint" if number == 1 else f"endpoint-{number}",
        command=lambda: _module(settings, home, info, "glideflow.api"),
        is_ready=lambda: endpoint_answers(home, info),
        after=("schema",),
        port=info.rest_port,
    )


def _flows(settings: Settings, home: Home, info: InstanceInfo) -> Component:
    return Component(
        name="flows",
        command=lambda: _module(settings, home, info, FLOWS),
        clean_up=lambda: _empty(_flows_temporary(home)),
        after=("endpoint",) if settings.prefect_api_url else ("endpoint", "prefect"),
        heartbeat=True,
        gives_way=True,
        # It ends the processes of its flow runs itself, which KILL would leave behind.
        death_signal=SIGTERM,
        with_descendants=True,
        grace_seconds=20,
    )


def _flows_temporary(home: Home) -> Path:
    """Prefect's runners of all accounts share one folder in /tmp, which belongs to the first; ours has its own."""
    return home.prefect / "tmp"


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _factory(settings: Settings, home: Home, info: InstanceInfo) -> Component:
    return Component(
        name="factory",
        command=lambda: _module(settings, home, info, "glideflow.factory"),
        after=("endpoint",),
        heartbeat=True,
        death_signal=SIGTERM,
    )


def _module(settings: Settings, home: Home, info: InstanceInfo, module: str) -> Command:
    """Return the command of one of our own processes."""
    changes = {
        "GLIDEFLOW_HOME": str(home.root),
        "PREFECT_API_URL": info.prefect_api_url,
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_LOCAL_STORAGE_PATH": str(home.flow_results),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "DO_NOT_TRACK": "1",
    }
    if module == FLOWS:
        changes["TMPDIR"] = str(_flows_temporary(home))
    # What `up` was told wins over nothing, but not over the settings; see `glideflow.instance.plan`.
    if info.launcher and settings.launcher is None:
        changes["GLIDEFLOW_LAUNCHER"] = info.launcher
    if info.slots:
        changes["GLIDEFLOW_POOL_SLOTS"] = str(info.slots)
    return Command(argv=[sys.executable, "-m", module], folder=home.root, environment=process_environment(**changes))


def _port_of(url: str) -> int:
    return int(url.rsplit(":", maxsplit=1)[1].split("/", maxsplit=1)[0])
