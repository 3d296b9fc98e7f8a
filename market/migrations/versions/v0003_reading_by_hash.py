"""A consumer's cursor is the hash of a row: find it without looking at every row.

Revision: 0003
Follows: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index the hashes."""
    op.create_index("ix_signals_hash", "signals", ["hash"])
