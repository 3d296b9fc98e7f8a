"""What a report shows: frames and values, read by somebody else."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import polars as pl

from execution.failures import TradingFailure
from market.schema import UTC_MICROSECONDS
from signals.schema import SIGNAL_SCHEMA

REGIME_SCHEMA = pl.Schema(
    {
        "session": pl.Date(),
        "as_of": UTC_MICROSECONDS,
        "trend": pl.Float64(),
        "volatility": pl.Float64(),
        "breadth": pl.Float64(),
        "regime": pl.String(),
    }
)
"""``trend`` in standard deviations, ``volatility`` of a session's return, ``breadth`` a share."""

MODEL_SCHEMA = pl.Schema(
    {
        "horizon": pl.String(),
        "engine": pl.String(),
        "model_version": pl.String(),
        "weight": pl.Float64(),
        "previous_version": pl.String(),
    }
)
"""Who made the signals; ``weight`` in the blend under the present regime, null for none."""

EVIDENCE_SCHEMA = pl.Schema(
    {
        "horizon": pl.String(),
        "rank_ic": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "sessions": pl.Int64(),
        "sharpe_ratio": pl.Float64(),
        "sharpe_low": pl.Float64(),
        "sharpe_high": pl.Float64(),
        "end_session": pl.String(),
    }
)
"""What the newest walk-forward backtest says, with 95 percent intervals, after costs."""

OUTCOME_SCHEMA = pl.Schema(
    {
        "symbol": pl.String(),
        "horizon": pl.String(),
        "as_of": UTC_MICROSECONDS,
        "direction": pl.String(),
        "confidence": pl.Float64(),
        "expected_return_bps": pl.Float64(),
        "realised_return_bps": pl.Float64(),
        "target_touched_at": UTC_MICROSECONDS,
        "stop_touched_at": UTC_MICROSECONDS,
        "known_at": UTC_MICROSECONDS,
    }
)
"""Signals whose end became known; both returns are signed the same way: up is positive."""

POSITION_SCHEMA = pl.Schema(
    {
        "symbol": pl.String(),
        "quantity": pl.Float64(),
        "own_quantity": pl.Float64(),
        "average_price_usd": pl.Float64(),
        "price_usd": pl.Float64(),
        "price_at": UTC_MICROSECONDS,
        "horizon": pl.String(),
        "valid_until": UTC_MICROSECONDS,
        "target_price_usd": pl.Float64(),
        "stop_price_usd": pl.Float64(),
    }
)
"""``own_quantity``: the part that Isobar opened; the rule of exit is that of its last order."""

ORDER_SCHEMA = pl.Schema(
    {
        "client_order_id": pl.String(),
        "symbol": pl.String(),
        "side": pl.String(),
        "quantity": pl.Float64(),
        "filled_quantity": pl.Float64(),
        "price_usd": pl.Float64(),
        "state": pl.String(),
        "reason": pl.String(),
        "horizon": pl.String(),
        "denials": pl.List(pl.String()),
        "updated_at": UTC_MICROSECONDS,
    }
)
"""``price_usd``: what it was planned at; ``side``: buy or sell."""

CHECK_SCHEMA = pl.Schema(
    {
        "asset": pl.String(),
        "check": pl.String(),
        "passed": pl.Boolean(),
        "severity": pl.String(),
        "at": UTC_MICROSECONDS,
        "detail": pl.String(),
    }
)
"""The newest verdict of each check; ``passed`` is null where a check failed to run."""

HELD_ROWS_SCHEMA = pl.Schema(
    {
        "timeframe": pl.String(),
        "session": pl.Date(),
        "reason": pl.String(),
        "rows": pl.Int64(),
        "symbols": pl.List(pl.String()),
    }
)
"""Rows in quarantine, by session and reason."""

PARITY_SCHEMA = pl.Schema(
    {
        "run": pl.String(),
        "as_of": UTC_MICROSECONDS,
        "checked_at": UTC_MICROSECONDS,
        "equal": pl.Boolean(),
        "findings": pl.List(pl.String()),
    }
)
"""Whether a batch, made again from frozen inputs, was what had been published."""

COVERAGE_SCHEMA = pl.Schema({"table": pl.String(), "newest": pl.Date(), "expected": pl.Date()})
"""Newest session of the bars that the run could know, and the one that it should know."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A published batch of signals."""

    batch_id: str
    run: str
    as_of: dt.datetime
    ts_emit: dt.datetime
    late: bool
    rows: int
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Trading:
    """The trading switch. ``since`` and ``reason`` are of its last change, ``None`` for none."""

    state: str
    enabled: bool
    mode: str
    since: dt.datetime | None = None
    reason: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether the switch lets every order pass."""
        return self.state == "active"


@dataclass(frozen=True, slots=True)
class Book:
    """What is held, and where that is known from.

    Attributes
    ----------
    positions : pl.DataFrame
        ``POSITION_SCHEMA``.
    source : str
        Who says so.
    cash_usd, equity_usd, last_equity_usd : float or None
        Of the account, now and at the last close; ``None`` where the broker was not asked.
    problem : str or None
        Why the broker was not heard.
    broker_orders : int or None
        Orders open at the broker, whoever placed them.
    gross_limit, net_limit : float
        Shares of equity, from the settings.
    """

    positions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=POSITION_SCHEMA))
    source: str = "nothing"
    cash_usd: float | None = None
    equity_usd: float | None = None
    last_equity_usd: float | None = None
    problem: str | None = None
    broker_orders: int | None = None
    gross_limit: float | None = None
    net_limit: float | None = None


@dataclass(frozen=True, slots=True)
class LastPlan:
    """The newest plan of orders. ``skipped``: reason to count; ``refused``: denial to count."""

    batch_id: str
    run: str
    as_of: dt.datetime
    created_at: dt.datetime
    broker: str
    orders: pl.DataFrame
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    refused: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report of one run shows; nothing in it became known after ``known_by``.

    Attributes
    ----------
    run : str
        ``premarket``, ``midday`` or ``eod``.
    session : date
        The trading day.
    as_of : datetime
        When the run was due (UTC).
    known_by : datetime
        Up to when the stores were read (UTC).
    since : datetime
        When the same run of the session before was due: outcomes from then on are shown.
    next_run_at : datetime
        When the next scheduled run is due (UTC).
    batch, previous : Batch or None
        What this run published, and the batch before it.
    signals : pl.DataFrame
        ``SIGNAL_SCHEMA``: the ensemble's rows of ``batch``.
    earlier : pl.DataFrame
        ``SIGNAL_SCHEMA``: of each horizon the ensemble's rows of the newest batch before.
    regimes : pl.DataFrame
        ``REGIME_SCHEMA``, ascending.
    unsettled : dict
        Horizon to how many of its signals ended since ``since`` without an outcome on file.
    open_orders : pl.DataFrame
        ``ORDER_SCHEMA``: orders that may still fill, or of which that is not known.
    trading_failure : TradingFailure or None
        What the trading of ``batch`` failed with.
    unread : tuple of str
        Sources that could not be read, each with its reason.
    made_at : datetime or None
        When the report was made; no part of its content.
    """

    run: str
    session: dt.date
    as_of: dt.datetime
    known_by: dt.datetime
    since: dt.datetime
    next_run_at: dt.datetime
    trading: Trading
    batch: Batch | None = None
    previous: Batch | None = None
    signals: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SIGNAL_SCHEMA))
    earlier: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SIGNAL_SCHEMA))
    earlier_runs: dict[str, str] = field(default_factory=dict[str, str])
    regimes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REGIME_SCHEMA))
    previous_regime: str | None = None
    models: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=MODEL_SCHEMA))
    evidence: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EVIDENCE_SCHEMA))
    outcomes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=OUTCOME_SCHEMA))
    unsettled: dict[str, int] = field(default_factory=dict[str, int])
    book: Book = field(default_factory=Book)
    open_orders: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ORDER_SCHEMA))
    plan: LastPlan | None = None
    trading_failure: TradingFailure | None = None
    checks: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CHECK_SCHEMA))
    held_rows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=HELD_ROWS_SCHEMA))
    parity: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PARITY_SCHEMA))
    coverage: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=COVERAGE_SCHEMA))
    unread: tuple[str, ...] = ()
    made_at: dt.datetime | None = None
