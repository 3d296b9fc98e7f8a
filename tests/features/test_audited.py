"""What the audit is given: the right bars, side tables, columns and moments for each subject."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import lru_cache

import polars as pl
import pytest

from features.audited import (
    adjusted_bars,
    barriers_subject,
    features_subject,
    labels_subject,
    regimes_subject,
    side_tables,
)
from features.labels import LABEL_COLUMNS, label_frame
from features.leakage import audit
from features.spec import Feature, Stage, from_expression
from features.triple_barrier import BARRIER_COLUMNS
from market.horizons import find_horizon
from market.schema import SPLIT_SCHEMA, Bar
from market.timeframes import Timeframe
from tests.extended import with_premarket
from tests.markets import adjusted_daily, market

SIDE = ("indices", "treasury_yields", "news", "events", "sectors")
SIDE_FIELDS = ("indices", "yields", "news", "events", "sectors")


def minutes_of_the_session() -> pl.DataFrame:
    return market(seed=2, symbols=2, sessions=60, minute_sessions=3).minute


@lru_cache(maxsize=1)
def tables() -> dict[str, pl.DataFrame]:
    made = market(seed=2, symbols=2, sessions=60, minute_sessions=3)
    days = made.daily[Bar.SESSION].unique().sort()
    opening = made.daily.filter(pl.col(Bar.SESSION) == days[57])[Bar.BAR_START][0]
    split = {"symbol": made.daily[Bar.SYMBOL][0], "ex_date": days[58], "known_at": opening}
    splits = pl.DataFrame([{**split, "split_ratio": 2.0}], schema=SPLIT_SCHEMA)
    found = {"bars_1d": made.daily, "bars_1m": with_premarket(made.minute, made.daily)}
    return {**found, "splits": splits, "dividends": made.dividends}


@pytest.mark.parametrize(
    ("timeframe", "a_session"), [(Timeframe.D1, 1), (Timeframe.M30, 13), (Timeframe.H1, 7)]
)
def test_bars_are_those_of_regular_hours(timeframe: Timeframe, a_session: int) -> None:
    bars = adjusted_bars(tables(), timeframe)
    each = bars.group_by(Bar.SYMBOL, Bar.SESSION).len()
    assert (each["len"] == a_session).all()
    assert each.height == 2 * (60 if timeframe is Timeframe.D1 else 3)


def test_minutes_before_the_open_are_none_of_them() -> None:
    minutes = adjusted_bars(tables(), Timeframe.M1)
    assert minutes.height == minutes_of_the_session().height < tables()["bars_1m"].height


def test_weeks_are_made_of_days() -> None:
    weeks = adjusted_bars(tables(), Timeframe.W1)
    assert weeks.height == 2 * tables()["bars_1d"][Bar.SESSION].dt.truncate("1w").n_unique()


def test_bars_are_adjusted_for_the_splits_that_there_are() -> None:
    symbol = tables()["splits"]["symbol"][0]
    for timeframe in (Timeframe.D1, Timeframe.M30):
        last = adjusted_bars(tables(), timeframe).filter(pl.col(Bar.SYMBOL) == symbol)[-1]
        without = {n: t for n, t in tables().items() if n.startswith("bars")}
        plain = adjusted_bars(without, timeframe).filter(pl.col(Bar.SYMBOL) == symbol)[-1]
        assert last[Bar.CLOSE][0] == pytest.approx(2.0 * plain[Bar.CLOSE][0])


def test_dividends_count_as_splits_do() -> None:
    made = market(seed=3)
    given = {"bars_1d": made.daily, "splits": made.splits, "dividends": made.dividends}
    assert made.dividends.height > 0
    assert adjusted_bars(given, Timeframe.D1).equals(adjusted_daily(made))
    del given["dividends"]
    assert not adjusted_bars(given, Timeframe.D1).equals(adjusted_daily(made))


@pytest.mark.parametrize(
    ("timeframe", "longer"),
    [
        (Timeframe.M30, {Timeframe.H1, Timeframe.D1}),
        (Timeframe.H1, {Timeframe.D1}),
        (Timeframe.D1, set()),
    ],
)
def test_features_may_look_at_longer_bars_and_at_what_comes_before_the_open(
    timeframe: Timeframe, longer: set[Timeframe]
) -> None:
    side = side_tables(tables(), timeframe)
    assert set(side.longer) == longer
    for length, bars in side.longer.items():
        assert bars.equals(adjusted_bars(tables(), length))
    if timeframe is Timeframe.D1:
        assert side.premarket is None
    else:
        assert side.premarket is not None
        assert side.premarket.height > 0
        early = side.premarket[Bar.BAR_END].dt.convert_time_zone("America/New_York").dt.time()
        assert (early <= dt.time(9, 30)).all()


def test_side_tables_go_where_they_belong() -> None:
    given = {name: pl.DataFrame({"name": [name]}) for name in SIDE}
    side = side_tables({**tables(), **given}, Timeframe.D1)
    for name, field in zip(SIDE, SIDE_FIELDS, strict=True):
        assert getattr(side, field) is given[name]
        assert getattr(side_tables(tables(), Timeframe.D1), field) is None


def cuts() -> list[dt.datetime]:
    known = tables()["bars_1d"][Bar.KNOWN_AT].unique().sort()
    return [known[40], known[50] - dt.timedelta(microseconds=1), known[57]]


def test_features_are_computed_from_what_is_cut() -> None:
    close = pl.col("close")

    def made(name: str, expression: pl.Expr) -> Feature:
        value = from_expression(expression)
        return Feature(name, value, ("close",), 2, Stage.TIME_SERIES, "x", "none")

    features = [made("past", close / close.shift(1)), made("ahead", close.shift(-1) / close)]
    subject = features_subject(features, Timeframe.D1)
    assert subject.name == "features on 1d bars"
    assert [f.column for f in audit(subject, tables(), cuts())] == ["ahead"]


def test_every_label_is_audited_and_none_is_accused() -> None:
    horizon = find_horizon("7d")
    labels, barriers = labels_subject(horizon), barriers_subject(horizon)
    for subject in (labels, barriers):
        assert audit(subject, tables(), cuts()) == []
    columns = {*labels.compute(tables()).columns, *barriers.compute(tables()).columns}
    weights = {"uniqueness", "time_decay", "sample_weight"}  # made when a dataset is assembled
    assert columns >= set(LABEL_COLUMNS) - weights
    assert (labels.name, barriers.name) == ("labels of 7d", "barriers of 7d")
    assert set(labels.ahead) == set(LABEL_COLUMNS) - {"label_volatility", *BARRIER_COLUMNS}
    made = label_frame(adjusted_bars(tables(), Timeframe.D1), horizon, band_bps=6.0)
    assert labels.compute(tables()).equals(made.drop(BARRIER_COLUMNS))


@pytest.mark.parametrize("column", ["forward_return", "excess_return", "barrier_return"])
def test_a_label_that_is_there_too_early_is_found(column: str) -> None:
    """Only what is held to the moment at which it is known can be found out, and not accused."""
    make = barriers_subject if column == "barrier_return" else labels_subject
    subject = make(find_horizon("7d"))
    known = subject.known
    assert known is not None

    def early(given) -> pl.DataFrame:
        rows = subject.compute(given)
        end = pl.col(known).fill_null(rows["as_of"].max())
        last = pl.col(column).fill_null(strategy="backward").fill_null(strategy="forward")
        return rows.with_columns(last.over(Bar.SYMBOL), end.alias(known))

    found = {f.column for f in audit(replace(subject, compute=early), tables(), cuts())}
    assert column in found


def test_the_unit_of_a_label_is_known_when_its_row_is() -> None:
    """Volatility comes from the past alone: it may not change with what comes after the row."""
    subject = labels_subject(find_horizon("7d"))

    def of_all_time(given) -> pl.DataFrame:
        rows = subject.compute(given)
        return rows.with_columns(pl.col("label_volatility").mean().over(Bar.SYMBOL))

    found = audit(replace(subject, compute=of_all_time), tables(), cuts())
    assert "label_volatility" in {f.column for f in found}


def test_regimes_are_one_a_session_and_not_accused() -> None:
    subject = regimes_subject()
    assert subject.compute(tables())[Bar.SESSION].is_unique().all()
    assert audit(subject, tables(), cuts()) == []
