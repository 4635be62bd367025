# SPDX-License-Identifier: Apache-2.0
"""Shares and limits on a real PostgreSQL: whose jobs are claimed, and what is counted of them."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glideflow.domain.identifiers import DemandId, PilotId
from glideflow.domain.identity import Identity
from glideflow.domain.matching import Offer
from glideflow.domain.shares import ShareConfig
from glideflow.domain.site import Site
from glideflow.domain.task import Submission, TaskSpec
from glideflow.services import planning
from glideflow.services.board import Board
from glideflow.services.claims import claim_jobs
from glideflow.services.shares import amounts, count_usage
from glideflow.services.storage import Storage
from glideflow.services.submit import Place, submit
from glideflow.store import pilots
from glideflow.store.engine import Database

EQUAL = ShareConfig()
Add = Callable[..., None]
_pilots = itertools.count(1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, connections=3)
    with opened.transaction() as connection:
        # The template of all tests' databases was made some time ago.
        connection.execute("UPDATE usage_clock SET at = now()")
    yield opened
    opened.close()


@pytest.fixture
def add(database: Database, tmp_path: Path) -> Add:
    """Submit and plan a task of some user."""
    place = Place(
        database=database, storage=Storage(tmp_path / "s"), sandboxes=Storage(tmp_path / "x"),
        sites={"here": Site(name="here", cores=4)}, max_jobs=1000,
    )  # fmt: skip

    def add_task(owner: str, jobs: int, vo: str = "local", **more: object) -> None:
        document = {"schema_version": 1, "name": "demo", "command": "true", "inputs": {"jobs": jobs}, **more}
        submission = Submission(spec=TaskSpec.model_validate(document))
        planning.plan(place, submit(place, submission, Identity(method="test", subject=owner, vo=vo)))

    return add_task


def claim(database: Database, board: Board, number: int) -> list[dict[str, Any]]:
    pilot = PilotId(f"pilot-{next(_pilots)}")
    offer = Offer(
        pilot_id=pilot, site="here", node="n", want=number, cores=number * 4, memory_mb=10**6, disk_mb=10**6,
        seconds=90000,
    )  # fmt: skip
    with database.transaction() as connection:
        pilots.plan(connection, "here", {pilot: ""})
        return claim_jobs(connection, board, [offer])


def owners(claims: list[dict[str, Any]]) -> Counter[str]:
    return Counter(claim["demand"].leaf[2] for claim in claims)


def later(database: Database, seconds: float) -> None:
    """Let time pass for the usage."""
    with database.transaction() as connection:
        for table in ("usage", "usage_clock"):
            connection.execute(f"UPDATE {table} SET at = at - %s * interval '1 second'", [seconds])


def used_by(database: Database) -> dict[str, float]:
    with database.transaction() as connection:
        return {leaf[2]: amount for leaf, amount in amounts(connection, EQUAL).items()}


def test_users_get_jobs_by_their_shares_and_not_by_who_came_first(database: Database, add: Add) -> None:
    add("ada", 50)
    add("bob", 50)
    board = Board(ShareConfig.model_validate({"vos": {"local": {"users": {"bob": 3}}}}))
    assert owners(claim(database, board, 12)) == {"ada": 3, "bob": 9}
    assert owners(claim(database, board, 4)) == {"ada": 1, "bob": 3}


def test_another_endpoint_sees_what_runs(database: Database, add: Add) -> None:
    add("ada", 50)
    claim(database, Board(EQUAL), 10)
    add("bob", 50)
    assert owners(claim(database, Board(EQUAL), 12)) == {"bob": 11, "ada": 1}


def test_what_runs_is_counted_while_it_runs_and_forgotten_with_time(database: Database, add: Add) -> None:
    add("ada", 5, resources={"cores": 2})
    count_usage(database, EQUAL)
    assert used_by(database) == {}
    claim(database, Board(EQUAL), 3)
    later(database, 100)
    assert count_usage(database, EQUAL)
    assert not count_usage(database, EQUAL)
    assert used_by(database) == {"ada": pytest.approx(600, rel=0.02)}
    later(database, 50)
    count_usage(database, EQUAL)
    assert used_by(database) == {"ada": pytest.approx(900, rel=0.02)}
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET state = 'done' WHERE state = 'claimed'")
    later(database, EQUAL.half_life_hours * 3600)
    assert used_by(database) == {"ada": pytest.approx(450, rel=0.02)}
    count_usage(database, EQUAL)
    assert used_by(database) == {"ada": pytest.approx(450, rel=0.02)}


def test_a_long_time_without_a_count_is_not_taken_for_use(database: Database, add: Add) -> None:
    add("ada", 1)
    claim(database, Board(EQUAL), 1)
    later(database, 86_400)
    count_usage(database, EQUAL)
    assert used_by(database) == {"ada": pytest.approx(600, rel=0.02)}


def test_two_processes_count_the_same_time_once(database: Database, add: Add) -> None:
    add("ada", 1)
    claim(database, Board(EQUAL), 1)
    later(database, 100)
    with database.transaction() as connection:
        connection.execute("SELECT FROM usage_clock FOR UPDATE")
        assert not count_usage(database, EQUAL)
    assert count_usage(database, EQUAL)


def test_former_use_counts_in_the_standing(database: Database, add: Add) -> None:
    add("ada", 9)
    add("bob", 9)
    with database.transaction() as connection:
        connection.execute("INSERT INTO usage VALUES ('local', '', 'ada', 1e6, now())")
    assert owners(claim(database, Board(EQUAL), 4)) == {"bob": 4}


def test_limits_hold_and_an_ended_job_makes_room_at_once(database: Database, add: Add) -> None:
    add("ada", 20, max_running=2)
    add("bob", 20)
    board = Board(ShareConfig.model_validate({"limits": {"running_per_user": 5}}))
    claims = claim(database, board, 20)
    assert owners(claims) == {"ada": 2, "bob": 5}
    assert claim(database, board, 20) == []
    assert claim(database, Board(board.shares), 20) == []
    (his, *_) = [one for one in claims if one["demand"].leaf[2] == "bob"]
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET state = 'done' WHERE id = %s", [his["id"]])
        board.ended({DemandId(his["demand_id"]): 1})
    assert owners(claim(database, board, 20)) == {"bob": 1}


def test_an_urgent_task_is_served_before_all_shares(database: Database, add: Add) -> None:
    add("ada", 9)
    add("bob", 2, priority=950)
    with database.transaction() as connection:
        connection.execute("INSERT INTO usage VALUES ('local', '', 'bob', 1e6, now())")
    assert owners(claim(database, Board(EQUAL), 3)) == {"bob": 2, "ada": 1}


def test_a_group_of_the_task_file_is_a_leaf_of_its_own(database: Database, add: Add) -> None:
    add("ada", 9, group="higgs")
    add("ada", 9)
    board = Board(ShareConfig.model_validate({"vos": {"local": {"groups": {"higgs": {"share": 3}}}}}))
    found = Counter(one["demand"].leaf[1] for one in claim(database, board, 8))
    assert found == {"higgs": 6, "": 2}
