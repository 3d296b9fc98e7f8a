"""The replay of daily orders over ten years, against pyqlib's backtest and a bare vectorbt call.

pyqlib 0.9.7 runs its TopkDropout over the same bars. Its own trades are then replayed by us, and
the equity must agree. Ours is timed on the orders of our own simulation: every symbol may trade
each day, which is many times as many. The bare call is ``Portfolio.from_orders`` with those orders
and its value, arrays ready. Seconds leave out imports and compilation on both sides.

Run by ``make bench-peers``, which builds pyqlib's environment first.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from backtest.replay import replay_orders
from backtest.simulation import (
    CASH_FLOW_SCHEMA,
    DENIAL_SCHEMA,
    EQUITY_SCHEMA,
    MARK_SCHEMA,
    ORDER_SCHEMA,
    FillStatus,
    Simulation,
)
from benchmarks.peers.command import measure_beside
from benchmarks.processes import run
from benchmarks.simulate_backtest import simulated, synthetic
from benchmarks.wanted import Wanted

SYMBOLS, SESSIONS = 500, 2_520
ROUNDS = 5
LEAST_TIMES, MOST_OF_BARE = 20, 3
BUY_COST, SELL_COST = 0.0005, 0.0015
CASH_USD = 1e8
DUMP = Path(__file__).parent / "peers" / "alpha158_pyqlib.py"
TOPK = Path(__file__).parents[1] / "evidence" / "peers" / "topk_pyqlib.py"
_AGREES = 1e-5  # its prices are of single precision


def measure(peer: Path, folder: Path, symbols: int, sessions: int, wanted: Wanted) -> list[str]:
    """Run all sides on the same bars; raise ``SystemExit`` where their equities differ."""
    market, predictions = synthetic(symbols, sessions)
    names = ("bars", "scores", "equity", "trades")
    bars, scores, equity, trades = (folder / f"{n}.parquet" for n in names)
    market.daily.with_columns(vwap=pl.col("close")).write_parquet(bars)
    predictions.select("symbol", "session", forecast="expected_return_bps").write_parquet(scores)
    run([str(peer), str(DUMP), "dump", str(bars), str(folder / "qlib")])
    # Its calendar wants a session after the last one that it trades in.
    days = market.daily["session"].unique().sort()
    options = {
        "start": days[0],
        "end": days[-2],
        "topk": 50,
        "n-drop": 5,
        "account": CASH_USD,
        "deal": "open",
        "open-cost": BUY_COST,
        "close-cost": SELL_COST,
        "trades": trades,
        "rounds": 2,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    theirs = run([str(peer), str(TOPK), str(folder / "qlib"), str(scores), str(equity), *words])
    same = from_trades(market.daily, pl.read_parquet(trades))
    furthest = _compare(same, pl.read_parquet(equity))
    ours = simulated(market, predictions)
    bare = bare_call(ours)
    replayed = replay_orders(ours).equity["equity_usd"].to_numpy()
    if not np.allclose(replayed, ours.equity["equity_usd"].to_numpy()[1:], atol=0.01):
        raise SystemExit("the replay and the simulation disagree: nothing to compare")
    seconds = {
        "same": _median(lambda: replay_orders(same)),
        "ours": _median(lambda: replay_orders(ours)),
        "bare": _median(bare),
    }
    slow = theirs["seconds"]
    faster, slower = slow / seconds["ours"], seconds["ours"] / seconds["bare"]
    return [
        f"{symbols} symbols x {sessions:,} sessions, medians of {ROUNDS} rounds",
        f"its equity from its own trades: within {furthest:.1e} of pyqlib's at every close",
        f"pyqlib {theirs['qlib']}, TopkDropout 50/5     {slow:9.2f} s"
        f"   {same.orders.height:,} orders",
        f"our replay of the same orders    {seconds['same']:9.2f} s",
        f"our replay of our own            {seconds['ours']:9.2f} s   {ours.fills.height:,} orders",
        f"a bare vectorbt call with ours   {seconds['bare']:9.2f} s",
        f"ratio, pyqlib to our replay of as many symbol-days {faster:7.1f}"
        f"   {wanted.at_least(faster, LEAST_TIMES)}; of the same orders "
        f"{slow / seconds['same']:.1f}",
        f"ratio, our replay to the bare call {slower:7.2f}   "
        f"{wanted.at_most(slower, MOST_OF_BARE)}",
    ]


def _median(work: Callable[[], object]) -> float:
    taken: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def from_trades(bars: pl.DataFrame, trades: pl.DataFrame) -> Simulation:
    """Return pyqlib's trades as the record of an account: filled at opens, at its costs."""
    day = pl.col("session").cast(pl.Date)
    rows = trades.with_columns(day).join(bars, on=["session", "symbol"])
    notional = pl.col("quantity").abs() * pl.col("open")
    rate = pl.when(pl.col("quantity") > 0).then(BUY_COST).otherwise(SELL_COST)
    orders = rows.select(
        as_of="bar_start",
        filled_at="bar_start",
        bar_end="bar_end",
        symbol="symbol",
        side=pl.when(pl.col("quantity") > 0).then(pl.lit("buy")).otherwise(pl.lit("sell")),
        quantity=pl.col("quantity").abs(),
        price="open",
        cost_usd=notional * rate,
        status=pl.lit(FillStatus.FILLED.value),
    )
    ends = bars.select("bar_end").unique().sort("bar_end")
    # The row before the first bar is the account before its first order.
    before = ends[:1].select(pl.col("bar_end").dt.offset_by("-1d"))
    marks = bars.select("bar_end", "symbol", "close", split_factor=pl.lit(1.0))
    grid = ends.join(marks.select("symbol").unique(), how="cross")
    every = grid.join(marks, on=["bar_end", "symbol"], how="left").sort("symbol", "bar_end")
    carried = every.with_columns(
        pl.col("close").forward_fill().over("symbol"), pl.col("split_factor").fill_null(1.0)
    )
    return Simulation(
        "1d",
        CASH_USD,
        _filled(orders, ORDER_SCHEMA),
        pl.DataFrame(schema=DENIAL_SCHEMA),
        _filled(pl.concat([before, ends]), EQUITY_SCHEMA),
        pl.DataFrame(schema=CASH_FLOW_SCHEMA),
        carried.select(MARK_SCHEMA.names()).sort("bar_end", "symbol"),
        pl.DataFrame(schema={"reason": pl.String(), "count": pl.Int64()}),
    )


def _filled(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    return frame.select(
        (pl.col(n) if n in frame.columns else pl.lit(None).alias(n)).cast(t)
        for n, t in schema.items()
    )


def _compare(same: Simulation, equity: pl.DataFrame) -> float:
    """Return how far the replayed equity is from pyqlib's at most, as a share."""
    ours = replay_orders(same).equity.select(
        session=pl.col("bar_end").dt.convert_time_zone("America/New_York").dt.date(),
        ours="equity_usd",
    )
    both = equity.select(session=pl.col("session").cast(pl.Date), theirs="account").join(
        ours, on="session"
    )
    if both.height < equity.height:
        raise SystemExit(f"{equity.height} sessions of pyqlib's, {both.height} of ours")
    furthest = float(both.select((pl.col("ours") / pl.col("theirs") - 1.0).abs().max()).item())
    if furthest > _AGREES:
        raise SystemExit(f"equities are {furthest:.1e} apart: nothing to compare")
    return furthest


def bare_call(simulation: Simulation) -> Callable[[], Any]:
    """Return vectorbt's call with a simulation's orders, one row per bar, and its value."""
    import pandas as pd
    import vectorbt

    ends = simulation.equity["bar_end"][1:]
    symbols = simulation.marks["symbol"].unique().sort()
    marks = simulation.marks.sort("bar_end", "symbol")
    shape = len(ends), len(symbols)
    close = np.nan_to_num(marks["close"].to_numpy().reshape(shape), nan=1.0)
    fills = simulation.fills
    rows = fills["bar_end"].replace_strict(ends, range(len(ends))).to_numpy()
    columns = fills["symbol"].replace_strict(symbols, range(len(symbols))).to_numpy()
    size, price, fees = np.full(shape, np.nan), close.copy(), np.zeros(shape)
    sign = np.where(fills["side"] == "buy", 1.0, -1.0)
    size[rows, columns] = sign * fills["quantity"].to_numpy()
    price[rows, columns] = fills["price"].to_numpy()
    fees[rows, columns] = fills["cost_usd"].to_numpy()
    frame = pd.DataFrame(close, columns=symbols.to_list())

    def call() -> Any:
        return vectorbt.Portfolio.from_orders(
            frame,
            size=size,
            price=price,
            fixed_fees=fees,
            size_type="amount",
            direction="both",
            init_cash=1e12,
            cash_sharing=True,
            group_by=True,
            freq="1D",
        ).value()

    call()
    return call


if __name__ == "__main__":
    measure_beside(measure, __doc__, symbols=SYMBOLS, sessions=SESSIONS)
