"""The product's own models on real daily bars: features, labels, walk-forward forecasts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from features.compute import compute_features
from features.labels import forward_returns
from features.neutral_labels import EXPOSURES, NEUTRAL_RETURN, nested_steps, neutral_returns
from features.registry import select_features
from features.side import SideTables
from market.horizons import HORIZONS, find_horizon
from market.timeframes import Timeframe
from models.dataset import Dataset, assemble
from models.normal_scores import ranked
from models.registry import find_family
from models.spec import Family
from models.splits import PurgedWalkForward
from models.walk_forward import walk_forward

KEYS = ("symbol", "session")


def learned_names(families: Sequence[str]) -> list[str]:
    """Return the features that are learned from: no rank or z-score of one that is there."""
    chosen = [
        f.name for name in families for f in select_features(family=name, timeframe=Timeframe.D1)
    ]
    return [n for n in chosen if not n.endswith(("_rank", "_z"))]


def write_features(
    path: Path,
    daily: pl.DataFrame,
    members: pl.DataFrame,
    sectors: pl.DataFrame,
    names: Sequence[str],
) -> None:
    """Write the features of the members, session by session, all known at the session's close."""
    side = SideTables(sectors=sectors)
    made = compute_features(daily, select_features([*dict.fromkeys((*names, *EXPOSURES))]), side)
    kept = made.join(members, on=["session", "symbol"], how="semi")
    kept.sort("bar_end", "symbol").write_parquet(path)


def build_dataset(
    features: Path, daily: pl.DataFrame, sectors: pl.DataFrame, names: Sequence[str]
) -> dict[str, Dataset]:
    """Return a dataset for each daily horizon; all share one matrix of normal scores."""
    table = pl.scan_parquet(features)
    exposures = table.select("symbol", "bar_end", *EXPOSURES).collect()
    horizons = [h for h in HORIZONS if not h.timeframe.is_intraday]
    labels = {h.steps: forward_returns(daily, h) for h in horizons}
    first = horizons[0]
    whole = assemble(table, labels[first.steps], ranked(names), steps=first.steps)
    made: dict[str, Dataset] = {}
    for horizon in horizons:
        nested = nested_steps(horizon.steps)
        neutral = neutral_returns([labels[s] for s in nested], nested, exposures, sectors)
        small = assemble(
            table, neutral, ["volatility_20"], steps=horizon.steps, target=NEUTRAL_RETURN
        )
        if not small.keys.select(KEYS).equals(whole.keys.select(KEYS)):
            raise AssertionError("two assemblies of one table have other rows")
        made[horizon.name] = dataclasses.replace(
            small, x=whole.x, feature_names=whole.feature_names
        )
    return made


def thinned(dataset: Dataset, every: int) -> Dataset:
    """Return a dataset whose labels are known on each ``every``-th session alone.

    Labels of neighbouring sessions overlap: they tell little that is new, and cost as much.
    """
    sessions = dataset.keys["session"].rank("dense").to_numpy().astype(np.int64)
    return dataclasses.replace(dataset, y=np.where(sessions % every == 0, dataset.y, np.nan))


def forecast(
    dataset: Dataset,
    name: str,
    family: str,
    config: Mapping[str, Any],
    *,
    first_session: Any,
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Forecast with a family by the configuration's parameters: ``symbol, session, forecast``."""
    chosen = find_family(family)
    params = config["params"].get(family, {})
    chosen = dataclasses.replace(chosen, defaults={**chosen.defaults, **params})
    every = config["every"][family][name]
    made = walked(
        thinned(dataset, every),
        name,
        chosen,
        config,
        first_session=first_session,
        progress=progress,
    )
    return made.select(*KEYS, pl.col("expected_return_bps").alias("forecast"))


def walked(
    dataset: Dataset,
    name: str,
    family: Family,
    config: Mapping[str, Any],
    *,
    first_session: Any,
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Walk forward from a session on, retraining every year (``PREDICTION_SCHEMA``).

    The walk-forward asserts on each window that every training label was known before it.
    """
    sessions = dataset.keys["session"].unique().sort()
    splitter = PurgedWalkForward(
        find_horizon(name),
        min_train_sessions=int((sessions < first_session).sum()),
        test_sessions=config["retrain_sessions"],
        embargo_sessions=1,
    )
    return walk_forward(
        dataset,
        [family],
        splitter,
        seed=config["seed"],
        band_bps=config["band_bps"],
        last_weight=config["last_weight"],
        progress=progress,
    ).predictions


def mean_of_scores(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the equally weighted mean of forecasts, each on one scale per session."""
    scaled = [
        part.with_columns(
            (
                (pl.col("forecast") - pl.col("forecast").mean().over("session"))
                / pl.col("forecast").std().over("session")
            ).alias("forecast")
        )
        for part in parts
    ]
    whole = pl.concat(scaled).group_by(KEYS).agg(pl.col("forecast").mean(), pl.len())
    return whole.filter(pl.col("len") == len(parts)).drop("len").sort("session", "symbol")


def horizons() -> tuple[str, ...]:
    """Return the names of the daily horizons."""
    return tuple(h.name for h in HORIZONS if not h.timeframe.is_intraday)


def steps_of(name: str) -> int:
    """Return a horizon's length in sessions."""
    return find_horizon(name).steps
