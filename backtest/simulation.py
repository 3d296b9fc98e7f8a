"""What a simulation hands back: orders, denials, cash flows, equity, all as tables."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from execution.denials import DenialCode
from market.schema import UTC_MICROSECONDS

if TYPE_CHECKING:
    from backtest.replay import Replay


class OrderColumn(StrEnum):
    """Columns of the order records; one row per order that passed every check."""

    AS_OF = "as_of"
    FILLED_AT = "filled_at"
    BAR_END = "bar_end"
    SYMBOL = "symbol"
    SIDE = "side"
    QUANTITY = "quantity"
    PRICE = "price"
    COST_USD = "cost_usd"
    REASON = "reason"
    STATUS = "status"
    COMMISSION_USD = "commission_usd"
    FEES_USD = "fees_usd"
    SPREAD_USD = "spread_usd"
    IMPACT_USD = "impact_usd"
    SLIPPAGE_USD = "slippage_usd"
    REFERENCE_PRICE = "reference_price"
    TAKE_PROFIT = "take_profit"
    STOP_LOSS = "stop_loss"
    TIME_IN_FORCE = "time_in_force"
    IS_BRACKET_EXIT = "is_bracket_exit"
    HORIZON = "horizon"


COST_LINES = (
    OrderColumn.COMMISSION_USD,
    OrderColumn.FEES_USD,
    OrderColumn.SPREAD_USD,
    OrderColumn.IMPACT_USD,
    OrderColumn.SLIPPAGE_USD,
)
"""What the cost of an order is the sum of."""


class FillStatus(StrEnum):
    """What became of an accepted order, or of the part of it that a row stands for.

    What ended without a fill has the reason of its last try. ``EXPIRED``: the symbol had no bar
    where the order would have filled (a halt).
    ``NO_VOLUME``: it had a bar in which nothing was traded.
    ``ABOVE_PARTICIPATION``: more than the bars' volume allowed until the order ended.
    ``LIMIT_NOT_REACHED``: the price lay beyond the order's limit.
    ``LAPSED``: the second leg of a change through zero, whose first leg did not fill whole.
    """

    FILLED = "filled"
    EXPIRED = "expired"
    NO_VOLUME = "no_volume"
    ABOVE_PARTICIPATION = "above_participation"
    LIMIT_NOT_REACHED = "limit_not_reached"
    LAPSED = "lapsed"


class FlowKind(StrEnum):
    """Why cash came or went without an order."""

    DIVIDEND = "dividend"
    CASH_IN_LIEU = "cash_in_lieu"
    BORROW = "borrow"


DELISTED = "delisted"
"""The reason of the order record that closes a position whose symbol stopped trading."""


ORDER_SCHEMA = pl.Schema(
    {
        OrderColumn.AS_OF: UTC_MICROSECONDS,
        OrderColumn.FILLED_AT: UTC_MICROSECONDS,
        OrderColumn.BAR_END: UTC_MICROSECONDS,
        OrderColumn.SYMBOL: pl.String(),
        OrderColumn.SIDE: pl.String(),
        OrderColumn.QUANTITY: pl.Float64(),
        OrderColumn.PRICE: pl.Float64(),
        OrderColumn.COST_USD: pl.Float64(),
        OrderColumn.REASON: pl.String(),
        OrderColumn.STATUS: pl.String(),
        **{line: pl.Float64() for line in COST_LINES},
        OrderColumn.REFERENCE_PRICE: pl.Float64(),
        OrderColumn.TAKE_PROFIT: pl.Float64(),
        OrderColumn.STOP_LOSS: pl.Float64(),
        OrderColumn.TIME_IN_FORCE: pl.String(),
        OrderColumn.IS_BRACKET_EXIT: pl.Boolean(),
        OrderColumn.HORIZON: pl.String(),
    }
)

DENIAL_SCHEMA = pl.Schema(
    {
        "as_of": UTC_MICROSECONDS,
        "symbol": pl.String(),
        "side": pl.String(),
        "quantity": pl.Float64(),
        "code": pl.String(),
        "detail": pl.String(),
    }
)

CASH_FLOW_SCHEMA = pl.Schema(
    {
        "at": UTC_MICROSECONDS,
        "bar_end": UTC_MICROSECONDS,
        "symbol": pl.String(),
        "kind": pl.String(),
        "quantity": pl.Float64(),
        "amount_usd": pl.Float64(),
    }
)

EQUITY_SCHEMA = pl.Schema(
    {
        "bar_end": UTC_MICROSECONDS,
        "session": pl.Date(),
        "cash_usd": pl.Float64(),
        "equity_usd": pl.Float64(),
        "gross_exposure": pl.Float64(),
        "net_exposure": pl.Float64(),
        "turnover": pl.Float64(),
        "cost_usd": pl.Float64(),
    }
)

MARK_SCHEMA = pl.Schema(
    {
        "bar_end": UTC_MICROSECONDS,
        "symbol": pl.String(),
        "close": pl.Float64(),
        "split_factor": pl.Float64(),
    }
)


@dataclass(frozen=True)
class Simulation:
    """The record of a simulated account.

    Attributes
    ----------
    horizon : str
        The horizon whose forecasts were traded; of several the names joined by ``+``.
    starting_cash_usd : float
        Cash before the first decision.
    orders : pl.DataFrame
        ``ORDER_SCHEMA``, in the order of sending: every order that passed the checks, with the
        moment of its decision (``as_of``), the moment and price of its fill and the end of the
        bar it filled in; ``filled_at``, ``price`` and the costs are null where it did not fill.
        An order that filled in part has a row for each part. ``cost_usd`` is the sum of
        ``COST_LINES``. ``reference_price`` is the last price that the decision knew;
        ``take_profit`` and ``stop_loss`` are what the order leaves with the broker, whose own
        fills are rows with ``is_bracket_exit`` and the ``as_of`` of the order that left them.
        ``horizon`` is the one whose signal leads what an order opens or adds; of an order that
        reduces or closes a position, the one that opened it.
    denials : pl.DataFrame
        ``DENIAL_SCHEMA``, one row per reason against an order. A forecast for a symbol without a
        known price is here too, with no side.
    equity : pl.DataFrame
        ``EQUITY_SCHEMA``: the account at the end of each bar, marked at the last close. The first
        row is the account before its first order. Exposures are shares of equity; turnover is
        purchases and sales over the equity before; costs are those of fills and of borrowing.
    cash_flows : pl.DataFrame
        ``CASH_FLOW_SCHEMA``: dividends (negative on short positions), cash in lieu of
        fractional shares after a split, and what borrowing shares cost (negative).
    marks : pl.DataFrame
        ``MARK_SCHEMA``: the closes that valued each traded symbol, carried through halts.
    skips : pl.DataFrame
        ``reason`` and ``count``: targets that led to no order.
    sessions_without_forecast : tuple of date
        Sessions between the first and the last decision for which there was no forecast: nothing
        new was opened there, and exits went on.
    """

    horizon: str
    starting_cash_usd: float
    orders: pl.DataFrame
    denials: pl.DataFrame
    equity: pl.DataFrame
    cash_flows: pl.DataFrame
    marks: pl.DataFrame
    skips: pl.DataFrame
    sessions_without_forecast: tuple[dt.date, ...] = ()

    @cached_property
    def fills(self) -> pl.DataFrame:
        """The orders that filled."""
        return self.orders.filter(pl.col(OrderColumn.STATUS) == FillStatus.FILLED.value)

    @property
    def stopped_from(self) -> dt.date | None:
        """The first day on which the limit on drawdowns refused an order.

        From then on only reductions pass, and in a simulation nobody resumes.
        """
        refused = self.denials.filter(pl.col("code") == DenialCode.DRAWDOWN.value)
        first = refused["as_of"].min()
        return first.date() if isinstance(first, dt.datetime) else None

    @property
    def is_ruined(self) -> bool:
        """Whether the equity was gone at the end; the record stops there."""
        return bool(self.equity["equity_usd"][-1] <= 0.0)

    @cached_property
    def replay(self) -> Replay:
        """The order records replayed by vectorbt (imported and run at first use)."""
        from backtest.replay import replay_orders

        return replay_orders(self)

    @property
    def trades(self) -> pl.DataFrame:
        """Round trips according to vectorbt; see :class:`backtest.replay.Replay`."""
        return self.replay.trades
