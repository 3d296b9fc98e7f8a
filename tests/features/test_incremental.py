"""Computing only what is new gives what computing everything gives."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features, longest_lookback
from features.incremental import Checkpoint, Increment, compute_increment, out_of_reach
from features.panel import Panel
from features.registry import FAMILIES, select_features
from features.spec import PANEL_KEYS, Feature, Memory, Stage
from market.errors import FeatureError
from market.schema import Bar
from market.timeframes import Timeframe, resample
from tests.markets import adjusted_daily, market


@lru_cache(maxsize=2)
def daily() -> pl.DataFrame:
    """Five symbols: one listed late, one halted for a while, one with a bar that lacks a price."""
    bars = adjusted_daily(market(seed=8, symbols=5, sessions=760))
    a, b, c = bars[Bar.SYMBOL].unique().sort()[:3]
    symbol, n = pl.col(Bar.SYMBOL), pl.col("n")
    return (
        bars.with_columns(n=pl.int_range(pl.len()).over(Bar.SYMBOL))
        .filter((symbol != a) | (n > 700), (symbol != b) | ~n.is_between(300, 340))
        .with_columns(
            pl.when((symbol == c) & (n == 740)).then(None).otherwise(Bar.CLOSE).alias(Bar.CLOSE)
        )
        .drop("n")
    )


@lru_cache(maxsize=2)
def intraday() -> pl.DataFrame:
    made = market(seed=8, symbols=3, sessions=90, minute_sessions=80)
    return resample(made.minute, Timeframe.M30)


def from_bars(family: str, timeframe: Timeframe) -> list[Feature]:
    found = select_features(family=family, timeframe=timeframe)
    return [f for f in found if f.stage is not Stage.AS_OF and f.resumable]


def assert_equal_within_one_ulp(got: pl.DataFrame, wanted: pl.DataFrame) -> None:
    assert got.select(PANEL_KEYS).equals(wanted.select(PANEL_KEYS))
    for name in wanted.columns[len(PANEL_KEYS) :]:
        g, w = got[name], wanted[name]
        assert g.is_null().to_list() == w.is_null().to_list(), name
        x, y = g.drop_nulls().to_numpy(), w.drop_nulls().to_numpy()
        # A difference of nearly equal numbers has no ulp of its own: float64 noise beside them.
        assert (np.abs(x - y) <= np.maximum(np.spacing(np.abs(y)), 1e-9)).all(), name


def sessions_of(bars: pl.DataFrame) -> list[dt.date]:
    return bars[Bar.SESSION].unique().sort().to_list()


def step(bars, features, checkpoint, *, new: range, reach: int) -> Increment:
    """One scheduled run: the sessions numbered ``new``, with ``reach`` sessions on either side."""
    days = sessions_of(bars)
    kept = days[new.stop - 1 - reach]
    first = 0 if checkpoint is None else max(0, days.index(checkpoint.session) - reach)
    seen = bars.filter(pl.col(Bar.SESSION).is_between(days[first], days[new.stop - 1]))
    return compute_increment(
        seen, features, start=days[new.start], keep=kept, checkpoint=checkpoint
    )


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.M30])
@pytest.mark.parametrize("family", FAMILIES)
def test_increments_equal_the_whole(family: str, timeframe: Timeframe) -> None:
    bars = daily() if timeframe is Timeframe.D1 else intraday()
    features = from_bars(family, timeframe)
    if not features:
        pytest.skip(f"{family} has no feature that is computed from {timeframe} bars")
    whole = compute_features(bars, features)
    days = sessions_of(bars)
    per_session = 1 if timeframe is Timeframe.D1 else 13
    # And the forty sessions for which a symbol is halted.
    reach = -(-longest_lookback(features) // per_session) + 41
    n = len(days) - 8
    checkpoint = None
    for new in (range(n - 20, n), range(n, n + 1), range(n + 1, n + 4), range(n + 4, n + 8)):
        made = step(bars, features, checkpoint, new=new, reach=reach)
        wanted = whole.filter(pl.col(Bar.SESSION).is_between(days[new.start], days[new.stop - 1]))
        assert_equal_within_one_ulp(made.features, wanted)
        # Through the form in which it is stored.
        checkpoint = Checkpoint.from_frame(made.checkpoint.to_frame())


@pytest.mark.parametrize("left_out", [1, 2, 3, 50])
def test_what_counts_bars_is_exact_wherever_they_begin(left_out: int) -> None:
    # Closes that often stay where they were: as many rises as falls, and fewer than half of each.
    bars = daily().with_columns(pl.col(Bar.CLOSE).round_sig_figs(2))
    counts = [f for f in select_features() if f.name.startswith(("CNT", "up_share"))]
    assert len(counts) == 17
    later = bars.filter(pl.col(Bar.SESSION) >= sessions_of(bars)[left_out])
    whole, part = (compute_features(b, counts).sort(PANEL_KEYS) for b in (bars, later))
    rows = part.select(PANEL_KEYS).join(whole, on=PANEL_KEYS, maintain_order="left")
    for feature in counts:
        both = part[feature.name].is_not_null()
        assert both.sum() > 1000
        assert part[feature.name].filter(both).equals(rows[feature.name].filter(both))


def total(name: str = "total") -> Feature:
    return Feature(
        name,
        lambda p: p.mean(p.running_sum(name, p["volume"]), 5),
        ("volume",),
        5,
        Stage.TIME_SERIES,
        "Mean of five running sums",
        "none",
        memory=Memory.CUMULATIVE,
    )


def test_a_window_over_a_recursion_goes_on_from_the_checkpoint() -> None:
    bars = daily()
    whole = compute_features(bars, [total()])
    first = step(bars, [total()], None, new=range(600, 700), reach=5)
    made = step(bars, [total()], first.checkpoint, new=range(700, 702), reach=5)
    days = sessions_of(bars)
    wanted = whole.filter(pl.col(Bar.SESSION).is_between(days[700], days[701]))
    assert wanted["total"].null_count() == 1  # Listed three bars ago.
    assert_equal_within_one_ulp(made.features, wanted)


def test_a_halted_symbol_is_told_before_its_values_are_wrong() -> None:
    bars = daily()
    halted = bars[Bar.SYMBOL].unique().sort()[1]
    days = sessions_of(bars)
    # Its first bar after a halt of forty sessions: ten sessions back it had none.
    back = bars.filter(pl.col(Bar.SYMBOL) == halted)[Bar.SESSION].sort()
    n = next(
        k for k in range(1, len(days)) if days[k] in set(back) and days[k - 40] not in set(back)
    )
    first = step(bars, [total()], None, new=range(n - 30, n), reach=10)
    seen = bars.filter(pl.col(Bar.SESSION).is_between(days[n - 20], days[n]))
    assert out_of_reach(seen, [total()], start=days[n], checkpoint=first.checkpoint) == [halted]
    with pytest.raises(FeatureError, match=f"{halted}.*1 symbols"):
        compute_increment(
            seen, [total()], start=days[n], keep=days[n - 10], checkpoint=first.checkpoint
        )


def test_a_symbol_without_new_bars_keeps_its_state() -> None:
    bars = daily()
    gone = bars[Bar.SYMBOL].unique().sort()[4]
    days = sessions_of(bars)
    left = bars.filter((pl.col(Bar.SYMBOL) != gone) | (pl.col(Bar.SESSION) < days[650]))
    first = step(left, [total()], None, new=range(640, 660), reach=5)
    second = step(left, [total()], first.checkpoint, new=range(660, 720), reach=5)
    assert second.checkpoint.bars[gone] == first.checkpoint.bars[gone]
    place = list(second.checkpoint.bars).index(gone)
    volume = left.filter(pl.col(Bar.SYMBOL) == gone)[Bar.VOLUME].sum()
    assert second.checkpoint.states["total"][place, 0] == pytest.approx(volume)


def test_a_recursion_that_the_checkpoint_lacks_is_refused() -> None:
    first = step(daily(), [total()], None, new=range(600, 700), reach=5)
    with pytest.raises(FeatureError, match="lacks the state"):
        step(daily(), [total("another")], first.checkpoint, new=range(700, 701), reach=5)


def test_a_checkpoint_that_starts_from_nothing_is_not_the_whole() -> None:
    """The comparison above can fail: without its state the same run gives other values."""
    bars = daily()
    first = step(bars, [total()], None, new=range(600, 700), reach=5)
    empty = Checkpoint(
        first.checkpoint.session,
        first.checkpoint.bars,
        {n: np.zeros_like(s) for n, s in first.checkpoint.states.items()},
    )
    made = step(bars, [total()], empty, new=range(700, 701), reach=5)
    days = sessions_of(bars)
    wanted = compute_features(bars, [total()]).filter(pl.col(Bar.SESSION) == days[700])
    with pytest.raises(AssertionError):
        assert_equal_within_one_ulp(made.features, wanted)


def test_a_checkpoint_taken_before_any_bar_is_a_start_from_nothing() -> None:
    bars, days = daily(), sessions_of(daily())
    early = bars.filter(pl.col(Bar.SESSION) <= days[3])
    before = days[0] - dt.timedelta(days=1)
    first = compute_increment(early, [total()], start=days[0], keep=before, checkpoint=None)
    assert first.checkpoint.bars == {}
    seen = bars.filter(pl.col(Bar.SESSION) <= days[20])
    made = compute_increment(
        seen, [total()], start=days[4], keep=days[10], checkpoint=first.checkpoint
    )
    wanted = compute_features(seen, [total()]).filter(pl.col(Bar.SESSION) >= days[4])
    assert_equal_within_one_ulp(made.features, wanted)


def test_a_panel_that_looks_ahead_is_refused() -> None:
    panel = Panel({"close": np.ones(3)}, np.array([0, 3]))
    with pytest.raises(FeatureError, match="look ahead"):
        panel.lag(panel["close"], -1)
