"""A run reads a bounded part of the past, and makes of it what all of the past says."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from market.horizons import find_horizon
from models.ensemble import META_ENGINE, stack_walk_forward
from models.forecast import keep_raw
from models.recipe import challenger_engine
from pipelines.scoring import load_ensembles
from pipelines.settled import keep_settled, read_settled
from pipelines.training import read_labels
from signals.score import Ensemble
from signals.weighting import blend_walk_forward
from tests.live_record import DAYS, MARKET, NOW, TRAINED, LiveRecord, closed, forecasts
from tests.markets import bits, labels_of, regimes_of

DAILY = find_horizon("1d")
WINDOW = (15, 30)
ENGINES = ("linear", "xgboost", challenger_engine("linear"))


def walk(last: int, seed: int = 1, version: str = "v") -> pl.DataFrame:
    """Raw predictions from the sixtieth session on: engines, meta-learner, ensemble."""
    parts = [
        forecasts(60, last, skill=0.2, boldness=1.5, seed=seed + number)
        .with_columns(
            pl.lit(engine).alias("engine"), pl.lit(f"{version}{number}").alias("model_version")
        )
        .select(pl.all().exclude("^raw_.*$"))
        for number, engine in enumerate(ENGINES)
    ]
    labels, regimes = labels_of(MARKET), regimes_of(MARKET)
    core = pl.concat(parts[:2])
    core = pl.concat([core, stack_walk_forward(core, labels)])
    return pl.concat([core, parts[2], blend_walk_forward(core, labels, regimes)])


def keep(record: LiveRecord, made: pl.DataFrame, last: int, *, settled: bool = True) -> None:
    """What a training writes that knew what was known when its last session closed."""
    lake = record.stores.lake
    lake.replace("predictions", keep_raw(made), ["1d"])
    if settled:
        labels = read_labels(lake, DAILY).filter(pl.col("label_known_at") <= closed(last))
        keep_settled(lake, DAILY, made, labels, regimes_of(MARKET))


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveRecord:
    for module in ("signals.levels", "pipelines.scoring"):
        monkeypatch.setattr(f"{module}.windows_of", lambda _: WINDOW)
    made = LiveRecord(tmp_path / "home")
    made.train()
    made.stores.lake.replace("regimes", regimes_of(MARKET), None)
    return made


def forget(record: LiveRecord) -> None:
    """Make it an installation of before these tables."""
    root = Path(record.stores.lake.root)
    for table in ("session_skill", "session_moments"):
        shutil.rmtree(root / table)


def loaded(record: LiveRecord, as_of: dt.datetime) -> tuple[Ensemble, list[object]]:
    (made,) = load_ensembles(record.stores, [DAILY], as_of)
    assert made.stacked is not None
    return made, [
        bits(made.weights),
        bits(made.stacked),
        {e: c.to_json() for e, c in made.calibrators.items()},
        dict(made.residuals),
        made.scale,
    ]


@pytest.mark.parametrize("last", [TRAINED - 20, 205])
def test_the_same_as_from_all_predictions(record: LiveRecord, last: int) -> None:
    keep(record, walk(last), last)
    moments = [closed(last + 1), closed(last + 2), NOW]
    bounded = [loaded(record, m)[1] for m in moments if m > closed(TRAINED)]
    forget(record)
    assert read_settled(record.stores.lake, DAILY, NOW) is None
    whole = [loaded(record, m) for m in moments if m > closed(TRAINED)]
    assert [found for _, found in whole] == bounded
    made = whole[-1][0]
    assert made.scale != 1.0
    assert set(made.calibrators) == {*ENGINES, META_ENGINE, "ensemble"}
    assert not made.residuals["ensemble"].is_normal


def test_no_earlier_prediction_is_read(record: LiveRecord) -> None:
    made = walk(205)
    keep(record, made, 205)
    found = loaded(record, NOW)[1]
    settled = read_settled(record.stores.lake, DAILY, NOW)
    assert settled is not None
    start = settled.needed_from(NOW, WINDOW[1])
    assert start is not None
    assert start > DAYS[150]
    kept = made.filter(pl.col("session") >= start)
    record.stores.lake.replace("predictions", keep_raw(kept), ["1d"])
    assert loaded(record, NOW)[1] == found


@pytest.mark.parametrize("settled_last", [160, 205])
def test_tables_of_other_predictions_are_not_believed(
    record: LiveRecord, settled_last: int
) -> None:
    """A training was killed once its predictions were written."""
    keep(record, walk(settled_last), settled_last)
    keep(record, walk(205, seed=50, version="w"), 205, settled=False)
    assert read_settled(record.stores.lake, DAILY, NOW) is None
    found = loaded(record, NOW)[1]
    forget(record)
    assert loaded(record, NOW)[1] == found


def test_an_engine_more_is_other_predictions(record: LiveRecord) -> None:
    made = walk(205)
    keep(record, made.filter(pl.col("engine") != "xgboost"), 205)
    assert read_settled(record.stores.lake, DAILY, NOW) is not None
    keep(record, made, 205, settled=False)
    assert read_settled(record.stores.lake, DAILY, NOW) is None


def test_a_training_killed_between_the_tables_leaves_no_session_twice(record: LiveRecord) -> None:
    """Predictions and moments are new, the skill is of the same models and ends earlier."""
    made = walk(205)
    keep(record, made.filter(pl.col("session") <= DAYS[180]), 180)
    lake = record.stores.lake
    old = lake.scan("session_skill").collect()
    keep(record, made, 205)
    found = loaded(record, NOW)[1]
    lake.replace("session_skill", old, ["1d"])
    settled = read_settled(lake, DAILY, NOW)
    assert settled is not None
    assert settled.last == old["session"].max()
    keys = settled.moments.select("session", "engine", "other")
    assert keys.is_unique().all()
    assert loaded(record, NOW)[1] == found


def test_what_is_kept_is_frozen_with_the_rest(record: LiveRecord) -> None:
    """A batch is made again from the tables of its day, whatever was trained since."""
    keep(record, walk(160), 160)
    frozen = record.stores.reading(record.stores.lake.freeze())
    assert {"session_skill", "session_moments"} <= set(frozen.lake.versions or {})
    (before,) = load_ensembles(frozen, [DAILY], NOW)
    keep(record, walk(205, seed=50, version="w"), 205)
    (after,) = load_ensembles(frozen, [DAILY], NOW)
    assert bits(before.weights) == bits(after.weights)
    assert before.scale == after.scale
    (now,) = load_ensembles(record.stores, [DAILY], NOW)
    assert now.scale != before.scale
    assert np.isfinite(now.scale)
