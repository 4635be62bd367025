# SPDX-License-Identifier: Apache-2.0
"""What VOs, groups and users have used, for fair shares."""

from alembic import op

revision = "0006"
down_revision = "0002"

STATEMENTS = [
    """
    CREATE TABLE usage (
        vo text NOT NULL,
        "group" text NOT NULL,
        owner text NOT NULL,
        core_seconds double precision NOT NULL,
        at timestamptz NOT NULL,
        PRIMARY KEY (vo, "group", owner)
    )""",
    # One row, which whoever counts locks: until when it was counted.
    "CREATE TABLE usage_clock (at timestamptz NOT NULL)",
    "INSERT INTO usage_clock VALUES (now())",
]


def upgrade() -> None:
    """Make the tables; nothing is known of what was used before."""
    for statement in STATEMENTS:
        op.execute(statement)
