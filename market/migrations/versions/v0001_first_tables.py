"""The first tables: signals, engines, reports, orders, the audit log.

Revision: 0001
Follows: nothing

The columns are spelled out here and never derived from ``market.ledger_tables``: a version,
once released, does not change.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.String(200)
_TIME = sa.String(27)
_DECIMAL = sa.String(64)
_TEXT = sa.Text()
_INT = sa.BigInteger()
_FLOAT = sa.Float(53)

_CURRENT = """
CREATE VIEW signals_current AS
SELECT s.seq, s.id, s.batch_id, s.revision, s.ts_emit, s.as_of, s.valid_until, s.symbol,
       s.engine, s.direction, s.confidence, s.horizon, s.expected_return_bps, s.targets,
       s.stops, s.regime, s.explain, s.features, s.model_version, s.data_hash,
       s.config_hash, s.prev_hash, s.hash
FROM signals AS s
JOIN signal_batches AS b ON b.batch_id = s.batch_id
WHERE b.complete
  AND NOT EXISTS (
      SELECT 1 FROM signal_batches AS later
      WHERE later.run = b.run AND later.as_of = b.as_of
        AND later.revision > b.revision AND later.complete)
  AND NOT EXISTS (
      SELECT 1 FROM signals AS later
      WHERE later.as_of = s.as_of AND later.symbol = s.symbol
        AND later.horizon = s.horizon AND later.engine = s.engine
        AND later.revision > s.revision)
"""


def upgrade() -> None:
    """Create every table and the view that consumers read."""
    _create_audit_log_and_engines()
    _create_regimes_and_trading_state()
    _create_plans_and_signals()
    _create_orders_and_signal_outcomes()
    _create_fills()
    op.execute(_CURRENT)


def _create_audit_log_and_engines() -> None:
    op.create_table(
        "audit_log",
        sa.Column("seq", _INT, autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("subject", _NAME, nullable=False),
        sa.Column("key", _NAME, nullable=False),
        sa.Column("event", _NAME, nullable=False),
        sa.Column("detail", _TEXT, nullable=False),
        sa.Column("prev_hash", _NAME, nullable=False),
        sa.Column("hash", _NAME, nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_audit_log_key", "audit_log", ["subject", "key"])
    op.create_table(
        "backtests",
        sa.Column("backtest_id", _NAME, nullable=False),
        sa.Column("as_of", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("start_session", _NAME, nullable=False),
        sa.Column("end_session", _NAME, nullable=False),
        sa.Column("horizons", _TEXT, nullable=False),
        sa.Column("metrics", _TEXT, nullable=False),
        sa.Column("data_hash", _NAME, nullable=False),
        sa.Column("config_hash", _NAME, nullable=False),
        sa.Column("tear_sheet", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("backtest_id"),
    )
    op.create_table(
        "engine_weights",
        sa.Column("engine", _NAME, nullable=False),
        sa.Column("regime", _NAME, nullable=False),
        sa.Column("horizon", _NAME, nullable=False),
        sa.Column("as_of", _TIME, nullable=False),
        sa.Column("weight", _FLOAT, nullable=False),
        sa.Column("evidence", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("engine", "regime", "horizon", "as_of"),
    )
    op.create_table(
        "engines",
        sa.Column("engine", _NAME, nullable=False),
        sa.Column("horizon", _NAME, nullable=False),
        sa.Column("model_version", _NAME, nullable=False),
        sa.Column("kind", _NAME, nullable=False),
        sa.Column("family", _NAME, nullable=False),
        sa.Column("as_of", _TIME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("data_hash", _NAME, nullable=False),
        sa.Column("config_hash", _NAME, nullable=False),
        sa.Column("metrics", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("engine", "horizon", "model_version"),
    )


def _create_regimes_and_trading_state() -> None:
    op.create_table(
        "regimes",
        sa.Column("as_of", _TIME, nullable=False),
        sa.Column("regime", _NAME, nullable=False),
        sa.Column("probabilities", _TEXT, nullable=False),
        sa.Column("model_version", _NAME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("as_of"),
    )
    op.create_table(
        "reports",
        sa.Column("report_id", _NAME, nullable=False),
        sa.Column("run", _NAME, nullable=False),
        sa.Column("as_of", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("path", _TEXT, nullable=False),
        sa.Column("content_hash", _NAME, nullable=False),
        sa.Column("summary", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("report_id"),
    )
    op.create_table(
        "signal_batches",
        sa.Column("seq", _INT, autoincrement=False, nullable=False),
        sa.Column("batch_id", _NAME, nullable=False),
        sa.Column("run", _NAME, nullable=False),
        sa.Column("as_of", _TIME, nullable=False),
        sa.Column("revision", _INT, nullable=False),
        sa.Column("scheduled_for", _TIME, nullable=False),
        sa.Column("ts_emit", _TIME, nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("rows", _INT, nullable=False),
        sa.Column("first_seq", _INT, nullable=False),
        sa.Column("last_seq", _INT, nullable=False),
        sa.Column("content_hash", _NAME, nullable=False),
        sa.Column("head_hash", _NAME, nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("batch_id", name="uq_signal_batches_batch_id"),
        sa.UniqueConstraint("run", "as_of", "revision", name="uq_signal_batches_revision"),
    )
    op.create_table(
        "trading_state",
        sa.Column("seq", _INT, autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("state", _NAME, nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )


def _create_plans_and_signals() -> None:
    op.create_table(
        "plans",
        sa.Column("plan_id", _NAME, nullable=False),
        sa.Column("batch_id", _NAME, nullable=False),
        sa.Column("as_of", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("broker", _NAME, nullable=False),
        sa.Column("decisions", _TEXT, nullable=False),
        sa.Column("skipped", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["signal_batches.batch_id"], name="fk_plans_batch_id"
        ),
        sa.PrimaryKeyConstraint("plan_id"),
        sa.UniqueConstraint("batch_id", name="uq_plans_batch_id"),
    )
    op.create_table(
        "signals",
        sa.Column("seq", _INT, autoincrement=False, nullable=False),
        sa.Column("id", _NAME, nullable=False),
        sa.Column("batch_id", _NAME, nullable=False),
        sa.Column("revision", _INT, nullable=False),
        sa.Column("ts_emit", _TIME, nullable=False),
        sa.Column("as_of", _TIME, nullable=False),
        sa.Column("valid_until", _TIME, nullable=False),
        sa.Column("symbol", _NAME, nullable=False),
        sa.Column("engine", _NAME, nullable=False),
        sa.Column("direction", _NAME, nullable=False),
        sa.Column("confidence", _FLOAT, nullable=False),
        sa.Column("horizon", _NAME, nullable=False),
        sa.Column("expected_return_bps", _FLOAT, nullable=False),
        sa.Column("targets", _TEXT, nullable=False),
        sa.Column("stops", _TEXT, nullable=False),
        sa.Column("regime", _NAME, nullable=False),
        sa.Column("explain", _TEXT, nullable=False),
        sa.Column("features", _TEXT, nullable=False),
        sa.Column("model_version", _NAME, nullable=False),
        sa.Column("data_hash", _NAME, nullable=False),
        sa.Column("config_hash", _NAME, nullable=False),
        sa.Column("prev_hash", _NAME, nullable=False),
        sa.Column("hash", _NAME, nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["signal_batches.batch_id"], name="fk_signals_batch_id"
        ),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint(
            "as_of", "symbol", "horizon", "engine", "revision", name="uq_signals_revision"
        ),
        sa.UniqueConstraint("id", name="uq_signals_id"),
    )
    op.create_index("ix_signals_batch_id", "signals", ["batch_id"])
    op.create_index("ix_signals_symbol", "signals", ["symbol", "as_of"])
    op.create_index("ix_signals_valid_until", "signals", ["valid_until"])


def _create_orders_and_signal_outcomes() -> None:
    op.create_table(
        "orders",
        sa.Column("client_order_id", _NAME, nullable=False),
        sa.Column("plan_id", _NAME, nullable=False),
        sa.Column("place", _INT, nullable=False),
        sa.Column("symbol", _NAME, nullable=False),
        sa.Column("side", _NAME, nullable=False),
        sa.Column("leg", _INT, nullable=False),
        sa.Column("attempt", _INT, nullable=False),
        sa.Column("quantity", _DECIMAL, nullable=False),
        sa.Column("order_type", _NAME, nullable=False),
        sa.Column("time_in_force", _NAME, nullable=False),
        sa.Column("limit_price_usd", _DECIMAL, nullable=True),
        sa.Column("reference_price_usd", _DECIMAL, nullable=True),
        sa.Column("reason", _NAME, nullable=False),
        sa.Column("horizon", _NAME, nullable=True),
        sa.Column("valid_until", _TIME, nullable=True),
        sa.Column("target_price_usd", _DECIMAL, nullable=True),
        sa.Column("stop_price_usd", _DECIMAL, nullable=True),
        sa.Column("denials", _TEXT, nullable=False),
        sa.Column("state", _NAME, nullable=False),
        sa.Column("broker_order_id", _NAME, nullable=True),
        sa.Column("filled_quantity", _DECIMAL, nullable=False),
        sa.Column("filled_average_price_usd", _DECIMAL, nullable=True),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.plan_id"], name="fk_orders_plan_id"),
        sa.PrimaryKeyConstraint("client_order_id"),
    )
    op.create_index("ix_orders_plan_id", "orders", ["plan_id"])
    op.create_index("ix_orders_state", "orders", ["state"])
    op.create_table(
        "signal_outcomes",
        sa.Column("signal_id", _NAME, nullable=False),
        sa.Column("known_at", _TIME, nullable=False),
        sa.Column("realised_return_bps", _FLOAT, nullable=False),
        sa.Column("target_touched_at", _TIME, nullable=True),
        sa.Column("stop_touched_at", _TIME, nullable=True),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["signal_id"], ["signals.id"], name="fk_signal_outcomes_signal_id"),
        sa.PrimaryKeyConstraint("signal_id"),
    )


def _create_fills() -> None:
    op.create_table(
        "fills",
        sa.Column("fill_id", _NAME, nullable=False),
        sa.Column("client_order_id", _NAME, nullable=False),
        sa.Column("symbol", _NAME, nullable=False),
        sa.Column("side", _NAME, nullable=False),
        sa.Column("quantity", _DECIMAL, nullable=False),
        sa.Column("price_usd", _DECIMAL, nullable=False),
        sa.Column("filled_at", _TIME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["client_order_id"], ["orders.client_order_id"], name="fk_fills_client_order_id"
        ),
        sa.PrimaryKeyConstraint("fill_id"),
    )
    op.create_index("ix_fills_symbol", "fills", ["symbol"])
