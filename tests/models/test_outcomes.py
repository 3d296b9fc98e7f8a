"""Predictions and outcomes joined, and what was known when a period began."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.labels import forward_returns, label_frame
from market.errors import ModelError
from market.horizons import find_horizon
from models.outcomes import (
    OUTCOME_SCHEMA,
    check_outcomes,
    join_outcomes,
    outcomes_of,
    probability_matrix,
    walk_periods,
)
from tests.forecasts import forecasts
from tests.markets import adjusted_daily, market

SMALL = {"sessions": 70, "symbols": 4, "horizon": "7d"}


def test_outcomes_are_the_classes_of_the_labels() -> None:
    bars, horizon = adjusted_daily(market()), find_horizon("1d")
    got = outcomes_of(forward_returns(bars, horizon), horizon="1d", band_bps=40.0)
    wanted = label_frame(bars, horizon, band_bps=40.0).drop_nulls("excess_class")
    assert got.schema == OUTCOME_SCHEMA
    assert got["outcome"].to_list() == wanted["excess_class"].to_list()
    assert set(got["outcome"].unique()) == {-1, 0, 1}


def test_each_prediction_gets_its_own_outcome_in_its_place() -> None:
    predictions, outcomes = forecasts(**SMALL)
    shuffled = predictions.sample(fraction=1.0, shuffle=True, seed=1)
    joined = join_outcomes(shuffled, outcomes.sample(fraction=0.5, seed=2))
    assert joined.select(predictions.columns).equals(shuffled)
    table = {(r["symbol"], r["bar_end"]): r["outcome"] for r in outcomes.iter_rows(named=True)}
    for row in joined.iter_rows(named=True):
        assert row["outcome"] in (None, table[row["symbol"], row["bar_end"]])
    assert joined["outcome"].null_count() == joined.height - outcomes.height // 2


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda o: o.with_columns(pl.lit(2, pl.Int8).alias("outcome")), "none of the three"),
        (lambda o: pl.concat([o, o.head(1)]), "two outcomes"),
        (lambda o: o.drop("label_known_at"), "lacks columns"),
        (lambda o: o.with_columns(pl.col("bar_end").alias("label_known_at")), "known before"),
    ],
)
def test_senseless_outcomes_are_refused(spoil, problem: str) -> None:
    predictions, outcomes = forecasts(**SMALL)
    with pytest.raises(ModelError, match=problem):
        join_outcomes(predictions, spoil(outcomes))


def test_the_excess_return_may_be_missing() -> None:
    predictions, outcomes = forecasts(**SMALL)
    joined = join_outcomes(predictions, outcomes.drop("excess_return"))
    assert joined["excess_return"].null_count() == joined.height
    assert joined["outcome"].null_count() == 0


def test_probabilities_that_are_none_are_refused() -> None:
    predictions, _ = forecasts(**SMALL)
    assert probability_matrix(predictions).shape == (predictions.height, 3)
    for wrong in (0.9, -0.1, float("nan")):
        with pytest.raises(ModelError, match="no distribution"):
            probability_matrix(predictions.with_columns(pl.lit(wrong).alias("p_long")))


@pytest.mark.parametrize("outcomes", [[0, 1], [0, 1, 2], [[0], [1], [1]], [0.0, 0.5, 1.0]])
def test_outcomes_that_do_not_fit_are_refused(outcomes) -> None:
    with pytest.raises(ModelError, match="do not fit"):
        check_outcomes(np.array(outcomes), 3)


@given(st.sampled_from(["1w", "1mo", "1q"]), st.none() | st.integers(1, 60), st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_periods_are_those_of_a_naive_loop(rhythm, window, seed) -> None:
    predictions, outcomes = forecasts(**SMALL)
    joined = join_outcomes(predictions, outcomes.sample(fraction=0.9, seed=seed))
    joined = joined.sample(fraction=1.0, shuffle=True, seed=seed)
    rows = list(joined.with_row_index("n").iter_rows(named=True))

    def period(session: dt.date) -> object:
        if rhythm == "1w":
            return session.isocalendar()[:2]
        return session.year, (session.month - 1) // (3 if rhythm == "1q" else 1)

    found = list(walk_periods(joined, rhythm=rhythm, max_sessions=window))
    wanted = sorted({period(r["session"]) for r in rows})
    assert [period(p.first_session) for p in found] == wanted
    for got in found:
        own = [r for r in rows if period(r["session"]) == period(got.first_session)]
        as_of = min(r["as_of"] for r in own)
        known = [r for r in rows if r["outcome"] is not None and r["label_known_at"] <= as_of]
        newest = sorted({r["session"] for r in known})[-(window or 1000) :]
        used = [r for r in known if r["session"] in newest]
        used.sort(key=lambda r: (r["session"], r["as_of"], r["symbol"]))
        assert got.as_of == as_of
        assert sorted(got.rows) == sorted(r["n"] for r in own)
        assert got.evidence.tolist() == [r["n"] for r in used]
        assert got.first_session == min(r["session"] for r in own)


def test_engines_and_horizons_have_periods_of_their_own() -> None:
    first, _ = forecasts(**SMALL)
    other, _ = forecasts(**SMALL | {"horizon": "1d", "engine": "xgboost"})
    _, outcomes = forecasts(**SMALL)
    joined = join_outcomes(pl.concat([first, other]), outcomes)
    for period in walk_periods(joined, rhythm="1mo", max_sessions=None):
        rows = joined[np.concatenate([period.rows, period.evidence])]
        assert rows["engine"].unique().to_list() == [period.engine]
        assert rows["horizon"].unique().to_list() == [period.horizon]
        assert (len(period.evidence) == 0) or period.horizon == "7d"


@pytest.mark.parametrize(("rhythm", "window"), [("2mo", None), ("month", 10), ("1mo", 0)])
def test_senseless_periods_are_refused(rhythm: str, window: int | None) -> None:
    joined = join_outcomes(*forecasts(**SMALL))
    with pytest.raises(ModelError, match="rhythm or window"):
        list(walk_periods(joined, rhythm=rhythm, max_sessions=window))
