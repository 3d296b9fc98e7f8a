"""The order records of a simulation, replayed by vectorbt with shared cash.

vectorbt knows no splits and no dividends. Quantities and prices are therefore given to it in
shares of the first bar, in which a split is no event; dividends and borrow enter afterwards as
cash flows.
Nothing is sized or decided here: share quantities at fill prices with their costs, no more.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from backtest.simulation import FlowKind, OrderColumn, Simulation
from market.errors import BacktestError
from market.schema import UTC_MICROSECONDS

Floats = npt.NDArray[np.float64]
_SIDES = {0: "long", 1: "short"}

TRADE_SCHEMA = pl.Schema(
    {
        "symbol": pl.String(),
        "direction": pl.String(),
        "entered_at": UTC_MICROSECONDS,
        "exited_at": UTC_MICROSECONDS,
        "quantity": pl.Float64(),
        "entry_price": pl.Float64(),
        "exit_price": pl.Float64(),
        "costs_usd": pl.Float64(),
        "pnl_usd": pl.Float64(),
        "trade_return": pl.Float64(),
        "is_closed": pl.Boolean(),
    }
)


@dataclass(frozen=True)
class Replay:
    """What vectorbt makes of the order records.

    Attributes
    ----------
    equity : pl.DataFrame
        ``bar_end``, ``equity_usd`` (with dividends and borrow) at every bar of the simulation but
        the first row, which is the starting cash.
    trades : pl.DataFrame
        ``TRADE_SCHEMA``, one row per (partial) exit, and per position still open at the end,
        valued at the last close. Times are ends of bars. Quantities and prices are in shares of the
        simulation's first bar; profit and loss is after costs and without dividends.
    """

    equity: pl.DataFrame
    trades: pl.DataFrame


def replay_orders(simulation: Simulation) -> Replay:
    """Replay the filled orders of a simulation through ``vectorbt.Portfolio.from_orders``.

    Parameters
    ----------
    simulation : Simulation
        Its order records, marks and cash flows are used; its equity curve is not.

    Returns
    -------
    Replay
        Equity and trades.

    Raises
    ------
    BacktestError
        When an order record has no mark, or vectorbt did not take every order in full.
    """
    symbols = simulation.marks["symbol"].unique().sort().to_list()
    ends = simulation.equity["bar_end"][1:]
    if not symbols:
        cash = pl.Series([simulation.starting_cash_usd] * len(ends), dtype=pl.Float64)
        equity = pl.DataFrame({"bar_end": ends, "equity_usd": cash})
        return Replay(equity, pl.DataFrame(schema=TRADE_SCHEMA))
    grid = _Grid(simulation, symbols)
    grid.place_orders(simulation.fills)
    grid.place_cash_in_lieu(simulation.cash_flows)
    portfolio = grid.run(simulation.starting_cash_usd)
    if int(portfolio.orders.count().sum()) != grid.cells:
        raise BacktestError(
            "vectorbt did not take every order",
            got=int(portfolio.orders.count().sum()),
            allowed=f"{grid.cells} orders",
            remedy="report this with the order records; the replay is not to be trusted",
        )
    value = np.asarray(portfolio.value(), dtype=np.float64).ravel()[1::2] - grid.credit
    equity = pl.DataFrame({"bar_end": ends, "equity_usd": value + _paid(simulation)})
    return Replay(equity, _trades(portfolio, symbols, ends))


class _Grid:
    """Two rows per bar, for fills at its open and at its close, by one column per symbol."""

    def __init__(self, simulation: Simulation, symbols: list[str]) -> None:
        self.symbols = symbols
        ends = simulation.equity["bar_end"][1:].to_list()
        self.row_of = {end: k for k, end in enumerate(ends)}
        self.column_of = {s: i for i, s in enumerate(symbols)}
        marks = simulation.marks.sort("bar_end", "symbol")
        shape = (len(ends), len(symbols))
        self.factor = marks["split_factor"].to_numpy().reshape(shape)
        close = np.repeat(marks["close"].to_numpy().reshape(shape) * self.factor, 2, axis=0)
        self.close = np.where(np.isnan(close), 1.0, close)  # before a first bar nothing is held
        self.size = np.zeros_like(self.close)
        self.price = np.full_like(self.close, np.nan)
        self.fees = np.zeros_like(self.close)
        self.credit = 0.0

    @property
    def cells(self) -> int:
        """The number of orders that vectorbt is given."""
        return int(np.count_nonzero(self.size))

    def place_orders(self, fills: pl.DataFrame) -> None:
        """Enter fills; the two legs of an order across zero share side, price and cell."""
        c = OrderColumn
        columns = (c.BAR_END, c.FILLED_AT, c.SYMBOL, c.SIDE, c.QUANTITY, c.PRICE, c.COST_USD)
        for end, at, symbol, side, quantity, price, cost in fills.select(columns).iter_rows():
            signed = quantity if side == "buy" else -quantity
            self._add(self.row_of[end], int(at == end), symbol, signed, price)
            self.fees[2 * self.row_of[end] + int(at == end), self.column_of[symbol]] += cost
            self.credit += quantity * price + cost

    def place_cash_in_lieu(self, flows: pl.DataFrame) -> None:
        """Enter what a split leaves in fractions as a sale at the close before, free of costs."""
        lieu = flows.filter(pl.col("kind") == FlowKind.CASH_IN_LIEU.value)
        for end, symbol, fraction, amount in lieu.select(
            "bar_end", "symbol", "quantity", "amount_usd"
        ).iter_rows():
            # The factor is that of the bar the split takes effect in; the row is the one before.
            row, column = self.row_of[end], self.column_of[symbol]
            factor = self.factor[row, column]
            self._enter(2 * row - 1, column, -fraction / factor, amount / fraction * factor)

    def _add(self, bar: int, at_close: int, symbol: str, signed: float, price: float) -> None:
        column = self.column_of[symbol]
        factor = self.factor[bar, column]
        self._enter(2 * bar + at_close, column, signed / factor, price * factor)

    def _enter(self, row: int, column: int, size: float, price: float) -> None:
        # Fills of one side at two prices (a stop inside the bar, the rest at its close) are one.
        before, total = self.size[row, column], self.size[row, column] + size
        if before != 0.0:
            price = (before * self.price[row, column] + size * price) / total
        self.size[row, column] = total
        self.price[row, column] = price

    def run(self, starting_cash_usd: float) -> Any:
        """Run vectorbt. It knows no margin: a credit that is taken off again lets all orders in."""
        vectorbt = _import_vectorbt()
        import pandas as pd

        return vectorbt.Portfolio.from_orders(
            pd.DataFrame(self.close, columns=self.symbols),
            size=np.where(self.size == 0.0, np.nan, self.size),
            price=np.where(np.isnan(self.price), self.close, self.price),
            fixed_fees=self.fees,
            size_type="amount",
            direction="both",
            init_cash=starting_cash_usd + self.credit,
            cash_sharing=True,
            group_by=True,
            freq="1D",
        )


def _import_vectorbt() -> Any:
    """Import vectorbt late: it takes seconds."""
    with warnings.catch_warnings():
        # Its dependencies are older than this Python; nothing of ours is silenced.
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=SyntaxWarning)
        import vectorbt
    return vectorbt


def _paid(simulation: Simulation) -> Floats:
    """Return the dividends received, less borrow paid, up to the end of each bar."""
    kinds = [FlowKind.DIVIDEND.value, FlowKind.BORROW.value]
    paid = (
        simulation.cash_flows.filter(pl.col("kind").is_in(kinds))
        .group_by("bar_end")
        .agg(pl.col("amount_usd").sum())
    )
    every = simulation.equity.select("bar_end")[1:].join(
        paid, on="bar_end", how="left", maintain_order="left"
    )
    return every["amount_usd"].fill_null(0.0).cum_sum().to_numpy()


def _trades(portfolio: Any, symbols: list[str], ends: pl.Series) -> pl.DataFrame:
    records = portfolio.exit_trades.values

    def bar_ends(rows: Floats) -> pl.Series:
        return ends.gather(np.asarray(rows, dtype=np.int64) // 2)

    return pl.DataFrame(
        {
            "symbol": [symbols[i] for i in records["col"]],
            "direction": [_SIDES[int(d)] for d in records["direction"]],
            "entered_at": bar_ends(records["entry_idx"]),
            "exited_at": bar_ends(records["exit_idx"]),
            "quantity": records["size"],
            "entry_price": records["entry_price"],
            "exit_price": records["exit_price"],
            "costs_usd": records["entry_fees"] + records["exit_fees"],
            "pnl_usd": records["pnl"],
            "trade_return": records["return"],
            "is_closed": records["status"] == 1,
        },
        schema=TRADE_SCHEMA,
    ).sort("exited_at", "entered_at", "symbol")
