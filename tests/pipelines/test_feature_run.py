"""Features in the lake: brought up to date in any steps they are what one computation gives."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import polars as pl
import pytest

from features.bridge import indicator_features
from features.compute import compute_features
from features.registry import CORE, select_features
from features.side import SideTables
from features.spec import Feature, Memory, Stage
from market.bars import by_company, read_adjusted
from market.ingest import ingest
from market.ingest_log import RefetchPolicy
from market.lake import Lake
from market.lineage import stale_features
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from market.timeframes import Timeframe
from pipelines import feature_run
from pipelines.feature_run import FeatureRun, compute_now
from tests.features.test_incremental import assert_equal_within_one_ulp
from tests.market.test_quarantine import FrameSource
from tests.markets import market

D1 = Timeframe.D1
NOW = dt.datetime(2024, 7, 20, 12, tzinfo=dt.UTC)
NAMES = ("macd_12_26_9", "rsi_14", "obv", "supertrend_7_3", "adx_14", "MA20", "CORR10")
FEATURES = (*CORE, *select_features(NAMES))


@lru_cache(maxsize=1)
def history() -> pl.DataFrame:
    """Four symbols: one listed late, one halted for sixty sessions until near the end."""
    bars = market(seed=12, symbols=4, sessions=330).daily
    a, b = bars[Bar.SYMBOL].unique().sort()[:2]
    symbol, n = pl.col(Bar.SYMBOL), pl.int_range(pl.len()).over(Bar.SYMBOL)
    late, halted = (symbol == a) & (n < 290), (symbol == b) & n.is_between(255, 315)
    return bars.filter(~late, ~halted)


DAYS = history()[Bar.SESSION].unique().sort().to_list()
SYMBOLS = history()[Bar.SYMBOL].unique().sort().to_list()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = without_actions(Lake(tmp_path))
    bring(made, DAYS)
    return made


def without_actions(lake: Lake) -> Lake:
    lake.replace("splits", empty(SPLIT_SCHEMA), None)
    lake.replace("dividends", empty(DIVIDEND_SCHEMA), None)
    return lake


def bring(lake: Lake, days: list[dt.date], bars: pl.DataFrame | None = None, **more) -> None:
    source = FrameSource(history() if bars is None else bars)
    ingest(lake, source, D1, days, SYMBOLS, now=more.pop("now", NOW), **more)


def stored(lake: Lake) -> pl.DataFrame:
    return lake.scan("features_1d").sort("symbol", "bar_end").collect()


def computed(lake: Lake, features=FEATURES) -> pl.DataFrame:
    bars = read_adjusted(lake, D1)
    return by_company(lake, bars, lambda rows: compute_features(rows, features))


def test_one_refresh_is_one_computation(lake: Lake) -> None:
    done = FeatureRun(lake, D1, FEATURES).refresh(DAYS)
    assert done.sessions == len(DAYS)
    assert_equal_within_one_ulp(stored(lake), computed(lake))
    again = FeatureRun(lake, D1, FEATURES).refresh(DAYS)
    assert (again.sessions, again.values) == (0, 0)


def test_day_by_day_is_the_same_also_for_a_symbol_that_was_halted(tmp_path: Path) -> None:
    lake = without_actions(Lake(tmp_path))
    bring(lake, DAYS[:-20])
    FeatureRun(lake, D1, FEATURES).refresh(DAYS[:-20])
    for day in DAYS[-20:]:
        bring(lake, [day])
        done = FeatureRun(lake, D1, FEATURES).refresh([day])
        assert done.sessions == 1
    assert_equal_within_one_ulp(stored(lake), computed(lake))


def test_small_parts_are_the_same(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_run, "_CELLS_AT_ONCE", 4 * 40 * len(FEATURES))
    FeatureRun(lake, D1, FEATURES).refresh(DAYS[200:])
    assert lake.sessions("features_1d") == set(DAYS[200:])
    wanted = computed(lake).filter(pl.col(Bar.SESSION) >= DAYS[200])
    assert_equal_within_one_ulp(stored(lake), wanted)


def test_a_scheduled_run_reads_no_further_back_than_it_must(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = [s for s in SYMBOLS if s not in SYMBOLS[:2]]
    whole = history().filter(pl.col(Bar.SYMBOL).is_in(calm))
    lake = without_actions(Lake(lake.root + "-calm"))
    source = FrameSource(whole)
    ingest(lake, source, D1, DAYS[:-1], calm, now=NOW)
    FeatureRun(lake, D1, FEATURES).refresh(DAYS[:-1])
    ingest(lake, source, D1, DAYS[-1:], calm, now=NOW)
    starts: list[dt.date | None] = []

    def watched(lake, timeframe, start=None, end=None, symbols=None):
        starts.append(start)
        return read_adjusted(lake, timeframe, start, end, symbols)

    monkeypatch.setattr(feature_run, "read_adjusted", watched)
    FeatureRun(lake, D1, FEATURES).refresh(DAYS[-1:])
    # The same session once more, as after midday when it is over.
    revised = whole.with_columns(
        pl.when(pl.col(Bar.SESSION) == DAYS[-1])
        .then(pl.col(Bar.CLOSE) * 1.002)
        .otherwise(Bar.CLOSE)
        .alias(Bar.CLOSE)
    )
    policy, later = RefetchPolicy(day_after=False, every_weeks=1), NOW + dt.timedelta(days=8)
    ingest(lake, FrameSource(revised), D1, DAYS[-1:], calm, now=later, policy=policy)
    done = FeatureRun(lake, D1, FEATURES).refresh(DAYS[-1:])
    assert done.sessions == 1
    # A lookback before the checkpoint, and one between it and the new session.
    longest = max(f.lookback for f in FEATURES)
    assert len(starts) == 2
    for start in starts:
        assert start is not None
        assert DAYS[-(2 * longest + 10)] <= start <= DAYS[-(2 * longest - 1)]
    assert_equal_within_one_ulp(stored(lake), computed(lake))


def test_a_changed_feature_recomputes_itself_alone(lake: Lake) -> None:
    FeatureRun(lake, D1, FEATURES).refresh(DAYS)
    before = stored(lake)
    changed = replace(
        select_features(["body"])[0], compute=lambda p: 2.0 * (p["close"] / p["open"] - 1.0)
    )
    now = tuple(changed if f.name == "body" else f for f in FEATURES)
    run = FeatureRun(lake, D1, now)
    stale = stale_features(lake, D1, run.inputs, run.definitions)
    assert set(stale.values()) == {frozenset({"body"})}
    done = run.refresh(DAYS)
    assert done.values == before.height
    after = stored(lake)
    assert after.drop("body").equals(before.drop("body"))
    assert after["body"].to_list() == pytest.approx((before["body"] * 2.0).to_list(), rel=1e-6)


def test_a_new_feature_is_computed_alone_and_one_that_left_is_gone(lake: Lake) -> None:
    FeatureRun(lake, D1, FEATURES[:-1]).refresh(DAYS)
    before = stored(lake)
    done = FeatureRun(lake, D1, FEATURES).refresh(DAYS)
    assert done.values == before.height
    assert stored(lake).select(before.columns).equals(before)
    assert_equal_within_one_ulp(stored(lake), computed(lake))


def test_a_revision_recomputes_windows_that_hold_it_and_states_after_it(lake: Lake) -> None:
    FeatureRun(lake, D1, FEATURES).refresh(DAYS)
    revised = DAYS[120]
    here = (pl.col(Bar.SESSION) == revised) & (pl.col(Bar.SYMBOL) == SYMBOLS[2])
    other = history().with_columns(
        pl.when(here).then(pl.col(Bar.CLOSE) * 1.002).otherwise(Bar.CLOSE).alias(Bar.CLOSE)
    )
    policy = RefetchPolicy(day_after=False, every_weeks=1)
    bring(lake, DAYS, other, now=NOW + dt.timedelta(days=8), policy=policy)
    run = FeatureRun(lake, D1, FEATURES)
    stale = stale_features(lake, D1, run.inputs, run.definitions)
    assert [s for s, names in stale.items() if "rsi_14" in names] == DAYS[120:]
    windows = [s for s, names in stale.items() if "MA20" in names]
    assert windows[0] == revised
    assert len(windows) < len(DAYS[120:])
    run.refresh(DAYS)
    assert_equal_within_one_ulp(stored(lake), computed(lake))


def test_a_checkpoint_of_other_bars_is_not_used(lake: Lake) -> None:
    FeatureRun(lake, D1, FEATURES).refresh(DAYS[:300])
    kept = max(lake.sessions("feature_states_1d"))
    rows = lake.scan("feature_states_1d").filter(pl.col(Bar.SESSION) == kept).collect()
    wrong = rows.with_columns(pl.col("state").list.eval(pl.element() * 1.5))
    lake.replace(
        "feature_states_1d", wrong.with_columns(pl.lit("elsewhere").alias("made_from")), [kept]
    )
    FeatureRun(lake, D1, FEATURES).refresh(DAYS[300:])
    assert_equal_within_one_ulp(stored(lake), computed(lake))
    # The comparison would have told: the wrong state under the right name does change values.
    lake.replace("feature_states_1d", wrong, [kept])
    lake.replace("features_1d", stored(lake).head(0), DAYS[300:])
    lake.replace("feature_log", lake.scan("feature_log").collect().head(0), None)
    FeatureRun(lake, D1, FEATURES).refresh(DAYS[300:])
    with pytest.raises(AssertionError):
        assert_equal_within_one_ulp(
            stored(lake), computed(lake).filter(pl.col(Bar.SESSION) >= DAYS[0])
        )


def test_indicators_without_checkpoint_are_computed_from_the_start(lake: Lake) -> None:
    named = indicator_features(["mcgd(length=10)"])
    assert not all(f.resumable for f in named)
    features = (*FEATURES, *named)
    FeatureRun(lake, D1, features).refresh(DAYS[:320])
    FeatureRun(lake, D1, features).refresh(DAYS[320:])
    assert_equal_within_one_ulp(stored(lake), computed(lake, features))


def test_features_of_a_period_can_be_had_without_keeping_them(lake: Lake) -> None:
    found = compute_now(lake, D1, FEATURES, DAYS[310], DAYS[312])
    inside = pl.col(Bar.SESSION).is_between(DAYS[310], DAYS[312])
    wanted = computed(lake).filter(inside)
    assert_equal_within_one_ulp(found.filter(inside), wanted)
    assert not lake.exists("features_1d")


def test_a_state_that_no_feature_declares_is_a_window() -> None:
    """The table of memories is what staleness rests on: it must name the recursive ones."""
    recursive = {f.name for f in FEATURES if f.memory.is_recursive}
    assert {"macd_12_26_9", "rsi_14", "obv", "supertrend_7_3", "adx_14"} == recursive
    sly = Feature(
        "sly",
        lambda p: p.running_sum("sly", p["volume"]),
        ("volume",),
        1,
        Stage.TIME_SERIES,
        "x",
        "none",
        memory=Memory.CUMULATIVE,
    )
    assert feature_run.definitions_of([sly]).history
    assert not feature_run.definitions_of([sly]).window


def test_another_file_of_sectors_makes_what_it_sorts_stale_alone(
    lake: Lake, tmp_path: Path
) -> None:
    sectors = tmp_path / "sectors.csv"
    features = (*CORE, *select_features(["return_1_in_sector", "sector_return_1"]))

    def run() -> FeatureRun:
        side = partial(_sectored, sectors)
        return FeatureRun(lake, D1, features, side, sectors)

    sectors.write_text("symbol,sector\n" + "".join(f"{s},one\n" for s in SYMBOLS))
    run().refresh(DAYS)
    together = stored(lake)
    assert together["return_1_in_sector"].null_count() < together.height
    sectors.write_text("symbol,sector\n" + "".join(f"{s},{s}\n" for s in SYMBOLS))
    again = run()
    stale = stale_features(lake, D1, again.inputs, again.definitions)
    assert set(stale.values()) == {frozenset({"return_1_in_sector", "sector_return_1"})}
    again.refresh(DAYS)
    # Each alone in its sector: there is nothing to measure it against.
    apart = stored(lake)
    assert apart["return_1_in_sector"].null_count() == apart.height
    assert apart["return_1_z"].equals(together["return_1_z"])


def _sectored(path: Path, start: dt.date, end: dt.date) -> SideTables:
    return SideTables(sectors=pl.read_csv(path))
