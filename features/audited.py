"""What of this floor the leakage audit goes through, each from raw tables to dated values."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from features.compute import compute_features
from features.labels import LABEL_COLUMNS, label_frame
from features.leakage import Subject, Tables
from features.regime import classify_regimes
from features.side import SideTables
from features.spec import Feature
from features.triple_barrier import BARRIER_COLUMNS
from market.actions import forward_adjust, session_factors
from market.horizons import Horizon
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from market.timeframes import Timeframe, before_open, regular_hours, resample

_BAND_BPS = 6.0


def adjusted_bars(tables: Tables, timeframe: Timeframe) -> pl.DataFrame:
    """Return forward-adjusted bars of a length from raw tables.

    Parameters
    ----------
    tables : mapping
        ``bars_1d``, for intraday lengths ``bars_1m``; ``splits`` and ``dividends`` where there
        are any.
    """
    if timeframe is Timeframe.D1:
        raw = tables["bars_1d"]
    elif timeframe is Timeframe.M1:
        raw = regular_hours(tables["bars_1m"])
    else:
        finer = tables["bars_1m"] if timeframe.is_intraday else tables["bars_1d"]
        raw = resample(finer, timeframe)
    return _adjusted(raw, tables)


def _adjusted(raw: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    daily = tables["bars_1d"]
    splits = tables.get("splits", empty(SPLIT_SCHEMA))
    dividends = tables.get("dividends", empty(DIVIDEND_SCHEMA))
    factors = session_factors(daily.sort(Bar.SYMBOL, Bar.BAR_START), splits, dividends)
    return forward_adjust(raw, factors)


def _premarket(tables: Tables) -> pl.DataFrame:
    return _adjusted(before_open(tables["bars_1m"]), tables)


def side_tables(tables: Tables, timeframe: Timeframe) -> SideTables:
    """Return what features of a timeframe may look at besides its bars."""
    longer = [Timeframe.H1, Timeframe.D1] if timeframe.is_intraday else []
    premarket = _premarket(tables) if timeframe.is_intraday else None
    return SideTables(
        longer={t: adjusted_bars(tables, t) for t in longer if t.minutes > timeframe.minutes},
        indices=tables.get("indices"),
        yields=tables.get("treasury_yields"),
        news=tables.get("news"),
        events=tables.get("events"),
        sectors=tables.get("sectors"),
        premarket=premarket,
    )


def features_subject(features: Sequence[Feature], timeframe: Timeframe) -> Subject:
    """Return the audit of features, from raw bars through resampling and adjustment."""

    def compute(tables: Tables) -> pl.DataFrame:
        bars = adjusted_bars(tables, timeframe)
        return compute_features(bars, features, side_tables(tables, timeframe))

    return Subject(f"features on {timeframe} bars", compute)


def labels_subject(horizon: Horizon) -> Subject:
    """Return the audit of a horizon's labels: null before their end is known, the same after."""

    def compute(tables: Tables) -> pl.DataFrame:
        bars = adjusted_bars(tables, horizon.timeframe)
        return label_frame(bars, horizon, band_bps=_BAND_BPS).drop(BARRIER_COLUMNS)

    ahead = tuple(c for c in LABEL_COLUMNS if c != "label_volatility" and c not in BARRIER_COLUMNS)
    return Subject(f"labels of {horizon.name}", compute, known="label_known_at", ahead=ahead)


def barriers_subject(horizon: Horizon) -> Subject:
    """Return the audit of a horizon's triple barriers, known when one is touched."""

    def compute(tables: Tables) -> pl.DataFrame:
        bars = adjusted_bars(tables, horizon.timeframe)
        made = label_frame(bars, horizon, band_bps=_BAND_BPS)
        return made.select(Bar.SYMBOL, Bar.BAR_END, "as_of", *BARRIER_COLUMNS)

    name = f"barriers of {horizon.name}"
    return Subject(name, compute, known="barrier_known_at", ahead=tuple(BARRIER_COLUMNS))


def regimes_subject() -> Subject:
    """Return the audit of regimes."""

    def compute(tables: Tables) -> pl.DataFrame:
        return classify_regimes(adjusted_bars(tables, Timeframe.D1))

    return Subject("regimes", compute, keys=(Bar.SESSION.value,))
