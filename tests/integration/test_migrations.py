# SPDX-License-Identifier: Apache-2.0
"""Each revision of the schema is reached from the one before with data in it."""

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from glideflow.domain.identifiers import DemandId, JobId
from glideflow.domain.shares import ShareConfig
from glideflow.domain.site import Site
from glideflow.services.brokerage import broker_new
from glideflow.services.shares import amounts, count_usage
from glideflow.store import attempts, demands, jobs, tally
from glideflow.store.engine import Database
from glideflow.store.migration import migrate

OLD_JOBS = """
    INSERT INTO jobs (task_id, stage, index, state, priority, slices, cores, memory_mb, disk_mb, wall_seconds,
        pinned_site, retries, site, node, exit_code, reason_code, reason_text, reason_source)
    SELECT 1, 'main', n, CASE n % 4 WHEN 0 THEN 'ready' WHEN 1 THEN 'done' WHEN 2 THEN 'failed' ELSE 'ready' END, 5,
        '[]', CASE WHEN n < 10 THEN 1 ELSE 2 END, 100, 100, 60, NULL, 2, 'here', 'n1', n % 3,
        'payload_exit', 'no', 'pilot'
    FROM generate_series(0, 19) n"""


def execute(url: str, *statements: str) -> list[dict[str, Any]]:
    """Run statements and return the rows of the last one."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_jobs_of_the_first_schema_get_demands_and_are_counted(empty_database_url: str) -> None:
    migrate(empty_database_url, "0001")
    execute(
        empty_database_url,
        """INSERT INTO tasks (name, owner, vo, priority, spec, source, sandbox, state)
            VALUES ('old', 'ada', 'local', 5, '{"retries": 2}', '', '[]', 'running')""",
        OLD_JOBS,
        "UPDATE jobs SET state = 'claimed' WHERE index = 0",
        "INSERT INTO pilots (id, site, secret_hash) VALUES ('p', 'here', '')",
        "INSERT INTO attempts (job_id, task_id, pilot_id, number) SELECT id, 1, 'p', 1 FROM jobs WHERE index = 0",
        "UPDATE attempts SET state = 'running'",
    )
    migrate(empty_database_url)
    database = Database(empty_database_url, connections=1)
    with database.transaction() as connection:
        small, large = demands.of_task(connection, 1)  # type: ignore[arg-type]
        assert [(row["cores"], row["priority"], row["sites"]) for row in (small, large)] == [(1, 5, None), (2, 5, None)]
        assert tally.by_state(connection, [1], stage=jobs.MAIN) == {
            1: {"ready": 9, "claimed": 1, "done": 5, "failed": 5}
        }
        failed = tally.failures(connection, 1)  # type: ignore[arg-type]
        assert sum(row["count"] for row in failed) == 5
        assert {row["text"] for row in failed} == {"no"}
        by_job = connection.execute("SELECT kind, job_id FROM events ORDER BY id").fetchall()
        claimed = jobs.at_index(connection, 1, "main", 0)  # type: ignore[arg-type]
        assert claimed is not None
        assert [(row["kind"], row["job_id"]) for row in by_job] == [("job", claimed["id"]), ("attempt", claimed["id"])]
    database.close()


def test_demands_from_before_are_not_paused_and_stay_unique(empty_database_url: str) -> None:
    migrate(empty_database_url, "0002")
    again = "INSERT INTO demands (task_id, stage, priority, cores, memory_mb, disk_mb, wall_seconds{}) VALUES {}"
    execute(
        empty_database_url,
        """INSERT INTO tasks (name, owner, vo, priority, spec, source, sandbox, state)
            VALUES ('old', 'ada', 'local', 5, '{"retries": 2}', '', '[]', 'running')""",
        again.format("", "(1, 'main', 5, 1, 1, 1, 1)"),
        "INSERT INTO pilots (id, site, secret_hash, holding) VALUES ('p', 'here', '', 3)",
    )
    migrate(empty_database_url)
    (demand,) = execute(empty_database_url, "SELECT paused FROM demands")
    assert demand == {"paused": False}
    (pilot,) = execute(empty_database_url, "SELECT holding FROM pilots")
    assert pilot == {"holding": []}
    execute(empty_database_url, again.format(", paused", "(1, 'main', 5, 1, 1, 1, 1, true)"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(empty_database_url, again.format("", "(1, 'main', 5, 1, 1, 1, 1)"))


def test_tasks_whose_jobs_were_written_at_once_have_no_unwritten_ones(empty_database_url: str) -> None:
    migrate(empty_database_url, "0002")
    execute(
        empty_database_url,
        """INSERT INTO tasks (name, owner, vo, priority, spec, source, sandbox, state, jobs_total)
            VALUES ('planned', 'ada', 'local', 5, '{}', '', '[]', 'running', 3),
                ('new', 'ada', 'local', 5, '{}', '', '[]', 'submitted', NULL)""",
    )
    migrate(empty_database_url)
    found = execute(empty_database_url, "SELECT jobs_total, jobs_written, waits FROM tasks ORDER BY id")
    assert found == [
        {"jobs_total": 3, "jobs_written": 3, "waits": False},
        {"jobs_total": None, "jobs_written": 0, "waits": False},
    ]
    assert execute(empty_database_url, "SELECT * FROM events") == []


def test_attempts_that_ended_before_there_were_rules_have_none(empty_database_url: str) -> None:
    migrate(empty_database_url, "0008")
    execute(
        empty_database_url,
        """INSERT INTO tasks (name, owner, vo, priority, spec, source, sandbox, state)
            VALUES ('old', 'ada', 'local', 5, '{"retries": 2}', '', '[]', 'running')""",
        """INSERT INTO demands (task_id, stage, priority, cores, memory_mb, disk_mb, wall_seconds)
            VALUES (1, 'main', 5, 1, 100, 100, 60)""",
        """INSERT INTO jobs (task_id, demand_id, stage, index, state, slices, failures)
            VALUES (1, 1, 'main', 0, 'waiting', '[]', 1)""",
        "INSERT INTO pilots (id, site, secret_hash) VALUES ('p', 'here', '')",
        "INSERT INTO attempts (job_id, task_id, pilot_id, number, state) VALUES (1, 1, 'p', 1, 'failed')",
    )
    migrate(empty_database_url)
    database = Database(empty_database_url, connections=1)
    with database.transaction() as connection:
        (attempt,) = attempts.of_job(connection, JobId(1))
        job = jobs.get(connection, JobId(1))
    database.close()
    assert (attempt["rule"], attempt["verdict"]) == (None, None)
    assert job is not None
    assert (job["failures"], job["rule_counts"]) == (1, None)


def test_demands_with_reasons_of_the_old_form_are_brokered_again_and_use_is_counted_from_now(
    empty_database_url: str,
) -> None:
    migrate(empty_database_url, "0002")
    execute(
        empty_database_url,
        """INSERT INTO tasks (name, owner, vo, priority, spec, source, sandbox, state)
            VALUES ('old', 'ada', 'local', 5, '{"retries": 2, "site": "here"}', '', '[]', 'running')""",
        """INSERT INTO demands (task_id, stage, priority, cores, memory_mb, disk_mb, wall_seconds, sites, brokerage)
            VALUES (1, 'main', 5, 1, 100, 100, 60, '{gone}', '{"gone": "it fits"}')""",
        "INSERT INTO jobs (task_id, demand_id, stage, index, state, slices) VALUES (1, 1, 'main', 0, 'ready', '[]')",
    )
    migrate(empty_database_url)
    assert execute(empty_database_url, "SELECT sites, brokerage FROM demands") == [{"sites": None, "brokerage": None}]
    assert execute(empty_database_url, "SELECT job_input_mb, input_near FROM tasks") == [
        {"job_input_mb": None, "input_near": {}}
    ]
    sites = {name: Site.model_validate({"name": name}) for name in ("here", "there")}
    database = Database(empty_database_url, connections=2)
    assert broker_new(database, sites) == 1
    with database.transaction() as connection:
        assert demands.brokerage(connection, DemandId(1))["sites"] == ["here"]
        connection.execute("UPDATE jobs SET state = 'claimed'")
        connection.execute("UPDATE usage_clock SET at = now() - interval '100 seconds'")
    assert count_usage(database, ShareConfig())
    with database.transaction() as connection:
        (used,) = amounts(connection, ShareConfig()).values()
    assert used == pytest.approx(100, rel=0.05)
    database.close()
