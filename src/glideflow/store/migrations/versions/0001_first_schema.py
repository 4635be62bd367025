# SPDX-License-Identifier: Apache-2.0
"""First schema: tasks, jobs, attempts, pilots, files, events and the outbox."""

from alembic import op

revision = "0001"
down_revision = None

REASON = "reason_code text, reason_text text, reason_source text"

TABLES = [
    f"""
    CREATE TABLE tasks (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL,
        owner text NOT NULL,
        vo text NOT NULL,
        state text NOT NULL DEFAULT 'submitted',
        paused boolean NOT NULL DEFAULT false,
        priority integer NOT NULL,
        spec jsonb NOT NULL,
        source text NOT NULL,
        sandbox jsonb NOT NULL,
        jobs_total integer,
        flow_run_id text,
        flow_generation integer NOT NULL DEFAULT 1,
        {REASON},
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz
    )""",
    "CREATE INDEX tasks_open ON tasks (id) WHERE state NOT IN ('done', 'partly_done', 'failed', 'cancelled')",
    "CREATE INDEX tasks_by_name ON tasks (name, id DESC)",
    """
    CREATE TABLE task_inputs (
        task_id bigint NOT NULL REFERENCES tasks ON DELETE CASCADE,
        position integer NOT NULL,
        name text NOT NULL,
        url text NOT NULL,
        size_bytes bigint,
        sha256 text,
        events bigint,
        PRIMARY KEY (task_id, position)
    )""",
    f"""
    CREATE TABLE jobs (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        task_id bigint NOT NULL REFERENCES tasks ON DELETE CASCADE,
        stage text NOT NULL,
        index integer NOT NULL,
        state text NOT NULL,
        priority integer NOT NULL,
        slices jsonb NOT NULL,
        cores integer NOT NULL,
        memory_mb integer NOT NULL,
        disk_mb integer NOT NULL,
        wall_seconds integer NOT NULL,
        pinned_site text,
        retries integer NOT NULL,
        failures integer NOT NULL DEFAULT 0,
        attempts integer NOT NULL DEFAULT 0,
        not_before timestamptz,
        site text,
        node text,
        exit_code integer,
        {REASON},
        created_at timestamptz NOT NULL DEFAULT now(),
        started_at timestamptz,
        ended_at timestamptz,
        UNIQUE (task_id, stage, index)
    )""",
    # The claim reads this one from its start: its cost does not grow with the queue.
    "CREATE INDEX jobs_ready ON jobs (priority DESC, id) WHERE state = 'ready'",
    "CREATE INDEX jobs_waiting ON jobs (not_before) WHERE state = 'waiting'",
    "CREATE INDEX jobs_open ON jobs (task_id, stage) WHERE state NOT IN ('done', 'failed', 'cancelled')",
    "CREATE INDEX jobs_failed ON jobs (task_id) WHERE state = 'failed'",
    f"""
    CREATE TABLE pilots (
        id text PRIMARY KEY,
        site text NOT NULL,
        state text NOT NULL DEFAULT 'planned',
        batch_id text,
        secret_hash text NOT NULL,
        key_hash text,
        node text,
        version text,
        python text,
        cores integer,
        memory_mb integer,
        disk_mb integer,
        sequence bigint NOT NULL DEFAULT 0,
        holding integer NOT NULL DEFAULT 0,
        planned_at timestamptz NOT NULL DEFAULT now(),
        registered_at timestamptz,
        last_seen_at timestamptz,
        ended_at timestamptz,
        log text,
        {REASON}
    )""",
    """CREATE INDEX pilots_open ON pilots (site, state)
        WHERE state NOT IN ('ended', 'failed', 'removed', 'vanished')""",
    "CREATE INDEX pilots_by_end ON pilots (site, ended_at) WHERE ended_at IS NOT NULL",
    f"""
    CREATE TABLE attempts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
        task_id bigint NOT NULL,
        pilot_id text NOT NULL REFERENCES pilots,
        number integer NOT NULL,
        state text NOT NULL DEFAULT 'claimed',
        sequence integer NOT NULL DEFAULT 0,
        exit_code integer,
        signal integer,
        usage jsonb,
        claimed_at timestamptz NOT NULL DEFAULT now(),
        started_at timestamptz,
        ended_at timestamptz,
        {REASON},
        UNIQUE (job_id, number)
    )""",
    "CREATE INDEX attempts_open ON attempts (pilot_id) WHERE state IN ('claimed', 'running', 'reported')",
    """
    CREATE TABLE datasets (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        owner text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )""",
    """
    CREATE TABLE files (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        dataset_id bigint NOT NULL REFERENCES datasets,
        task_id bigint NOT NULL REFERENCES tasks,
        job_id bigint NOT NULL REFERENCES jobs,
        attempt_id bigint NOT NULL REFERENCES attempts,
        output text NOT NULL,
        name text NOT NULL,
        url text NOT NULL,
        size_bytes bigint NOT NULL,
        sha256 text NOT NULL,
        events bigint,
        created_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (job_id, output)
    )""",
    "CREATE INDEX files_of_dataset ON files (dataset_id, task_id, id)",
    "CREATE INDEX files_of_task ON files (task_id, output, job_id)",
    """
    CREATE TABLE stored_objects (
        path text PRIMARY KEY,
        size_bytes bigint NOT NULL,
        sha256 text NOT NULL,
        adler32 text NOT NULL,
        lines bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )""",
    """
    CREATE TABLE events (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        kind text NOT NULL,
        subject text NOT NULL,
        task_id bigint,
        old_state text NOT NULL,
        new_state text NOT NULL,
        reason_code text,
        reason_text text,
        reason_source text
    )""",
    "CREATE INDEX events_of_task ON events (task_id, id)",
    "CREATE INDEX events_of_subject ON events (kind, subject, id)",
    """
    CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        task_id bigint NOT NULL REFERENCES tasks ON DELETE CASCADE,
        action text NOT NULL CHECK (action IN ('start', 'resume', 'cancel')),
        created_at timestamptz NOT NULL DEFAULT now(),
        tries integer NOT NULL DEFAULT 0,
        last_error text
    )""",
    "CREATE UNIQUE INDEX outbox_once ON outbox (task_id, action)",
    """
    CREATE TABLE site_decisions (
        site text PRIMARY KEY,
        at timestamptz NOT NULL,
        pilots integer NOT NULL,
        reasons jsonb NOT NULL
    )""",
]


def _event_trigger(table: str, kind: str, task_id: str) -> list[str]:
    """One statement-level trigger: every row whose state changed becomes one event, whoever changed it."""
    return [
        f"""
        CREATE FUNCTION log_{table}() RETURNS trigger LANGUAGE plpgsql AS $body$
        BEGIN
            INSERT INTO events (kind, subject, task_id, old_state, new_state, reason_code, reason_text, reason_source)
            SELECT '{kind}', n.id::text, {task_id}, o.state, n.state, n.reason_code, n.reason_text, n.reason_source
            FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE o.state <> n.state ORDER BY n.id;
            RETURN NULL;
        END $body$""",
        f"""
        CREATE TRIGGER log_{table} AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
            FOR EACH STATEMENT EXECUTE FUNCTION log_{table}()""",
    ]


def upgrade() -> None:
    """Create everything."""
    for statement in TABLES:
        op.execute(statement)
    for table, kind, task_id in (
        ("tasks", "task", "n.id"),
        ("jobs", "job", "n.task_id"),
        ("attempts", "attempt", "n.task_id"),
        ("pilots", "pilot", "NULL"),
    ):
        for statement in _event_trigger(table, kind, task_id):
            op.execute(statement)
