# SPDX-License-Identifier: Apache-2.0
"""Demands and tallies: a claim, and a count of jobs, cost the same however many jobs there are."""

from alembic import op

revision = "0002"
down_revision = "0001"

DEMAND = "task_id, stage, priority, cores, memory_mb, disk_mb, wall_seconds"

TABLES = [
    """
    CREATE TABLE demands (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        task_id bigint NOT NULL REFERENCES tasks ON DELETE CASCADE,
        stage text NOT NULL,
        priority integer NOT NULL,
        cores integer NOT NULL,
        memory_mb integer NOT NULL,
        disk_mb integer NOT NULL,
        wall_seconds integer NOT NULL,
        avoid_sites text[] NOT NULL DEFAULT '{}',
        avoid_nodes text[] NOT NULL DEFAULT '{}',
        sites text[],
        brokerage jsonb,
        brokered_at timestamptz,
        UNIQUE (task_id, stage, priority, cores, memory_mb, disk_mb, wall_seconds, avoid_sites, avoid_nodes)
    )""",
    """
    CREATE TABLE tally (
        demand_id bigint NOT NULL REFERENCES demands ON DELETE CASCADE,
        state text NOT NULL,
        site text,
        node text,
        reason_code text,
        exit_code integer,
        n bigint NOT NULL,
        UNIQUE NULLS NOT DISTINCT (demand_id, state, site, node, reason_code, exit_code)
    )""",
    "CREATE INDEX tally_open ON tally (demand_id) WHERE state NOT IN ('done', 'failed', 'cancelled')",
    # Written by every statement that moves jobs, folded into `tally` now and then: nobody waits for a counter's row.
    """
    CREATE TABLE tally_deltas (
        demand_id bigint NOT NULL,
        state text NOT NULL,
        site text,
        node text,
        reason_code text,
        exit_code integer,
        n integer NOT NULL
    )""",
]

MOVED = [
    f"""INSERT INTO demands ({DEMAND}) SELECT DISTINCT {DEMAND} FROM jobs""",
    # Where they may run is worked out again.
    "ALTER TABLE jobs ADD COLUMN demand_id bigint REFERENCES demands",
    "DROP TRIGGER log_jobs ON jobs",
    f"UPDATE jobs j SET demand_id = d.id FROM demands d WHERE ({', '.join('j.' + c for c in DEMAND.split(', '))}) "
    f"= ({', '.join('d.' + c for c in DEMAND.split(', '))})",
    "ALTER TABLE jobs ALTER COLUMN demand_id SET NOT NULL",
    *(
        f"ALTER TABLE jobs DROP COLUMN {column}"
        for column in ("priority", "cores", "memory_mb", "disk_mb", "wall_seconds", "pinned_site", "retries")
    ),
    """INSERT INTO tally (demand_id, state, site, node, reason_code, exit_code, n)
        SELECT demand_id, state, site, CASE WHEN state = 'failed' THEN node END,
            CASE WHEN state = 'failed' THEN reason_code END, CASE WHEN state = 'failed' THEN exit_code END, count(*)
        FROM jobs GROUP BY 1, 2, 3, 4, 5, 6""",
    """ALTER TABLE tasks ADD COLUMN "group" text NOT NULL DEFAULT ''""",
]

INDEXES = [
    "DROP INDEX IF EXISTS jobs_ready, jobs_waiting, jobs_open, jobs_failed",
    "CREATE INDEX jobs_ready ON jobs (demand_id, id) WHERE state = 'ready'",
    "CREATE INDEX jobs_waiting ON jobs (demand_id, id) WHERE state = 'waiting'",
    "CREATE INDEX jobs_delayed ON jobs (not_before) WHERE state = 'waiting' AND not_before IS NOT NULL",
    """CREATE INDEX jobs_active ON jobs (demand_id, id)
        WHERE state IN ('claimed', 'running', 'verifying', 'transferring')""",
    "CREATE INDEX jobs_done ON jobs (demand_id, id) WHERE state = 'done'",
    "CREATE INDEX jobs_unsuccessful ON jobs (demand_id, id) WHERE state IN ('failed', 'cancelled')",
    # A queue of a million loses its head job by job: what is dead must not be walked over again and again.
    "ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)",
    "ALTER TABLE attempts SET (autovacuum_vacuum_scale_factor = 0.05)",
    "ALTER TABLE tally_deltas SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)",
    # A heartbeat changes no indexed column, so it stays on its page when that has room.
    "ALTER TABLE pilots SET (fillfactor = 60)",
]

EVENTS = [
    "ALTER TABLE events ADD COLUMN job_id bigint",
    "UPDATE events SET job_id = subject::bigint WHERE kind = 'job'",
    "UPDATE events e SET job_id = a.job_id FROM attempts a WHERE e.kind = 'attempt' AND a.id = e.subject::bigint",
    "DROP INDEX events_of_task, events_of_subject",
    # Every move writes one: one tree is kept up for each, and blocks of neighbours do for the rest.
    "ALTER TABLE events DROP CONSTRAINT events_pkey",
    "CREATE INDEX events_in_order ON events USING brin (id) WITH (pages_per_range = 32)",
    "CREATE INDEX events_of_task ON events USING brin (task_id) WITH (pages_per_range = 32)",
    "CREATE INDEX events_of_job ON events (job_id) WHERE job_id IS NOT NULL",
    "CREATE INDEX events_of_others ON events (kind, subject) WHERE job_id IS NULL",
]

COUNTED = """demand_id, state, site, CASE WHEN state = 'failed' THEN node END AS node,
                CASE WHEN state = 'failed' THEN reason_code END AS reason_code,
                CASE WHEN state = 'failed' THEN exit_code END AS exit_code"""


def _logger(table: str, kind: str, task_id: str, job_id: str, *, counted: bool = False) -> list[str]:
    """One statement-level trigger: every row whose state changed becomes events, whoever changed it.

    `glideflow.via` names a state that the statement's rows passed through, which makes two events of one update.
    """
    tally = f"""
            INSERT INTO tally_deltas (demand_id, state, site, node, reason_code, exit_code, n)
            SELECT demand_id, state, site, node, reason_code, exit_code, sum(n) FROM (
                SELECT {COUNTED}, -1 AS n FROM old_rows UNION ALL SELECT {COUNTED}, 1 FROM new_rows
            ) counted GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(n) <> 0;"""
    return [
        f"""
        CREATE OR REPLACE FUNCTION log_{table}() RETURNS trigger LANGUAGE plpgsql AS $body$
        DECLARE via text := coalesce(current_setting('glideflow.via', true), '');
        BEGIN
            INSERT INTO events (kind, subject, task_id, job_id, old_state, new_state, reason_code, reason_text,
                reason_source)
            SELECT '{kind}', n.id::text, {task_id}, {job_id}, step.old_state, step.new_state, n.reason_code,
                n.reason_text, n.reason_source
            FROM new_rows n JOIN old_rows o ON o.id = n.id
            CROSS JOIN LATERAL (
                SELECT 1 AS at, o.state AS old_state, n.state AS new_state WHERE via IN ('', o.state, n.state)
                UNION ALL SELECT 1, o.state, via WHERE via NOT IN ('', o.state, n.state)
                UNION ALL SELECT 2, via, n.state WHERE via NOT IN ('', o.state, n.state)
            ) step
            WHERE o.state <> n.state ORDER BY n.id, step.at;{tally if counted else ""}
            RETURN NULL;
        END $body$""",
        f"DROP TRIGGER IF EXISTS log_{table} ON {table}",
        f"""
        CREATE TRIGGER log_{table} AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
            FOR EACH STATEMENT EXECUTE FUNCTION log_{table}()""",
    ]


def _counter(name: str, event: str, rows: str, sign: int) -> list[str]:
    """Count the jobs that appear or disappear."""
    return [
        f"""
        CREATE FUNCTION count_{name}_jobs() RETURNS trigger LANGUAGE plpgsql AS $body$
        BEGIN
            INSERT INTO tally_deltas (demand_id, state, site, node, reason_code, exit_code, n)
            SELECT {COUNTED}, {sign} * count(*) FROM changed GROUP BY 1, 2, 3, 4, 5, 6;
            RETURN NULL;
        END $body$""",
        f"""
        CREATE TRIGGER count_{name}_jobs AFTER {event} ON jobs REFERENCING {rows} TABLE AS changed
            FOR EACH STATEMENT EXECUTE FUNCTION count_{name}_jobs()""",
    ]


def upgrade() -> None:
    """Group the jobs by what they ask for, and count them."""
    for statement in (*TABLES, *MOVED, *INDEXES, *EVENTS):
        op.execute(statement)
    for statement in (
        *_logger("tasks", "task", "n.id", "NULL"),
        *_logger("jobs", "job", "n.task_id", "n.id", counted=True),
        *_logger("attempts", "attempt", "n.task_id", "n.job_id"),
        *_logger("pilots", "pilot", "NULL", "NULL"),
        *_counter("new", "INSERT", "NEW", 1),
        *_counter("deleted", "DELETE", "OLD", -1),
    ):
        op.execute(statement)
