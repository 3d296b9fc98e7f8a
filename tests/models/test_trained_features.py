"""The features of a training in summary: what is kept, how much, and that it judges fairly."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from market.errors import ModelError
from models.dataset import Dataset
from models.drift import feature_drift
from models.importances import IMPORTANCE_SCHEMA
from models.trained_features import (
    TrainedFeatures,
    draw_alike,
    merge_trained,
    summarize_training,
)
from tests.markets import dataset_of, market

NAMES = ("return_1", "return_5", "volatility_20", "gap")
DATA = dataset_of(market(), names=NAMES)
ROWS = np.arange(len(DATA))


def importances(**engines: dict[str, float]) -> pl.DataFrame:
    rows = [
        {"engine": e, "feature": f, "share": s, "rank": 1}
        for e, shares in engines.items()
        for f, s in shares.items()
    ]
    return pl.DataFrame(rows, schema=IMPORTANCE_SCHEMA)


MOVED = importances(
    linear={"return_1": 0.6, "return_5": 0.3, "volatility_20": 0.1, "gap": 0.0},
    xgboost={"return_1": 0.0, "return_5": 0.2, "volatility_20": 0.7, "gap": 0.1},
)


def kept(**how) -> TrainedFeatures:
    made = summarize_training(DATA, ROWS, how.pop("importances", MOVED), seed=1, **how)
    assert made is not None
    return made


def test_the_heaviest_features_are_kept_with_their_weight() -> None:
    made = kept(features=2)
    assert dict(made.importance) == pytest.approx({"volatility_20": 0.8, "return_1": 0.6})
    assert [f.name for f in made.reference.features] == list(made.importance)
    assert made.last_session == DATA.keys["session"].max()
    assert made.reference.features[0].rows == len(DATA)


def test_what_is_written_is_read_again() -> None:
    made = kept()
    assert TrainedFeatures.from_json(made.to_json()) == made
    assert len(made.to_json()) < 6_000 * len(NAMES)
    for text in ("", "{}", "[]", made.to_json().replace("knots", "knobs")):
        with pytest.raises(ModelError, match="cannot be read"):
            TrainedFeatures.from_json(text)


def test_of_many_rows_a_sample_is_drawn_the_same_for_a_seed() -> None:
    made, again = kept(most_rows=200), kept(most_rows=200)
    assert made == again
    assert {f.rows for f in made.reference.features} == {200}
    other = summarize_training(DATA, ROWS, MOVED, seed=2, most_rows=200)
    assert other != made


@pytest.mark.parametrize(("sessions", "stretch"), [(3, None), (4, 1), (11, 2), (80, 20), (90, 20)])
def test_short_trainings_are_held_against_short_stretches(sessions: int, stretch: int) -> None:
    last = DATA.keys["session"].unique().sort()[sessions - 1]
    rows = np.flatnonzero((DATA.keys["session"] <= last).to_numpy())
    made = summarize_training(DATA, rows, MOVED, seed=1)
    assert (made and made.reference.live_sessions) == stretch


def test_models_that_nothing_moves_weigh_all_features_alike() -> None:
    flat = importances(linear=dict.fromkeys(NAMES, 0.0))
    assert kept(importances=flat).weights is None
    assert kept().weights == kept().importance


def test_several_trainings_are_taken_as_one() -> None:
    first = kept(features=2)
    second = kept(importances=importances(cnn={"gap": 0.7, "return_1": 0.3}), live_sessions=5)
    both = merge_trained([first, None, second])
    assert both is not None
    assert [f.name for f in both.reference.features] == ["volatility_20", "return_1", "gap"]
    expected = {"volatility_20": 0.8, "return_1": 0.9, "gap": 0.7}
    assert dict(both.importance) == pytest.approx(expected)
    assert both.reference.live_sessions == 5
    assert merge_trained([None]) is None


def simulated(seed: int, sessions: int, symbols: int, common: float) -> Dataset:
    """A feature of which a part is common to all symbols of a session."""
    rng = np.random.default_rng(seed)
    days = [dt.date(2020, 1, 1) + dt.timedelta(days=k) for k in range(sessions)]
    shared = np.repeat(rng.standard_normal(sessions), symbols)
    own = rng.standard_normal(sessions * symbols)
    x = np.sqrt(common) * shared + np.sqrt(1.0 - common) * own
    keys = pl.DataFrame({"session": np.repeat(np.array(days, "M8[D]"), symbols)})
    return replace(DATA, keys=keys, x=x[:, None].astype(np.float32), feature_names=("a",))


def test_more_rows_a_session_than_were_drawn_are_believed_no_more() -> None:
    """Without drift, few alarms; they would be many if every row counted."""
    moved = importances(linear={"a": 1.0})
    drawn = whole = 0
    for seed in range(40):
        data = simulated(seed, 220, 60, common=0.3)
        session = data.keys["session"]
        first = session.unique().sort()[200]
        rows = np.flatnonzero((session < first).to_numpy())
        made = summarize_training(data, rows, moved, seed=1, most_rows=2_000)
        assert made is not None
        frame = pl.DataFrame({"session": session, "a": data.x[:, 0]}).filter(session >= first)
        alike = draw_alike(frame, made.reference, seed=1)
        assert alike.height == 200
        assert alike.equals(alike.sort("session", maintain_order=True))
        drawn += feature_drift(made.reference, alike, psi_limit=1e-9)["p_value"].item() < 0.05
        whole += feature_drift(made.reference, frame, psi_limit=1e-9)["p_value"].item() < 0.05
    assert drawn <= 6
    assert whole > drawn
    few = frame.gather_every(60)
    assert draw_alike(few, made.reference, seed=1).equals(few)
