"""Trades and skill of forecasts by group, each with its interval.

Groups are years, regimes, sectors, horizons and buckets of confidence. Whole sessions are drawn
again, because what falls into one shares its shocks.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from backtest.schedule import RegimeHistory
from backtest.session_metrics import METRIC_SCHEMA, Draws, draw_sessions, interval, ratio
from backtest.simulation import OrderColumn, Simulation
from execution.broker import Side
from market import calendar
from market.horizons import Horizon
from models.block_length import automatic_block
from models.forecast import Prediction

Vector = npt.NDArray[np.float64]
ALL = "all"
CONFIDENCE_EDGES = (0.4, 0.5, 0.6)
_MIN_SESSIONS = 10
_MIN_SYMBOLS = 3
_EXPECTED, _OUTCOME = "expected_return_bps", "excess_return"


def regime_of_sessions(sessions: Sequence[dt.date], regimes: pl.DataFrame) -> pl.DataFrame:
    """Return ``session`` and the ``regime`` that was known at its open.

    Parameters
    ----------
    sessions : sequence of date
        Sessions of the calendar.
    regimes : pl.DataFrame
        ``as_of``, ``regime``; before the first row the regime is neutral.
    """
    history = RegimeHistory.of(regimes)
    labels = [history.at(calendar.session_open(d)) for d in sessions]
    return pl.DataFrame(
        {"session": list(sessions), "regime": labels},
        schema={"session": pl.Date, "regime": pl.String},
    )


def trade_metrics(
    simulation: Simulation,
    predictions: pl.DataFrame,
    sessions: Sequence[dt.date],
    draws: Draws,
    *,
    regimes: pl.DataFrame | None = None,
    sectors: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return hit rate, profit factor and mean profit of closed trades, by group.

    Parameters
    ----------
    simulation : Simulation
        Its trades.
    predictions : pl.DataFrame
        ``symbol``, ``horizon``, ``as_of``, ``expected_return_bps``, ``p_long``, ``p_short``: how
        confident the forecast was that a trade was entered on; buckets are left out where these
        are not there.
    sessions : sequence of date
        Those of the draws, in order.
    draws : Draws
        Resamples of these sessions. A trade falls into the session it was closed in.
    regimes, sectors : pl.DataFrame, optional
        ``as_of``, ``regime``; and ``symbol``, ``sector``.

    Returns
    -------
    pl.DataFrame
        ``METRIC_SCHEMA``; ``n`` counts trades. Horizons are those that opened the positions.
    """
    trades = _labelled_trades(simulation, predictions, regimes, sectors)
    rows: list[tuple[str, str, float | None, float | None, float | None, int]] = []
    place = {d: k for k, d in enumerate(sessions)}
    for group, part in _groups(trades):
        pnl = part["pnl_usd"].to_numpy()
        at = np.array([place[d] for d in part["session"]], dtype=np.int64)
        sums = np.zeros((len(sessions), 4))
        for k, values in enumerate(
            (np.ones(len(pnl)), pnl > 0.0, np.maximum(pnl, 0.0), np.maximum(-pnl, 0.0))
        ):
            np.add.at(sums[:, k], at, values)
        drawn = draws.counts @ sums
        filled = len(np.unique(at))
        tail = draws.tail(filled)
        for name, value, resampled in (
            ("hit_rate", _share(sums.sum(axis=0)[None, :]), _share(drawn)),
            ("profit_factor", _factor(sums.sum(axis=0)[None, :]), _factor(drawn)),
            ("mean_trade_usd", _mean(sums.sum(axis=0)[None, :]), _mean(drawn)),
        ):
            bounds = (None, None) if filled < _MIN_SESSIONS else interval([resampled], tail)
            rows.append((name, group, _plain(value[0]), *bounds, len(pnl)))
    return pl.DataFrame(rows, schema=METRIC_SCHEMA, orient="row")


def skill_metrics(
    scored: pl.DataFrame,
    *,
    horizons: Sequence[Horizon],
    seed: int,
    regimes: pl.DataFrame | None = None,
    sectors: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, float]:
    """Return IC, rank IC and hit rate of forecasts by group, and the mean block in sessions.

    Parameters
    ----------
    scored : pl.DataFrame
        ``bar_end``, ``expected_return_bps``, ``excess_return``; with ``symbol``, ``p_long`` and
        ``p_short`` also sectors and confidence, with ``horizon`` horizons.
    horizons : sequence of Horizon
        Those of the forecasts. The longest overlap is the least length of a block: twice its
        sessions, or five.
    seed : int
        Of the draws.
    regimes, sectors : pl.DataFrame, optional
        As for :func:`trade_metrics`.

    Returns
    -------
    (pl.DataFrame, float)
        ``METRIC_SCHEMA``; ``n`` counts sessions with a value. A session's value is the mean of
        its bars, and of several horizons the mean of theirs; a bar has one where three symbols
        or more of the group have both numbers.
    """
    known = known_outcomes(scored).with_columns(pl.lit("").alias(ALL))
    if known.is_empty():
        empty = [(m, ALL, None, None, None, 0) for m in ("ic", "rank_ic", "forecast_hit_rate")]
        return pl.DataFrame(empty, schema=METRIC_SCHEMA, orient="row"), math.nan
    known = _with_labels(known, regimes, sectors)
    sessions = known["session"].unique().sort().to_list()
    whole = session_ics(known, ALL)
    block = _block(whole["rank_ic"].to_numpy(), horizons, len(sessions))
    draws = draw_sessions(len(sessions), block=block, seed=seed)
    by = [c for c in (ALL, "year", "regime", "sector", "horizon", "confidence") if c in known]
    parts = [_mean_by_group(session_ics(known, c), c, sessions, draws) for c in by]
    return pl.concat(parts), block


def known_outcomes(scored: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with a forecast and an outcome, with the ``session`` of their bar."""
    known = scored.filter(pl.col(_EXPECTED).is_finite() & pl.col(_OUTCOME).is_finite())
    return known.with_columns(pl.col("bar_end").dt.date().alias("session"))


def session_ics(known: pl.DataFrame, label: str) -> pl.DataFrame:
    """Return each session's IC, rank IC and hit rate of forecasts by the values of a column.

    Returns
    -------
    pl.DataFrame
        ``session``, ``label``, ``ic``, ``rank_ic``, ``forecast_hit_rate``, ascending. Each
        horizon is correlated by itself and weighs the same. An outcome of exactly zero is half a
        hit.
    """
    agree = (pl.col(_EXPECTED).sign() * pl.col(_OUTCOME).sign()).mean()
    horizon = pl.col("horizon") if "horizon" in known.columns else pl.lit("")
    return (
        known.filter(pl.col(label).is_not_null())
        .group_by("session", "bar_end", horizon.alias("_horizon"), pl.col(label).alias("label"))
        .agg(
            pl.corr(_EXPECTED, _OUTCOME).alias("ic"),
            pl.corr(_EXPECTED, _OUTCOME, method="spearman").alias("rank_ic"),
            (0.5 + 0.5 * agree).alias("forecast_hit_rate"),
            pl.len().alias("_symbols"),
        )
        .filter(pl.col("_symbols") >= _MIN_SYMBOLS, pl.col("rank_ic").is_finite())
        .group_by("session", "label", "_horizon")
        .agg(pl.col("ic", "rank_ic", "forecast_hit_rate").mean())
        .sort("label", "session", "_horizon")
        .group_by("session", "label", maintain_order=True)
        .agg(pl.col("ic", "rank_ic", "forecast_hit_rate").mean())
    )


def _mean_by_group(
    table: pl.DataFrame, by: str, sessions: Sequence[dt.date], draws: Draws
) -> pl.DataFrame:
    place = {d: k for k, d in enumerate(sessions)}
    rows: list[tuple[str, str, float | None, float | None, float | None, int]] = []
    for (label,), part in table.partition_by("label", as_dict=True, maintain_order=True).items():
        at = [place[d] for d in part["session"]]
        has = np.zeros(len(sessions))
        has[at] = 1.0
        weight = draws.counts @ has
        for name in ("ic", "rank_ic", "forecast_hit_rate"):
            values = np.zeros(len(sessions))
            values[at] = part[name].to_numpy()
            drawn = ratio(draws.counts @ values, weight)
            few = part.height < _MIN_SESSIONS
            bounds = (None, None) if few else interval([drawn], draws.tail(part.height))
            group = ALL if by == ALL else f"{by}={label}"
            rows.append((name, group, _plain(float(part[name].mean())), *bounds, part.height))
    return pl.DataFrame(rows, schema=METRIC_SCHEMA, orient="row")


def confidence_bucket(confidence: pl.Expr) -> pl.Expr:
    """Return the bucket of a probability as text; see ``CONFIDENCE_EDGES``."""
    low, middle, high = CONFIDENCE_EDGES
    return (
        pl.when(confidence < low)
        .then(pl.lit(f"0.0 to {low}"))
        .when(confidence < middle)
        .then(pl.lit(f"{low} to {middle}"))
        .when(confidence < high)
        .then(pl.lit(f"{middle} to {high}"))
        .when(confidence.is_not_null())
        .then(pl.lit(f"{high} to 1.0"))
    )


def _confidence() -> pl.Expr:
    """The probability of the side that the expected return is on."""
    side = pl.when(pl.col(_EXPECTED) < 0.0).then(pl.col("p_short")).otherwise(pl.col("p_long"))
    return confidence_bucket(side)


def _with_labels(
    rows: pl.DataFrame, regimes: pl.DataFrame | None, sectors: pl.DataFrame | None
) -> pl.DataFrame:
    found = rows.with_columns(pl.col("session").dt.year().cast(pl.String).alias("year"))
    if regimes is not None:
        days = found["session"].unique().sort().to_list()
        found = found.drop("regime", strict=False).join(
            regime_of_sessions(days, regimes), on="session", how="left"
        )
    if sectors is not None and "symbol" in found:
        found = found.join(sectors.select("symbol", "sector"), on="symbol", how="left")
    if {"p_long", "p_short"} <= set(found.columns):
        found = found.with_columns(_confidence().alias("confidence"))
    return found


def _labelled_trades(
    simulation: Simulation,
    predictions: pl.DataFrame,
    regimes: pl.DataFrame | None,
    sectors: pl.DataFrame | None,
) -> pl.DataFrame:
    """Return closed trades with the session of their exit and the groups they belong to."""
    bars = simulation.equity[1:].select("bar_end", "session")
    trades = (
        simulation.trades.filter("is_closed")
        .join(bars, left_on="exited_at", right_on="bar_end", how="left")
        .sort("exited_at", "symbol")
    )
    trades = _opened_by(trades, simulation)
    forecast = {"symbol", "horizon", Prediction.AS_OF, _EXPECTED, "p_long", "p_short"}
    if forecast <= set(predictions.columns):
        trades = _entered_on(trades, simulation, predictions)
    found = _with_labels(trades, regimes, sectors)
    return found.with_columns(pl.col("direction").alias("side"))


def _opened_by(trades: pl.DataFrame, simulation: Simulation) -> pl.DataFrame:
    """Join the horizon of the order that opened: the last on its side in the bar of the entry."""
    c = OrderColumn
    side = pl.when(pl.col(c.SIDE) == Side.BUY.value).then(pl.lit("long")).otherwise(pl.lit("short"))
    opened = simulation.fills.group_by(
        c.SYMBOL, pl.col(c.BAR_END).alias("entered_at"), side.alias("direction")
    ).agg(pl.col(c.HORIZON).last())
    return trades.join(opened, on=["symbol", "entered_at", "direction"], how="left")


def _entered_on(
    trades: pl.DataFrame, simulation: Simulation, predictions: pl.DataFrame
) -> pl.DataFrame:
    """Join the newest forecast of the symbol and horizon when the entry was decided."""
    decided = (
        simulation.fills.group_by(OrderColumn.SYMBOL, OrderColumn.BAR_END)
        .agg(pl.col(OrderColumn.AS_OF).min().alias("_decided"))
        .rename({OrderColumn.BAR_END.value: "entered_at"})
    )
    known = predictions.select(
        "symbol",
        "horizon",
        pl.col(Prediction.AS_OF).alias("_known"),
        _EXPECTED,
        "p_long",
        "p_short",
    ).sort("_known")
    return (
        trades.join(decided, on=["symbol", "entered_at"], how="left")
        .sort("_decided")
        .join_asof(
            known,
            left_on="_decided",
            right_on="_known",
            by=["symbol", "horizon"],
            strategy="backward",
            check_sortedness=False,
        )
        .sort("exited_at", "symbol")
    )


def _groups(trades: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    found = [(ALL, trades)]
    for by in ("year", "regime", "sector", "horizon", "confidence", "side"):
        if by in trades:
            parts = trades.drop_nulls(by).partition_by(by, as_dict=True).items()
            found += [(f"{by}={label}", part) for (label,), part in sorted(parts)]
    return found


def _block(values: Vector, horizons: Sequence[Horizon], sessions: int) -> float:
    least = float(max(5, *(2 * h.sessions for h in horizons)))
    return max(1.0, min(max(least, automatic_block(values)), sessions / 3.0))


def _share(sums: Vector) -> Vector:
    return ratio(sums[:, 1], sums[:, 0])


def _factor(sums: Vector) -> Vector:
    return ratio(sums[:, 2], sums[:, 3])


def _mean(sums: Vector) -> Vector:
    return ratio(sums[:, 2] - sums[:, 3], sums[:, 0])


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
