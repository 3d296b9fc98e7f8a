"""Macro features: naive loops over what was known, rows out of order, and stale tables."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from features.macro_features import STALE
from features.registry import select_features
from features.side import SideTables
from market import calendar
from market.macro import index_known_at, yields_known_at
from market.schema import Bar, Yield
from market.synthetic_reference import generate_reference
from market.timeframes import Timeframe, resample
from tests.markets import bits, daily_bars, market

MACRO = select_features(family="macro")
START = dt.date(2024, 1, 2)


def long_market() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    made = market(seed=3, symbols=2, sessions=320)
    reference = generate_reference(made)
    far = reference.indices.with_columns(pl.lit("VIX3M").alias("symbol"), pl.col("close") * 1.5 - 6)
    indices = pl.concat([reference.indices, far.filter(pl.int_range(pl.len()) % 5 != 0)])
    return made.daily, indices, reference.treasury_yields


def naive_vix(past: list[float]) -> dict[str, float | None]:
    out: dict[str, float | None] = {"vix_level": past[-1] / 100}
    for n in (1, 5, 20):
        out[f"vix_change_{n}"] = past[-1] / past[-1 - n] - 1 if len(past) > n else None
    year = past[-252:]
    rank = (sum(v < past[-1] for v in year) + sum(v <= past[-1] for v in year) - 1) / 2
    out["vix_percentile_252"] = rank / 251 if len(past) >= 252 else None
    out["vix_over_63"] = past[-1] / np.mean(past[-63:]) - 1 if len(past) >= 63 else None
    return out


def naive_curve(past: list[dict[str, float]]) -> dict[str, float | None]:
    def shape(row: dict[str, float]) -> tuple[float, float, float, float]:
        ten, two, five = row[Yield.YEAR_10], row[Yield.YEAR_2], row[Yield.YEAR_5]
        return ten, ten - two, 2 * five - two - ten, ten - row[Yield.MONTH_3]

    names = ("yield_10y", "yield_slope_10y_2y", "yield_curvature", "yield_slope_10y_3m")
    now = shape(past[-1])
    out: dict[str, float | None] = dict(zip(names, now, strict=True))
    for n in (1, 5, 20):
        for k, name in enumerate(names[:3]):
            then = shape(past[-1 - n])[k] if len(past) > n else None
            out[f"{name}_change_{n}"] = None if then is None else now[k] - then
    return out


def agrees(got: float | None, wanted: float | None) -> bool:
    if wanted is None or got is None:
        return got is None and wanted is None
    return got == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_features_equal_a_naive_loop_over_what_was_known() -> None:
    daily, indices, yields = long_market()
    out = compute_features(daily, MACRO, SideTables(indices=indices, yields=yields))
    one = out.filter(pl.col(Bar.SYMBOL) == out[Bar.SYMBOL][0])
    vix = indices.filter(pl.col("symbol") == "VIX").sort("session")
    far = dict(indices.filter(pl.col("symbol") == "VIX3M").select("session", "close").iter_rows())
    for row in one.gather_every(7).iter_rows(named=True):
        known = vix.filter(pl.col("known_at") <= row["as_of"])
        curves = yields.sort("date").filter(pl.col("known_at") <= row["as_of"])
        wanted = naive_vix(known["close"].to_list()) if known.height else {}
        both = known.filter(pl.col("session").is_in(list(far)))
        if both.height:
            session, close = both.select("session", "close").row(-1)
            wanted["vix_term"] = close / far[session] - 1
        if curves.height:
            wanted |= naive_curve(curves.to_dicts())
        for feature in MACRO:
            assert agrees(row[feature.name], wanted.get(feature.name)), (row["session"], feature)
    assert one["vix_percentile_252"].count() == 320 - 252
    # The same for all symbols.
    other = out.filter(pl.col(Bar.SYMBOL) != out[Bar.SYMBOL][0])
    columns = [f.name for f in MACRO]
    assert bits(one.select(columns)) == bits(other.select(columns))


def test_a_value_is_not_seen_before_it_is_known() -> None:
    """At the close of a session its VIX is a quarter of an hour away, its yields a day and more."""
    made = market(seed=3, symbols=2, sessions=40, minute_sessions=5)
    reference = generate_reference(made)
    bars = resample(made.minute, Timeframe.M30)
    late = bars.with_columns(pl.col(Bar.KNOWN_AT) + dt.timedelta(minutes=15))
    side = SideTables(indices=reference.indices, yields=reference.treasury_yields)
    vix = dict(reference.indices.select("session", "close").iter_rows())
    ten = dict(reference.treasury_yields.select("date", Yield.YEAR_10).iter_rows())
    for frame in (bars, late):
        for row in compute_features(frame, MACRO, side).iter_rows(named=True):
            day = row["session"]
            seen = max(d for d in vix if index_known_at(d) <= row["as_of"])
            assert row["vix_level"] == pytest.approx(vix[seen] / 100)
            at_close = row["bar_end"] == calendar.session_close(day)
            assert (seen == day) == (at_close and frame is late)
            published = max(d for d in ten if yields_known_at(d) <= row["as_of"])
            assert published < day
            assert row["yield_10y"] == pytest.approx(ten[published])


def test_a_row_that_comes_late_changes_nothing_of_what_came_before_it() -> None:
    daily, indices, _ = long_market()
    vix = indices.filter(pl.col("symbol") == "VIX").sort("session")
    told = vix.with_columns(
        pl.when(pl.int_range(pl.len()) == 100)
        .then(pl.col("known_at") + dt.timedelta(days=90))
        .otherwise("known_at")
        .alias("known_at")
    )
    without = vix.filter(pl.int_range(pl.len()) != 100)
    a, b = (compute_features(daily, MACRO, SideTables(indices=i)) for i in (told, without))
    assert bits(a) == bits(b)


def test_a_table_that_ends_does_not_go_on_for_ever() -> None:
    daily, indices, yields = long_market()
    end = daily[Bar.SESSION].unique().sort()[200]
    side = SideTables(
        indices=indices.filter(pl.col("session") <= end),
        yields=yields.filter(pl.col("date") <= end),
    )
    out = compute_features(daily, MACRO, side)
    for name, known_at in (
        ("vix_level", index_known_at(end)),
        ("yield_10y", side.yields["known_at"].max()),
    ):
        fresh = out.filter(pl.col("as_of").is_between(known_at, known_at + STALE, closed="left"))
        stale = out.filter(pl.col("as_of") >= known_at + STALE)
        assert fresh[name].null_count() == 0
        assert stale[name].null_count() == stale.height > 0


def test_a_maturity_that_was_not_published_is_null_where_it_is_used() -> None:
    daily, _, yields = long_market()
    hole = yields.with_columns(
        pl.when(pl.int_range(pl.len()) == 50).then(None).otherwise(Yield.YEAR_2).alias(Yield.YEAR_2)
    )
    out = compute_features(daily, MACRO, SideTables(yields=hole))
    one = out.filter(pl.col(Bar.SYMBOL) == out[Bar.SYMBOL][0])
    missing = one.filter(pl.col("yield_slope_10y_2y").is_null() & pl.col("yield_10y").is_not_null())
    assert missing.height == 1
    assert missing["yield_slope_10y_3m"].null_count() == 0


def test_without_tables_there_is_nothing() -> None:
    bars = daily_bars({"A": [5.0] * 3}, START)
    _, indices, yields = long_market()
    for side in (SideTables(), SideTables(indices=indices.head(0), yields=yields.head(0))):
        out = compute_features(bars, MACRO, side)
        assert all(out[f.name].null_count() == 3 for f in MACRO)


def test_values_that_cannot_be_are_null_and_not_infinite() -> None:
    daily, indices, yields = long_market()
    n = pl.int_range(pl.len())
    for bad in (0.0, float("nan"), float("inf"), None):
        hostile = pl.when(n % 9 == 0).then(bad).otherwise("close").alias("close")
        curve = pl.when(n % 9 == 0).then(bad).otherwise(Yield.YEAR_10).alias(Yield.YEAR_10)
        side = SideTables(indices=indices.with_columns(hostile), yields=yields.with_columns(curve))
        out = compute_features(daily, MACRO, side)
        for feature in MACRO:
            column = out[feature.name].drop_nulls()
            assert column.is_finite().all(), feature.name
