# SPDX-License-Identifier: Apache-2.0
"""Two processes of the endpoint on one port and one PostgreSQL, one of which is killed in the middle of the work."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from benchmarks.load import SITE, Figures, add_pilots, crowd
from real_instance import until

from glideflow.domain.identity import Identity
from glideflow.domain.site import Site
from glideflow.domain.task import Submission
from glideflow.instance.certificates import ensure_certificates
from glideflow.instance.home import Home, InstanceInfo
from glideflow.instance.ports import free_port
from glideflow.instance.processes import listens
from glideflow.services import planning
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, submit
from glideflow.settings import Settings, process_environment
from glideflow.store.engine import Database

JOBS = 3000
PILOTS = 40
ADA = Identity(method="test", subject="ada", vo="local")


@pytest.fixture
def home(tmp_path: Path, database_url: str) -> Home:
    """A home with a task of many ready jobs, and nothing that runs."""
    home = Home(Settings(home=tmp_path / "home"))
    home.create()
    (home.root / "sites.yaml").write_text(f"sites: [{{name: {SITE}, launcher: local, max_pilots: 0}}]\n")
    ensure_certificates(home, "127.0.0.1")
    port = free_port("127.0.0.1", [])
    home.write_instance(
        InstanceInfo(
            rest_url=f"https://127.0.0.1:{port}", prefect_api_url="", prefect_ui_url="", database_url=database_url,
            rest_port=port,
        )
    )  # fmt: skip
    database = Database(database_url)
    sites = {SITE: Site(name=SITE)}
    place = Place(database=database, storage=Storage(tmp_path), sandboxes=Storage(tmp_path), sites=sites, max_jobs=JOBS)
    spec = {"schema_version": 1, "name": "many", "command": "true", "inputs": {"jobs": JOBS}}
    planning.plan(place, submit(place, Submission.model_validate({"spec": spec}), ADA))
    database.close()
    return home


@contextmanager
def endpoint(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """Run one process of the endpoint."""
    environment = process_environment(GLIDEFLOW_HOME=str(home.root), GLIDEFLOW_ENDPOINTS="2")
    with subprocess.Popen([sys.executable, "-m", "glideflow.api"], env=environment) as process:
        try:
            until(lambda: listens(process.pid, home.known_instance().rest_port))
            yield process
        finally:
            process.kill()


def count(home: Home, query: str) -> int:
    with psycopg.connect(home.known_instance().database_url) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    return int(row[0])


def test_no_job_is_handed_out_twice_when_one_of_two_endpoints_is_killed(home: Home) -> None:
    with endpoint(home) as one, endpoint(home):

        async def story() -> Figures:
            async with crowd(home, add_pilots(home, PILOTS)) as figures:
                while figures.finished < JOBS / 4:
                    await asyncio.sleep(0.02)
                one.send_signal(signal.SIGKILL)
                while await asyncio.to_thread(count, home, "SELECT count(*) FROM jobs WHERE state = 'done'") < JOBS:
                    await asyncio.sleep(0.05)
            return figures

        figures = asyncio.run(asyncio.wait_for(story(), 60))
    # Both took part: the pilots of the killed one had to connect again, the others had not.
    assert 0 < figures.reconnected < PILOTS
    assert figures.refused == 0
    assert count(home, "SELECT count(*) FROM attempts") == JOBS
    assert count(home, "SELECT count(DISTINCT job_id) FROM attempts WHERE state = 'done'") == JOBS
    assert count(home, "SELECT count(*) FROM events WHERE kind = 'job' AND new_state = 'done'") == JOBS
