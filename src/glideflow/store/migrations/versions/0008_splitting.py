# SPDX-License-Identifier: Apache-2.0
"""Splitting in batches: what a task's input comes to, how far its jobs are written, what scouts found, and parents."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = [
    """
    ALTER TABLE tasks
        ADD COLUMN extent jsonb,
        ADD COLUMN jobs_written integer NOT NULL DEFAULT 0,
        ADD COLUMN next_file integer NOT NULL DEFAULT 0,
        ADD COLUMN next_event bigint NOT NULL DEFAULT 0,
        ADD COLUMN scouts integer NOT NULL DEFAULT 0,
        ADD COLUMN decision jsonb,
        ADD COLUMN waits boolean NOT NULL DEFAULT false""",
    # Until now, all jobs of a task were written at once.
    "UPDATE tasks SET jobs_written = jobs_total WHERE jobs_total IS NOT NULL",
    "CREATE INDEX tasks_unwritten ON tasks (id) WHERE jobs_written < jobs_total",
    """
    CREATE TABLE task_parents (
        task_id bigint NOT NULL REFERENCES tasks ON DELETE CASCADE,
        parent_id bigint NOT NULL REFERENCES tasks ON DELETE CASCADE,
        PRIMARY KEY (task_id, parent_id)
    )""",
    "CREATE INDEX task_parents_by_parent ON task_parents (parent_id)",
]


def upgrade() -> None:
    """Add the columns and the table."""
    for statement in STATEMENTS:
        op.execute(statement)
