"""The audit finds every planted leak, and accuses nothing that is clean."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from features.audited import (
    barriers_subject,
    features_subject,
    labels_subject,
    regimes_subject,
)
from features.leakage import Subject, audit, choose_cuts, truncate
from features.registry import FAMILIES, select_features
from market.errors import FeatureError
from market.horizons import HORIZONS
from market.schema import Bar
from market.timeframes import Timeframe
from market.universe import liquid_universe
from tests.effort import repeats
from tests.features.planted_leaks import audit_tables, planted_leaks

CUTS = choose_cuts(audit_tables(), repeats(8, 6), seed=4)


@pytest.mark.parametrize("leak", planted_leaks(), ids=lambda s: s.name)
def test_planted_leak_is_caught(leak: Subject) -> None:
    found = audit(leak, audit_tables(), CUTS)
    assert found, f"{leak.name} was not caught"
    assert found[0].values > 0
    assert leak.name in str(found[0])


def test_there_are_leaks_enough() -> None:
    assert len({s.name for s in planted_leaks()}) >= 25


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.M30])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_registered_feature_is_accused(family: str, timeframe: Timeframe) -> None:
    features = select_features(family=family, timeframe=timeframe)
    if not features:
        pytest.skip(f"{family} has nothing for {timeframe} bars")
    assert audit(features_subject(features, timeframe), audit_tables(), CUTS[::3]) == []


@pytest.mark.parametrize("horizon", HORIZONS, ids=lambda h: h.name)
def test_no_label_is_accused(horizon) -> None:
    for subject in (labels_subject(horizon), barriers_subject(horizon)):
        assert audit(subject, audit_tables(), CUTS[1::6]) == []


def test_no_regime_is_accused() -> None:
    assert audit(regimes_subject(), audit_tables(), CUTS) == []


def test_no_point_in_time_universe_is_accused() -> None:
    def members(tables) -> pl.DataFrame:
        bars = tables["bars_1d"]
        ends = bars.group_by(Bar.SESSION).agg(pl.col(Bar.KNOWN_AT).max().alias("as_of"))
        found = liquid_universe(
            bars, sorted(bars[Bar.SESSION].unique()), count=3, lookback_sessions=20
        )
        return found.join(ends, on=Bar.SESSION)

    subject = Subject("liquid universe", members, keys=("session", "symbol"))
    assert audit(subject, audit_tables(), CUTS) == []


def test_an_audit_of_nothing_is_refused() -> None:
    subject = regimes_subject()
    with pytest.raises(FeatureError, match="nothing to compare"):
        audit(subject, audit_tables(), [dt.datetime(2001, 1, 1, tzinfo=dt.UTC)])
    with pytest.raises(FeatureError, match=r"lack columns.*bar_end"):
        audit(Subject("x", lambda t: t["splits"]), audit_tables(), CUTS)


def test_cuts_lie_beside_and_between_the_arrival_of_rows() -> None:
    tables = {"bars_1d": audit_tables()["bars_1d"]}
    cuts = choose_cuts(tables, 12, seed=1)
    ends = set(tables["bars_1d"][Bar.KNOWN_AT])
    assert cuts == sorted(cuts)
    assert 9 <= len(cuts) <= 12
    assert 0 < sum(c in ends for c in cuts) < len(cuts)
    assert max(cuts) < max(ends)
    assert choose_cuts(tables, 12, seed=1) == cuts


def test_a_truncated_table_holds_what_was_known() -> None:
    cut = CUTS[len(CUTS) // 2]
    tables = {**audit_tables(), "sectors": pl.DataFrame({"symbol": ["A"], "sector": ["x"]})}
    past = truncate(tables, cut)
    assert past["bars_1m"].height < tables["bars_1m"].height
    assert past.pop("sectors").height == 1
    for frame in past.values():
        assert frame.filter(pl.col(Bar.KNOWN_AT) > cut).is_empty()
