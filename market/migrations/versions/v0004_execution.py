"""Orders that close by themselves, positions that changed without a trade, reconciliations.

Revision: 0004
Follows: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NAME = sa.String(200)
_TIME = sa.String(27)
_DECIMAL = sa.String(64)


def upgrade() -> None:
    """Add columns to the orders and create the two tables."""
    for column in (
        sa.Column("parent_id", _NAME, nullable=True),
        sa.Column("take_profit_usd", _DECIMAL, nullable=True),
        sa.Column("stop_loss_usd", _DECIMAL, nullable=True),
        sa.Column("planned_from", _DECIMAL, nullable=True),
        sa.Column("cancels", sa.Text(), nullable=False, server_default="[]"),
        sa.Column("extended_hours", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("orders", column)
    op.create_index("ix_orders_parent_id", "orders", ["parent_id"])
    op.create_table(
        "adjustments",
        sa.Column("adjustment_id", _NAME, primary_key=True, nullable=False),
        sa.Column("kind", _NAME, nullable=False),
        sa.Column("symbol", _NAME, nullable=False),
        sa.Column("quantity", _DECIMAL, nullable=False),
        sa.Column("cash_usd", _DECIMAL, nullable=False),
        sa.Column("effective_at", _TIME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )
    op.create_table(
        "reconciliations",
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("broker", _NAME, nullable=False),
        sa.Column("clean", sa.Boolean(), nullable=False),
        sa.Column("equity_usd", _DECIMAL, nullable=False),
        sa.Column("cash_usd", _DECIMAL, nullable=False),
        sa.Column("own_cash_flow_usd", _DECIMAL, nullable=False),
        sa.Column("findings", sa.Text(), nullable=False),
        sa.Column("positions", sa.Text(), nullable=False),
    )
