"""The groups of the horizons table on real daily bars, made and blended as the product does.

Every family of a group has its own parameters and learns from every session; the ensemble weighs
them by their skill until then, which begins with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from evidence.daily_models import KEYS, walked
from evidence.training import Prepared, ensemble_of
from features.labels import forward_returns
from market.horizons import find_horizon
from models.dataset import Dataset
from models.ensemble import META_ENGINE, stack_walk_forward
from models.registry import find_family
from signals.schema import ENSEMBLE_ENGINE
from signals.weighting import blend_by_month, session_skill

FORECAST = "expected_return_bps"


def engine_of(horizon: str, name: str) -> str:
    """Return what an engine of a horizon's group is called in the tables.

    Examples
    --------
    >>> engine_of("14d", "transformer")
    'swing.transformer'
    """
    return f"{find_horizon(horizon).group}.{name}"


def predictions(
    dataset: Dataset,
    horizon: str,
    family: str,
    config: Mapping[str, Any],
    *,
    first_session: Any,
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Return a family's out-of-sample predictions (``PREDICTION_SCHEMA``)."""
    return walked(
        dataset,
        horizon,
        find_family(family),
        config,
        first_session=first_session,
        progress=progress,
    )


def forecasts(
    made: Mapping[str, pl.DataFrame], horizon: str, daily: pl.DataFrame, regimes: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    """Return ``symbol, session, forecast`` of a group's engines and of its ensemble.

    Parameters
    ----------
    made : mapping
        Family to its predictions.
    horizon : str
        Of the horizons table.
    daily : pl.DataFrame
        Adjusted daily bars, for outcomes.
    regimes : pl.DataFrame
        From :func:`features.regime.classify_regimes`.
    """
    row = find_horizon(horizon)
    prepared = Prepared(pl.DataFrame(), forward_returns(daily, row), regimes, ())
    engines = pl.concat(made.values())
    blended = ensemble_of(engines, prepared, list(made), stacked=row.stacked)
    # The meta-learner is called after its ensemble there, and after its group here.
    meta = pl.col("engine").replace(f"{ENSEMBLE_ENGINE}.{META_ENGINE}", META_ENGINE)
    every = pl.concat([engines, blended.with_columns(meta)])
    return {
        engine_of(horizon, str(name)): part.select(*KEYS, pl.col(FORECAST).alias("forecast"))
        for (name,), part in every.partition_by("engine", as_dict=True, maintain_order=True).items()
    }


def unscaled(
    made: Mapping[str, pl.DataFrame], horizon: str, daily: pl.DataFrame, regimes: pl.DataFrame
) -> pl.DataFrame:
    """Return ``symbol, session, forecast`` of a group's ensemble before its returns are scaled.

    Parameters are those of :func:`forecasts`.
    """
    row = find_horizon(horizon)
    labels = forward_returns(daily, row)
    engines = pl.concat(made.values())
    if row.stacked:
        engines = pl.concat([engines, stack_walk_forward(engines, labels)])
    outcome = labels.select("symbol", "bar_end", "label_known_at", "excess_return")
    skill = session_skill(engines.join(outcome, on=["symbol", "bar_end"], how="left"))
    names = sorted(engines["engine"].unique())
    blended = blend_by_month(engines, skill, regimes, names)
    return blended.select(*KEYS, pl.col(FORECAST).alias("forecast"))
