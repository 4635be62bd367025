# SPDX-License-Identifier: Apache-2.0
"""Which results of flow steps are removed, and when."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from glideflow.api import housekeeping
from glideflow.instance.processes import wait_until
from glideflow.services.flow_results import remove_old_results
from glideflow.settings import load_settings
from glideflow.store.engine import Database
from glideflow.testing.endpoint import run_endpoint

NOW = datetime(2026, 6, 30, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of some ages, each named by its age in days."""
    for days in (40, 20, 8, 6, 0):
        file = tmp_path / str(days)
        file.write_text("{}")
        written = (NOW - timedelta(days=days)).timestamp()
        os.utime(file, (written, written))
    return tmp_path


def submitted(database: Database, days_ago: int, state: str) -> None:
    """Add a task of an age, in a state."""
    with database.transaction() as connection:
        connection.execute(
            """
            INSERT INTO tasks (name, owner, vo, state, priority, spec, source, sandbox, created_at)
            VALUES ('t', 'me', 'local', %s, 0, '{}', '', '[]', %s)
            """,
            [state, NOW - timedelta(days=days_ago)],
        )


def left(results: Path) -> list[int]:
    return sorted(int(file.name) for file in results.iterdir())


def test_results_of_flow_runs_that_ended_more_than_a_week_ago_go(database: Database, results: Path) -> None:
    submitted(database, 30, "done")
    submitted(database, 1, "running")
    assert remove_old_results(database, results, NOW) == 3
    assert left(results) == [0, 6]
    assert remove_old_results(database, results, NOW) == 0


@pytest.mark.parametrize("state", ["submitted", "running", "merging"])
def test_results_of_an_open_task_stay_however_old_they_are(database: Database, results: Path, state: str) -> None:
    submitted(database, 30, state)
    assert remove_old_results(database, results, NOW) == 1
    assert left(results) == [0, 6, 8, 20]


def test_where_no_flow_ran_yet_there_is_nothing_to_do(database: Database, tmp_path: Path) -> None:
    assert remove_old_results(database, tmp_path / "none", NOW) == 0


def test_the_endpoint_does_it_by_itself(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "_TIDY_SECONDS", 0.05)
    with run_endpoint(load_settings(tmp_path), database_url) as endpoint:
        endpoint.home.flow_results.mkdir()
        old, new = (endpoint.home.flow_results / name for name in ("old", "new"))
        new.touch()
        old.touch()
        os.utime(old, (0, 0))
        assert wait_until(lambda: not old.exists(), 10)
        assert new.exists()
