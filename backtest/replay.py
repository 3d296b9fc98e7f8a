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
Indices = npt.NDArray[np.int64]
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
    portfolio = grid.run(simulation.starting_cash_usd)
    if int(portfolio.orders.count().sum()) != grid.cells:
        raise BacktestError(
            "vectorbt did not take every order",
            got=int(portfolio.orders.count().sum()),
            allowed=f"{grid.cells} orders",
            remedy="report this with the order records; the replay is not to be trusted",
        )
    value = np.asarray(portfolio.value(), dtype=np.float64).ravel()[grid.close_rows] - grid.credit
    equity = pl.DataFrame({"bar_end": ends, "equity_usd": value + _paid(simulation)})
    return Replay(equity, _trades(portfolio, symbols, ends.gather(grid.bars)))


class _Grid:
    """One column per symbol and one row per bar, two where something fills at its close too."""

    def __init__(self, simulation: Simulation, symbols: list[str]) -> None:
        self.symbols = symbols
        self.ends = simulation.equity["bar_end"][1:]
        marks = simulation.marks.sort("bar_end", "symbol")
        shape = (len(self.ends), len(symbols))
        self.factor = marks["split_factor"].to_numpy().reshape(shape)
        fills, c = simulation.fills, OrderColumn
        flows = simulation.cash_flows
        lieu = flows.filter(pl.col("kind") == FlowKind.CASH_IN_LIEU.value)
        fill_bars, lieu_bars = self._bars_of(fills[c.BAR_END]), self._bars_of(lieu["bar_end"])
        at_close = (fills[c.FILLED_AT] == fills[c.BAR_END]).to_numpy()
        twice = np.zeros(shape[0], dtype=np.int64)
        # What a split leaves is paid at the close before it takes effect.
        twice[fill_bars[at_close]] = twice[lieu_bars - 1] = 1
        self.bars = np.repeat(np.arange(shape[0]), 1 + twice)
        """The bar of each row."""
        self.close_rows = np.cumsum(1 + twice) - 1
        """The row of each bar's close."""
        close = (marks["close"].to_numpy().reshape(shape) * self.factor)[self.bars]
        self.close = np.where(np.isnan(close), 1.0, close)  # before a first bar nothing is held
        self.size = np.zeros_like(self.close)
        self.price = np.full_like(self.close, np.nan)
        self.fees = np.zeros_like(self.close)
        self.credit = 0.0
        opens = self.close_rows - twice
        rows = np.where(at_close, self.close_rows[fill_bars], opens[fill_bars])
        self._place_fills(fills, fill_bars, rows)
        self._place_cash_in_lieu(lieu, lieu_bars)

    @property
    def cells(self) -> int:
        """The number of orders that vectorbt is given."""
        return int(np.count_nonzero(self.size))

    def _place_fills(self, fills: pl.DataFrame, bars: Indices, rows: Indices) -> None:
        """Enter fills; the two legs of an order across zero share side, price and cell."""
        c = OrderColumn
        columns = self._columns_of(fills["symbol"])
        sign = np.where(fills[c.SIDE] == "buy", 1.0, -1.0)
        quantity, price, cost = (fills[n].to_numpy() for n in (c.QUANTITY, c.PRICE, c.COST_USD))
        factor = self.factor[bars, columns]
        self._enter(rows, columns, sign * quantity / factor, price * factor)
        np.add.at(self.fees, (rows, columns), cost)
        self.credit += float((quantity * price + cost).sum())

    def _place_cash_in_lieu(self, lieu: pl.DataFrame, bars: Indices) -> None:
        """Enter what a split leaves in fractions as a sale at the close before, free of costs."""
        columns = self._columns_of(lieu["symbol"])
        fraction, amount = lieu["quantity"].to_numpy(), lieu["amount_usd"].to_numpy()
        # The factor is that of the bar the split takes effect in; the row is the one before.
        factor, rows = self.factor[bars, columns], self.close_rows[bars - 1]
        self._enter(rows, columns, -fraction / factor, amount / fraction * factor)

    def _bars_of(self, ends: pl.Series) -> Indices:
        places = range(len(self.ends))
        return ends.replace_strict(self.ends, places, return_dtype=pl.Int64).to_numpy()

    def _columns_of(self, symbols: pl.Series) -> Indices:
        places = range(len(self.symbols))
        return symbols.replace_strict(self.symbols, places, return_dtype=pl.Int64).to_numpy()

    def _enter(self, rows: Indices, columns: Indices, size: Floats, price: Floats) -> None:
        # Fills of one side at two prices (a stop inside the bar, the rest at its close) are one.
        cells = rows, columns
        paid = np.zeros_like(self.size)
        np.add.at(paid, cells, size * price)
        paid[cells] += self.size[cells] * np.nan_to_num(self.price[cells])
        np.add.at(self.size, cells, size)
        self.price[cells] = paid[cells] / self.size[cells]

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
    """Return round trips; ``ends`` is the end of each row's bar."""
    records = portfolio.exit_trades.values

    def bar_ends(rows: Floats) -> pl.Series:
        return ends.gather(np.asarray(rows, dtype=np.int64))

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
