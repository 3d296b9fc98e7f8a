"""Weights by regime: equal without evidence, earned with it, never from the future."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import multivariate_normal

from market.horizons import find_horizon
from market.regimes import RegimeLabel
from models.forecast import PREDICTION_SCHEMA
from models.registry import FAMILIES
from models.splits import PurgedWalkForward
from models.walk_forward import walk_forward
from signals.weighting import (
    attach_regime,
    blend,
    blend_walk_forward,
    regime_weights,
    session_skill,
)
from tests.markets import bits, dataset_of, labels_of, market, regimes_of

NOW = dt.datetime(2024, 7, 1, 20, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
WORDS = [r.value for r in RegimeLabel]


def skill_table(**engines: list[float]) -> pl.DataFrame:
    """One rank IC a day, the last one known at NOW."""
    rows = [
        {
            "engine": engine,
            "session": (NOW - (len(values) - 1 - k) * DAY).date(),
            "rank_ic": value,
            "known_at": NOW - (len(values) - 1 - k) * DAY,
        }
        for engine, values in engines.items()
        for k, value in enumerate(values)
    ]
    schema = {
        "engine": pl.String,
        "session": pl.Date,
        "rank_ic": pl.Float64,
        "known_at": pl.Datetime("us", "UTC"),
    }
    return pl.DataFrame(rows, schema=schema)


def regimes(days: int = 2000, regime: str = "bull") -> pl.DataFrame:
    moments = [NOW - k * DAY for k in range(days)][::-1]
    return pl.DataFrame(
        {"session": [m.date() for m in moments], "as_of": moments, "regime": regime}
    ).with_columns(pl.col("as_of").cast(pl.Datetime("us", "UTC")))


def weights_in(table: pl.DataFrame, regime: str) -> dict[str, float]:
    part = table.filter(pl.col("regime") == regime)
    return dict(part.select("engine", "weight").iter_rows())


def predictions(*rows: tuple[str, str, float], as_of: dt.datetime = NOW) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "symbol": symbol,
                "session": as_of.date(),
                "bar_end": as_of,
                "as_of": as_of,
                "horizon": "1d",
                "engine": engine,
                "model_version": f"{engine}-1",
                "p_short": 0.2,
                "p_neutral": 0.3,
                "p_long": 0.5,
                "expected_return_bps": value,
                "volatility_bps": 100.0,
            }
            for symbol, engine, value in rows
        ],
        schema=PREDICTION_SCHEMA,
    )


def test_without_evidence_the_weights_are_equal() -> None:
    table = regime_weights(skill_table(), regimes(), ["a", "b", "c", "d"], NOW)
    assert table.height == 4 * 3
    assert table["weight"].to_list() == [0.25] * 12
    assert table["sessions"].sum() == 0


def test_the_better_engine_gets_more_and_more() -> None:
    shares = []
    for days in (5, 60, 600):
        table = skill_table(a=[0.06] * days, b=[0.02] * days)
        shares.append(weights_in(regime_weights(table, regimes(), ["a", "b"], NOW), "bull")["a"])
    assert 0.5 < shares[0] < shares[1] < shares[2] < 0.75
    # Without noise there is no doubt that they differ; how much is still drawn together.
    assert shares[2] == pytest.approx(0.5 + 0.25 * 600 / 660)


def test_an_engine_that_errs_is_left_out() -> None:
    table = skill_table(a=[0.05] * 400, b=[-0.01] * 400, c=[-0.05] * 400)
    weights = weights_in(regime_weights(table, regimes(), ["a", "b", "c"], NOW), "bull")
    assert weights == {"a": 1.0, "b": 0.0, "c": 0.0}


@given(
    engines=st.integers(2, 5),
    days=st.integers(2, 400),
    spread=st.floats(0.0, 0.05),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_in_one_regime_it_is_the_average_of_two_views(engines, days, spread, seed) -> None:
    """The oracle: densities of the observed means under each view, by scipy."""
    rng = np.random.default_rng(seed)
    rank_ic = 0.03 + rng.normal(0, spread, (engines, 1)) + rng.normal(0, 0.1, (engines, days))
    names = [f"e{k}" for k in range(engines)]
    made = regime_weights(
        skill_table(**dict(zip(names, rank_ic.tolist(), strict=True))), regimes(), names, NOW
    ).filter(pl.col("regime") == "bull")

    centre = np.eye(engines) - 1.0 / engines
    apart = centre @ rank_ic
    lead = apart.mean(axis=1)
    noise = ((apart - lead[:, None]) ** 2).sum() / ((engines - 1) * (days - 1))
    alike, different = (
        multivariate_normal.logpdf(lead, cov=noise * v * centre, allow_singular=True)
        for v in (1 / days, 1 / days + 1 / 60)
    )
    probability = expit(different - alike - np.log(10.0))
    skill = rank_ic.mean() + probability * days / (days + 60) * lead
    assert made["skill"].to_list() == pytest.approx(skill.tolist(), abs=1e-9)
    useful = np.clip(skill, 0, None)
    shares = useful / useful.sum() if useful.any() else np.full(engines, 1 / engines)
    assert made["weight"].to_list() == pytest.approx(shares.tolist(), abs=1e-6)


def test_outcomes_that_overlap_are_less_evidence() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.1, (2, 300))
    table = skill_table(a=(0.08 + noise[0]).tolist(), b=(0.0 + noise[1]).tolist())
    shares = []
    for wait in (1, 7, 31):
        slow = table.with_columns(pl.col("known_at") + wait * DAY)
        shares.append(
            weights_in(regime_weights(slow, regimes(), ["a", "b"], NOW + wait * DAY), "bull")["a"]
        )
    assert shares[0] > shares[1] > shares[2] > 0.5


def test_an_engine_without_outcomes_stands_as_the_others_do_on_average() -> None:
    table = skill_table(a=[0.06] * 300, b=[0.02] * 300)
    made = regime_weights(table, regimes(), ["a", "b", "new"], NOW)
    bull = made.filter(pl.col("regime") == "bull")
    assert bull["skill"].to_list()[2] == pytest.approx(0.04)
    assert bull["sessions"].to_list() == [300, 300, 0]


def test_where_all_err_the_weights_are_equal() -> None:
    table = skill_table(a=[-0.05] * 400, b=[-0.01] * 400)
    assert weights_in(regime_weights(table, regimes(), ["a", "b"], NOW), "bull") == {
        "a": 0.5,
        "b": 0.5,
    }


def test_skill_in_a_regime_counts_most_in_that_regime() -> None:
    labels = regimes(400).with_columns(pl.Series("regime", ["bull", "bear"] * 200))
    rows = skill_table(a=[0.1, 0.0] * 200, b=[0.0, 0.1] * 200)
    table = regime_weights(rows, labels, ["a", "b"], NOW)
    bull, bear = weights_in(table, "bull"), weights_in(table, "bear")
    assert bull["a"] > 0.6 > 0.4 > bear["a"]
    assert weights_in(table, "neutral") == pytest.approx({"a": 0.5, "b": 0.5})


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(-1, 1), st.integers(-30, 30)), max_size=60
    ),
    st.integers(0, 100),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_weights_add_up_and_look_at_nothing_later(rows, seed) -> None:
    known = [NOW + shift * DAY for _, _, shift in rows]
    table = pl.DataFrame(
        {
            "engine": [e for e, _, _ in rows],
            "session": [k.date() for k in known],
            "rank_ic": [v for _, v, _ in rows],
            "known_at": known,
        },
        schema=skill_table().schema,
    )
    rng = np.random.default_rng(seed)
    labels = regimes().with_columns(pl.Series("regime", rng.choice(WORDS, 2000)))
    engines = ["a", "b", "c"]
    got = regime_weights(table, labels, engines, NOW)
    totals = got.group_by("regime").agg(pl.col("weight").sum())
    assert totals.height == 3
    assert totals["weight"].to_list() == pytest.approx([1.0] * 3)
    assert (got["weight"] >= 0).all()
    later = pl.col("known_at") > NOW
    other = table.with_columns(
        pl.when(later).then(-pl.col("rank_ic")).otherwise(pl.col("rank_ic")).alias("rank_ic")
    )
    assert bits(regime_weights(other, labels, engines, NOW)) == bits(got)
    assert bits(regime_weights(table.filter(~later), labels, engines, NOW)) == bits(got)


def test_engines_that_are_not_asked_for_do_not_count() -> None:
    table = skill_table(a=[0.1] * 50, b=[0.1] * 50, background=[0.9] * 50)
    weights = weights_in(regime_weights(table, regimes(), ["a", "b"], NOW), "bull")
    assert weights == pytest.approx({"a": 0.5, "b": 0.5})


def test_session_skill_is_known_with_its_last_outcome() -> None:
    first, second = NOW, NOW + dt.timedelta(minutes=30)
    scored = pl.concat(
        [
            predictions(*((s, "a", v) for s, v in zip("xyz", values, strict=True)), as_of=at)
            for at, values in ((first, [1.0, 2.0, 3.0]), (second, [3.0, 2.0, 1.0]))
        ]
    ).with_columns(
        pl.Series("excess_return", [1.0, 2.0, 3.0] * 2),
        (pl.col("as_of") + dt.timedelta(hours=1)).alias("label_known_at"),
    )
    got = session_skill(scored)
    assert got.height == 1
    assert got["rank_ic"].item() == pytest.approx(0.0)
    assert got["known_at"].item() == second + dt.timedelta(hours=1)
    unknown = scored.with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias("label_known_at"))
    assert session_skill(unknown).is_empty()


def test_the_regime_is_that_known_at_the_moment() -> None:
    table = regimes(3).with_columns(pl.Series("regime", ["bear", "neutral", "bull"]))
    early = NOW - 5 * DAY
    moments = [NOW, NOW - dt.timedelta(seconds=1), early]
    rows = pl.concat([predictions(("x", "a", 1.0), as_of=m) for m in moments])
    got = attach_regime(rows, table).sort("as_of")
    assert got["regime"].to_list() == ["neutral", "neutral", "bull"]


def equal_weights(**weights: float) -> pl.DataFrame:
    return pl.DataFrame(
        [{"engine": e, "regime": r, "weight": w} for e, w in weights.items() for r in WORDS]
    )


def test_the_blend_is_the_weighted_mean() -> None:
    rows = predictions(("x", "a", 10.0), ("x", "b", -10.0), ("y", "a", 4.0), ("y", "b", 0.0))
    got = blend(rows, equal_weights(a=0.75, b=0.25), regimes()).sort("symbol")
    assert got.schema == PREDICTION_SCHEMA
    assert got["engine"].unique().to_list() == ["ensemble"]
    assert got["expected_return_bps"].to_list() == pytest.approx([5.0, 3.0])
    total = got["p_short"] + got["p_neutral"] + got["p_long"]
    assert total.to_list() == pytest.approx([1.0, 1.0])


def test_the_weight_of_a_missing_engine_goes_to_the_others() -> None:
    rows = predictions(("x", "a", 10.0), ("x", "b", 20.0), ("y", "a", 4.0))
    got = blend(rows, equal_weights(a=0.2, b=0.3, c=0.5), regimes()).sort("symbol")
    assert got["expected_return_bps"].to_list() == pytest.approx([16.0, 4.0])
    assert got["model_version"].n_unique() == 2


def test_the_version_of_the_blend_names_its_parts_and_weights() -> None:
    rows = predictions(("x", "a", 10.0), ("x", "b", 20.0))
    one = blend(rows, equal_weights(a=0.5, b=0.5), regimes())["model_version"].item()
    two = blend(rows.reverse(), equal_weights(b=0.5, a=0.5), regimes())["model_version"].item()
    three = blend(rows, equal_weights(a=0.4, b=0.6), regimes())["model_version"].item()
    assert one == two != three
    assert one.startswith("ensemble-1d-")


def test_later_outcomes_change_no_earlier_blend() -> None:
    of = market(seed=3, symbols=6, sessions=160)
    splitter = PurgedWalkForward(find_horizon("1d"), min_train_sessions=50, test_sessions=30)
    cheap = [FAMILIES["linear"], FAMILIES["xgboost"]]
    out = walk_forward(dataset_of(of), cheap, splitter, seed=1, band_bps=5.0).predictions
    labels, states = labels_of(of), regimes_of(of)
    whole = blend_walk_forward(out, labels, states)
    assert whole.select("symbol", "bar_end").is_unique().all()
    assert whole.height == out.height // 2
    months = out["session"].dt.truncate("1mo").unique().sort()
    cut = out.filter(pl.col("session") >= months[2])["as_of"].min()
    later = pl.col("label_known_at") > cut
    flipped = labels.with_columns(
        pl.when(later).then(-pl.col("excess_return")).otherwise(pl.col("excess_return"))
    )
    other = blend_walk_forward(out, flipped, states)
    upto = pl.col("session") < months[3]
    assert bits(other.filter(upto)) == bits(whole.filter(upto))
    assert bits(other.filter(~upto)) != bits(whole.filter(~upto))
    until = out.filter(pl.col("session") < months[2])
    alone = blend_walk_forward(until, labels, states)
    assert bits(alone) == bits(whole.filter(pl.col("session") < months[2]))
