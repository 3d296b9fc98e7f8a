"""What is settled of the past and what came since are the whole, to the bit."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl
import pytest

from market.horizons import find_horizon
from market.regimes import RegimeLabel
from models.ensemble import META_ENGINE, stack_walk_forward, stack_weights
from models.session_moments import Moment
from signals.scale import return_scale
from signals.schema import ENSEMBLE_ENGINE
from signals.session_evidence import SessionEvidence, gather_evidence, settled_evidence
from signals.weighting import blend_walk_forward, regime_weights
from tests.forecasts import LATER, forecasts
from tests.markets import bits

SESSIONS = 300
FAMILIES = ("linear", "trees")


@lru_cache(maxsize=2)
def history(horizon: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Predictions of two families, a challenger, the meta-learner and the ensemble."""
    parts = []
    for number, engine in enumerate((*FAMILIES, "linear@challenger")):
        made, labels = forecasts(
            SESSIONS, 10, seed=1, skill=0.2, boldness=0.3, horizon=horizon, engine=engine
        )
        moved = np.random.default_rng(number).standard_normal(made.height)
        parts.append(
            made.with_columns(pl.col("expected_return_bps") + pl.Series(40.0 * moved)).filter(
                (pl.col("symbol") != "S004") | (number != 1)
            )
        )
    core = pl.concat(parts[:2])
    if find_horizon(horizon).stacked:
        core = pl.concat([core, stack_walk_forward(core, labels)])
    moments = core["as_of"].unique().sort()
    words = [r.value for r in RegimeLabel]
    regimes = pl.DataFrame(
        {
            "session": core["session"].unique().sort(),
            "as_of": moments,
            "regime": [words[(k // 37) % 3] for k in range(len(moments))],
        }
    )
    every = pl.concat([core, parts[2], blend_walk_forward(core, labels, regimes)])
    return every, labels, regimes


def known_by(labels: pl.DataFrame, as_of: dt.datetime) -> pl.DataFrame:
    return labels.filter(pl.col("label_known_at") <= as_of)


def same(one: SessionEvidence, other: SessionEvidence) -> bool:
    return bits(one.skill) == bits(other.skill) and bits(one.moments) == bits(other.moments)


@pytest.mark.parametrize("horizon", ["1d", "14d"])
@pytest.mark.parametrize("trained", [40, 139, 140, 141, 220, SESSIONS - 1])
def test_settled_and_since_are_the_whole(horizon: str, trained: int) -> None:
    """The training knew what was known at its last forecast; the run knows more."""
    every, labels, regimes = history(horizon)
    row = find_horizon(horizon)
    days = every["session"].unique().sort()
    upto = every.filter(pl.col("session") <= days[trained])
    then = max(upto["as_of"].unique().to_list())
    kept = settled_evidence(
        gather_evidence(upto, known_by(labels, then), regimes, row), row, days[trained]
    )
    whole = gather_evidence(upto, labels, regimes, row)
    assert kept.last == days[trained - row.sessions - 1]
    assert not same(kept, whole)
    assert same(gather_evidence(upto, labels, regimes, row, kept), whole)
    start = kept.needed_from(LATER, 20)
    assert start is not None
    late = upto.filter(pl.col("session") >= start)
    assert late.height < upto.height
    shuffled = late.sample(fraction=1.0, shuffle=True, seed=trained)
    assert same(gather_evidence(shuffled, labels, regimes, row, kept), whole)


def test_it_says_what_the_walk_forward_used() -> None:
    """Weights, meta-learner and scale of a month's first moment are those that were blended."""
    every, labels, regimes = history("1d")
    row, core = find_horizon("1d"), [*FAMILIES, META_ENGINE]
    evidence = gather_evidence(every, labels, regimes, row)
    newest = every.filter(pl.col("session").dt.truncate("1mo") == dt.date(2020, 2, 1))
    first = min(newest["as_of"].to_list())
    rows = newest.filter(pl.col("as_of") == first)
    of = {e: rows.filter(pl.col("engine") == e).sort("symbol") for e in (*core, ENSEMBLE_ENGINE)}
    there = pl.col("symbol") != "S004"
    value = {e: r.filter(there)["expected_return_bps"].to_numpy() for e, r in of.items()}
    stacked = stack_weights(evidence.moments, FAMILIES, first)
    meta = sum(w * value[e] for e, w in stacked.select("engine", "weight").iter_rows())
    assert value[META_ENGINE] == pytest.approx(meta)
    regime = regimes.filter(pl.col("as_of") <= first)["regime"][-1]
    weights = regime_weights(evidence.skill, regimes, core, first).filter(
        pl.col("regime") == regime
    )
    scale = return_scale(evidence.moments, first, row)
    assert scale != 1.0
    blend = sum(w * value[e] for e, w in weights.select("engine", "weight").iter_rows())
    assert value[ENSEMBLE_ENGINE] == pytest.approx(scale * blend)


def test_what_is_needed_covers_the_newest_sessions_of_every_engine() -> None:
    every, labels, regimes = history("1d")
    row = find_horizon("1d")
    days = every["session"].unique().sort()
    kept = settled_evidence(gather_evidence(every, labels, regimes, row), row, days[-1])
    assert kept.needed_from(LATER, 250) == days[SESSIONS - 2 - 250]
    # The month that the next session stands in is needed from its beginning.
    assert kept.needed_from(LATER, 1) == days[-1].replace(day=1)
    assert kept.needed_from(LATER, SESSIONS) is None
    assert SessionEvidence.none().needed_from(LATER, 1) is None
    shorter = SessionEvidence(
        kept.skill.filter((pl.col("engine") != "trees") | (pl.col("session") > days[100])),
        kept.moments,
    )
    assert shorter.needed_from(LATER, 250) is None
    early = kept.skill.filter(pl.col("known_at") <= LATER)["known_at"].sort()[300]
    then = kept.skill.filter((pl.col("known_at") == early) & (pl.col("engine") == "linear"))
    place = days.to_list().index(then["session"].item())
    assert kept.needed_from(early, 5) == days[place - 4]


def test_a_horizon_without_a_meta_learner_keeps_the_ensembles_moments_alone() -> None:
    evidence = gather_evidence(*history("14d"), find_horizon("14d"))
    assert evidence.moments[Moment.ENGINE].unique().to_list() == [ENSEMBLE_ENGINE]
    assert set(evidence.skill["engine"].unique()) == {*FAMILIES, "linear@challenger"}


@pytest.mark.parametrize("engines", [[], ["ensemble"], ["linear@challenger"]])
def test_without_engines_below_the_ensemble_there_are_no_moments(engines: list[str]) -> None:
    every, labels, regimes = history("1d")
    evidence = gather_evidence(
        every.filter(pl.col("engine").is_in(engines)), labels, regimes, find_horizon("1d")
    )
    assert evidence.moments.is_empty()
    assert evidence.skill["engine"].unique().to_list() == [e for e in engines if "@" in e]
