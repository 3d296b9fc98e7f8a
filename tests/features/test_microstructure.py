"""Microstructure features against loops written from the papers, and what is known when."""

from __future__ import annotations

import datetime as dt
import math
from functools import lru_cache

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from features.registry import select_features
from features.side import SideTables
from market import calendar
from market.schema import Bar
from market.timeframes import Timeframe, before_open, regular_hours, resample
from tests.extended import with_premarket
from tests.markets import HALF_DAY, adjusted_daily, daily_bars, market

ln, sqrt = math.log, math.sqrt


@lru_cache(maxsize=1)
def daily() -> pl.DataFrame:
    bars = adjusted_daily(market())
    return bars.filter(pl.col(Bar.SYMBOL) == "ZZAB").sort(Bar.BAR_END)


@lru_cache(maxsize=1)
def daily_values() -> pl.DataFrame:
    wanted = select_features(family="microstructure", timeframe=Timeframe.D1)
    return compute_features(daily(), wanted)


class Naive:
    """One value at a time, from lists of prices; ``t`` is the newest bar."""

    def __init__(self, bars: pl.DataFrame) -> None:
        self.o, self.h, self.l, self.c, self.v = (
            bars[n].to_list() for n in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME)
        )
        typical = [(h + low + c) / 3 for h, low, c in zip(self.h, self.l, self.c, strict=True)]
        self.w = [t if x is None else x for x, t in zip(bars[Bar.VWAP], typical, strict=True)]

    def r(self, t: int) -> float:
        return self.c[t] / self.c[t - 1] - 1

    def log(self, t: int) -> float:
        return ln(self.c[t] / self.c[t - 1])

    def money(self, t: int) -> float:
        return self.w[t] * self.v[t]

    def last(self, what, t: int, n: int) -> list[float]:
        return [what(k) for k in range(t - n + 1, t + 1)]

    def sign(self, t: int) -> float:
        moves = [self.c[k] - self.c[k - 1] for k in range(t - 19, t + 1)]
        phi = 0.5 * (1 + math.erf(moves[-1] / np.std(moves, ddof=1) / sqrt(2)))
        return 2 * phi - 1

    def amihud(self, t: int, n: int) -> float:
        def illiquidity(k: int) -> float:
            return abs(self.r(k)) / self.money(k)

        return np.mean(self.last(illiquidity, t, n)) / np.mean(self.last(illiquidity, t, 60))

    def kyle(self, t: int) -> float:
        x = self.last(lambda k: self.sign(k) * self.money(k), t, 60)
        slope = np.polyfit(x, self.last(self.r, t, 60), 1)[0]
        return slope * np.mean(self.last(self.money, t, 60))

    def imbalance(self, t: int, n: int, *, size: bool) -> float:
        signs = self.last(self.sign, t, n)
        volumes = self.v[t - n + 1 : t + 1]
        parts = [(abs(s) if size else s) * v for s, v in zip(signs, volumes, strict=True)]
        return sum(parts) / sum(volumes)

    def roll(self, t: int, n: int) -> float:
        now, then = self.last(self.r, t, n), self.last(self.r, t - 1, n)
        covariance = np.cov(now, then)[0, 1]
        return -math.copysign(2 * sqrt(abs(covariance)), covariance)

    def corwin_schultz(self, t: int) -> float:
        def pair(k: int) -> float:
            high, low, before = self.h[k], self.l[k], self.c[k - 1]
            if low > before:
                high, low = high - (low - before), before
            elif high < before:
                high, low = before, low + (before - high)
            beta = ln(high / low) ** 2 + ln(self.h[k - 1] / self.l[k - 1]) ** 2
            gamma = ln(max(high, self.h[k - 1]) / min(low, self.l[k - 1])) ** 2
            k1 = 3 - 2 * sqrt(2)
            alpha = (sqrt(2 * beta) - sqrt(beta)) / k1 - sqrt(gamma / k1)
            return max(2 * (math.exp(alpha) - 1) / (1 + math.exp(alpha)), 0.0)

        return np.mean(self.last(pair, t, 20))

    def abdi_ranaldo(self, t: int) -> float:
        def middle(k: int) -> float:
            return (ln(self.h[k]) + ln(self.l[k])) / 2

        def pair(k: int) -> float:
            c = ln(self.c[k - 1])
            return sqrt(max(4 * (c - middle(k - 1)) * (c - middle(k)), 0.0))

        return np.mean(self.last(pair, t, 20))

    def realised(self, t: int, n: int) -> dict[str, float]:
        x = np.array(self.last(self.log, t, n))
        variance = (x**2).sum()
        bipower = math.pi / 2 * n / (n - 1) * (np.abs(x[1:]) * np.abs(x[:-1])).sum()
        return {
            f"realised_volatility_{n}": sqrt(variance / n),
            f"bipower_volatility_{n}": sqrt(bipower / n),
            f"jump_share_{n}": (variance - bipower) / variance,
            f"realised_skew_{n}": sqrt(n) * (x**3).sum() / variance**1.5,
            f"realised_kurtosis_{n}": n * (x**4).sum() / variance**2,
            f"downside_share_{n}": (x[x < 0] ** 2).sum() / variance,
        }

    def ranges(self, t: int, n: int) -> dict[str, float]:
        span = range(t - n + 1, t + 1)
        hl = [ln(self.h[k] / self.l[k]) for k in span]
        co = [ln(self.c[k] / self.o[k]) for k in span]
        night = [ln(self.o[k] / self.c[k - 1]) for k in span]
        rs = [
            ln(self.h[k] / self.c[k]) * ln(self.h[k] / self.o[k])
            + ln(self.l[k] / self.c[k]) * ln(self.l[k] / self.o[k])
            for k in span
        ]
        gk = [0.5 * a * a - (2 * ln(2) - 1) * b * b for a, b in zip(hl, co, strict=True)]
        k = 0.34 / (1.34 + (n + 1) / (n - 1))
        yz = np.var(night, ddof=1) + k * np.var(co, ddof=1) + (1 - k) * np.mean(rs)
        return {
            f"parkinson_{n}": sqrt(np.mean(np.square(hl)) / (4 * ln(2))),
            f"garman_klass_{n}": sqrt(np.mean(gk)),
            f"rogers_satchell_{n}": sqrt(np.mean(rs)),
            f"yang_zhang_{n}": sqrt(yz),
        }

    def night_and_day(self, t: int, n: int) -> dict[str, float]:
        night = sum(ln(self.o[k] / self.c[k - 1]) for k in range(t - n + 1, t + 1))
        day = sum(ln(self.c[k] / self.o[k]) for k in range(t - n + 1, t + 1))
        scale = np.std(self.last(self.log, t, n), ddof=1) * sqrt(n)
        return {
            f"overnight_sum_{n}": night,
            f"intraday_sum_{n}": day,
            f"tug_of_war_{n}": (night - day) / scale,
        }

    def everything(self, t: int) -> dict[str, float]:
        out = {
            "amihud_5_over_60": self.amihud(t, 5),
            "amihud_20_over_60": self.amihud(t, 20),
            "kyle_lambda_60": self.kyle(t),
            "volume_imbalance_20": self.imbalance(t, 20, size=False),
            "vpin_50": self.imbalance(t, 50, size=True),
            "roll_spread_20": self.roll(t, 20),
            "roll_spread_60": self.roll(t, 60),
            "corwin_schultz_spread_20": self.corwin_schultz(t),
            "abdi_ranaldo_spread_20": self.abdi_ranaldo(t),
        }
        for n in (20, 60):
            out |= self.realised(t, n) | self.ranges(t, n)
        return out | self.night_and_day(t, 5) | self.night_and_day(t, 20)


@pytest.mark.parametrize("t", [79, 88, 109])
def test_features_of_bars_equal_a_naive_loop(t: int) -> None:
    wanted = Naive(daily()).everything(t)
    got = daily_values()
    assert set(wanted) == set(got.columns[4:])
    for name, value in wanted.items():
        assert got[name][t] == pytest.approx(value, rel=2e-5, abs=1e-8), name


def test_prices_that_do_not_move_have_no_liquidity_and_no_shape_but_no_volatility_either() -> None:
    out = compute_features(
        daily_bars({"A": [5.0] * 90}, dt.date(2024, 1, 2)),
        select_features(family="microstructure", timeframe=Timeframe.D1),
    ).row(-1, named=True)
    undefined = ("amihud_5_over_60", "kyle_lambda_60", "vpin_50", "volume_imbalance_20")
    shape = ("jump_share_20", "realised_skew_20", "realised_kurtosis_20", "tug_of_war_5")
    for name in (*undefined, *shape):
        assert out[name] is None, name
    for name in ("realised_volatility_20", "parkinson_60", "yang_zhang_20", "roll_spread_20"):
        assert out[name] == 0.0, name


def test_a_gap_overnight_is_no_spread() -> None:
    """Corwin and Schultz's correction: a bar that merely opened elsewhere is moved back."""
    closes = [10.0 * 1.05**k for k in range(30)]
    out = compute_features(
        daily_bars({"A": closes}, dt.date(2024, 1, 2)),
        select_features(["corwin_schultz_spread_20"]),
    )
    assert out["corwin_schultz_spread_20"][-1] == pytest.approx(0.0, abs=1e-7)


# ---------------------------------------------------------------------- within sessions


@lru_cache(maxsize=2)
def minutes() -> pl.DataFrame:
    made = market(seed=3, symbols=2, sessions=60, minute_sessions=28)
    return with_premarket(made.minute, made.daily)


@lru_cache(maxsize=4)
def intraday(timeframe: Timeframe) -> tuple[pl.DataFrame, pl.DataFrame]:
    minute = timeframe is Timeframe.M1
    bars = regular_hours(minutes()) if minute else resample(minutes(), timeframe)
    names = [
        *("session_return", "session_gap", "session_vwap_distance", "volume_curve_deviation"),
        *("opening_range_position", "opening_range_breakout", "opening_range_size"),
    ]
    # A minute without trades, also in the first half hour.
    bars = bars.sort(Bar.SYMBOL, Bar.BAR_END)
    if minute:
        n = pl.int_range(pl.len()).over(Bar.SYMBOL)
        bars = bars.filter(~n.is_in([400, 401, 2000, 3000]))
    return bars, compute_features(bars, select_features(names))


def in_minutes(delta: dt.timedelta) -> int:
    return int(delta.total_seconds() // 60)


@pytest.mark.parametrize("timeframe", [Timeframe.M1, Timeframe.M15, Timeframe.H1])
def test_features_of_the_session_so_far_equal_a_naive_loop(timeframe: Timeframe) -> None:
    bars, out = intraday(timeframe)
    rng = np.random.default_rng(1)
    for place in [*rng.integers(0, bars.height, 60), 0, 29, bars.height - 1]:
        row = bars.row(int(place), named=True)
        own = bars.filter(pl.col(Bar.SYMBOL) == row["symbol"])
        past = own.filter(pl.col(Bar.BAR_END) <= row["bar_end"])
        today = past.filter(pl.col(Bar.SESSION) == row["session"])
        earlier = past.filter(pl.col(Bar.SESSION) < row["session"])
        got = out.row(int(place), named=True)
        first = today[Bar.OPEN][0]
        assert got["session_return"] == pytest.approx(row["close"] / first - 1, abs=1e-7)
        weights = today[Bar.VOLUME].to_numpy()
        vwap = (today[Bar.VWAP].to_numpy() * weights).sum() / weights.sum()
        assert got["session_vwap_distance"] == pytest.approx(row["close"] / vwap - 1, abs=1e-7)
        if earlier.is_empty():
            assert got["session_gap"] is None
        else:
            gap = first / earlier[Bar.CLOSE][-1] - 1
            assert got["session_gap"] == pytest.approx(gap, abs=1e-7)
        check_opening_range(today, row, got)


def check_opening_range(today: pl.DataFrame, row: dict, got: dict) -> None:
    ends = calendar.session_open(row["session"]) + dt.timedelta(minutes=30)
    opening = today.filter(pl.col(Bar.BAR_END) <= ends)
    if row["bar_end"] < ends or opening.is_empty():
        assert got["opening_range_position"] is None
        assert got["opening_range_breakout"] is None
        assert got["opening_range_size"] is None
        return
    low, high = opening[Bar.LOW].min(), opening[Bar.HIGH].max()
    width, close = high - low, row["close"]
    beyond = close - high if close > high else min(close - low, 0.0)
    assert got["opening_range_position"] == pytest.approx((close - low) / width, rel=1e-5, abs=1e-7)
    assert got["opening_range_breakout"] == pytest.approx(beyond / width, rel=1e-5, abs=1e-7)
    assert got["opening_range_size"] == pytest.approx(high / low - 1, rel=1e-4)


def test_the_opening_range_is_not_known_before_it_ended() -> None:
    bars, out = intraday(Timeframe.M1)
    age = bars.join(calendar.schedule(), on=Bar.SESSION, maintain_order="left").select(
        (pl.col(Bar.BAR_END) - pl.col("session_open")).dt.total_minutes()
    )
    early = out.filter(age.to_series() < 30)
    assert early.height > 1000
    assert early["opening_range_position"].null_count() == early.height
    assert out.filter(age.to_series() == 30)["opening_range_position"].null_count() == 0
    hours, of_hours = intraday(Timeframe.H1)
    # No bar of an hour lies in the first half hour: there is no range to speak of.
    assert of_hours["opening_range_position"].null_count() == hours.height


@pytest.mark.parametrize("timeframe", [Timeframe.M1, Timeframe.M30])
def test_the_volume_curve_equals_a_naive_loop(timeframe: Timeframe) -> None:
    bars, out = intraday(timeframe)
    for symbol in bars[Bar.SYMBOL].unique():
        own = bars.filter(pl.col(Bar.SYMBOL) == symbol)
        got = out.filter(pl.col(Bar.SYMBOL) == symbol)["volume_curve_deviation"].to_list()
        usual: dict[int, tuple[int, float]] = {}
        wanted: list[float | None] = []
        days = own.group_by(Bar.SESSION, maintain_order=True)
        for seen_sessions, ((session,), today) in enumerate(days):
            opened = calendar.session_open(session)
            length = in_minutes(calendar.session_close(session) - opened)
            volume, last, so_far = 0.0, -1, {}
            for start, size in today.select(Bar.BAR_START, Bar.VOLUME).iter_rows():
                minute = in_minutes(start - opened)
                so_far |= dict.fromkeys(range(last + 1, minute), volume)
                volume, last = volume + size, minute
                so_far[minute] = volume
                _, mean = usual.get(minute, (0, 0.0))
                wanted.append(volume / mean - 1 if seen_sessions >= 5 else None)
            so_far |= dict.fromkeys(range(last + 1, length), volume)
            for minute, value in so_far.items():
                count, mean = usual.get(minute, (0, 0.0))
                count = min(count + 1, 20)
                usual[minute] = (count, mean + (value - mean) / count)
        seen = [k for k, value in enumerate(wanted) if value is not None]
        assert len(seen) > len(wanted) / 2
        assert [k for k, value in enumerate(got) if value is not None] == seen
        assert [got[k] for k in seen] == pytest.approx([wanted[k] for k in seen], abs=1e-5)


def test_a_half_day_has_its_place_in_the_curve_by_minutes_after_the_open() -> None:
    bars, out = intraday(Timeframe.M30)
    half = out.filter(pl.col(Bar.SESSION) == HALF_DAY)
    assert half.height == 2 * 7
    assert half["volume_curve_deviation"].null_count() == 0
    assert bars[Bar.SESSION].n_unique() == 28


# ---------------------------------------------------------------------- before the open


def premarket_values(daily: pl.DataFrame, given: pl.DataFrame) -> pl.DataFrame:
    side = SideTables(longer={Timeframe.D1: daily}, premarket=given)
    bars = resample(minutes(), Timeframe.M30).sort(Bar.SYMBOL, Bar.BAR_END)
    return compute_features(
        bars, select_features(["premarket_return", "premarket_volume_ratio"]), side
    )


def test_premarket_features_equal_a_naive_loop() -> None:
    daily, early = (
        market(seed=3, symbols=2, sessions=60, minute_sessions=28).daily,
        before_open(minutes()),
    )
    out = premarket_values(daily, early)
    seen = early.group_by(Bar.SYMBOL, Bar.SESSION).agg(
        pl.col(Bar.CLOSE).sort_by(Bar.BAR_START).last(), pl.col(Bar.VOLUME).sum()
    )
    traded = {(s, d): (c, v) for s, d, c, v in seen.iter_rows()}
    covered = sorted({d for _, d in traded})
    closes = {(s, d): c for s, d, c in daily.select(Bar.SYMBOL, Bar.SESSION, Bar.CLOSE).iter_rows()}
    rows = out.group_by(Bar.SYMBOL, Bar.SESSION, maintain_order=True).last()
    filled = 0
    for row in rows.iter_rows(named=True):
        symbol, day = row["symbol"], row["session"]
        if (symbol, day) not in traded:
            assert row["premarket_return"] is None
            assert row["premarket_volume_ratio"] is None
            continue
        close, volume = traded[symbol, day]
        before = closes[symbol, calendar.previous_session(day)]
        assert row["premarket_return"] == pytest.approx(close / before - 1, abs=1e-6)
        past = [d for d in covered if d < day][-20:]
        if len(past) < 20:
            assert row["premarket_volume_ratio"] is None
            continue
        usual = sum(traded.get((symbol, d), (0.0, 0.0))[1] for d in past) / 20
        assert row["premarket_volume_ratio"] == pytest.approx(volume / usual, rel=1e-5)
        filled += 1
    assert filled >= 5
    # The same all day long.
    per_session = out.group_by(Bar.SYMBOL, Bar.SESSION).agg(pl.col("premarket_return").n_unique())
    assert per_session["premarket_return"].unique().to_list() == [1]


def test_premarket_trades_count_from_when_their_last_minute_is_known() -> None:
    daily, early = (
        market(seed=3, symbols=2, sessions=60, minute_sessions=28).daily,
        before_open(minutes()),
    )
    # Half an hour ends between the first minute of some and the last of all.
    late = early.with_columns(pl.col(Bar.KNOWN_AT) + dt.timedelta(minutes=115))
    out = premarket_values(daily, late).with_columns(
        minute=(
            pl.col("as_of") - pl.col("as_of").min().over(Bar.SYMBOL, Bar.SESSION)
        ).dt.total_minutes()
    )
    first = late.group_by(Bar.SYMBOL, Bar.SESSION).agg(pl.col(Bar.KNOWN_AT).max().alias("from"))
    joined = out.join(first, on=[Bar.SYMBOL, Bar.SESSION])
    unseen = joined.filter(pl.col("as_of") < pl.col("from"))
    assert unseen.height > 20
    assert unseen["premarket_return"].null_count() == unseen.height
    known = joined.filter(pl.col("as_of") >= pl.col("from"))
    assert known["premarket_return"].null_count() == 0


def test_without_minutes_before_the_open_there_is_nothing() -> None:
    daily = market(seed=3, symbols=2, sessions=60, minute_sessions=28).daily
    names = select_features(["premarket_return", "premarket_volume_ratio"])
    bars = resample(minutes(), Timeframe.M30)
    for side in (SideTables(), SideTables(longer={Timeframe.D1: daily})):
        out = compute_features(bars, names, side)
        assert out["premarket_return"].null_count() == out.height
