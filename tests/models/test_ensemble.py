"""The meta-learner: what it takes of each engine, and that it learns from the past alone."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize

from market.errors import ModelError
from models.ensemble import (
    META_ENGINE,
    PRIOR_SESSIONS,
    stack,
    stack_walk_forward,
    stack_weights,
)
from models.forecast import PREDICTION_SCHEMA
from models.session_moments import session_moments
from tests.markets import bits

SYMBOLS = 12
BEGIN = dt.datetime(2023, 1, 2, 21, tzinfo=dt.UTC)
ENGINES = ("a", "b", "c")
LATE = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


def scored(sessions: int = 300, seed: int = 1, true=(1.0, 0.0, 0.5), noise=1.0) -> pl.DataFrame:
    """Three engines' forecasts, and outcomes that are a mixture of them and noise."""
    rng = np.random.default_rng(seed)
    n = sessions * SYMBOLS
    forecast = rng.standard_normal((n, 3)) * 0.3
    outcome = forecast @ np.array(true) + noise * rng.standard_normal(n)
    day = np.repeat(np.arange(sessions), SYMBOLS)
    ends = [BEGIN + dt.timedelta(days=int(d)) for d in day]
    unit = 100.0 + 50.0 * (np.arange(n) % SYMBOLS)
    parts = [
        pl.DataFrame(
            {
                "symbol": [f"S{k % SYMBOLS:02}" for k in range(n)],
                "session": [e.date() for e in ends],
                "bar_end": ends,
                "as_of": ends,
                "horizon": "1d",
                "engine": name,
                "model_version": f"{name}-1",
                "p_short": 0.3 + 0.01 * k,
                "p_neutral": 0.2,
                "p_long": 0.5 - 0.01 * k,
                "expected_return_bps": forecast[:, k] * unit,
                "volatility_bps": unit,
                "excess_return": outcome * unit / 1e4,
                "label_known_at": [e + dt.timedelta(days=1) for e in ends],
            },
            schema_overrides=dict(PREDICTION_SCHEMA.items()) | {
                "label_known_at": pl.Datetime("us", "UTC")
            },
        )
        for k, name in enumerate(ENGINES)
    ]  # fmt: skip
    return pl.concat(parts)


def predictions(of: pl.DataFrame) -> pl.DataFrame:
    return of.select(PREDICTION_SCHEMA.names())


def labels(of: pl.DataFrame) -> pl.DataFrame:
    return of.filter(pl.col("engine") == "a").select(
        "symbol", "bar_end", "label_known_at", "excess_return"
    )


def weights_of(of: pl.DataFrame, as_of: dt.datetime = LATE) -> dict[str, float]:
    return dict(
        stack_weights(session_moments(of, ENGINES), ENGINES, as_of)
        .select("engine", "weight")
        .iter_rows()
    )


def test_with_much_evidence_the_mixture_is_found() -> None:
    got = weights_of(scored(sessions=3000, noise=0.3))
    assert got["a"] == pytest.approx(1.0, abs=0.06)
    assert got["b"] == pytest.approx(0.0, abs=0.06)
    assert got["c"] == pytest.approx(0.5, abs=0.06)


def test_without_evidence_weights_are_equal() -> None:
    assert weights_of(scored(), BEGIN) == pytest.approx(dict.fromkeys(ENGINES, 1 / 3))
    nothing = scored().with_columns(pl.lit(0.0).alias("expected_return_bps"))
    assert weights_of(nothing) == pytest.approx(dict.fromkeys(ENGINES, 1 / 3))


def test_an_engine_that_misleads_weighs_nothing() -> None:
    got = weights_of(scored(sessions=2000, true=(1.0, -1.0, 0.0)))
    assert got["b"] == 0.0
    assert min(got.values()) >= 0.0


def test_weights_are_those_of_an_independent_minimisation() -> None:
    of = scored(sessions=80, noise=2.0)  # noise enough that some outcomes are clipped
    unit = of["volatility_bps"].to_numpy()
    by = of.with_columns(
        f=pl.col("expected_return_bps") / unit, y=pl.col("excess_return") * 1e4 / unit
    )
    f = np.stack([by.filter(pl.col("engine") == e)["f"].to_numpy() for e in ENGINES], axis=1)
    y = by.filter(pl.col("engine") == "a")["y"].to_numpy()
    y = np.clip(y, -4.0, 4.0)
    rows = PRIOR_SESSIONS * SYMBOLS

    def loss(w):
        return ((y - f @ w) ** 2).sum() + rows * (f**2).mean() * ((w - 1 / 3) ** 2).sum()

    found = minimize(loss, np.full(3, 0.3), bounds=[(0, None)] * 3, tol=1e-12)
    assert list(weights_of(of).values()) == pytest.approx(found.x.tolist(), abs=1e-4)


def test_what_is_known_later_changes_no_earlier_prediction() -> None:
    of = scored()
    whole = stack_walk_forward(predictions(of), labels(of))
    cut = BEGIN + dt.timedelta(days=150)
    flipped = labels(of).with_columns(
        pl.when(pl.col("label_known_at") > cut)
        .then(-pl.col("excess_return"))
        .otherwise(pl.col("excess_return"))
        .alias("excess_return")
    )
    other = stack_walk_forward(predictions(of), flipped)
    upto = pl.col("as_of") <= cut
    assert bits(other.filter(upto)) == bits(whole.filter(upto))
    assert bits(other.filter(~upto)) != bits(whole.filter(~upto))


def test_each_month_is_stacked_by_what_was_known_at_its_first_moment() -> None:
    of = scored()
    whole = stack_walk_forward(predictions(of), labels(of))
    month = whole.filter(pl.col("session").dt.strftime("%Y-%m") == "2023-07")
    first = month["as_of"].min()
    part = predictions(of).filter(pl.col("session").dt.strftime("%Y-%m") == "2023-07")
    again = stack(part, stack_weights(session_moments(of, ENGINES), ENGINES, first))
    assert bits(again.sort("bar_end", "symbol")) == bits(month)


def test_a_stacked_row_is_the_weighted_sum_of_its_engines() -> None:
    of = scored(sessions=5)
    given = pl.DataFrame({"engine": ENGINES, "weight": [0.6, 0.3, 0.0], "sessions": [1, 1, 1]})
    got = stack(predictions(of), given)
    assert got.schema == PREDICTION_SCHEMA
    assert got["engine"].unique().to_list() == [META_ENGINE]
    row = got.row(7, named=True)
    parts = of.filter(
        (pl.col("symbol") == row["symbol"]) & (pl.col("bar_end") == row["bar_end"])
    ).sort("engine")
    wanted = parts["expected_return_bps"].dot(pl.Series([0.6, 0.3, 0.0]))
    assert row["expected_return_bps"] == pytest.approx(wanted)
    assert row["p_long"] == pytest.approx(parts["p_long"].dot(pl.Series([2 / 3, 1 / 3, 0.0])))
    assert row["p_short"] + row["p_neutral"] + row["p_long"] == pytest.approx(1.0)


def test_if_no_engine_is_worth_anything_the_forecast_is_zero_and_probabilities_the_mean() -> None:
    of = scored(sessions=5)
    given = pl.DataFrame({"engine": ENGINES, "weight": [0.0, 0.0, 0.0], "sessions": [1, 1, 1]})
    got = stack(predictions(of), given)
    assert got["expected_return_bps"].abs().max() == 0.0
    assert got["p_short"].to_list() == pytest.approx([0.31] * got.height)


def test_rows_that_an_engine_lacks_are_not_stacked() -> None:
    of = scored(sessions=5)
    lacking = (pl.col("engine") == "b") & (pl.col("symbol") == "S03")
    weights = stack_weights(session_moments(of, ENGINES), ENGINES, LATE)
    got = stack(predictions(of.filter(~lacking)), weights)
    assert "S03" not in got["symbol"].to_list()
    assert got.height == 5 * (SYMBOLS - 1)


def test_nothing_to_stack_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing to stack"):
        stack_weights(session_moments(scored(5), ENGINES), [], LATE)
