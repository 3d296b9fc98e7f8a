"""What every registered feature must hold, and proof that each check can fail.

A check is a function of (features, bars, compute) that raises ``AssertionError``. The registry
goes through all of them; planted faults must be caught by the check that is meant for them.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.compute import MARKET_RETURN, compute_features, longest_lookback
from features.panel import Panel
from features.registry import CORE, FAMILIES, REGISTRY, select_features
from features.side import SideTables
from features.spec import PANEL_KEYS, Feature, Memory, Scope, Stage, from_expression
from market import calendar
from market.errors import FeatureError
from market.schema import Bar
from market.timeframes import Timeframe
from tests.markets import bits
from tests.properties.registry_bars import PRICES, awkward_bars, clean_bars, intraday_bars

TIMES = (Bar.BAR_START, Bar.BAR_END, Bar.KNOWN_AT)
# Rolling kernels carry sums from bar to bar, so float64 results differ in their last bits with
# where history began; after rounding to float32 that is one unit in the last place, and where a
# result is a difference of nearly equal numbers an absolute 1e-9 or so.
RELATIVE = 4 * float(np.finfo(np.float32).eps)
ABSOLUTE = 1e-8


def values(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop(PANEL_KEYS)


def assert_same(got: pl.DataFrame, wanted: pl.DataFrame, why: str) -> None:
    assert got.shape == wanted.shape, why
    assert bits(values(got)) == bits(values(wanted)), why


def assert_near(got: pl.DataFrame, wanted: pl.DataFrame, why: str) -> None:
    for name in values(wanted).columns:
        g, w = got[name], wanted[name]
        assert g.is_null().to_list() == w.is_null().to_list(), f"{name}: {why}"
        np.testing.assert_allclose(
            g.drop_nulls().to_numpy(),
            w.drop_nulls().to_numpy(),
            rtol=RELATIVE,
            atol=ABSOLUTE,
            err_msg=f"{name}: {why}",
        )


def check_future_changes_nothing(features, bars, compute=compute_features, cuts=4, seed=0):
    whole = compute(bars, features)
    ends = whole[Bar.BAR_END].unique().sort()
    rng = np.random.default_rng(seed)
    for k in rng.choice(np.arange(2, len(ends) - 1), size=cuts, replace=False):
        past = pl.col(Bar.BAR_END) <= ends[int(k)]
        seen = compute(bars.filter(past), features)
        assert_same(seen, whole.filter(past), f"the future changed values up to {ends[int(k)]}")


def check_symbols_are_apart(features, bars, compute=compute_features):
    whole = compute(bars, features)
    victim = bars[Bar.SYMBOL].unique().sort()[1]
    others = pl.col(Bar.SYMBOL) != victim
    assert_same(compute(bars.filter(others), features), whole.filter(others), "a symbol removed")
    wobble = pl.when(others).then(1.0).otherwise(1.0 + (pl.int_range(pl.len()) % 7) * 0.01)
    changed = bars.with_columns(
        *(pl.col(p) * wobble for p in PRICES), pl.col(Bar.VOLUME) * wobble * wobble
    )
    after = compute(changed, features)
    assert_same(after.filter(others), whole.filter(others), "a symbol changed")


def check_times_are_apart(features, bars, compute=compute_features):
    """A change at one time is forgotten once it has left the inputs' windows."""
    whole = compute(bars, features)
    ends = bars[Bar.BAR_END].unique().sort()
    at = 20
    hit = pl.when(pl.col(Bar.BAR_END) == ends[at]).then(1.01).otherwise(1.0)
    changed = bars.with_columns(*(pl.col(p) * hit for p in PRICES), pl.col(Bar.VOLUME) * hit)
    after = compute(changed, features)
    for feature in features:
        if feature.memory is not Memory.WINDOW:
            continue
        keep = [*PANEL_KEYS, feature.name]
        before = pl.col(Bar.BAR_END) < ends[at]
        later = pl.col(Bar.BAR_END) >= ends[at + feature.lookback]
        assert_same(after.filter(before)[keep], whole.filter(before)[keep], "an earlier value")
        assert_near(after.filter(later)[keep], whole.filter(later)[keep], "beyond the lookback")


def check_lookback_is_enough(features, bars, compute=compute_features):
    """Exactly the lookback gives the value that all of history gives; one bar less gives none."""
    ends = bars[Bar.BAR_END].unique().sort()
    symbols = bars[Bar.SYMBOL].n_unique()
    whole = compute(bars, features)
    of_sessions = [f for f in features if f.lookback_sessions > 1 or f.session_minutes]
    for feature in of_sessions:
        check_sessions_are_enough(feature, bars, whole, compute)
    in_bars = [f for f in features if f not in of_sessions]
    for lookback in sorted({f.lookback for f in in_bars}):
        same = [f for f in in_bars if f.lookback == lookback]
        # What remembers more than its window is only asked for its first value.
        lasts = {lookback - 1}
        if all(f.memory is Memory.WINDOW for f in same):
            lasts |= {len(ends) - 1, len(ends) - 8}
        for last in sorted(lasts):
            at = pl.col(Bar.BAR_END) == ends[last]
            until = pl.col(Bar.BAR_END) <= ends[last]
            begin = ends[last - lookback + 1]
            exact = compute(bars.filter(until, pl.col(Bar.BAR_END) >= begin), same).filter(at)
            names = [f.name for f in same]
            assert_near(exact, whole.filter(at)[exact.columns], "exactly the lookback")
            for name in names:
                assert exact[name].null_count() == 0, f"{name}: lookback overstated"
            if lookback > 1:
                short = compute(bars.filter(until, pl.col(Bar.BAR_END) > begin), same).filter(at)
                for name in names:
                    assert short[name].null_count() == symbols, f"{name}: one bar less"


def check_sessions_are_enough(feature, bars, whole, compute):
    """The sessions and minutes that it declares give a value; fewer give none."""
    days = bars[Bar.SESSION].unique().sort()
    fixed = feature.memory is not Memory.DECAYING
    for day in (days[feature.lookback_sessions - 1], *([days[-1]] if fixed else [])):
        begin = days[days.index_of(day) - feature.lookback_sessions + 1]
        some = bars.filter(pl.col(Bar.SESSION).is_between(begin, day))
        got = compute(some, [feature]).filter(pl.col(Bar.SESSION) == day)
        ended = pl.col(Bar.BAR_END) - calendar.session_open(day)
        met = got[Bar.BAR_END].is_in(
            got.filter(ended >= dt.timedelta(minutes=feature.session_minutes))[
                Bar.BAR_END
            ].implode()
        )
        assert met.any(), "no bar is late enough"
        assert (got[feature.name].is_not_null() == met).all(), f"{feature.name}: misstated"
        wanted = whole.filter(pl.col(Bar.SESSION) == day)[got.columns]
        assert_near(got, wanted, "exactly the sessions of the lookback")
        if feature.lookback_sessions > 1:
            short = compute(some.filter(pl.col(Bar.SESSION) > begin), [feature])
            assert short[feature.name].null_count() == short.height, f"{feature.name}: overstated"


def check_clock_is_ignored(features, bars, compute=compute_features):
    whole = compute(bars, features)
    for days in (7, 7 * 157, -7 * 40):
        step = pl.duration(days=days)
        moved = bars.with_columns(
            *(pl.col(t) + step for t in TIMES), (pl.col(Bar.SESSION) + step).cast(pl.Date)
        )
        assert_same(compute(moved, features), whole, f"the clock moved by {days} days")


def check_scale_is_ignored(features, bars, compute=compute_features):
    """Powers of two are exact in binary, so the results must agree to the bit."""
    whole = compute(bars, features)
    first = bars[Bar.SYMBOL].unique().sort()[0]
    price = pl.when(pl.col(Bar.SYMBOL) == first).then(0.25).otherwise(2.0)
    scaled = bars.with_columns(
        *(pl.col(p) * price for p in PRICES),
        pl.col(Bar.VOLUME) * pl.when(pl.col(Bar.SYMBOL) == first).then(4.0).otherwise(2.0),
    )
    after = compute(scaled, features)
    # Qlib's CORR is of log(volume + 1), which is free of scale only for large volumes.
    nearly = [f.name for f in features if f.name.startswith("CORR")]
    assert_same(after.drop(nearly), whole.drop(nearly), "prices and volumes in another unit")
    for name in nearly:
        gap = (after[name] - whole[name]).abs().max()
        assert gap is None or gap < 1e-4, f"{name}: prices and volumes in another unit"


def check_finite_or_null(features, bars, compute=compute_features):
    nan, inf, zero = float("nan"), float("inf"), 0.0
    hostile = [
        bars,
        bars.with_columns(pl.lit(zero).alias(Bar.VOLUME)),
        bars.with_columns(*(pl.lit(10.0).alias(p) for p in PRICES)),
        bars.with_columns(*(pl.lit(zero).alias(p) for p in PRICES)),
        bars.with_columns(pl.lit(None, dtype=pl.Float64).alias(Bar.VWAP)),
        *(
            bars.with_columns(
                pl.when(pl.int_range(pl.len()) % 29 == 0).then(bad).otherwise(pl.col(c)).alias(c)
            )
            for bad in (nan, inf, None)
            for c in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME)
        ),
    ]
    for frame in hostile:
        out = compute(frame, features)
        assert out.height == frame.height, "one row per bar"
        age = out.select(pl.int_range(pl.len()).over(Bar.SYMBOL)).to_series()
        for feature in features:
            column = out[feature.name]
            assert column.dtype == pl.Float32, "features are float32"
            assert column.drop_nulls().is_finite().all(), f"{feature.name} is not finite"
            young = column.filter(age < feature.lookback - 1)
            assert young.null_count() == len(young), f"{feature.name} before its lookback"


def check_row_order_is_ignored(features, bars, compute=compute_features):
    whole = compute(bars, features)
    for seed in (1, 2):
        mixed = bars.sample(fraction=1.0, shuffle=True, seed=seed)
        out = compute(mixed, features)
        assert out.select(PANEL_KEYS).equals(whole.select(PANEL_KEYS)), "rows in another order"
        assert_same(out, whole, "rows in another order")


def check_flat_is_null_not_noise(features, bars, compute=compute_features):
    """History that has left the window leaves no rounding residue in what follows."""
    ends = bars[Bar.BAR_END].unique().sort()
    begin = 20
    late = pl.col(Bar.BAR_END) >= ends[begin]
    wild = pl.col(Bar.CLOSE) * (1.0 + (pl.int_range(pl.len()) % 5) * 0.37)
    for volume in (7.7, 0.0):
        flat = bars.with_columns(
            pl.when(late)
            .then(pl.lit(3.3))
            .otherwise(wild if p == Bar.CLOSE else pl.col(p))
            .alias(p)
            for p in PRICES
        ).with_columns(
            pl.when(late).then(volume).otherwise(pl.col(Bar.VOLUME) * 1e6 / 3).alias(Bar.VOLUME)
        )
        whole = compute(flat, features)
        fresh = compute(flat.filter(late), features)
        for feature in features:
            if feature.memory is not Memory.WINDOW:
                continue
            settled = pl.col(Bar.BAR_END) >= ends[begin + feature.lookback - 1]
            keep = [*PANEL_KEYS, feature.name]
            assert_near(
                whole.filter(settled)[keep], fresh.filter(settled)[keep], "residue of gone history"
            )


CHECKS = {
    "future": check_future_changes_nothing,
    "times": check_times_are_apart,
    "lookback": check_lookback_is_enough,
    "clock": check_clock_is_ignored,
    "scale": check_scale_is_ignored,
    "finite": check_finite_or_null,
    "order": check_row_order_is_ignored,
    "flat": check_flat_is_null_not_noise,
}


def registered(family: str, scope: Scope) -> list[Feature]:
    """What of a family is computed from bars of a scope alone."""
    timeframe = Timeframe.D1 if scope is Scope.DAILY else Timeframe.M30
    found = select_features(family=family, timeframe=timeframe)
    return [f for f in found if f.stage is not Stage.AS_OF]


def with_sectors(bars: pl.DataFrame, features: list[Feature]) -> pl.DataFrame:
    """Compute with three symbols in one sector and the rest in another."""
    symbols = clean_bars()[Bar.SYMBOL].unique().sort()
    names = ["banks" if k < 3 else "mines" for k in range(len(symbols))]
    sectors = pl.DataFrame({"symbol": symbols, "sector": names})
    return compute_features(bars, features, SideTables(sectors=sectors))


def reads_clock(feature: Feature) -> bool:
    return bool({*TIMES, Bar.SESSION} & set(feature.inputs))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("scope", [Scope.DAILY, Scope.INTRADAY])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_holds(family: str, scope: Scope, check: str) -> None:
    features = registered(family, scope)
    if check == "clock":
        features = [f for f in features if not reads_clock(f)]
    bars = clean_bars(320) if scope is Scope.DAILY else intraday_bars()
    CHECKS[check](features, bars, compute=with_sectors)


@pytest.mark.parametrize("check", ["future", "clock", "scale", "finite", "order"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_holds_on_awkward_bars(family: str, check: str) -> None:
    features = [f for f in registered(family, Scope.DAILY) if not reads_clock(f)]
    if check == "scale":
        # Where there is no volume, log(volume + 1) has a scale.
        features = [f for f in features if not f.name.startswith("CORR")]
    CHECKS[check](features, awkward_bars(), compute=with_sectors)


@pytest.mark.parametrize("bars", [clean_bars, awkward_bars], ids=["clean", "awkward"])
def test_time_series_features_keep_symbols_apart(bars) -> None:
    series = [f for f in select_features(timeframe=Timeframe.D1) if f.stage is Stage.TIME_SERIES]
    check_symbols_are_apart([f for f in series if MARKET_RETURN not in f.inputs], bars())


@pytest.mark.parametrize("feature", REGISTRY, ids=lambda f: f.name)
def test_feature_reads_what_it_declares(feature: Feature) -> None:
    """By itself, so that it cannot borrow a column that another feature declares."""
    if feature.stage is Stage.AS_OF:
        assert feature.inputs, "names the tables it reads"
        return
    seen: set[str] = set()

    class Watched(dict):
        def __getitem__(self, name):
            seen.add(str(name))
            return super().__getitem__(name)

    columns = {n: np.linspace(1.0, 2.0, 300) for n in feature.inputs}
    times = {*TIMES, Bar.SESSION} & set(feature.inputs)
    moments = {t: intraday_bars()[t].head(300) for t in times}
    columns |= {
        t: (m.to_physical() if t == Bar.SESSION else m.dt.timestamp("us")).cast(pl.Int64).to_numpy()
        for t, m in moments.items()
    }
    with np.errstate(all="ignore"):
        feature.compute(Panel(Watched(columns), np.array([0, 150, 300])))
    assert seen == set(feature.inputs)


@given(seed=st.integers(0, 2**31), start=st.integers(0, 30))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_no_history_makes_the_future_matter(seed: int, start: int) -> None:
    ends = awkward_bars()[Bar.BAR_END].unique().sort()
    later = awkward_bars().filter(pl.col(Bar.BAR_END) >= ends[start])
    check_future_changes_nothing(CORE, later, cuts=1, seed=seed)


def test_duplicated_bars_are_refused() -> None:
    bars = clean_bars()
    with pytest.raises(FeatureError, match="not unique"):
        compute_features(pl.concat([bars, bars.tail(1)]))


def test_one_symbol_alone_has_no_rank_among_others() -> None:
    bars = clean_bars()
    one = bars.filter(pl.col(Bar.SYMBOL) == bars[Bar.SYMBOL][0])
    out = compute_features(one)
    for name in ("return_1_z", "volatility_rank", "volume_rank", "dispersion"):
        assert out[name].null_count() == one.height, name
    assert out["return_1"].null_count() == 1


def test_flat_prices_and_no_volume_give_null_where_there_is_nothing_to_divide_by() -> None:
    bars = clean_bars().with_columns(
        *(pl.lit(10.0).alias(p) for p in PRICES), pl.lit(0.0).alias(Bar.VOLUME)
    )
    out = compute_features(bars)
    undefined = {
        *("sma_gap_5", "sma_gap_10", "sma_gap_20", "body_4", "close_location"),
        *("volatility_ratio", "rsi_14_cutler", "volume_ratio", "efficiency_10", "volume_rank"),
        *("return_1_z", "return_5_z", "return_20_z", "sma_gap_5_z", "body_4_z", "breadth"),
    }
    for name in undefined:
        assert out[name].null_count() == out.height, name
    assert out["return_1"].drop_nulls().to_list() == [0.0] * (out.height - 5)


def test_longest_lookback_is_that_of_the_neediest() -> None:
    assert longest_lookback() == max(f.lookback for f in CORE)
    assert longest_lookback(REGISTRY[:1]) == REGISTRY[0].lookback


# ---------------------------------------------------------------- planted faults

C, V = pl.col("close"), pl.col("volume")


def planted(name: str, expression: pl.Expr, lookback: int) -> Feature:
    inputs = tuple(sorted(set(expression.meta.root_names())))
    compute = from_expression(expression)
    return Feature(name, compute, inputs, lookback, Stage.TIME_SERIES, "bad", "none")


def raw_engine(bars: pl.DataFrame, features, offsets) -> pl.DataFrame:
    panel = Panel({n: bars[n].to_numpy() for f in features for n in f.inputs}, np.array(offsets))
    keys = bars.select(*PANEL_KEYS[:3], pl.col(Bar.KNOWN_AT).alias("as_of"))
    return keys.with_columns(
        pl.Series(f.name, np.asarray(f.compute(panel)), dtype=pl.Float32) for f in features
    )


def spill_over(bars: pl.DataFrame, features) -> pl.DataFrame:
    """An engine that forgets to keep symbols apart."""
    return raw_engine(bars.sort(Bar.SYMBOL, Bar.BAR_END), features, [0, bars.height])


def as_they_come(bars: pl.DataFrame, features) -> pl.DataFrame:
    """An engine that trusts the order of the rows."""
    runs = bars[Bar.SYMBOL].rle().struct.field("len").cum_sum().to_list()
    return raw_engine(bars, features, [0, *runs]).sort(PANEL_KEYS)


def weekday() -> Feature:
    days = lambda p: p["bar_end"] // 86_400_000_000 % 365  # noqa: E731
    return Feature("day", days, ("bar_end",), 1, Stage.TIME_SERIES, "bad", "none")


RETURN = planted("tomorrow", C.shift(-1) / C - 1, 1)
FAULTS = {
    "tomorrow": (RETURN, "future"),
    "centred": (planted("centred", C / C.rolling_mean(5, center=True) - 1, 5), "future"),
    "whole_sample": (planted("whole_sample", (C - C.mean()) / C.std(), 1), "future"),
    "whole_sample_window": (planted("whole_sample_2", (C - C.mean()) / C.std(), 1), "lookback"),
    "whole_sample_times": (planted("whole_sample_3", (C - C.mean()) / C.std(), 1), "times"),
    "understated": (planted("understated", C / C.rolling_mean(10) - 1, 5), "lookback"),
    "understated_partial": (
        planted("understated_partial", C / C.rolling_mean(10, min_samples=1) - 1, 5),
        "lookback",
    ),
    "endless_memory": (planted("endless", C / C.ewm_mean(span=10) - 1, 10), "lookback"),
    "overstated": (planted("overstated", C / C.shift(25) - 1, 20), "lookback"),
    "clock": (weekday(), "clock"),
    "price_level": (planted("price_level", C.log(), 1), "scale"),
    "volume_level": (planted("volume_level", V.log1p(), 1), "scale"),
    "residue": (
        planted("residue", (V.cum_sum() - V.cum_sum().shift(10)) / V.rolling_mean(10), 11),
        "flat",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_caught(fault: str) -> None:
    feature, check = FAULTS[fault]
    with pytest.raises(AssertionError):
        CHECKS[check]([feature], clean_bars())


def test_backward_fill_is_caught() -> None:
    filled = planted("filled", pl.when(V > 0).then(C).backward_fill() / C - 1, 1)
    with pytest.raises(AssertionError, match="future"):
        check_future_changes_nothing([filled], awkward_bars(), cuts=40)


@pytest.mark.parametrize(
    ("check", "engine", "feature"),
    [
        (check_symbols_are_apart, spill_over, planted("spill", C / C.shift(1) - 1, 2)),
        (check_row_order_is_ignored, as_they_come, planted("order", C / C.shift(1) - 1, 2)),
        (check_finite_or_null, spill_over, planted("raw", C / V, 1)),
        (check_finite_or_null, as_they_come, planted("filled", C.shift(1).fill_null(0.0), 2)),
    ],
    ids=["symbols", "order", "not_finite", "made_up_zero"],
)
def test_broken_engine_is_caught(check, engine, feature: Feature) -> None:
    with pytest.raises(AssertionError):
        check([feature], clean_bars(), compute=engine)


def test_sound_feature_passes_every_check() -> None:
    """The checks do not simply refuse whatever is planted."""
    sound = planted("sound", C / C.shift(3) - 1, 4)
    for check in CHECKS.values():
        check([sound], clean_bars())
    check_symbols_are_apart([sound], awkward_bars())


def test_values_belong_to_the_moment_their_bar_was_known() -> None:
    late = clean_bars().with_columns(pl.col(Bar.KNOWN_AT) + dt.timedelta(minutes=15))
    out = compute_features(late, REGISTRY[:1])
    assert (out["as_of"] - out["bar_end"]).unique().to_list() == [dt.timedelta(minutes=15)]
