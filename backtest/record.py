"""The growing record of a simulation: what was sent, denied, paid and held, row by row."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import polars as pl

from backtest.simulation import (
    CASH_FLOW_SCHEMA,
    DENIAL_SCHEMA,
    EQUITY_SCHEMA,
    ORDER_SCHEMA,
    FillStatus,
    FlowKind,
    Simulation,
)
from backtest.tape import Tape, mark_table
from execution.intents import OrderIntent
from execution.risk import Verdict
from market.costs import FillCost


@dataclass
class Record:
    """Rows of the tables of a :class:`Simulation`, and what the present bar added up to."""

    tape: Tape
    orders: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    denials: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    flows: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    equity: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    skips: Counter[str] = field(default_factory=Counter[str])
    traded: set[str] = field(default_factory=set[str])
    bar_notional: float = 0.0
    bar_cost: float = 0.0

    @property
    def last_equity_usd(self) -> float:
        """Equity at the end of the last bar."""
        return self.equity[-1][3]

    def first_row(self, first: int, cash_usd: float) -> None:
        """Note the account as it stands before its first bar."""
        before = first - 1 if first else 0
        at = self.tape.ends[before] if first else self.tape.starts[0]
        session = self.tape.sessions[before]
        self.equity.append((at, session, cash_usd, cash_usd, 0.0, 0.0, 0.0, 0.0))

    def begin_bar(self) -> None:
        """Begin to add up a bar."""
        self.bar_notional = self.bar_cost = 0.0

    def filled(
        self,
        intent: OrderIntent,
        quantity: Decimal,
        price: float,
        cost: FillCost,
        *,
        as_of: dt.datetime,
        at: dt.datetime,
        bar: int,
        is_bracket_exit: bool = False,
        reason: str | None = None,
    ) -> None:
        """Note a fill."""
        shares = float(quantity)
        self.traded.add(intent.symbol)
        self.bar_notional += shares * price
        self.bar_cost += cost.total_usd
        self._order(
            intent,
            quantity,
            as_of,
            at,
            bar,
            price,
            cost,
            FillStatus.FILLED,
            is_bracket_exit,
            reason,
        )

    def unfilled(
        self,
        intent: OrderIntent,
        quantity: Decimal,
        status: FillStatus,
        *,
        as_of: dt.datetime,
        bar: int,
    ) -> None:
        """Note an order, or the part of one, that came to nothing."""
        self._order(intent, quantity, as_of, None, bar, None, None, status, False, None)

    def _order(
        self,
        intent: OrderIntent,
        quantity: Decimal,
        as_of: dt.datetime,
        at: dt.datetime | None,
        bar: int,
        price: float | None,
        cost: FillCost | None,
        status: FillStatus,
        is_bracket_exit: bool,
        reason: str | None,
    ) -> None:
        lines = (None,) * 5
        if cost is not None:
            lines = (
                cost.commission_usd,
                cost.fees_usd,
                cost.spread_usd,
                cost.impact_usd,
                cost.slippage_usd,
            )
        self.orders.append(
            (
                as_of,
                at,
                self.tape.ends[bar],
                intent.symbol,
                intent.side.value,
                float(quantity),
                price,
                None if cost is None else cost.total_usd,
                reason or intent.reason.value,
                status.value,
                *lines,
                _number(intent.reference_price_usd),
                _number(intent.take_profit_usd),
                _number(intent.stop_loss_usd),
                intent.time_in_force.value,
                is_bracket_exit,
                intent.horizon,
            )
        )

    def denied(self, verdict: Verdict, at: dt.datetime) -> None:
        """Note every reason against an order."""
        intent = verdict.intent
        what = (at, intent.symbol, intent.side.value, float(intent.quantity))
        self.denials.extend((*what, d.code.value, d.detail) for d in verdict.denials)

    def flow(self, bar: int, symbol: str, kind: FlowKind, quantity: float, amount: float) -> None:
        """Note cash that came or went without an order, just before a bar."""
        at, end = self.tape.starts[bar], self.tape.ends[bar]
        self.flows.append((at, end, symbol, kind.value, quantity, amount))
        if kind is FlowKind.BORROW:
            self.bar_cost -= amount

    def mark(self, bar: int, cash_usd: float, values: list[float]) -> None:
        """Note the account at the end of a bar; ``values`` are those of its positions."""
        equity, before = cash_usd + sum(values), self.last_equity_usd
        self.equity.append(
            (
                self.tape.ends[bar],
                self.tape.sessions[bar],
                cash_usd,
                equity,
                sum(map(abs, values)) / equity if equity > 0.0 else 0.0,
                sum(values) / equity if equity > 0.0 else 0.0,
                self.bar_notional / before,
                self.bar_cost,
            )
        )

    def simulation(
        self,
        horizon: str,
        starting_cash_usd: float,
        first: int,
        sessions_without_forecast: tuple[dt.date, ...],
    ) -> Simulation:
        """Return the record as tables."""
        skips = sorted(self.skips.items())
        return Simulation(
            horizon=horizon,
            starting_cash_usd=starting_cash_usd,
            orders=_table(self.orders, ORDER_SCHEMA),
            denials=_table(self.denials, DENIAL_SCHEMA),
            equity=_table(self.equity, EQUITY_SCHEMA),
            cash_flows=_table(self.flows, CASH_FLOW_SCHEMA),
            marks=mark_table(self.tape, sorted(self.traded), first, len(self.equity) - 1),
            skips=_table(skips, pl.Schema({"reason": pl.String(), "count": pl.Int64()})),
            sessions_without_forecast=sessions_without_forecast,
        )


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _table(rows: list[tuple[Any, ...]], schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")
