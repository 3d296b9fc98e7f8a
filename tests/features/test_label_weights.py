"""Sample weights against definitions written out, and their independence from what comes later."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.label_weights import average_uniqueness, sample_weights, time_decay
from features.labels import forward_returns, label_frame
from market.errors import FeatureError
from market.horizons import HORIZONS, find_horizon
from market.schema import UTC_MICROSECONDS
from tests.features.test_labels import bars_of
from tests.markets import bits

NAMES = [h.name for h in HORIZONS]
ENDS = ("label_known_at", "barrier_known_at")


def naive_uniqueness(labels: pl.DataFrame, as_of: dt.datetime, end: str) -> list[float | None]:
    """Count for every label and bar who else is there: quadratic, straight from the definition."""
    rows = labels.select("symbol", "as_of", end).rows()
    known = [r for r in rows if r[2] is not None and r[2] <= as_of]
    out = []
    for symbol, begin, stop in rows:
        if stop is None or stop > as_of:
            out.append(None)
            continue
        own = [r for r in known if r[0] == symbol]
        times = {t for r in rows if r[0] == symbol for t in (r[1], r[2]) if t and t <= as_of}
        inside = [t for t in times if begin < t <= stop]
        shares = [1.0 / sum(r[1] < t <= r[2] for r in own) for t in inside]
        out.append(sum(shares) / len(shares))
    return out


def reference_decay(uniqueness: np.ndarray, last_weight: float) -> np.ndarray:
    """Snippet 4.11, for one label per time in order of time."""
    weight = uniqueness.cumsum()
    if last_weight >= 0:
        slope = (1.0 - last_weight) / weight[-1]
    else:
        slope = 1.0 / ((last_weight + 1) * weight[-1])
    const = 1.0 - slope * weight[-1]
    weight = const + slope * weight
    weight[weight < 0] = 0
    return weight


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["5m", "1h", "4h", "10h", "1d", "7d", "1M"])
def test_uniqueness_equals_a_quadratic_count(name: str, end: str) -> None:
    labels = label_frame(bars_of(name), find_horizon(name), band_bps=5.0, upper=0.7, lower=0.7)
    labels = labels.group_by("symbol", maintain_order=True).head(90)
    times = labels["as_of"].unique().sort()
    as_of = times[int(0.8 * len(times))]
    got = average_uniqueness(labels, as_of, end=end).to_list()
    wanted = naive_uniqueness(labels, as_of, end)
    assert [v is None for v in got] == [v is None for v in wanted]
    assert [v for v in got if v] == pytest.approx([v for v in wanted if v], abs=1e-12)
    assert any(v for v in got)


@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_uniqueness_of_any_spans(data: st.DataObject) -> None:
    minute = st.integers(0, 40)
    spans = data.draw(
        st.lists(st.tuples(st.sampled_from("AB"), minute, st.integers(1, 9)), min_size=1)
    )
    start = dt.datetime(2024, 7, 1, 14, tzinfo=dt.UTC)
    labels = pl.DataFrame(
        {
            "symbol": [s for s, _, _ in spans],
            "as_of": [start + dt.timedelta(minutes=m) for _, m, _ in spans],
            "label_known_at": [start + dt.timedelta(minutes=m + n) for _, m, n in spans],
        }
    ).with_columns(pl.col("as_of", "label_known_at").cast(UTC_MICROSECONDS))
    as_of = start + dt.timedelta(minutes=data.draw(minute))
    got = average_uniqueness(labels, as_of)
    wanted = naive_uniqueness(labels, as_of, "label_known_at")
    assert got.is_null().to_list() == [v is None for v in wanted]
    assert got.drop_nulls().to_list() == pytest.approx([v for v in wanted if v is not None])
    assert ((got > 0) & (got <= 1 + 1e-12)).all()


def test_labels_one_bar_long_are_unique_and_long_ones_are_not() -> None:
    daily = forward_returns(bars_of("1d"), find_horizon("1d"))
    now = daily["label_known_at"].max()
    assert average_uniqueness(daily, now).drop_nulls().unique().to_list() == [1.0]
    month = forward_returns(bars_of("1M"), find_horizon("1M"))
    middle = average_uniqueness(month, now).drop_nulls()
    assert middle.median() < 0.1


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", NAMES)
def test_weights_depend_on_labels_known_by_then_alone(name: str, end: str) -> None:
    horizon, bars = find_horizon(name), bars_of(name)
    whole = label_frame(bars, horizon, band_bps=5.0)
    times = whole["as_of"].unique().sort()
    for k in np.random.default_rng(2).integers(len(times) // 2, len(times), 6):
        now = times[int(k)]
        seen = label_frame(bars.filter(pl.col("known_at") <= now), horizon, band_bps=5.0)
        then = sample_weights(whole, now, last_weight=0.3, end=end)
        assert bits(sample_weights(seen, now, last_weight=0.3, end=end)) == bits(
            then.filter(pl.col("as_of") <= now)
        )
        later = then.filter(pl.col("as_of") > now)
        assert later["sample_weight"].null_count() == later.height
        known = (whole[end] <= now).fill_null(False)
        assert then["sample_weight"].is_not_null().equals(known, check_names=False)
        if known.any():
            assert then["sample_weight"].mean() == pytest.approx(1.0)


@pytest.mark.parametrize("last_weight", [1.0, 0.5, 0.0, -0.3, -0.9])
def test_decay_equals_the_published_snippet(last_weight: float) -> None:
    uniqueness = np.random.default_rng(5).uniform(0.05, 1.0, 60)
    times = pl.Series(
        [dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=n) for n in range(60)]
    )
    order = np.random.default_rng(6).permutation(60)
    got = time_decay(pl.Series(uniqueness[order]), times[order.tolist()], last_weight=last_weight)
    wanted = reference_decay(uniqueness, last_weight)[order]
    assert got.to_list() == pytest.approx(wanted.tolist(), abs=1e-12)
    assert got.max() == pytest.approx(1.0)
    assert (got == 0.0).any() == (last_weight < 0.0)


def test_labels_of_one_time_decay_alike_and_unknown_ones_do_not_count() -> None:
    one, two = (dt.datetime(2024, 7, d, tzinfo=dt.UTC) for d in (1, 2))
    got = time_decay(
        pl.Series([0.5, 0.5, 0.25, None]), pl.Series([one, one, two, two]), last_weight=0.0
    )
    assert got.to_list() == pytest.approx([0.8, 0.8, 1.0, None])


def test_what_other_symbols_do_does_not_reach_a_symbol() -> None:
    labels = forward_returns(bars_of("7d"), find_horizon("7d"))
    now = labels["as_of"].max()
    together = labels.select("symbol").with_columns(average_uniqueness(labels, now))
    for (symbol,), part in labels.group_by("symbol"):
        alone = average_uniqueness(part, now).to_frame()
        assert bits(alone) == bits(together.filter(pl.col("symbol") == symbol).select("uniqueness"))


def test_rows_come_back_in_the_order_given() -> None:
    labels = forward_returns(bars_of("7d"), find_horizon("7d"))
    now = labels["as_of"].max()
    mixed = labels.sample(fraction=1.0, shuffle=True, seed=3)
    keys = ["symbol", "bar_end"]
    straight = sample_weights(labels, now, last_weight=0.5).sort(keys)
    shuffled = sample_weights(mixed, now, last_weight=0.5)
    assert shuffled.select(keys).equals(mixed.select(keys))
    gap = shuffled.sort(keys)["sample_weight"] - straight["sample_weight"]
    assert gap.abs().max() < 1e-12


def test_nothing_known_weighs_nothing() -> None:
    labels = forward_returns(bars_of("1M"), find_horizon("1M"))
    weights = sample_weights(labels, labels["as_of"].min(), last_weight=0.5)
    assert weights["sample_weight"].null_count() == labels.height


@pytest.mark.parametrize("last_weight", [-1.0, 1.5, float("nan")])
def test_a_decay_out_of_range_is_refused(last_weight: float) -> None:
    labels = forward_returns(bars_of("1d"), find_horizon("1d"))
    with pytest.raises(FeatureError, match="time decay"):
        sample_weights(labels, labels["as_of"].max(), last_weight=last_weight)


def test_a_label_known_before_it_begins_is_refused() -> None:
    labels = forward_returns(bars_of("1d"), find_horizon("1d"))
    wrong = labels.with_columns(pl.col("as_of").alias("label_known_at"))
    with pytest.raises(FeatureError, match="before it begins"):
        average_uniqueness(wrong, labels["as_of"].max())
