"""What each batch of signals was made from, and whether it could be made again.

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NAME = sa.String(200)
_TIME = sa.String(27)


def upgrade() -> None:
    """Create the two tables."""
    op.create_table(
        "batch_inputs",
        sa.Column("batch_id", _NAME, primary_key=True, nullable=False),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["signal_batches.batch_id"], name="fk_batch_inputs_batch_id"
        ),
    )
    op.create_table(
        "parity_checks",
        sa.Column("batch_id", _NAME, primary_key=True, nullable=False),
        sa.Column("checked_at", _TIME, primary_key=True, nullable=False),
        sa.Column("equal", sa.Boolean(), nullable=False),
        sa.Column("findings", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["signal_batches.batch_id"], name="fk_parity_checks_batch_id"
        ),
    )
