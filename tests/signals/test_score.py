"""Scoring the newest bar: the same as the walk-forward, or a refusal."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from features.labels import forward_returns
from market import calendar
from market.errors import ModelError, SignalError
from market.horizons import find_horizon
from market.regimes import RegimeLabel
from models.dataset import assemble
from models.ensemble import stack
from models.fit import FittedModel, fit_model, predict_rows
from models.forecast import PREDICTION_SCHEMA
from models.normal_scores import ranked
from models.registry import FAMILIES
from signals.score import Scores, score_latest
from signals.weighting import regime_weights
from tests.markets import adjusted_daily, dataset_of, market, regimes_of

DAILY = find_horizon("1d")
NONE = dt.timedelta(0)
NO_SKILL = pl.DataFrame(
    schema={
        "engine": pl.String,
        "session": pl.Date,
        "rank_ic": pl.Float64,
        "known_at": pl.Datetime("us", "UTC"),
    }
)
ENGINES = ["linear", "xgboost"]


@lru_cache(maxsize=1)
def models() -> tuple[FittedModel, ...]:
    data = dataset_of(market())
    rows = np.arange(300)
    return tuple(
        fit_model(data, rows, FAMILIES[n], horizon="1d", seed=1, data_hash="") for n in ENGINES
    )


def features() -> pl.DataFrame:
    return compute_features(adjusted_daily(market()))


def weights(**of: float) -> pl.DataFrame:
    if not of:
        return regime_weights(NO_SKILL, regimes_of(market()), ENGINES, features()["as_of"].max())
    return pl.DataFrame(
        [{"engine": e, "regime": r.value, "weight": w} for e, w in of.items() for r in RegimeLabel]
    )


def score(
    frame: pl.DataFrame,
    as_of: dt.datetime,
    delay: dt.timedelta = NONE,
    stacked: pl.DataFrame | None = None,
    **of,
) -> Scores:
    return score_latest(
        frame,
        models(),
        horizon=DAILY,
        weights=weights(**of),
        regimes=regimes_of(market()),
        as_of=as_of,
        delay=delay,
        band_bps=5.0,
        stacked=stacked,
    )


def newest() -> dt.datetime:
    return features()["as_of"].max()


def test_the_newest_bar_is_scored_by_every_engine_and_the_ensemble() -> None:
    got = score(features(), newest()).predictions
    assert got.schema == PREDICTION_SCHEMA
    assert got["bar_end"].unique().to_list() == [newest()]
    symbols = features().filter(pl.col("bar_end") == newest())["symbol"].n_unique()
    assert got.group_by("engine").len().sort("engine").rows() == [
        (e, symbols) for e in ("ensemble", *ENGINES)
    ]
    mean = (
        got.filter(pl.col("engine") != "ensemble")
        .group_by("symbol")
        .agg(pl.col("expected_return_bps").mean())
    )
    blend = got.filter(pl.col("engine") == "ensemble").sort("symbol")["expected_return_bps"]
    assert blend.to_list() == pytest.approx(mean.sort("symbol")["expected_return_bps"].to_list())


def test_live_scores_are_those_of_the_backtest() -> None:
    data = dataset_of(market())
    last = np.flatnonzero((data.keys["bar_end"] == newest()).to_numpy())
    live = score(features(), newest()).predictions
    for model in models():
        research = predict_rows(model, data, last, 5.0)
        mine = live.filter(pl.col("engine") == model.family.name)
        assert mine["symbol"].to_list() == research["symbol"].to_list()
        assert mine["expected_return_bps"].to_list() == pytest.approx(
            research["expected_return_bps"].to_list(), abs=1e-4
        )


def test_what_is_known_later_is_not_looked_at() -> None:
    before = newest() - dt.timedelta(seconds=1)
    got = score(features(), before)
    assert got.predictions["bar_end"].max() < newest()
    past = score(features().filter(pl.col("as_of") <= before), before)
    assert got.predictions.equals(past.predictions)


def test_a_delayed_plan_waits_for_its_delay() -> None:
    delay = dt.timedelta(minutes=15)
    late = features().with_columns(pl.col("as_of") + delay)
    assert score(late, newest() + delay, delay).predictions["bar_end"].max() == newest()
    earlier = score(late, newest() + delay / 2, delay).predictions["bar_end"].max()
    assert earlier == calendar.session_close(calendar.previous_session(newest().date()))


def test_data_that_is_behind_is_refused() -> None:
    with pytest.raises(SignalError, match="features for 1d are behind"):
        score(features(), newest() + dt.timedelta(days=3))


def test_a_halted_symbol_is_left_out() -> None:
    one = features()["symbol"][0]
    holed = features().filter(~((pl.col("symbol") == one) & (pl.col("bar_end") == newest())))
    assert one not in score(holed, newest()).predictions["symbol"].to_list()


def test_a_model_from_the_future_is_refused() -> None:
    known = min(dt.datetime.fromisoformat(m.known_at) for m in models())
    with pytest.raises(ModelError, match="before its training data was known"):
        score(features(), known - dt.timedelta(days=4))


def test_contributions_explain_the_forecast() -> None:
    got = score(features(), newest(), linear=0.75, xgboost=0.25)
    symbols = got.predictions["symbol"].unique().to_list()
    assert set(got.contributions) == {(s, e) for s in symbols for e in (*ENGINES, "ensemble")}
    for reasons in got.contributions.values():
        sizes = [abs(r["contribution"]) for r in reasons]
        assert len(reasons) == 3
        assert sizes == sorted(sizes, reverse=True)
        assert np.isfinite(sizes).all()


def test_the_ensembles_contributions_use_the_weights_of_the_present_regime() -> None:
    """Where the present regime trusts one engine alone, its reasons are the ensemble's."""
    states = regimes_of(market())
    present = states.filter(pl.col("as_of") <= newest())["regime"][-1]
    table = weights(linear=0.0, xgboost=1.0).with_columns(
        pl.when(pl.col("regime") == present)
        .then((pl.col("engine") == "linear").cast(pl.Float64))
        .otherwise(pl.col("weight"))
        .alias("weight")
    )
    got = score_latest(
        features(), models(), horizon=DAILY, weights=table, regimes=states,
        as_of=newest(), delay=NONE, band_bps=5.0,
    )  # fmt: skip
    for symbol in got.predictions["symbol"].unique():
        assert got.contributions[symbol, "ensemble"] == got.contributions[symbol, "linear"]


def test_a_meta_learner_is_one_more_engine_of_the_ensemble() -> None:
    stacked = pl.DataFrame({"engine": ENGINES, "weight": [0.5, 0.25], "sessions": [9, 9]})
    got = score(features(), newest(), stacked=stacked, linear=0.2, xgboost=0.2, meta=0.6)
    rows = got.predictions
    below = rows.filter(pl.col("engine").is_in(ENGINES))
    meta = rows.filter(pl.col("engine") == "meta")
    assert meta.equals(stack(below, stacked))
    by_symbol = {
        e: dict(rows.filter(pl.col("engine") == e).select("symbol", "expected_return_bps").rows())
        for e in (*ENGINES, "meta", "ensemble")
    }
    for symbol, value in by_symbol["ensemble"].items():
        parts = [by_symbol[e][symbol] for e in (*ENGINES, "meta")]
        assert value == pytest.approx(0.2 * parts[0] + 0.2 * parts[1] + 0.6 * parts[2])
        alone = 0.5 * parts[0] + 0.25 * parts[1]
        assert by_symbol["meta"][symbol] == pytest.approx(alone)
    assert {e for _, e in got.contributions} == {*ENGINES, "meta", "ensemble"}


@pytest.mark.parametrize("family", ["linear", "lstm"])
def test_ranks_are_those_of_the_backtest_also_where_a_symbol_has_no_newest_bar(family) -> None:
    whole = features()
    halted = whole["symbol"].unique().sort()[0]
    seen = whole.filter(~((pl.col("symbol") == halted) & (pl.col("bar_end") == newest())))
    labels = forward_returns(adjusted_daily(market()), DAILY)
    data = assemble(seen, labels, ranked(["return_1", "return_5", "body"]), steps=1)
    small = {"window": 5, "hidden": 4, "epochs": 1} if family == "lstm" else {}
    chosen = FAMILIES[family]
    model = fit_model(
        data,
        np.arange(300),
        chosen,
        horizon="1d",
        seed=1,
        data_hash="",
        params={**chosen.defaults, **small},
    )
    last = np.flatnonzero((data.keys["bar_end"] == newest()).to_numpy())
    research = predict_rows(model, data, last, 5.0)
    live = score_latest(
        seen,
        [model],
        horizon=DAILY,
        weights=regime_weights(NO_SKILL, regimes_of(market()), [family], newest()),
        regimes=regimes_of(market()),
        as_of=newest(),
        delay=NONE,
        band_bps=5.0,
    ).predictions.filter(pl.col("engine") == family)
    assert live["symbol"].to_list() == research["symbol"].to_list()
    assert live["expected_return_bps"].to_list() == pytest.approx(
        research["expected_return_bps"].to_list(), abs=1e-4
    )
