"""The triple barrier against a slow loop over each path, and by hand."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.label_grid import place_on_grid
from features.labels import label_frame
from features.triple_barrier import BARRIER_COLUMNS, touch_barriers
from market import calendar
from market.horizons import HORIZONS, find_horizon
from market.schema import BAR_SCHEMA, Bar
from tests.features.test_labels import bars_of, scheduled_ends
from tests.markets import daily_bars

NAMES = [h.name for h in HORIZONS]
START = dt.date(2024, 7, 1)
UPPER, LOWER = 0.7, 0.9


def candles(rows: list[tuple[float, float, float, float]]) -> pl.DataFrame:
    """Daily bars of one symbol from open, high, low and close."""
    bars = daily_bars({"A": [r[3] for r in rows]}, START)
    prices = zip((Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE), zip(*rows, strict=True), strict=True)
    return bars.with_columns(pl.Series(name, list(values)) for name, values in prices)


def touched(rows: list[tuple[float, float, float, float]], width: float = 0.1) -> dict:
    """The first row's barriers, at plus and minus ``width``, five sessions long."""
    placed = place_on_grid(candles(rows), find_horizon("7d").timeframe)
    return touch_barriers(placed, find_horizon("7d"), pl.Series([width] * placed.height)).row(
        0, named=True
    )


def naive_touches(bars: pl.DataFrame, name: str, volatility: dict) -> dict:
    """Follow each path bar by bar along the schedule, in prices net of nights."""
    horizon = find_horizon(name)
    ends = scheduled_ends(
        horizon.timeframe, bars[Bar.SESSION].min(), bars[Bar.SESSION].max() + dt.timedelta(days=50)
    )
    place = {end: n for n, end in enumerate(ends)}
    by_key = {(r["symbol"], r["bar_end"]): r for r in bars.to_dicts()}
    out = {}
    for (symbol, end), row in by_key.items():
        out[symbol, end] = None
        scale = volatility[symbol, end]
        stop = place[end] + horizon.steps
        if scale is None:
            continue
        if not horizon.crosses_close and ends[stop] > calendar.session_close(row["session"]):
            continue
        gap, before = 1.0, row
        for k in range(place[end] + 1, stop + 1):
            bar = by_key.get((symbol, ends[k]))
            if bar is None:
                continue
            if horizon.timeframe.is_intraday and bar["session"] != before["session"]:
                gap *= bar["open"] / before["close"]
            before = bar
            change = {
                c: bar[c] / gap / row["close"] - 1.0 for c in ("open", "high", "low", "close")
            }
            up, down = UPPER * scale, LOWER * scale
            found = None
            if change["open"] >= up:
                found = (1, False, change["open"])
            elif change["open"] <= -down:
                found = (-1, False, change["open"])
            elif change["high"] >= up and change["low"] <= -down:
                found = (-1, True, -down)
            elif change["high"] >= up:
                found = (1, False, up)
            elif change["low"] <= -down:
                found = (-1, False, -down)
            elif k == stop:
                found = (0, False, change["close"])
            if found is not None:
                out[symbol, end] = (*found, bar["bar_end"], bar["known_at"])
                break
    return out


@pytest.mark.parametrize("name", NAMES)
def test_barriers_equal_a_slow_walk_along_each_path(name: str) -> None:
    bars = bars_of(name)
    labels = label_frame(bars, find_horizon(name), band_bps=5.0, upper=UPPER, lower=LOWER)
    key = ("symbol", "bar_end")
    scale = {tuple(r[:2]): r[2] for r in labels.select(*key, "label_volatility").rows()}
    wanted = naive_touches(bars, name, scale)
    sides = set()
    for row in labels.select(*key, *BARRIER_COLUMNS).to_dicts():
        expected = wanted[row["symbol"], row["bar_end"]]
        got = tuple(row[c] for c in BARRIER_COLUMNS)
        if expected is None:
            assert got == (None,) * 5
            continue
        assert got[:2] + got[3:] == expected[:2] + expected[3:]
        assert got[2] == pytest.approx(expected[2], abs=1e-12)
        sides.add(row["barrier_side"])
    assert sides == {-1, 0, 1}


@pytest.mark.parametrize("name", NAMES)
def test_the_vertical_barrier_is_the_forward_return_to_the_bit(name: str) -> None:
    labels = label_frame(bars_of(name), find_horizon(name), band_bps=5.0, upper=1.5, lower=1.5)
    vertical = labels.filter(pl.col("barrier_side") == 0)
    assert vertical.height > 0
    assert vertical["barrier_return"].equals(vertical["forward_return"])
    assert vertical["barrier_known_at"].equals(vertical["label_known_at"])
    rest = labels.filter(pl.col("barrier_side") != 0)
    assert (rest["barrier_known_at"] > rest["as_of"]).all()
    assert (rest["barrier_known_at"] <= rest["label_known_at"]).drop_nulls().all()
    none = label_frame(
        bars_of(name), find_horizon(name), band_bps=5.0, upper=math.inf, lower=math.inf
    ).filter(pl.col("label_volatility").is_not_null())
    assert none["barrier_return"].equals(none["forward_return"])


@pytest.mark.parametrize("name", [h.name for h in HORIZONS if not h.crosses_close])
def test_no_barrier_up_to_an_hour_lies_beyond_the_close(name: str) -> None:
    horizon = find_horizon(name)
    labels = label_frame(bars_of(name), horizon, band_bps=5.0, upper=0.2, lower=0.2)
    made = labels.drop_nulls("barrier_side")
    for row in made.to_dicts():
        assert row["barrier_bar_end"] <= calendar.session_close(row["session"])
        assert row["bar_end"] + dt.timedelta(minutes=horizon.minutes) <= calendar.session_close(
            row["session"]
        )
    assert made.height > 0


def test_by_hand() -> None:
    flat = (100.0, 101.0, 99.0, 100.0)
    up = (100.0, 112.0, 99.0, 105.0)
    down = (100.0, 101.0, 85.0, 99.0)
    both = (100.0, 111.0, 89.0, 100.0)
    gap_up = (115.0, 116.0, 80.0, 112.0)
    gap_down = (80.0, 130.0, 79.0, 90.0)
    days = calendar.sessions_between(START, START + dt.timedelta(days=20))
    for path, wanted in (
        ([flat, flat, up, down], (1, False, 0.1, 2)),
        ([flat, down, up], (-1, False, -0.1, 1)),
        ([flat, flat, flat, both], (-1, True, -0.1, 3)),
        ([flat, gap_up], (1, False, 0.15, 1)),
        ([flat, gap_down], (-1, False, -0.2, 1)),
        ([flat] * 5 + [(100.0, 104.0, 99.0, 103.0), up], (0, False, 0.03, 5)),
        ([flat] * 5 + [up], (1, False, 0.1, 5)),
        ([flat] * 6 + [up], (0, False, 0.0, 5)),
    ):
        got = touched(path)
        assert (got["barrier_side"], got["barrier_ambiguous"]) == wanted[:2]
        assert got["barrier_return"] == pytest.approx(wanted[2], abs=1e-12)
        assert got["barrier_bar_end"] == calendar.session_close(days[wanted[3]])
        assert got["barrier_known_at"] == got["barrier_bar_end"]
    assert set(touched([flat] * 5).values()) == {None}, "the vertical barrier has not come"
    assert set(touched([flat, up], width=math.nan).values()) == {None}
    assert set(touched([flat, up], width=0.0).values()) == {None}


def test_a_barrier_touched_during_a_later_halt_stays_untouched() -> None:
    bars = candles([(100.0, 101.0, 99.0, 100.0)] * 8).filter(pl.int_range(pl.len()) != 5)
    placed = place_on_grid(bars, find_horizon("7d").timeframe)
    got = touch_barriers(placed, find_horizon("7d"), pl.Series([0.1] * placed.height))
    assert got["barrier_side"].to_list()[:2] == [None, 0], "the first row's end is in the halt"


@given(
    steps=st.lists(st.floats(-0.08, 0.08), min_size=8, max_size=40),
    reach=st.floats(0.0, 0.05),
    width=st.floats(0.01, 0.2),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_wider_barrier_is_never_touched_earlier(
    steps: list[float], reach: float, width: float
) -> None:
    closes = 100.0 * np.cumprod(1.0 + np.array(steps))
    opens = np.append(100.0, closes[:-1])
    high, low = np.maximum(opens, closes) * (1 + reach), np.minimum(opens, closes) * (1 - reach)
    rows = list(zip(opens.tolist(), high.tolist(), low.tolist(), closes.tolist(), strict=True))
    placed = place_on_grid(candles(rows), find_horizon("7d").timeframe)
    scale = pl.Series([width] * placed.height)
    near = touch_barriers(placed, find_horizon("7d"), scale, upper=1.0, lower=1.0)
    far = touch_barriers(placed, find_horizon("7d"), scale, upper=2.0, lower=2.0)
    both = near.hstack(far.rename(lambda c: f"far_{c}")).drop_nulls("far_barrier_bar_end")
    assert both["barrier_bar_end"].null_count() == 0
    assert (both["barrier_bar_end"] <= both["far_barrier_bar_end"]).all()
    hit = near.filter(pl.col("barrier_side") == 1)["barrier_return"]
    assert (hit >= width * (1 - 1e-12)).all()
    lost = near.filter(pl.col("barrier_side") == -1)["barrier_return"]
    assert (lost <= -width * (1 - 1e-12)).all()


def test_no_bars_no_labels() -> None:
    labels = label_frame(pl.DataFrame(schema=BAR_SCHEMA), find_horizon("1d"), band_bps=1.0)
    assert labels.height == 0
