# SPDX-License-Identifier: Apache-2.0
"""What decides about the sites of a task's jobs: the input of the largest one, and where the input is."""

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS = [
    """
    ALTER TABLE tasks
        ADD COLUMN job_input_mb integer,
        ADD COLUMN input_near jsonb NOT NULL DEFAULT '{}'""",
    # The reasons are a list now, in the order of the sites' ranks: they are worked out again.
    "UPDATE demands SET sites = NULL, brokerage = NULL, brokered_at = NULL",
]


def upgrade() -> None:
    """Add the columns."""
    for statement in STATEMENTS:
        op.execute(statement)
