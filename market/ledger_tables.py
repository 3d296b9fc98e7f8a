"""Tables of the ledger, for SQLite and PostgreSQL alike.

Times are stored as fixed-width UTC text (their order is the order in time), decimals as
text (no digit is lost), lists and dictionaries as JSON text with sorted keys. Selecting
through these tables gives aware datetimes, :class:`~decimal.Decimal` and plain objects.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from market.hash_chain import canonical_json, from_utc_text, utc_text

VERSION_TABLE = "isobar_ledger_version"


class UtcTime(TypeDecorator[dt.datetime]):
    """A moment: aware in, aware UTC out, fixed-width text at rest."""

    impl = sa.String(27)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> str | None:
        """Store as UTC text; a naive time is refused."""
        return None if value is None else utc_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:
        """Return an aware UTC datetime."""
        return None if value is None else from_utc_text(value)


class DecimalText(TypeDecorator[Decimal]):
    """A decimal number with every digit it came with."""

    impl = sa.String(64)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        """Store in plain notation."""
        return None if value is None else format(value, "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Return a Decimal."""
        return None if value is None else Decimal(value)


class JsonText(TypeDecorator[Any]):
    """A list or dictionary as canonical JSON text."""

    impl = sa.Text()
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Store with sorted keys."""
        return None if value is None else canonical_json(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Return the object."""
        return None if value is None else orjson.loads(value)


METADATA = sa.MetaData()


def _text(name: str, *, key: bool = False, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(200), primary_key=key, nullable=null)


def _long(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _time(name: str, *, key: bool = False, null: bool = False) -> sa.Column[dt.datetime]:
    return sa.Column(name, UtcTime(), primary_key=key, nullable=null)


def _decimal(name: str, *, null: bool = False) -> sa.Column[Decimal]:
    return sa.Column(name, DecimalText(), nullable=null)


def _float(name: str, *, null: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float(53), nullable=null)


def _int(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, JsonText(), nullable=False)


def _sequence() -> sa.Column[int]:
    return sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False)


def _signal_columns() -> list[sa.Column[Any]]:
    return [
        _sequence(),
        _text("id"),
        _text("batch_id"),
        _int("revision"),
        _time("ts_emit"),
        _time("as_of"),
        _time("valid_until"),
        _text("symbol"),
        _text("engine"),
        _text("direction"),
        _float("confidence"),
        _text("horizon"),
        _float("expected_return_bps"),
        _json("targets"),
        _json("stops"),
        _text("regime"),
        _long("explain"),
        _json("features"),
        _text("model_version"),
        _text("data_hash"),
        _text("config_hash"),
        _text("prev_hash"),
        _text("hash"),
    ]


signal_batches = sa.Table(
    "signal_batches",
    METADATA,
    _sequence(),
    _text("batch_id"),
    _text("run"),
    _time("as_of"),
    _int("revision"),
    _time("scheduled_for"),
    _time("ts_emit"),
    sa.Column("late", sa.Boolean(), nullable=False),
    sa.Column("complete", sa.Boolean(), nullable=False),
    _int("rows"),
    _int("first_seq"),
    _int("last_seq"),
    _text("content_hash"),
    _text("head_hash"),
    sa.UniqueConstraint("batch_id", name="uq_signal_batches_batch_id"),
    sa.UniqueConstraint("run", "as_of", "revision", name="uq_signal_batches_revision"),
    sa.Index("ix_signal_batches_as_of", "as_of", "revision"),
)

batch_inputs = sa.Table(
    "batch_inputs",
    METADATA,
    _text("batch_id", key=True),
    _json("inputs"),
    sa.ForeignKeyConstraint(
        ["batch_id"], ["signal_batches.batch_id"], name="fk_batch_inputs_batch_id"
    ),
)
"""What a batch was made from: versions of tables and models, settings, digests."""

parity_checks = sa.Table(
    "parity_checks",
    METADATA,
    _text("batch_id", key=True),
    _time("checked_at", key=True),
    sa.Column("equal", sa.Boolean(), nullable=False),
    _json("findings"),
    sa.ForeignKeyConstraint(
        ["batch_id"], ["signal_batches.batch_id"], name="fk_parity_checks_batch_id"
    ),
)
"""Whether a batch, made again from the same inputs, was what had been published."""

signals = sa.Table(
    "signals",
    METADATA,
    *_signal_columns(),
    sa.ForeignKeyConstraint(["batch_id"], ["signal_batches.batch_id"], name="fk_signals_batch_id"),
    sa.UniqueConstraint("id", name="uq_signals_id"),
    sa.UniqueConstraint(
        "as_of", "symbol", "horizon", "engine", "revision", name="uq_signals_revision"
    ),
    sa.Index("ix_signals_batch_id", "batch_id"),
    sa.Index("ix_signals_symbol", "symbol", "as_of"),
    sa.Index("ix_signals_valid_until", "valid_until"),
    sa.Index("ix_signals_hash", "hash"),
)

signals_current = sa.Table("signals_current", sa.MetaData(), *_signal_columns())
"""The view that consumers read: of each batch only its last revision."""

signal_outcomes = sa.Table(
    "signal_outcomes",
    METADATA,
    _text("signal_id", key=True),
    _time("known_at"),
    _float("realised_return_bps"),
    _time("target_touched_at", null=True),
    _time("stop_touched_at", null=True),
    _time("recorded_at"),
    sa.ForeignKeyConstraint(["signal_id"], ["signals.id"], name="fk_signal_outcomes_signal_id"),
)

engines = sa.Table(
    "engines",
    METADATA,
    _text("engine", key=True),
    _text("horizon", key=True),
    _text("model_version", key=True),
    _text("kind"),
    _text("family"),
    _time("as_of"),
    _time("recorded_at"),
    _text("data_hash"),
    _text("config_hash"),
    _json("metrics"),
)

engine_weights = sa.Table(
    "engine_weights",
    METADATA,
    _text("engine", key=True),
    _text("regime", key=True),
    _text("horizon", key=True),
    _time("as_of", key=True),
    _float("weight"),
    _json("evidence"),
)

regimes = sa.Table(
    "regimes",
    METADATA,
    _time("as_of", key=True),
    _text("regime"),
    _json("probabilities"),
    _text("model_version"),
    _time("recorded_at"),
)

reports = sa.Table(
    "reports",
    METADATA,
    _text("report_id", key=True),
    _text("run"),
    _time("as_of"),
    _time("created_at"),
    _long("path"),
    _text("content_hash"),
    _json("summary"),
)

backtests = sa.Table(
    "backtests",
    METADATA,
    _text("backtest_id", key=True),
    _time("as_of"),
    _time("created_at"),
    _text("start_session"),
    _text("end_session"),
    _json("horizons"),
    _json("metrics"),
    _text("data_hash"),
    _text("config_hash"),
    _long("tear_sheet"),
)

plans = sa.Table(
    "plans",
    METADATA,
    _text("plan_id", key=True),
    _text("batch_id"),
    _time("as_of"),
    _time("created_at"),
    _time("expires_at"),
    _text("broker"),
    _json("decisions"),
    _json("skipped"),
    sa.ForeignKeyConstraint(["batch_id"], ["signal_batches.batch_id"], name="fk_plans_batch_id"),
    sa.UniqueConstraint("batch_id", name="uq_plans_batch_id"),
)

orders = sa.Table(
    "orders",
    METADATA,
    _text("client_order_id", key=True),
    _text("plan_id"),
    _int("place"),
    _text("symbol"),
    _text("side"),
    _int("leg"),
    _int("attempt"),
    _decimal("quantity"),
    _text("order_type"),
    _text("time_in_force"),
    _decimal("limit_price_usd", null=True),
    _decimal("reference_price_usd", null=True),
    _text("reason"),
    _text("horizon", null=True),
    _time("valid_until", null=True),
    _decimal("target_price_usd", null=True),
    _decimal("stop_price_usd", null=True),
    _json("denials"),
    _text("state"),
    _text("broker_order_id", null=True),
    _decimal("filled_quantity"),
    _decimal("filled_average_price_usd", null=True),
    _time("updated_at"),
    _text("parent_id", null=True),
    _decimal("take_profit_usd", null=True),
    _decimal("stop_loss_usd", null=True),
    _decimal("planned_from", null=True),
    _json("cancels"),
    sa.Column("extended_hours", sa.Boolean(), nullable=False),
    sa.ForeignKeyConstraint(["plan_id"], ["plans.plan_id"], name="fk_orders_plan_id"),
    sa.Index("ix_orders_plan_id", "plan_id"),
    sa.Index("ix_orders_state", "state"),
    sa.Index("ix_orders_parent_id", "parent_id"),
)

fills = sa.Table(
    "fills",
    METADATA,
    _text("fill_id", key=True),
    _text("client_order_id"),
    _text("symbol"),
    _text("side"),
    _decimal("quantity"),
    _decimal("price_usd"),
    _time("filled_at"),
    _time("recorded_at"),
    sa.ForeignKeyConstraint(
        ["client_order_id"], ["orders.client_order_id"], name="fk_fills_client_order_id"
    ),
    sa.Index("ix_fills_symbol", "symbol"),
)

audit_log = sa.Table(
    "audit_log",
    METADATA,
    _sequence(),
    _time("at"),
    _text("subject"),
    _text("key"),
    _text("event"),
    _json("detail"),
    _text("prev_hash"),
    _text("hash"),
    sa.Index("ix_audit_log_key", "subject", "key"),
)

trading_state = sa.Table(
    "trading_state",
    METADATA,
    _sequence(),
    _time("at"),
    _text("state"),
    _long("reason"),
)

adjustments = sa.Table(
    "adjustments",
    METADATA,
    _text("adjustment_id", key=True),
    _text("kind"),
    _text("symbol"),
    _decimal("quantity"),
    _decimal("cash_usd"),
    _time("effective_at"),
    _time("recorded_at"),
    _json("detail"),
)

reconciliations = sa.Table(
    "reconciliations",
    METADATA,
    _sequence(),
    _time("at"),
    _text("broker"),
    sa.Column("clean", sa.Boolean(), nullable=False),
    _decimal("equity_usd"),
    _decimal("cash_usd"),
    _decimal("own_cash_flow_usd"),
    _json("findings"),
    _json("positions"),
)
