# SPDX-License-Identifier: Apache-2.0
"""Jobs can be paused, and a pilot's attempts are known by name: what it does not hold is seen."""

from alembic import op

revision = "0007"
down_revision = "0006"

KEY = "task_id, stage, priority, cores, memory_mb, disk_mb, wall_seconds, avoid_sites, avoid_nodes"


def upgrade() -> None:
    """Let a demand be paused, and keep which attempts a pilot holds instead of how many."""
    op.execute("ALTER TABLE demands ADD COLUMN paused boolean NOT NULL DEFAULT false")
    # The constraint of revision 0002 has no name of ours.
    op.execute(
        """
        DO $body$ DECLARE found text; BEGIN
            SELECT conname INTO STRICT found FROM pg_constraint WHERE conrelid = 'demands'::regclass AND contype = 'u';
            EXECUTE format('ALTER TABLE demands DROP CONSTRAINT %I', found);
        END $body$"""
    )
    op.execute(f"ALTER TABLE demands ADD CONSTRAINT demands_once UNIQUE ({KEY}, paused)")
    op.execute("ALTER TABLE pilots DROP COLUMN holding")
    op.execute("ALTER TABLE pilots ADD COLUMN holding bigint[] NOT NULL DEFAULT '{}'")
