"""A small training with its report, that several test files share."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl

from market.horizons import find_horizon
from models.fit import FittedModel, fit_model
from models.forecast import keep_raw
from models.importances import importance_table, newest_sample
from models.provenance import Provenance
from models.registry import FAMILIES
from models.training_report import TrainingReport, report_training
from tests.forecasts import LATER, forecasts
from tests.markets import dataset_of, market

PROVENANCE = Provenance(
    data_hash="d" * 12,
    feature_hash="f" * 16,
    config_hash="c" * 12,
    code_version="0.1.0+git.0123456789ab",
    seed=3,
    band_bps=60.0,
)
WINDOW_SESSIONS = 63
HORIZON = find_horizon("1d")


@lru_cache(maxsize=8)
def engines(
    skill: float = 0.0, sessions: int = 200, symbols: int = 12, horizon: str = "1d"
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return predictions of two families and an ensemble, a new model every 63 sessions."""
    clear, outcomes = forecasts(
        sessions=sessions, symbols=symbols, seed=5, skill=skill, boldness=0.3, horizon=horizon
    )
    days = clear["session"].unique().sort()
    window = {day: k // WINDOW_SESSIONS for k, day in enumerate(days)}
    number = pl.col("session").replace_strict(window, return_dtype=pl.Int64)
    rng = np.random.default_rng(1)
    parts: list[pl.DataFrame] = []
    for name, noise in (("lightgbm", 60.0), ("linear", 30.0), ("ensemble", 0.0)):
        # A blend changes its version more often than its models.
        version = pl.col("session").cast(pl.String) if name == "ensemble" else number
        told = pl.col("expected_return_bps")
        parts.append(
            clear.with_columns(
                pl.lit(name).alias("engine"),
                pl.concat_str(pl.lit(f"{name}-"), version).alias("model_version"),
                told + pl.Series(noise * rng.standard_normal(clear.height)),
            )
        )
    return keep_raw(pl.concat(parts)), outcomes


def regimes(predictions: pl.DataFrame) -> pl.DataFrame:
    """Return a regime per session, known at its forecasts; none for the first ten sessions."""
    times = predictions.select("as_of").unique().sort("as_of").slice(10)
    names = np.array(["bull", "bear", "neutral"])[(np.arange(times.height) // 40) % 3]
    return times.with_columns(pl.Series("regime", names))


@lru_cache(maxsize=4)
def fitted(*families: str, rows: int = 200) -> tuple[FittedModel, ...]:
    data = dataset_of(market())
    return tuple(
        fit_model(
            data, np.arange(rows), FAMILIES[f], horizon="1d", seed=1, data_hash="h", band_bps=5.0
        )
        for f in families
    )


@lru_cache(maxsize=8)
def report(
    skill: float = 0.0, as_of: dt.datetime = LATER, sessions: int = 200, rows: int = 200
) -> TrainingReport:
    predictions, outcomes = engines(skill, sessions=sessions)
    models = fitted("lightgbm", "linear", rows=rows)
    return report_training(
        predictions,
        outcomes,
        regimes=regimes(predictions),
        models=models,
        horizon=HORIZON,
        provenance=PROVENANCE,
        as_of=as_of,
        importances=importance_table(models, newest_sample(dataset_of(market()), 60)),
        draws=200,
    )
