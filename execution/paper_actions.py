"""Splits and cash dividends of a paper account, applied when the ex-date begins in New York."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

import polars as pl

from execution.fill_rules import scaled_level
from execution.paper_orders import BookOrder, Holding
from market import calendar
from market.errors import ExecutionError
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Dividend, Split, conform

_ONE = Decimal(1)
_QUANTITY_STEP = Decimal("0.000000001")
_CENT = Decimal("0.01")


@dataclass(order=True, frozen=True, slots=True)
class CorporateAction:
    """A split (``ratio`` new shares per old one) or a dividend per share; one of them is set."""

    at: dt.datetime
    symbol: str
    amount_usd: Decimal
    ratio: Decimal

    @property
    def is_split(self) -> bool:
        """Whether it changes the number of shares."""
        return self.ratio != _ONE


class CorporateActions:
    """Every action of a replay, in the order of time; a split before a dividend of its day.

    Parameters
    ----------
    splits, dividends : pl.DataFrame, optional
        ``SPLIT_SCHEMA`` and ``DIVIDEND_SCHEMA``.

    Raises
    ------
    ExecutionError
        When a ratio is not positive or an amount negative.
    MarketError
        When a frame does not fit its schema.
    """

    def __init__(
        self, splits: pl.DataFrame | None = None, dividends: pl.DataFrame | None = None
    ) -> None:
        found: list[CorporateAction] = []
        if splits is not None:
            for row in conform(splits, SPLIT_SCHEMA, "paper splits").iter_rows(named=True):
                ratio = _positive(row[Split.SPLIT_RATIO], "split ratio", row[Split.SYMBOL])
                at = calendar.midnight(row[Split.EX_DATE])
                found.append(CorporateAction(at, row[Split.SYMBOL], Decimal(0), ratio))
        if dividends is not None:
            for row in conform(dividends, DIVIDEND_SCHEMA, "paper dividends").iter_rows(named=True):
                paid = _positive(row[Dividend.AMOUNT_USD], "dividend", row[Dividend.SYMBOL])
                at = calendar.midnight(row[Dividend.EX_DATE])
                found.append(CorporateAction(at, row[Dividend.SYMBOL], paid, _ONE))
        self._actions = sorted(found)

    def between(self, after: dt.datetime, until: dt.datetime) -> list[CorporateAction]:
        """Return the actions of a span, ``after`` outside and ``until`` inside."""
        return [action for action in self._actions if after < action.at <= until]

    def shares(self, symbol: str, after: dt.datetime, until: dt.datetime) -> Decimal:
        """Return how many shares one share became in a span."""
        ratio = _ONE
        for action in self.between(after, until):
            if action.symbol == symbol:
                ratio *= action.ratio
        return ratio


def split_holding(holding: Holding, ratio: Decimal) -> Holding:
    """Return a position after a split; its cost stays, fractions of a share too."""
    quantity = (holding.quantity * ratio).quantize(_QUANTITY_STEP, ROUND_HALF_EVEN).normalize()
    cost = holding.quantity * holding.average_price_usd
    return Holding(holding.symbol, quantity, cost / quantity)


def split_order(order: BookOrder, ratio: Decimal, at: dt.datetime) -> None:
    """Scale what is left of an order, and its prices; whole shares stay whole, rounded down."""
    whole = order.remaining == order.remaining.to_integral_value()
    step = _ONE if whole else _QUANTITY_STEP
    scaled = (order.remaining * ratio).quantize(_QUANTITY_STEP, ROUND_HALF_EVEN)
    order.quantity = (order.filled_quantity + scaled // step * step).normalize() + 0
    order.limit_price_usd = _scaled(order.limit_price_usd, ratio)
    order.stop_price_usd = _scaled(order.stop_price_usd, ratio)
    order.trail_price_usd = _scaled(order.trail_price_usd, ratio)
    order.high_water_usd = _scaled(order.high_water_usd, ratio)
    order.eligible_from = max(order.eligible_from, at)
    order.inside_bar = None
    order.updated_at = at


def dividend_cash(quantity: Decimal, amount_usd: Decimal) -> Decimal:
    """Return what a dividend pays to the cent; a short position pays it."""
    return (quantity * amount_usd).quantize(_CENT, ROUND_HALF_UP)


def _scaled(value: Decimal | None, ratio: Decimal) -> Decimal | None:
    return None if value is None else scaled_level(value, ratio)


def _positive(value: float, name: str, symbol: str) -> Decimal:
    number = Decimal(repr(value))
    if not number.is_finite() or number <= 0:
        raise ExecutionError(
            f"a {name} of {symbol} is unusable",
            got=str(value),
            allowed="a finite number above zero",
            remedy="clean the corporate actions before replaying them",
        )
    return number
