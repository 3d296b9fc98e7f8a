"""The leakage audit over what side tables give: clean as it is, and caught where it is not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import lru_cache

import polars as pl
import pytest

from features import event_features, longer_bars, premarket, sentiment
from features.audited import features_subject
from features.leakage import audit, choose_cuts
from features.registry import REGISTRY
from features.side import SideTables
from features.spec import Feature, Scope, Stage
from market.schema import Bar
from market.synthetic_reference import generate_reference
from market.timeframes import Timeframe
from tests.effort import repeats
from tests.extended import events_of, with_premarket
from tests.markets import market


@lru_cache(maxsize=1)
def tables() -> dict[str, pl.DataFrame]:
    made = market(seed=6, symbols=4, sessions=130, minute_sessions=30)
    reference = generate_reference(made)
    return {
        "bars_1d": made.daily,
        "bars_1m": with_premarket(made.minute, made.daily),
        "splits": made.splits,
        "dividends": made.dividends,
        "indices": reference.indices,
        "treasury_yields": reference.treasury_yields,
        "news": reference.news,
        "events": events_of(made.daily),
    }


@pytest.mark.parametrize(
    ("timeframe", "delay_minutes"),
    [(Timeframe.D1, 15), (Timeframe.M30, 0), (Timeframe.M30, 15), (Timeframe.M5, 0)],
)
def test_no_as_of_feature_is_accused(timeframe: Timeframe, delay_minutes: int) -> None:
    late = pl.col(Bar.KNOWN_AT) + dt.timedelta(minutes=delay_minutes)
    given = {n: t.with_columns(late) if n.startswith("bars") else t for n, t in tables().items()}
    features = [f for f in REGISTRY if f.stage is Stage.AS_OF and f.scope.covers(timeframe)]
    assert len(features) >= 34
    subject = features_subject(features, timeframe)
    assert audit(subject, given, choose_cuts(given, 6, seed=delay_minutes)) == []


Compute = Callable[[SideTables], pl.DataFrame | None]


def sooner(compute: Compute, by: dt.timedelta) -> Compute:
    """Take values for known earlier than they are."""

    def early(side: SideTables) -> pl.DataFrame | None:
        table = compute(side)
        return None if table is None else table.with_columns(pl.col(Bar.KNOWN_AT) - by)

    return early


def of(module, name: str) -> Compute:
    return next(f.compute for f in module.FEATURES if f.name == name)


def unannounced(side: SideTables) -> pl.DataFrame | None:
    """Events as if all had been announced from the beginning."""
    assert side.events is not None
    first = pl.lit(dt.datetime(2020, 1, 2, 15, tzinfo=dt.UTC)).cast(pl.Datetime("us", "UTC"))
    told = SideTables(events=side.events.with_columns(first.alias(Bar.KNOWN_AT)))
    return of(event_features, "days_to_event")(told)


HOUR = dt.timedelta(hours=1)
LEAKS: dict[str, Compute] = {
    "unannounced": unannounced,
    "the hour that runs": sooner(of(longer_bars, "return_1_of_1h"), HOUR),
    "the day that runs": sooner(of(longer_bars, "return_1_of_1d"), 5 * HOUR),
    "news when it was written": sooner(of(sentiment, "news_count_1d"), 3 * HOUR),
    "tomorrow's premarket": sooner(of(premarket, "premarket_return"), 24 * HOUR),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_value_taken_for_known_too_early_is_caught(name: str) -> None:
    leak = Feature(
        "leak", LEAKS[name], ("news",), 1, Stage.AS_OF, "bad", "none", scope=Scope.INTRADAY
    )
    subject = features_subject([leak], Timeframe.M30)
    found = audit(subject, tables(), choose_cuts(tables(), repeats(24, 12), seed=1))
    assert [f.column for f in found] == ["leak"]
