"""What shorter bars see of longer ones: only those that are over, and each computed once."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import lru_cache

import polars as pl
import pytest

from features import compute
from features.compute import compute_features
from features.definitions import definition_hash
from features.longer_bars import INNER
from features.registry import find_feature, select_features
from features.side import SideTables
from market.schema import Bar
from market.timeframes import Timeframe, regular_hours, resample
from tests.markets import HALF_DAY, market

H1, D1 = Timeframe.H1, Timeframe.D1
LONGER = select_features(family="longer_bars")


@lru_cache(maxsize=1)
def bars() -> dict[Timeframe, pl.DataFrame]:
    made = market(seed=3, symbols=2, sessions=60, minute_sessions=10)
    return {
        Timeframe.M1: regular_hours(made.minute),
        Timeframe.M30: resample(made.minute, Timeframe.M30),
        H1: resample(made.minute, H1),
        D1: made.daily,
    }


def side() -> SideTables:
    return SideTables(longer={t: bars()[t] for t in (H1, D1)})


@pytest.mark.parametrize("timeframe", [Timeframe.M1, Timeframe.M30])
def test_each_value_is_that_of_the_last_longer_bar_that_is_over(timeframe: Timeframe) -> None:
    out = compute_features(bars()[timeframe], LONGER, side())
    assert len(LONGER) == 12
    inner = {t: compute_features(bars()[t], INNER) for t in (H1, D1)}
    for row in out.gather_every(1 + out.height // 150).iter_rows(named=True):
        for t, values in inner.items():
            over = values.filter(
                pl.col(Bar.SYMBOL) == row["symbol"], pl.col("as_of") <= row["as_of"]
            )
            for feature in INNER:
                wanted = over[feature.name][-1] if over.height else None
                assert row[f"{feature.name}_of_{t.value}"] == wanted


def test_a_longer_bar_is_not_seen_before_its_end() -> None:
    """Not in the minute before it ends, but in the one that ends with it."""
    out = compute_features(bars()[Timeframe.M1], LONGER, side())
    one = out.filter(pl.col(Bar.SYMBOL) == out[Bar.SYMBOL][0])
    for t, name in ((H1, "return_1_of_1h"), (D1, "close_location_of_1d")):
        ends = bars()[t].filter(pl.col(Bar.SYMBOL) == out[Bar.SYMBOL][0])[Bar.BAR_END]
        steps = one.filter(pl.col(name) != pl.col(name).shift(1))
        assert steps.height > 5
        assert steps.filter(~pl.col(Bar.BAR_END).is_in(ends.implode())).is_empty(), t


def test_a_delayed_longer_bar_is_seen_later() -> None:
    late = bars()[D1].with_columns(pl.col(Bar.KNOWN_AT) + dt.timedelta(hours=20))
    a, b = (
        compute_features(bars()[Timeframe.M30], LONGER, SideTables(longer={D1: d}))
        for d in (bars()[D1], late)
    )
    # Known at noon of the next session: what the others knew all morning.
    morning = pl.col("as_of").dt.time() < dt.time(16, 0)
    assert (a["return_1_of_1d"] != b["return_1_of_1d"]).sum() > 20
    whole = pl.col("session") != HALF_DAY
    noon = ~morning & whole & (pl.col("as_of").dt.time() < dt.time(19, 59))
    keys = ["symbol", "as_of", "return_1_of_1d"]
    assert a.filter(noon)[keys].equals(b.filter(noon)[keys])


def test_on_bars_that_are_not_shorter_the_values_are_null() -> None:
    out = compute_features(bars()[H1], LONGER, SideTables(longer={D1: bars()[D1]}))
    assert out["return_1_of_1h"].null_count() == out.height
    assert out["return_1_of_1d"].null_count() == 0
    nothing = compute_features(bars()[H1], LONGER)
    assert nothing["return_1_of_1d"].null_count() == nothing.height


def test_longer_bars_are_gone_through_once_for_all_features(monkeypatch) -> None:
    calls: list[int] = []
    whole = compute.compute_features

    def counted(frame, *rest):
        calls.append(frame.height)
        return whole(frame, *rest)

    monkeypatch.setattr(compute, "compute_features", counted)
    whole(bars()[Timeframe.M30], LONGER, side())
    assert sorted(calls) == sorted([bars()[H1].height, bars()[D1].height])


def test_a_changed_inner_feature_is_another_feature() -> None:
    feature, other = find_feature("return_1_of_1d"), find_feature("return_5")
    assert feature is not None
    assert other is not None
    keywords = {**feature.compute.keywords, "inner": other.compute}
    changed = replace(feature, compute=type(feature.compute)(feature.compute.func, **keywords))
    assert definition_hash(changed) != definition_hash(feature)
