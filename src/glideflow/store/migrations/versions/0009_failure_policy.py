# SPDX-License-Identifier: Apache-2.0
"""Failure policies: each attempt keeps the rule that fired and what it said, each job how often its rules fired."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns; what ended before has no rule."""
    op.execute("ALTER TABLE attempts ADD COLUMN rule text, ADD COLUMN verdict text")
    # Null until a rule with a number of its own fires, which most jobs never see.
    op.execute("ALTER TABLE jobs ADD COLUMN rule_counts jsonb")
