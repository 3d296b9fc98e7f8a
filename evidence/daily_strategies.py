"""What stands beside a backtest on daily bars: members held, momentum, pyqlib's strategy.

Each ends as a curve of :data:`backtest.comparison.SESSION_SCHEMA`, so that all are measured alike.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from backtest.benchmark import UNIVERSE
from backtest.comparison import SESSION_SCHEMA
from backtest.session_metrics import SessionSeries
from backtest.tape import make_tape
from backtest.venue import Venue
from evidence.backtests import BAND_BPS, COSTS, STARTING_CASH_USD, Market
from evidence.daily_judge import simple_baselines
from evidence.daily_peers import DUMP, PYTHON
from execution.broker import Side
from market import calendar
from models.forecast import PREDICTION_SCHEMA
from signals.schema import ENSEMBLE_ENGINE

SCRIPT = Path(__file__).parent / "peers" / "topk_pyqlib.py"
_FIELDS = ("symbol", "session", "open", "high", "low", "close", "volume", "vwap")
_SURE = 0.5
"""The confidence of every position of the momentum strategy; limits on exposure scale them all."""


def member_benchmark(daily: pl.DataFrame, members: pl.DataFrame) -> tuple[str, pl.DataFrame]:
    """Return the growth of one dollar in the members at equal weight, rebalanced each session.

    Parameters
    ----------
    daily : pl.DataFrame
        Adjusted daily bars.
    members : pl.DataFrame
        ``session``, ``symbol``; who is a member at a close earns the next session's return.

    Returns
    -------
    (str, pl.DataFrame)
        Its name, and ``session``, ``value``; before costs.
    """
    bars = daily.sort("symbol", "session")
    before = pl.col("session").shift(1).over("symbol").alias("before")
    change = pl.col("close") / pl.col("close").shift(1).over("symbol") - 1.0
    moved = bars.select("symbol", "session", before, change.alias("change")).drop_nulls()
    held = moved.join(members.rename({"session": "before"}), on=["before", "symbol"], how="semi")
    growth = held.group_by("session").agg(pl.col("change").mean()).sort("session")
    start = pl.DataFrame({"session": [held["before"].min()], "value": [1.0]})
    line = growth.select("session", (1.0 + pl.col("change")).cum_prod().alias("value"))
    return f"{UNIVERSE}: members at equal weight", pl.concat([start, line])


def buy_and_hold(
    market: Market, adjusted: pl.DataFrame, symbols: Sequence[str], first: dt.date
) -> pl.DataFrame:
    """Return the curve of equal amounts of some symbols, bought at an open and held to the end.

    Purchases pay what the venue of :func:`backtest.simulate.simulate` takes; dividends stay in
    the symbol that paid them; a symbol without more bars keeps its last value.

    Parameters
    ----------
    market : Market
        Raw bars, for the costs.
    adjusted : pl.DataFrame
        The same adjusted, for what shares are worth.
    symbols : sequence of str
        Those without a bar in the first session are left out.
    first : date
        Session at whose open they are bought.
    """
    raw = market.bars.filter(pl.col("symbol").is_in(symbols))
    tape = make_tape(raw, market.splits, market.dividends)
    venue, bar = Venue(tape, COSTS), list(tape.sessions).index(first)
    opens = raw.filter(pl.col("session") == first).select("symbol", "open")
    amount = STARTING_CASH_USD / len(opens)
    paid = {
        symbol: venue.cost_of(
            Side.BUY,
            Decimal(str(amount / price)),
            bar,
            tape.symbols.index(symbol),
            price,
            takes=True,
        ).total_usd
        for symbol, price in opens.iter_rows()
    }
    own = adjusted.filter(pl.col("symbol").is_in(list(paid)), pl.col("session") >= first)
    start = own.filter(pl.col("session") == first).select("symbol", pl.col("open").alias("_open"))
    worth = own.join(start, on="symbol").select(
        "session",
        "symbol",
        (
            pl.col("close") / pl.col("_open") * (amount - pl.col("symbol").replace_strict(paid))
        ).alias("worth"),
    )
    wide = worth.pivot(on="symbol", index="session", values="worth").sort("session")
    filled = pl.exclude("session").forward_fill()
    equity = wide.select("session", pl.sum_horizontal(filled).alias("equity"))
    return _curve(
        equity["session"].to_list(),
        equity["equity"].to_list(),
        costs=[sum(paid.values())] * len(equity),
        turnover=[1.0] + [0.0] * (len(equity) - 1),
        exposure=[1.0] * len(equity),
    )


def momentum_predictions(
    daily: pl.DataFrame, like: pl.DataFrame, *, every: int, share: float
) -> pl.DataFrame:
    """Return a momentum strategy as predictions that the live code can trade.

    Each ``every``-th session the best ``share`` of the symbols by the return of twelve months
    without the last one is long, the others are neutral.

    Parameters
    ----------
    daily : pl.DataFrame
        Adjusted daily bars.
    like : pl.DataFrame
        Predictions (``PREDICTION_SCHEMA``) whose symbols, sessions and volatilities it takes.
    every : int
        Sessions from one formation to the next.
    share : float
        Of the symbols.
    """
    past = simple_baselines(daily, 1)["momentum_12_1"]
    rows = like.join(past, on=["symbol", "session"], how="inner")
    sessions = rows["session"].unique().sort().gather_every(every)
    order = pl.col("forecast").rank("ordinal", descending=True).over("session")
    best = order <= (share * pl.len().over("session")).round()
    rest = (1.0 - _SURE) / 2.0
    return (
        rows.filter(pl.col("session").is_in(sessions.implode()))
        .with_columns(
            pl.lit(ENSEMBLE_ENGINE).alias("engine"),
            pl.lit("momentum_12_1").alias("model_version"),
            pl.when(best).then(2.0 * BAND_BPS).otherwise(0.0).alias("expected_return_bps"),
            pl.when(best).then(_SURE).otherwise(rest).alias("p_long"),
            pl.when(best).then(rest).otherwise(_SURE).alias("p_neutral"),
            pl.lit(rest).alias("p_short"),
        )
        .select(PREDICTION_SCHEMA.names())
    )


def dump_for_pyqlib(folder: Path, daily: pl.DataFrame) -> Path:
    """Write adjusted bars for pyqlib, once, and return where they are."""
    there = folder / "qlib"
    calendar_file = there / "calendars" / "day.txt"
    last = daily["session"].max()
    assert isinstance(last, dt.date)
    # Its loop asks for the end of the last day, which it takes from the day after.
    after = calendar.next_session(last).isoformat()
    if calendar_file.exists() and after in calendar_file.read_text():
        return there
    bars = folder / "peer_bars.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    daily.select(_FIELDS).write_parquet(bars)
    if not there.exists():
        _call(DUMP, "dump", bars, there)
    with calendar_file.open("a") as file:
        file.write(f"{after}\n")
    return there


def topk_dropout(
    folder: Path,
    signal: pl.DataFrame,
    name: str,
    *,
    bars: Path,
    first: dt.date,
    last: dt.date,
    deal: str,
    rates: Mapping[str, float],
    config: Mapping[str, Any],
) -> pl.DataFrame:
    """Return the curve of pyqlib's TopkDropoutStrategy in pyqlib's own backtest.

    Parameters
    ----------
    folder : Path
        For its files.
    signal : pl.DataFrame
        ``symbol``, ``session``, ``forecast``.
    name : str
        Of these files.
    bars : Path
        From :func:`dump_for_pyqlib`.
    first, last : date
        Sessions of the first and the last trade.
    deal : str
        Price that it trades at: ``open`` or ``close``.
    rates : mapping
        ``buy`` and ``sell``: costs as shares of what is bought and sold.
    config : mapping
        ``topk``, ``n_drop``.
    """
    given, out = folder / f"{name}-signal.parquet", folder / f"{name}.parquet"
    signal.write_parquet(given)
    options = {
        "start": first,
        "end": last,
        "topk": config["topk"],
        "n-drop": config["n_drop"],
        "account": STARTING_CASH_USD,
        "deal": deal,
        "open-cost": rates["buy"],
        "close-cost": rates["sell"],
    }
    _call(SCRIPT, bars, given, out, *(w for k, v in options.items() for w in (f"--{k}", v)))
    report = pl.read_parquet(out)
    return _curve(
        report["session"].cast(pl.Date).to_list(),
        report["account"].to_list(),
        costs=report["total_cost"].to_list(),
        turnover=report["turnover"].to_list(),
        exposure=(report["value"] / report["account"]).to_list(),
    )


def series_of(curve: pl.DataFrame, benchmark: pl.DataFrame) -> SessionSeries:
    """Return the returns of a curve beside those of a benchmark (``session``, ``value``)."""
    equity, costs = curve["equity_usd"], curve["costs_usd"]
    held = curve.join(benchmark, on="session", how="left", maintain_order="left")["value"]
    rest = curve[1:]
    return SessionSeries(
        returns=equity.pct_change()[1:].to_numpy(),
        before_costs=(equity + costs).pct_change()[1:].to_numpy(),
        turnover=rest["turnover"].to_numpy(),
        gross=rest["gross_exposure"].to_numpy(),
        net=rest["net_exposure"].to_numpy(),
        benchmark=held.pct_change()[1:].to_numpy(),
    )


def _curve(
    sessions: list[dt.date],
    equity: list[float],
    *,
    costs: list[float],
    turnover: list[float],
    exposure: list[float],
) -> pl.DataFrame:
    """Return a curve that begins with the starting cash, the session before the first."""
    return pl.DataFrame(
        {
            "session": [calendar.previous_session(sessions[0]), *sessions],
            "equity_usd": [STARTING_CASH_USD, *equity],
            "costs_usd": [0.0, *costs],
            "turnover": [0.0, *turnover],
            "gross_exposure": [0.0, *exposure],
            "net_exposure": [0.0, *exposure],
        },
        schema=SESSION_SCHEMA,
    )


def _call(script: Path, *words: object) -> None:
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    subprocess.run([str(PYTHON), str(script), *map(str, words)], check=True, env=quiet)
