"""Scoring the newest bar: the same as the walk-forward, or a refusal."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import lru_cache

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from features.compute import compute_features
from market import calendar
from market.errors import ModelError, SignalError
from market.horizons import find_horizon
from market.regimes import RegimeLabel
from models.calibration import Calibrator, Method
from models.dataset import assemble
from models.ensemble import stack
from models.fit import FittedModel, fit_model, predict_rows
from models.forecast import STORED_SCHEMA, keep_raw
from models.recipe import challenger_engine
from models.registry import FAMILIES
from signals.reasons import strongest_reasons
from signals.score import Ensemble, Scores, score_horizons
from signals.weighting import regime_weights
from tests.families import quick
from tests.markets import adjusted_daily, dataset_of, labels_of, market, regimes_of

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
        frame, ensemble(stacked=stacked, **of), as_of=as_of, delay=delay, band_bps=5.0
    )


def score_latest(frame: pl.DataFrame, one: Ensemble, **more) -> Scores:
    timeframe = one.horizon.timeframe
    return score_horizons({timeframe: frame}, [one], **more)[one.horizon.name]


def ensemble(stacked: pl.DataFrame | None = None, **of: float) -> Ensemble:
    return Ensemble(DAILY, models(), weights(**of), regimes_of(market()), stacked=stacked)


def newest() -> dt.datetime:
    return features()["as_of"].max()


def test_the_newest_bar_is_scored_by_every_engine_and_the_ensemble() -> None:
    got = score(features(), newest()).predictions
    assert got.schema == STORED_SCHEMA
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


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Polars prints a warning that is an error: no filter sees it."""
    score(features(), newest())
    assert capfd.readouterr() == ("", "")


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
    found = strongest_reasons(got)
    assert set(found) == {(s, e) for s in symbols for e in (*ENGINES, "ensemble")}
    for reasons in found.values():
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
    made = Ensemble(DAILY, models(), table, states)
    got = score_latest(features(), made, as_of=newest(), delay=NONE, band_bps=5.0)
    reasons = strongest_reasons(got)
    for symbol in got.predictions["symbol"].unique():
        assert reasons[symbol, "ensemble"] == reasons[symbol, "linear"]


def test_a_meta_learner_is_one_more_engine_of_the_ensemble() -> None:
    stacked = pl.DataFrame({"engine": ENGINES, "weight": [0.5, 0.25], "sessions": [9, 9]})
    got = score(features(), newest(), stacked=stacked, linear=0.2, xgboost=0.2, meta=0.6)
    rows = got.predictions
    below = rows.filter(pl.col("engine").is_in(ENGINES))
    meta = rows.filter(pl.col("engine") == "meta")
    assert meta.equals(keep_raw(stack(below, stacked)))
    by_symbol = {
        e: dict(rows.filter(pl.col("engine") == e).select("symbol", "expected_return_bps").rows())
        for e in (*ENGINES, "meta", "ensemble")
    }
    for symbol, value in by_symbol["ensemble"].items():
        parts = [by_symbol[e][symbol] for e in (*ENGINES, "meta")]
        assert value == pytest.approx(0.2 * parts[0] + 0.2 * parts[1] + 0.6 * parts[2])
        alone = 0.5 * parts[0] + 0.25 * parts[1]
        assert by_symbol["meta"][symbol] == pytest.approx(alone)
    assert {e for _, e in strongest_reasons(got)} == {*ENGINES, "meta", "ensemble"}


def test_a_challenger_is_scored_and_weighs_nothing() -> None:
    """The ensemble and its reasons are what they are without it, to the bit."""
    alone = score(features(), newest())
    _, trees = models()
    contested = replace(ensemble(), challengers=(trees,))
    got = score_latest(features(), contested, as_of=newest(), delay=NONE, band_bps=5.0)
    name = challenger_engine("xgboost")
    rows = got.predictions
    assert rows.filter(pl.col("engine") != name).equals(alone.predictions)
    mine = rows.filter(pl.col("engine") == name)["expected_return_bps"]
    assert mine.equals(rows.filter(pl.col("engine") == "xgboost")["expected_return_bps"])
    reasons = strongest_reasons(got)
    symbols = {s for s, e in reasons if e == name}
    assert symbols == set(rows["symbol"])
    assert {k: v for k, v in reasons.items() if k[1] != name} == strongest_reasons(alone)


def test_models_of_different_features_are_scored_together() -> None:
    few = fit_model(
        dataset_of(market(), names=("volatility_20", "return_5")),
        np.arange(300), FAMILIES["linear"], horizon="1d", seed=1, data_hash="",
    )  # fmt: skip
    _, trees = models()
    mixed = replace(ensemble(linear=0.5, xgboost=0.5), champions=(few, trees))
    got = score_latest(features(), mixed, as_of=newest(), delay=NONE, band_bps=5.0)
    whole = score(features(), newest()).predictions
    trees_rows = pl.col("engine") == "xgboost"
    assert got.predictions.filter(trees_rows).equals(whole.filter(trees_rows))
    named = {
        r["feature"] for (_, e), rs in strongest_reasons(got).items() if e == "linear" for r in rs
    }
    assert named <= {"volatility_20", "return_5"}


def test_one_call_scores_every_horizon_and_one_symbol_as_among_many() -> None:
    longer = tuple(replace(m, horizon="7d") for m in models())
    other = replace(ensemble(), horizon=find_horizon("7d"), champions=longer)
    ensembles = [ensemble(), other]
    frames = {DAILY.timeframe: features()}
    many = score_horizons(frames, ensembles, as_of=newest(), delay=NONE, band_bps=5.0)
    assert list(many) == ["1d", "7d"]
    for symbol in features()["symbol"].unique().sort():
        single = score_horizons(
            frames, ensembles, as_of=newest(), delay=NONE, band_bps=5.0, symbols=[symbol]
        )
        for name, scores in single.items():
            batch = many[name].predictions.filter(pl.col("symbol") == symbol)
            assert_frame_equal(scores.predictions, batch, rel_tol=1e-6, abs_tol=1e-6)


def test_probabilities_are_calibrated_and_the_raw_ones_kept() -> None:
    flat = Calibrator(Method.PLATT, coefficients=(0.0, 0.0, 1.0, 0.0))
    made = replace(ensemble(), calibrators={"linear": flat})
    got = score_latest(features(), made, as_of=newest(), delay=NONE, band_bps=5.0).predictions
    before = score(features(), newest()).predictions
    raw = [f"raw_{c}" for c in ("p_short", "p_neutral", "p_long")]
    assert got.select(raw).equals(before.select(raw))
    changed = got.filter(pl.col("p_long") != pl.col("raw_p_long"))["engine"].unique().to_list()
    assert changed == ["linear"]


def test_models_of_another_horizon_or_none_make_no_ensemble() -> None:
    with pytest.raises(SignalError, match="got 'models for 1d'"):
        replace(ensemble(), horizon=find_horizon("7d"))
    with pytest.raises(SignalError, match="got 'no champion'"):
        replace(ensemble(), champions=())


def test_one_symbol_keeps_its_rank_among_all() -> None:
    """Also where another one has no newest bar: in its window it had its place."""
    names = ("volatility_20@rank", "return_5@rank")
    family = quick([FAMILIES["lstm"]])[0]
    model = fit_model(
        dataset_of(market(), names=names),
        np.arange(300), family, horizon="1d", seed=1, data_hash="",
    )  # fmt: skip
    made = replace(ensemble(lstm=1.0), champions=(model,))
    halted = features()["symbol"].max()
    frame = features().filter(~((pl.col("symbol") == halted) & (pl.col("bar_end") == newest())))
    every = score_latest(frame, made, as_of=newest(), delay=NONE, band_bps=5.0).predictions
    assert halted not in every["symbol"].to_list()
    data = assemble(frame, labels_of(market()), names, steps=1)
    last = np.flatnonzero((data.keys["bar_end"] == newest()).to_numpy())
    research = predict_rows(model, data, last, 5.0)
    shown = ["symbol", "expected_return_bps"]
    assert_frame_equal(
        every.filter(pl.col("engine") == "lstm").select(shown), research.select(shown), rel_tol=1e-6
    )
    for symbol in every["symbol"].unique():
        alone = score_horizons(
            {DAILY.timeframe: frame}, [made], as_of=newest(), delay=NONE, band_bps=5.0,
            symbols=[symbol],
        )["1d"].predictions  # fmt: skip
        batch = every.filter(pl.col("symbol") == symbol)
        assert_frame_equal(alone, batch, rel_tol=1e-6, abs_tol=1e-6)
