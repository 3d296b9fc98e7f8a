"""Resampling against a naive loop: half-days, extended hours, halts."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from market import calendar
from market.errors import MarketError
from market.schema import BAR_SCHEMA, Bar
from market.timeframes import Timeframe, parse_timeframe, resample
from tests.markets import HALF_DAY, market, minute_bars

INTRADAY = [t for t in Timeframe if t.is_intraday]
MINUTE = dt.timedelta(minutes=1)


def minutes_around_the_half_day() -> pl.DataFrame:
    made = market(
        seed=5, symbols=3, sessions=5, minute_sessions=4, end=HALF_DAY + dt.timedelta(days=2)
    ).minute
    halted = (pl.col(Bar.SYMBOL) == "ZZAB") & (pl.col(Bar.BAR_START).dt.hour() == 15)
    return made.filter(~halted)


def naive(bars: pl.DataFrame, timeframe: Timeframe) -> list[dict]:
    buckets: dict[tuple, list[dict]] = {}
    for row in bars.sort(Bar.SYMBOL, Bar.BAR_START).to_dicts():
        opened = calendar.session_open(row["session"])
        closed = calendar.session_close(row["session"])
        if not opened <= row["bar_start"] < closed:
            continue
        start = opened
        while start + dt.timedelta(minutes=timeframe.minutes) <= row["bar_start"]:
            start += dt.timedelta(minutes=timeframe.minutes)
        end = min(start + dt.timedelta(minutes=timeframe.minutes), closed)
        buckets.setdefault((row["symbol"], start, end), []).append(row)
    return [
        {
            "symbol": symbol,
            "session": rows[0]["session"],
            "bar_start": start,
            "bar_end": end,
            "known_at": end,
            "open": rows[0]["open"],
            "high": max(r["high"] for r in rows),
            "low": min(r["low"] for r in rows),
            "close": rows[-1]["close"],
            "volume": sum(r["volume"] for r in rows),
            "vwap": sum(r["vwap"] * r["volume"] for r in rows) / sum(r["volume"] for r in rows),
            "trades": sum(r["trades"] for r in rows),
        }
        for (symbol, start, end), rows in buckets.items()
    ]


@pytest.mark.parametrize("timeframe", INTRADAY)
def test_resampling_equals_a_naive_loop(timeframe: Timeframe) -> None:
    bars = minutes_around_the_half_day()
    assert bars.filter(pl.col(Bar.SESSION) == HALF_DAY).height > 0
    got, wanted = resample(bars, timeframe), naive(bars, timeframe)
    assert got.schema == BAR_SCHEMA
    assert got.height == len(wanted)
    for a, b in zip(got.to_dicts(), wanted, strict=True):
        vwap = b.pop("vwap")
        assert a.pop("vwap") == pytest.approx(vwap)
        assert a == b


def test_no_bar_spans_a_close_and_the_last_ends_at_it() -> None:
    bars = minutes_around_the_half_day()
    for timeframe in INTRADAY:
        for (session,), part in resample(bars, timeframe).group_by(Bar.SESSION):
            assert part[Bar.BAR_END].max() == calendar.session_close(session)
            assert part[Bar.BAR_START].min() == calendar.session_open(session)
    four_hours = resample(bars, Timeframe.H4).filter(pl.col(Bar.SESSION) == HALF_DAY)
    assert four_hours.group_by(Bar.SYMBOL).len()["len"].unique().to_list() == [1]


def test_a_halt_stays_a_hole_at_its_true_time() -> None:
    hours = resample(minutes_around_the_half_day(), Timeframe.M15)
    starts = hours.filter(pl.col(Bar.SYMBOL) == "ZZAB")[Bar.BAR_START]
    assert not starts.dt.hour().is_in([15]).any()
    assert starts.dt.hour().is_in([16]).any()
    assert hours.filter(pl.col(Bar.SYMBOL) == "ZZAA")[Bar.BAR_START].dt.hour().is_in([15]).any()


def test_extended_hours_are_left_out() -> None:
    opened, closed = calendar.session_open(HALF_DAY), calendar.session_close(HALF_DAY)
    starts = [opened - MINUTE, opened, closed - MINUTE, closed, closed + 30 * MINUTE]
    bars = minute_bars("A", starts, [1.0, 2.0, 3.0, 4.0, 5.0], HALF_DAY)
    got = resample(bars, Timeframe.M30)
    assert got[Bar.CLOSE].to_list() == [2.0, 3.0]
    assert got[Bar.OPEN].to_list() == [1.75, 2.75]
    assert got[Bar.BAR_END].to_list() == [opened + 30 * MINUTE, closed]


def test_a_bar_is_known_when_its_bucket_ends_plus_the_longest_delay() -> None:
    opened = calendar.session_open(HALF_DAY)
    bars = minute_bars("A", [opened, opened + MINUTE], [1.0, 2.0], HALF_DAY).with_columns(
        pl.col(Bar.KNOWN_AT) + pl.Series([dt.timedelta(minutes=15), dt.timedelta(minutes=16)])
    )
    assert resample(bars, Timeframe.M5)[Bar.KNOWN_AT].to_list() == [opened + 21 * MINUTE]


def test_vwap_falls_back_to_the_typical_price_and_to_the_mean() -> None:
    opened = calendar.session_open(HALF_DAY)
    bars = minute_bars("A", [opened, opened + MINUTE], [3.0, 5.0], HALF_DAY)
    typical = bars.with_columns(pl.lit(None, dtype=pl.Float64).alias(Bar.VWAP))
    weighted = (3.0 * 10 + 5.0 * 11) / 21
    assert resample(typical, Timeframe.M5)[Bar.VWAP].to_list() == [pytest.approx(weighted)]
    idle = bars.with_columns(pl.lit(0.0).alias(Bar.VOLUME))
    assert resample(idle, Timeframe.M5)[Bar.VWAP].to_list() == [4.0]


def test_trades_that_nobody_counted_stay_unknown() -> None:
    opened = calendar.session_open(HALF_DAY)
    bars = minute_bars("A", [opened, opened + 5 * MINUTE], [3.0, 5.0], HALF_DAY).with_columns(
        pl.Series(Bar.TRADES, [None, 4], dtype=pl.Int64)
    )
    assert resample(bars, Timeframe.M5)[Bar.TRADES].to_list() == [None, 4]


@pytest.mark.parametrize(("timeframe", "every"), [(Timeframe.W1, "1w"), (Timeframe.MO1, "1mo")])
def test_weeks_and_months_come_from_daily_bars(timeframe: Timeframe, every: str) -> None:
    daily = market(symbols=3, sessions=60).daily
    got = resample(daily, timeframe)
    grouped = daily.sort("session").group_by("symbol", pl.col("session").dt.truncate(every))
    wanted = grouped.agg(
        pl.col("open").first(), pl.col("high").max(), pl.col("close").last(), pl.col("volume").sum()
    ).sort("symbol", "session")
    columns = ["symbol", "open", "high", "close"]
    assert got.select(columns).equals(wanted.select(columns))
    assert got["volume"].to_list() == pytest.approx(wanted["volume"].to_list())
    for row in got.to_dicts():
        assert row["bar_end"] == calendar.session_close(row["session"])
        following = calendar.next_session(row["session"])
        truncated = pl.Series([row["session"], following]).dt.truncate(every)
        assert truncated[0] != truncated[1], "the period's last session"


def test_daily_bars_are_not_built() -> None:
    with pytest.raises(MarketError, match="daily bars are not resampled"):
        resample(market(symbols=3, sessions=60).daily, Timeframe.D1)


def test_unknown_names_list_the_known() -> None:
    assert [parse_timeframe(t.value) for t in Timeframe] == list(Timeframe)
    with pytest.raises(MarketError, match=r"7m.*1m, 5m, 15m"):
        parse_timeframe("7m")
