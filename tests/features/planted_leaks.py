"""Leaks of the kinds that this field knows, planted one by one for the audit to find.

Each is a :class:`features.leakage.Subject` over the tables of :func:`audit_tables`; what it
computes looks sound, carries the right keys and dates, and sees the future somewhere.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import polars as pl

from features.audited import adjusted_bars
from features.compute import compute_features
from features.labels import forward_returns
from features.leakage import Subject, Tables
from features.spec import Feature, Stage, from_expression
from market.actions import forward_adjust, session_factors
from market.horizons import find_horizon
from market.schema import Bar
from market.synthetic_reference import generate_reference
from market.timeframes import Timeframe, regular_hours, resample
from tests.markets import HALF_DAY, market

C, H, L, V = (pl.col(c) for c in ("close", "high", "low", "volume"))
R = C / C.shift(1) - 1.0
KEYS = [Bar.SYMBOL, Bar.SESSION, Bar.BAR_END]


@lru_cache(maxsize=1)
def audit_tables() -> dict[str, pl.DataFrame]:
    """Raw tables of a small market over a half-day: bars, actions, macro data and news.

    One symbol is listed late and one is delisted early; one has a hole; two have a split.
    """
    made = market(
        seed=21,
        symbols=6,
        sessions=160,
        minute_sessions=14,
        end=HALF_DAY + dt.timedelta(days=6),
    )
    a, b, c, *_ = made.daily[Bar.SYMBOL].unique().sort()
    days = made.daily[Bar.SESSION].unique().sort()
    symbol, session = pl.col(Bar.SYMBOL), pl.col(Bar.SESSION)
    # With minutes too, for a symbol that comes late, and one that goes.
    listed, gone = days[-5], days[-4]
    there = ((symbol != a) | (session >= listed)) & ((symbol != b) | (session < gone))
    hole = (symbol == c) & session.is_in([days[60], days[61], days[120]])
    reference = generate_reference(made)
    splits = pl.DataFrame(
        {
            "symbol": [c, made.daily[Bar.SYMBOL].unique().sort()[3]],
            "ex_date": [days[110], days[-3]],
            # The second one is announced on its very day.
            "known_at": [_opening(made, days[100]), _opening(made, days[-3])],
            "split_ratio": [2.0, 3.0],
        },
        schema=made.splits.schema,
    )
    return {
        "bars_1d": made.daily.filter(there, ~hole),
        "bars_1m": made.minute.filter(there),
        "splits": splits,
        "dividends": made.dividends,
        "indices": reference.indices,
        "treasury_yields": reference.treasury_yields,
        "news": reference.news,
    }


def _opening(made, day: dt.date) -> dt.datetime:
    return made.daily.filter(pl.col(Bar.SESSION) == day)[Bar.BAR_START][0]


def daily(tables: Tables) -> pl.DataFrame:
    return adjusted_bars(tables, Timeframe.D1).sort(KEYS)


def half_hours(tables: Tables) -> pl.DataFrame:
    return adjusted_bars(tables, Timeframe.M30).sort(KEYS)


def dated(frame: pl.DataFrame, *values: pl.Expr | str) -> pl.DataFrame:
    return frame.select(*KEYS, pl.col(Bar.KNOWN_AT).alias("as_of"), *values)


def feature(expression: pl.Expr, stage: Stage = Stage.TIME_SERIES) -> Callable:
    """A leak in the form of a registered feature, through the engine."""
    inputs = tuple(sorted(set(expression.meta.root_names())))
    bad = Feature("planted", from_expression(expression), inputs, 1, stage, "leak", "none")
    return lambda tables: compute_features(daily(tables), [bad])


def through_time(expression: pl.Expr) -> Callable:
    return lambda tables: dated(daily(tables), expression.over(Bar.SYMBOL).alias("planted"))


def function_of(kernel: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """A leak written on arrays, as a quant would in a feature of his own."""

    def compute(panel) -> np.ndarray:
        out = np.empty(panel.rows)
        for begin, end in zip(panel.offsets[:-1], panel.offsets[1:], strict=True):
            out[begin:end] = kernel(panel["close"][begin:end])
        return out

    bad = Feature("planted", compute, ("close",), 1, Stage.TIME_SERIES, "leak", "none")
    return lambda tables: compute_features(daily(tables), [bad])


# ------------------------------------------------------------------ scaling, filters


def zero_phase(close: np.ndarray) -> np.ndarray:
    def smooth(x: np.ndarray) -> np.ndarray:
        out = np.array(x)
        for k in range(1, len(x)):
            out[k] = 0.9 * out[k - 1] + 0.1 * x[k]
        return out

    return close / smooth(smooth(close)[::-1])[::-1] - 1.0


def detrended(close: np.ndarray) -> np.ndarray:
    time = np.arange(len(close))
    if len(close) < 2:
        return np.zeros(len(close))
    slope, level = np.polyfit(time, np.log(close), 1)
    return np.log(close) - slope * time - level


def fourier(close: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(close)
    spectrum[max(1, len(spectrum) // 10) :] = 0.0
    return close / np.fft.irfft(spectrum, len(close)) - 1.0


def principal_component(tables: Tables) -> pl.DataFrame:
    bars = daily(tables).with_columns(R.over(Bar.SYMBOL).fill_null(0.0).alias("r"))
    wide = bars.pivot(on=Bar.SYMBOL, index=Bar.BAR_END, values="r").fill_null(0.0).sort(Bar.BAR_END)
    matrix = wide.drop(Bar.BAR_END).to_numpy()
    _, _, loadings = np.linalg.svd(matrix, full_matrices=False)
    factor = wide.select(Bar.BAR_END, planted=pl.Series(np.abs(matrix @ loadings[0])))
    return dated(bars.join(factor, on=Bar.BAR_END), "planted")


# ------------------------------------------------------------------ bars of other lengths


def labelled_left(tables: Tables) -> pl.DataFrame:
    minutes = regular_hours(tables["bars_1m"])
    bars = (
        minutes.sort(Bar.SYMBOL, Bar.BAR_START)
        .group_by_dynamic(Bar.BAR_START, every="30m", group_by=Bar.SYMBOL, label="left")
        .agg(pl.col(Bar.SESSION).last(), C.last().alias("planted"))
    )
    return bars.select(
        Bar.SYMBOL,
        Bar.SESSION,
        pl.col(Bar.BAR_START).alias(Bar.BAR_END),
        pl.col(Bar.BAR_START).alias("as_of"),
        "planted",
    )


def day_of(tables: Tables, column: str) -> pl.DataFrame:
    """The session's own daily bar, seen from half-hours before it has ended."""
    days = daily(tables).select(Bar.SYMBOL, Bar.SESSION, pl.col(column).alias("of_day"))
    # As from the minutes, so that the day is there as soon as it has begun.
    rows = half_hours(tables)
    own = rows.group_by(Bar.SYMBOL, Bar.SESSION).agg(C.last(), H.max(), L.min(), V.sum())
    own = own.select(Bar.SYMBOL, Bar.SESSION, pl.col(column).alias("so_far"))
    joined = rows.join(days, on=[Bar.SYMBOL, Bar.SESSION], how="left").join(
        own, on=[Bar.SYMBOL, Bar.SESSION], how="left"
    )
    return joined.with_columns(pl.coalesce("of_day", "so_far").alias("of_day")).sort(KEYS)


def hour_before_its_end(tables: Tables) -> pl.DataFrame:
    hours = resample(tables["bars_1m"], Timeframe.H1).select(
        Bar.SYMBOL, Bar.BAR_START, C.alias("hour")
    )
    rows = half_hours(tables).sort(Bar.BAR_START)
    joined = rows.join_asof(
        hours.sort(Bar.BAR_START), on=Bar.BAR_START, by=Bar.SYMBOL, check_sortedness=False
    )
    return dated(joined, pl.col("hour").alias("planted"))


def hour_to_come(tables: Tables) -> pl.DataFrame:
    hours = resample(tables["bars_1m"], Timeframe.H1).select(
        Bar.SYMBOL, pl.col(Bar.BAR_END), C.alias("hour")
    )
    joined = (
        half_hours(tables)
        .sort(Bar.BAR_END)
        .join_asof(
            hours.sort(Bar.BAR_END),
            on=Bar.BAR_END,
            by=Bar.SYMBOL,
            strategy="forward",
            check_sortedness=False,
        )
    )
    return dated(joined, pl.col("hour").alias("planted"))


def stamped_with_its_start(tables: Tables) -> pl.DataFrame:
    return daily(tables).select(
        *KEYS, pl.col(Bar.BAR_START).alias("as_of"), R.over(Bar.SYMBOL).alias("planted")
    )


def session_vwap(tables: Tables) -> pl.DataFrame:
    money = (C * V).sum() / V.sum()
    return dated(half_hours(tables), money.over(Bar.SYMBOL, Bar.SESSION).alias("planted"))


# ------------------------------------------------------------------ symbols and universes


def rank_among_all_to_come(tables: Tables) -> pl.DataFrame:
    rows = daily(tables)
    every = rows.select(Bar.SYMBOL).unique()
    grid = rows.select(Bar.BAR_END).unique().join(every, how="cross")
    filled = grid.join(rows, on=[Bar.SYMBOL, Bar.BAR_END], how="left").with_columns(
        R.over(Bar.SYMBOL, order_by=Bar.BAR_END).fill_null(0.0).alias("r")
    )
    ranked = filled.with_columns(pl.col("r").rank().over(Bar.BAR_END).alias("planted"))
    own = rows.join(ranked.select(Bar.SYMBOL, Bar.BAR_END, "planted"), on=[Bar.SYMBOL, Bar.BAR_END])
    return dated(own, "planted")


def survivors(tables: Tables) -> pl.DataFrame:
    rows = daily(tables)
    alive = rows.filter(pl.col(Bar.SESSION) == rows[Bar.SESSION].max()).select(Bar.SYMBOL)
    return dated(rows.join(alive.unique(), on=Bar.SYMBOL, how="semi"))


def most_liquid_of_all_time(tables: Tables) -> pl.DataFrame:
    rows = daily(tables)
    top = rows.group_by(Bar.SYMBOL).agg((C * V).median().alias("usd")).top_k(3, by="usd")
    return dated(rows.join(top, on=Bar.SYMBOL, how="semi"))


def never_halted(tables: Tables) -> pl.DataFrame:
    rows = daily(tables)
    full = rows.group_by(Bar.SYMBOL).len().filter(pl.col("len") >= pl.col("len").max())
    return dated(rows.join(full, on=Bar.SYMBOL, how="semi"))


# ------------------------------------------------------------------ labels and targets


def day_labels(tables: Tables) -> pl.DataFrame:
    return forward_returns(daily(tables), find_horizon("14d"))


def target_encoding(tables: Tables) -> pl.DataFrame:
    labels = day_labels(tables)
    mean = pl.col("forward_return").mean().over(Bar.SYMBOL)
    return labels.select(*KEYS, "as_of", mean.alias("planted"))


def expanding_target_encoding(tables: Tables) -> pl.DataFrame:
    labels = day_labels(tables).sort(KEYS)
    past = pl.col("forward_return").shift(1).cum_sum().over(Bar.SYMBOL)
    return labels.select(*KEYS, "as_of", past.alias("planted"))


def label_before_its_end(tables: Tables) -> pl.DataFrame:
    bars = daily(tables)
    last = C.last().over(Bar.SYMBOL)
    value = C.shift(-10).over(Bar.SYMBOL).fill_null(last) / C - 1.0
    known = day_labels(tables).select(*KEYS, "label_known_at")
    return dated(bars, value.alias("forward_return")).join(known, on=KEYS)


def label_in_units_of_all_time(tables: Tables) -> pl.DataFrame:
    unit = pl.col("forward_return").std().over(Bar.SYMBOL)
    return day_labels(tables).with_columns(pl.col("forward_return") / unit)


# ------------------------------------------------------------------ regimes, actions, side tables


def smoothed_regime(tables: Tables) -> pl.DataFrame:
    days = daily(tables).with_columns(R.over(Bar.SYMBOL).alias("r"))
    market_return = days.group_by(Bar.SESSION).agg(
        pl.col("r").mean(), pl.col(Bar.KNOWN_AT).max().alias("as_of")
    )
    smooth = pl.col("r").rolling_mean(41, center=True, min_samples=1)
    return market_return.sort(Bar.SESSION).select(
        Bar.SESSION,
        "as_of",
        pl.when(smooth > 0).then(pl.lit("bull")).otherwise(pl.lit("bear")).alias("regime"),
    )


def regime_by_terciles_of_all_time(tables: Tables) -> pl.DataFrame:
    days = daily(tables).with_columns(R.over(Bar.SYMBOL).alias("r"))
    trend = (
        days.group_by(Bar.SESSION)
        .agg(pl.col("r").mean(), pl.col(Bar.KNOWN_AT).max().alias("as_of"))
        .sort(Bar.SESSION)
        .with_columns(pl.col("r").rolling_mean(20, min_samples=1))
    )
    bull = pl.col("r") > pl.col("r").quantile(0.66)
    return trend.select(Bar.SESSION, "as_of", bull.alias("regime"))


def back_adjusted_level(tables: Tables) -> pl.DataFrame:
    bars = tables["bars_1d"].sort(KEYS)
    factors = session_factors(bars, tables["splits"], tables["dividends"])
    last = factors.group_by(Bar.SYMBOL).agg(pl.col("split_factor").last().alias("last"))
    joined = bars.join(factors, on=[Bar.SYMBOL, Bar.SESSION]).join(last, on=Bar.SYMBOL)
    level = C * pl.col("split_factor") / pl.col("last")
    return dated(joined, level.log().alias("planted"))


def split_before_its_day(tables: Tables) -> pl.DataFrame:
    early = tables["splits"].with_columns(pl.col("ex_date") - dt.timedelta(days=2))
    bars = tables["bars_1d"].sort(KEYS)
    wrong = forward_adjust(bars, session_factors(bars, early, tables["dividends"]))
    return dated(wrong, R.over(Bar.SYMBOL).alias("planted"))


def vix_of_the_day(tables: Tables) -> pl.DataFrame:
    vix = tables["indices"].select(Bar.SESSION, C.alias("planted"))
    return dated(half_hours(tables).join(vix, on=Bar.SESSION, how="left"), "planted")


def yields_of_the_day(tables: Tables) -> pl.DataFrame:
    rates = tables["treasury_yields"].select(
        pl.col("date").alias(Bar.SESSION), pl.col("yield_10_year_percent").alias("planted")
    )
    return dated(daily(tables).join(rates, on=Bar.SESSION, how="left"), "planted")


def news_of_the_day(tables: Tables) -> pl.DataFrame:
    counts = (
        tables["news"]
        .with_columns(pl.col("published_at").dt.date().alias(Bar.SESSION))
        .group_by(Bar.SYMBOL, Bar.SESSION)
        .agg(pl.len().alias("planted"))
    )
    return dated(daily(tables).join(counts, on=[Bar.SYMBOL, Bar.SESSION], how="left"), "planted")


def split_feature_from_its_ex_date_table(tables: Tables) -> pl.DataFrame:
    """Days to the next split, whenever it was announced."""
    ahead = tables["splits"].select(Bar.SYMBOL, pl.col("ex_date").alias("next"))
    rows = (
        daily(tables).join_asof(
            ahead.sort("next"),
            left_on=Bar.SESSION,
            right_on="next",
            by=Bar.SYMBOL,
            strategy="forward",
            check_sortedness=False,
        )
        if ahead.height
        else daily(tables).with_columns(pl.lit(None, pl.Date).alias("next"))
    )
    return dated(rows, (pl.col("next") - pl.col(Bar.SESSION)).dt.total_days().alias("planted"))


# ------------------------------------------------------------------ rare leaks


def one_symbol_on_fridays(tables: Tables) -> pl.DataFrame:
    rows = daily(tables)
    victim = rows[Bar.SYMBOL].unique().sort()[4]
    rare = (pl.col(Bar.SYMBOL) == victim) & (pl.col(Bar.SESSION).dt.weekday() == 5)
    ahead = pl.when(rare).then(C.shift(-1).over(Bar.SYMBOL)).otherwise(C)
    return dated(rows, ahead.alias("planted"))


def last_bar_of_the_session(tables: Tables) -> pl.DataFrame:
    rows = half_hours(tables)
    is_last = pl.col(Bar.BAR_END) == pl.col(Bar.BAR_END).max().over(Bar.SYMBOL, Bar.SESSION)
    return dated(rows, is_last.alias("planted"))


def in_the_last_bit(tables: Tables) -> pl.DataFrame:
    """Running sums from the end: the same number, but for rounding that tells the future."""
    rows = daily(tables)
    from_end = R.fill_null(0.0).cum_sum(reverse=True)
    value = from_end - from_end.shift(-1).fill_null(0.0)
    return dated(rows, value.over(Bar.SYMBOL).alias("planted"))


LABELS = {"known": "label_known_at", "ahead": ("label_known_at", "forward_return")}
BY_SESSION = {"keys": ("session",)}
LEAKS: dict[str, tuple[Callable, dict]] = {
    "tomorrow's return": (feature(C.shift(-1) / C - 1), {}),
    "centred window": (feature(C / C.rolling_mean(21, center=True) - 1), {}),
    "centred window of three bars": (feature(C / C.rolling_mean(3, center=True) - 1), {}),
    "chikou span": (feature(C.shift(-26) / C), {}),
    "detrended price oscillator, centred": (feature((C - C.rolling_mean(20)).shift(-11) / C), {}),
    "back-fill": (feature(pl.when(V % 2 == 0).then(C).backward_fill() / C), {}),
    "interpolation of gaps": (feature(pl.when(V % 2 == 0).then(C).interpolate() / C), {}),
    "whole-sample z-score": (feature((R - R.mean()) / R.std()), {}),
    "whole-sample range": (feature((C - C.min()) / (C.max() - C.min())), {}),
    "whole-sample rank": (feature(R.rank() / R.count()), {}),
    "whole-sample winsorising": (feature(R.clip(R.quantile(0.05), R.quantile(0.95))), {}),
    "distance from the all-time high to come": (feature(C / C.max()), {}),
    "zero-phase filter": (function_of(zero_phase), {}),
    "trend line through everything": (function_of(detrended), {}),
    "spectrum of everything": (function_of(fourier), {}),
    "principal component of everything": (principal_component, {}),
    "resample labelled left": (labelled_left, {}),
    "the day's close before its end": (
        lambda t: dated(day_of(t, "close"), pl.col("of_day").alias("planted")),
        {},
    ),
    "the day's range before its end": (
        lambda t: dated(day_of(t, "high"), (C / pl.col("of_day")).alias("planted")),
        {},
    ),
    "share of the day's volume": (
        lambda t: dated(day_of(t, "volume"), (V / pl.col("of_day")).alias("planted")),
        {},
    ),
    "an hour before its end": (hour_before_its_end, {}),
    "the hour to come": (hour_to_come, {}),
    "stamped with the bar's start": (stamped_with_its_start, {}),
    "the whole session's vwap": (session_vwap, {}),
    "ranked with symbols to come": (rank_among_all_to_come, {}),
    "universe of survivors": (survivors, {}),
    "universe by all-time liquidity": (most_liquid_of_all_time, {}),
    "universe that was never halted": (never_halted, {}),
    "target encoding": (target_encoding, {}),
    "expanding target encoding without purge": (expanding_target_encoding, {}),
    "label before its end": (label_before_its_end, LABELS),
    "label in units of all time": (label_in_units_of_all_time, LABELS),
    "smoothed regime": (smoothed_regime, BY_SESSION),
    "regime by terciles of all time": (regime_by_terciles_of_all_time, BY_SESSION),
    "back-adjusted price level": (back_adjusted_level, {}),
    "split before its ex-date": (split_before_its_day, {}),
    "days to a split, announced or not": (split_feature_from_its_ex_date_table, {}),
    "VIX of the day at noon": (vix_of_the_day, {}),
    "yields of the day at the close": (yields_of_the_day, {}),
    "news of the day at the close": (news_of_the_day, {}),
    "one symbol, on Fridays": (one_symbol_on_fridays, {}),
    "knows that it is the session's last bar": (last_bar_of_the_session, {}),
    "in the last bit": (in_the_last_bit, {}),
}


def planted_leaks() -> list[Subject]:
    """Return every planted leak."""
    return [Subject(name, compute, **more) for name, (compute, more) in LEAKS.items()]
