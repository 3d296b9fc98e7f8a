"""Labels against an independent loop, and their independence from what comes later."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.label_grid import place_on_grid
from features.labels import LABEL_COLUMNS, forward_returns, horizon_volatility, label_frame
from features.spec import PANEL_KEYS
from market import calendar
from market.actions import forward_adjust, session_factors
from market.errors import FeatureError
from market.horizons import HORIZONS, find_horizon
from market.replay_data import load_bars_file
from market.schema import UTC_MICROSECONDS as UTC
from market.schema import Bar
from market.timeframes import Timeframe, resample
from tests.markets import HALF_DAY, bits, daily_bars, market

NAMES = [h.name for h in HORIZONS]
SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")


@lru_cache(maxsize=16)
def bars_of(name: str) -> pl.DataFrame:
    """Bars with halts; the minutes run from before a half-day to after it."""
    horizon = find_horizon(name)
    if not horizon.timeframe.is_intraday:
        daily = market(seed=5, symbols=4, sessions=80).daily
        return daily.filter(pl.int_range(pl.len()) % 23 != 7)
    made = market(
        seed=5, symbols=3, sessions=5, minute_sessions=4, end=HALF_DAY + dt.timedelta(days=2)
    )
    assert HALF_DAY in made.minute[Bar.SESSION].to_list()
    symbol = made.minute[Bar.SYMBOL][0]
    halted = (pl.col(Bar.SYMBOL) == symbol) & (pl.col(Bar.BAR_START).dt.hour() == 15)
    return resample(made.minute.filter(~halted), horizon.timeframe)


def scheduled_ends(timeframe: Timeframe, first: dt.date, last: dt.date) -> list[dt.datetime]:
    """Every bar end by stepping through the clock."""
    ends = []
    for day in calendar.sessions_between(first, last):
        closed = calendar.session_close(day)
        if not timeframe.is_intraday:
            ends.append(closed)
            continue
        moment = calendar.session_open(day)
        while moment < closed:
            moment = min(moment + dt.timedelta(minutes=timeframe.minutes), closed)
            ends.append(moment)
    return ends


def moves_of(path: list[dict]) -> tuple[float, float]:
    """What a holder gains inside sessions and between them, from the first row's close."""
    inside = outside = 1.0
    for before, row in itertools.pairwise(path):
        if row["session"] == before["session"]:
            inside *= row["close"] / before["close"]
        else:
            outside *= row["open"] / before["close"]
            inside *= row["close"] / row["open"]
    return inside - 1.0, outside - 1.0


def naive_labels(bars: pl.DataFrame, name: str) -> dict[tuple[str, dt.datetime], tuple]:
    horizon = find_horizon(name)
    of_symbol = {s[0]: part.to_dicts() for s, part in bars.sort(Bar.BAR_END).group_by(Bar.SYMBOL)}
    ends = scheduled_ends(horizon.timeframe, bars[Bar.SESSION].min(), bars[Bar.SESSION].max())
    place = {end: n for n, end in enumerate(ends)}
    closes = {(r["symbol"], r["bar_end"]): r for r in bars.to_dicts()}
    out = {}
    for (symbol, end), row in closes.items():
        target = place[end] + horizon.steps
        later = closes.get((symbol, ends[target])) if target < len(ends) else None
        if later is not None and not horizon.crosses_close and later["session"] != row["session"]:
            later = None
        if later is None:
            out[symbol, end] = (None, None, None)
            continue
        path = [r for r in of_symbol[symbol] if end <= r["bar_end"] <= later["bar_end"]]
        inside, outside = moves_of(path)
        if not horizon.timeframe.is_intraday:
            inside, outside = later["close"] / row["close"] - 1.0, 0.0
        out[symbol, end] = (inside, outside, later["known_at"])
    return out


@pytest.mark.parametrize("name", NAMES)
def test_labels_equal_a_naive_loop(name: str) -> None:
    bars = bars_of(name)
    labels = forward_returns(bars, find_horizon(name))
    wanted = naive_labels(bars, name)
    assert labels.height == bars.height == len(wanted)
    for row in labels.to_dicts():
        inside, outside, known = wanted[row["symbol"], row["bar_end"]]
        assert row["label_known_at"] == known
        if known is None:
            assert row["forward_return"] is row["overnight_return"] is None
        else:
            assert row["forward_return"] == pytest.approx(inside, abs=1e-13)
            assert row["overnight_return"] == pytest.approx(outside, abs=1e-13)
    assert 0 < labels["forward_return"].null_count() < labels.height


@pytest.mark.parametrize("name", NAMES)
def test_excess_is_what_is_left_after_the_mean_of_that_time(name: str) -> None:
    labels = forward_returns(bars_of(name), find_horizon(name))
    assert labels["excess_return"].is_null().equals(labels["forward_return"].is_null())
    sums = labels.group_by("bar_end").agg(pl.col("excess_return").sum())
    assert sums["excess_return"].abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_a_label_is_known_after_its_bar_and_ends_when_the_horizon_does(name: str) -> None:
    horizon = find_horizon(name)
    labels = forward_returns(bars_of(name), horizon).drop_nulls("label_known_at")
    assert (labels["label_known_at"] > labels["as_of"]).all()
    for row in labels.sample(min(60, labels.height), seed=1).to_dicts():
        assert row["label_known_at"] == horizon.end_of(row["bar_end"])


@pytest.mark.parametrize("name", NAMES)
def test_the_two_parts_compound_to_what_a_holder_gains(name: str) -> None:
    bars, horizon = bars_of(name), find_horizon(name)
    labels = forward_returns(bars, horizon).drop_nulls("label_known_at")
    ends = bars.select(
        Bar.SYMBOL, pl.col(Bar.KNOWN_AT).alias("label_known_at"), pl.col(Bar.CLOSE).alias("end")
    )
    both = labels.join(bars.select(Bar.SYMBOL, Bar.BAR_END, Bar.CLOSE), on=["symbol", "bar_end"])
    both = both.join(ends, on=[Bar.SYMBOL, "label_known_at"])
    assert both.height == labels.height
    parts = (1.0 + both["forward_return"]) * (1.0 + both["overnight_return"])
    assert (parts - both["end"] / both[Bar.CLOSE]).abs().max() < 1e-12
    nights = both.filter(pl.col("overnight_return") != 0.0)
    assert (nights.height > 0) == (name in ("4h", "10h"))
    assert (nights["label_known_at"].dt.date() > nights["as_of"].dt.date()).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_label_is_null_before_it_is_known_and_the_same_ever_after(name: str) -> None:
    horizon, bars = find_horizon(name), bars_of(name)
    whole = forward_returns(bars, horizon)
    ends = bars[Bar.BAR_END].unique().sort()
    for k in np.random.default_rng(0).integers(len(ends) // 2, len(ends) - 1, 4):
        now = ends[int(k)]
        seen = forward_returns(bars.filter(pl.col(Bar.KNOWN_AT) <= now), horizon)
        then = whole.filter(pl.col("as_of") <= now)
        known = then["label_known_at"].fill_null(now + dt.timedelta(days=1)) <= now
        assert bits(seen.filter(known)) == bits(then.filter(known))
        assert seen.filter(~known)["forward_return"].null_count() == (~known).sum()
        assert seen.filter(~known)["label_known_at"].null_count() == (~known).sum()


@pytest.mark.parametrize("name", [h.name for h in HORIZONS if not h.crosses_close])
def test_labels_up_to_an_hour_end_inside_their_session(name: str) -> None:
    horizon = find_horizon(name)
    labels = forward_returns(bars_of(name), horizon)
    for session, part in labels.group_by(Bar.SESSION):
        latest = calendar.session_close(session[0]) - dt.timedelta(minutes=horizon.minutes)
        late = part.filter(pl.col(Bar.BAR_END) > latest)
        assert late.height > 0
        assert late["forward_return"].null_count() == late.height
        assert part.filter(pl.col(Bar.BAR_END) <= latest)["forward_return"].is_not_null().any()


def test_the_delay_of_the_data_plan_delays_the_label() -> None:
    late = bars_of("1d").with_columns(pl.col(Bar.KNOWN_AT) + dt.timedelta(minutes=15))
    labels = forward_returns(late, find_horizon("1d")).drop_nulls("label_known_at")
    ends = [find_horizon("1d").end_of(t) for t in labels["bar_end"]]
    assert labels["label_known_at"].to_list() == [e + dt.timedelta(minutes=15) for e in ends]


def test_hand_arithmetic() -> None:
    bars = daily_bars({"A": [100.0, 110.0, 99.0], "B": [50.0, 50.0, 60.0]}, dt.date(2024, 7, 1))
    labels = forward_returns(bars, find_horizon("1d"))
    assert labels["forward_return"].to_list() == pytest.approx([0.1, -0.1, None, 0.0, 0.2, None])
    assert labels["excess_return"].to_list() == pytest.approx(
        [0.05, -0.15, None, -0.05, 0.15, None]
    )


def test_a_halted_symbol_has_no_label_across_the_halt() -> None:
    bars = daily_bars({"A": [1.0, float("nan"), 3.0, 4.0]}, dt.date(2024, 7, 1))
    labels = forward_returns(bars, find_horizon("1d"))
    assert labels["forward_return"].to_list() == [None, pytest.approx(1 / 3), None]


def test_bars_off_the_grid_are_refused() -> None:
    bars = bars_of("1h").with_columns(pl.col(Bar.BAR_END) + dt.timedelta(minutes=3))
    with pytest.raises(FeatureError, match="off the session grid"):
        forward_returns(bars, find_horizon("1h"))


@pytest.mark.parametrize("name", NAMES)
def test_every_label_is_null_before_it_is_known_and_the_same_ever_after(name: str) -> None:
    horizon, bars = find_horizon(name), bars_of(name)
    whole = label_frame(bars, horizon, band_bps=5.0, band_volatilities=0.2)
    barrier = [c for c in whole.columns if c.startswith("barrier_")]
    fixed = [*PANEL_KEYS, "label_volatility"]
    timed = [c for c in whole.columns if c not in (*barrier, *fixed)]
    ends = bars[Bar.BAR_END].unique().sort()
    early = 0
    for k in np.random.default_rng(1).integers(len(ends) // 3, len(ends), 12):
        now = ends[int(k)]
        seen = label_frame(
            bars.filter(pl.col(Bar.KNOWN_AT) <= now), horizon, band_bps=5.0, band_volatilities=0.2
        )
        then = whole.filter(pl.col("as_of") <= now)
        assert bits(seen.select(fixed)) == bits(then.select(fixed))
        for columns, known_at in ((timed, "label_known_at"), (barrier, "barrier_known_at")):
            known = (then[known_at] <= now).fill_null(False)
            assert bits(seen.filter(known).select(columns)) == bits(
                then.filter(known).select(columns)
            )
            unknown = seen.filter(~known).select(columns)
            assert unknown.null_count().row(0) == (unknown.height,) * len(columns)
        early += (seen["barrier_known_at"].is_not_null() & seen["label_known_at"].is_null()).sum()
    assert horizon.steps == 1 or early > 0, "some barriers are touched before the horizon ends"


def test_the_constant_names_every_column_that_looks_forward() -> None:
    made = label_frame(bars_of("4h"), find_horizon("4h"), band_bps=1.0).columns
    assert [c for c in made if c not in LABEL_COLUMNS] == [*PANEL_KEYS]
    assert set(LABEL_COLUMNS) - set(made) == {"uniqueness", "time_decay", "sample_weight"}


def naive_volatility(rows: list[dict], horizon, span: int) -> list[float | None]:
    """Exponentially weighted root mean square of one-bar returns, by its definition."""
    decay, seen, out = 1.0 - 2.0 / (span + 1.0), [], []
    for n, row in enumerate(rows):
        before = rows[n - 1] if n else None
        if not horizon.timeframe.is_intraday:
            if before is not None:
                seen.append(row["close"] / before["close"] - 1.0)
        elif before is not None and before["session"] == row["session"]:
            seen.append(row["close"] / before["close"] - 1.0)
        else:
            seen.append(row["close"] / row["open"] - 1.0)
        weights = [decay**age for age in range(len(seen) - 1, -1, -1)]
        mean = sum(w * r * r for w, r in zip(weights, seen, strict=True)) / max(
            sum(weights), 1e-300
        )
        out.append(math.sqrt(mean * horizon.steps) if len(seen) >= 20 else None)
    return out


@pytest.mark.parametrize(
    ("name", "span"), [("1h", None), ("4h", None), ("1d", None), ("14d", None), ("1M", 10)]
)
def test_volatility_equals_a_naive_loop(name: str, span: int | None) -> None:
    horizon = find_horizon(name)
    placed = place_on_grid(bars_of(name), horizon.timeframe)
    made = placed.with_columns(horizon_volatility(placed, horizon, span))
    default = {"1h": 130, "4h": 65, "1d": 100, "14d": 100}
    for _, part in made.group_by(Bar.SYMBOL, maintain_order=True):
        wanted = naive_volatility(part.to_dicts(), horizon, span or default[name])
        got = part["label_volatility"].to_list()
        assert [v is None for v in got] == [v is None for v in wanted]
        assert [v for v in got if v] == pytest.approx([v for v in wanted if v], rel=1e-9)


def test_scaled_returns_and_classes_by_hand() -> None:
    bars, horizon = bars_of("14d"), find_horizon("14d")
    labels = label_frame(bars, horizon, band_bps=150.0)
    wide = label_frame(bars, horizon, band_bps=150.0, band_volatilities=0.5)
    seen = set()
    for row, scaled in zip(labels.to_dicts(), wide.to_dicts(), strict=True):
        forward, volatility = row["forward_return"], row["label_volatility"]
        for kind in ("forward", "excess"):
            value = row[f"{kind}_return"]
            sign = None if value is None else (value > 0) - (value < 0)
            assert row[f"{kind}_class"] == (sign if value is None or abs(value) > 0.0150 else 0)
            band = None if volatility is None else max(0.0150, 0.5 * volatility)
            unknown = value is None or band is None
            assert scaled[f"{kind}_class"] == (
                None if unknown else sign if abs(value) > band else 0
            )
        seen.add(row["forward_class"])
        if forward is None or volatility is None:
            assert row["scaled_return"] is None
        else:
            assert row["scaled_return"] == pytest.approx(forward / volatility)
    assert seen == {-1, 0, 1, None}
    assert not wide["forward_class"].equals(labels["forward_class"])


def test_a_return_on_the_edge_of_the_band_is_neutral() -> None:
    bars = daily_bars({"A": [64.0, 65.0, 64.0]}, dt.date(2024, 7, 1))
    for band, wanted in ((156.25, 0), (156.2, 1)):
        labels = label_frame(bars, find_horizon("1d"), band_bps=band)
        assert labels["forward_class"][0] == wanted


def test_a_price_that_does_not_move_has_no_scale() -> None:
    bars = daily_bars({"A": [10.0] * 40}, dt.date(2024, 7, 1))
    labels = label_frame(bars, find_horizon("1d"), band_bps=5.0)
    for column in ("label_volatility", "scaled_return", "barrier_side"):
        assert labels[column].null_count() == labels.height
    assert labels["forward_class"].to_list() == [0] * 39 + [None]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"band_bps": -1.0}, "band_bps"),
        ({"band_bps": math.nan}, "band_bps"),
        ({"band_bps": 1.0, "band_volatilities": math.inf}, "band_volatilities"),
        ({"band_bps": 1.0, "upper": 0.0}, "upper barrier"),
        ({"band_bps": 1.0, "lower": math.nan}, "lower barrier"),
        ({"band_bps": 1.0, "volatility_span_bars": 0}, "span"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict, word: str) -> None:
    with pytest.raises(FeatureError, match=word):
        label_frame(bars_of("1d"), find_horizon("1d"), **wrong)


def test_two_bars_of_one_time_are_refused() -> None:
    bars = bars_of("1d")
    with pytest.raises(FeatureError, match="not unique"):
        forward_returns(pl.concat([bars, bars.sample(1, seed=2)]), find_horizon("1d"))


def test_rows_may_come_in_any_order() -> None:
    bars, horizon = bars_of("4h"), find_horizon("4h")
    mixed = bars.sample(fraction=1.0, shuffle=True, seed=1)
    assert bits(label_frame(mixed, horizon, band_bps=5.0)) == bits(
        label_frame(bars, horizon, band_bps=5.0)
    )


def test_a_bar_of_another_session_is_off_the_grid() -> None:
    bars = bars_of("1d").with_columns(pl.col(Bar.SESSION) + dt.timedelta(days=1))
    with pytest.raises(FeatureError, match="off the session grid"):
        forward_returns(bars, find_horizon("1d"))


@pytest.mark.parametrize("timeframe", [Timeframe.M30, Timeframe.H4, Timeframe.D1])
def test_the_grid_counts_every_scheduled_bar(timeframe: Timeframe) -> None:
    first, last = HALF_DAY - dt.timedelta(days=6), HALF_DAY + dt.timedelta(days=6)
    ends = scheduled_ends(timeframe, first, last)
    bars = pl.DataFrame({Bar.BAR_END: ends}).with_columns(
        pl.lit("A").alias(Bar.SYMBOL),
        pl.col(Bar.BAR_END).dt.convert_time_zone("America/New_York").dt.date().alias(Bar.SESSION),
        pl.col(Bar.BAR_END).alias(Bar.KNOWN_AT),
        *(pl.lit(1.0).alias(c) for c in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)),
    )
    placed = place_on_grid(bars.with_columns(pl.col("bar_end", "known_at").cast(UTC)), timeframe)
    assert (placed["_index"].diff().drop_nulls() == 1).all()
    left = placed.group_by(Bar.SESSION).agg(
        pl.col("_left"), pl.int_range(pl.len() - 1, -1, -1).alias("wanted")
    )
    assert left["_left"].to_list() == left["wanted"].to_list()


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars")
@pytest.mark.parametrize("name", ["1d", "1M"])
def test_labels_of_real_bars_are_the_same_ever_after(name: str) -> None:
    made = load_bars_file(
        Path(SAMPLES) / "daily_us504_raw_1999_2014.parquet",
        as_of=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    )
    assert made.daily is not None
    few = pl.col(Bar.SYMBOL).is_in(made.daily[Bar.SYMBOL].unique().sort().gather_every(5).implode())
    daily = made.daily.filter(few)
    bars = forward_adjust(daily, session_factors(daily, made.splits, made.dividends))
    horizon = find_horizon(name)
    whole = label_frame(bars, horizon, band_bps=6.0)
    assert whole["forward_return"].drop_nulls().is_finite().all()
    for now in bars[Bar.KNOWN_AT].unique().sort().sample(4, seed=6):
        seen = label_frame(bars.filter(pl.col(Bar.KNOWN_AT) <= now), horizon, band_bps=6.0)
        then = whole.filter(pl.col("as_of") <= now)
        for known_at in ("label_known_at", "barrier_known_at"):
            known = (then[known_at] <= now).fill_null(False)
            columns = [c for c in then.columns if c.startswith("barrier_") == (known_at[0] == "b")]
            values = pl.exclude(pl.String, pl.Date, pl.Datetime)
            assert seen.filter(known).select(columns).equals(then.filter(known).select(columns))
            assert bits(seen.filter(known).select(columns).select(values)) == bits(
                then.filter(known).select(columns).select(values)
            )
            assert seen[known_at].is_not_null().equals(known, check_names=False)
