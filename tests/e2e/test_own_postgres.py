# SPDX-License-Identifier: Apache-2.0
"""A whole instance on a site's own PostgreSQL: a server that is started here, and used by an ordinary role."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from instance_fixtures import end_session
from real_instance import Instance

from glideflow.instance.ports import free_port
from glideflow.instance.postgres import HOST, EmbeddedPostgres

PASSWORD = "s@crt:%/word"
TASK = """\
schema_version: 1
name: small
command: echo "job {index}" > out-{index}.txt
inputs: {jobs: 2}
outputs: {out: {file: "out-{index}.txt"}}
resources: {memory_mb: 50, disk_mb: 20, wall_seconds: 60}
"""


class Server:
    """The site's PostgreSQL, which may go away and come back."""

    def __init__(self, folder: Path) -> None:
        self.postgres = EmbeddedPostgres(folder / "postgres", free_port(HOST, ()), "site", durable=False)
        self.postgres.initialise()
        self._log = folder / "postgres.log"
        self._running = ExitStack()

    def start(self) -> None:
        self._running.enter_context(self.postgres.running(self._log))

    def stop(self) -> None:
        self._running.close()

    def tables(self, database: str) -> set[str]:
        """Return the tables that an ordinary role owns in a database."""
        return set(self.postgres.query("SELECT tablename FROM pg_tables WHERE tableowner = 'site'", database).split())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    made.postgres.query(f"CREATE ROLE site LOGIN PASSWORD '{PASSWORD}'")
    for name in ("site", "site_prefect"):
        made.postgres.query(f"CREATE DATABASE {name} OWNER site")
    yield made
    made.stop()


@pytest.fixture
def own(server: Server, tmp_path: Path) -> Iterator[Instance]:
    url = f"postgresql://site:{quote(PASSWORD, safe='')}@{HOST}:{server.postgres.port}/site?sslmode=prefer"
    made = Instance(tmp_path / "home", f'database_url: "{url}"\nprovision_seconds: 2\n')
    made.run("up", "--launcher", "local", "--slots", "2")
    yield made
    made.run("down")
    # They outlive the instance, and would wait for it.
    for note in made.home.pilots.glob("*/process.json"):
        end_session(int(json.loads(note.read_text())["pid"]), made.home.pilots)


def _embedded(instance: Instance) -> list[psutil.Process]:
    """Servers of PostgreSQL that work in the home, or were started by what runs there."""
    below = [child for pid in instance.processes().values() for child in psutil.Process(pid).children(recursive=True)]
    return [process for process in below if process.name() == "postgres"]


def test_tasks_run_on_a_site_s_own_postgresql_also_after_it_was_away_and_after_a_restart(
    own: Instance, server: Server, tmp_path: Path
) -> None:
    first = own.submit(tmp_path / "task", TASK)
    own.ended(first)
    own.flow_ended(first, "COMPLETED")
    assert {"tasks", "jobs", "alembic_version"} <= server.tables("site")
    assert {"flow_run", "alembic_version"} <= server.tables("site_prefect")

    # No embedded server was made or started, and nobody misses it.
    assert not _embedded(own)
    assert list(own.home.postgres.iterdir()) == []
    assert "postgres" not in own.processes()
    assert own.ask("status")["state"] == "running"
    checks = {check["name"]: check for check in own.ask("doctor")}
    assert checks["database"]["result"] == checks["schema"]["result"] == "ok"
    assert "glideflow and prefect" in own.say("database", "dump", str(tmp_path / "file")).out

    # The server goes away: each command says so within seconds, and what waits goes on when it is back.
    server.stop()
    assert "the database does not answer" in own.say("tasks", status=1).err
    said = own.say("doctor", "--json", status=1).json()
    database = next(check for check in said if check["name"] == "database")
    assert database["result"] == "failed"
    assert "database_url cannot be used: the database does not answer" in database["sentence"]
    assert PASSWORD not in str(said)
    server.start()
    own.ended(own.submit(tmp_path / "task", TASK))
    own.say("doctor")

    own.run("down")
    own.run("up")
    assert not _embedded(own)
    assert own.task(first)["state"] == "done"
    own.ended(own.submit(tmp_path / "task", TASK))
