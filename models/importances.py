"""How much each feature moves each family's forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import polars as pl

from models.dataset import Dataset
from models.fit import FittedModel
from models.spec import Sample


class Importance(StrEnum):
    """Columns of the table of importances; one row per family and feature."""

    ENGINE = "engine"
    FEATURE = "feature"
    SHARE = "share"
    RANK = "rank"


IMPORTANCE_SCHEMA = pl.Schema(
    {
        Importance.ENGINE: pl.String(),
        Importance.FEATURE: pl.String(),
        Importance.SHARE: pl.Float64(),
        Importance.RANK: pl.Int64(),
    }
)


def newest_sample(dataset: Dataset, rows: int = 400) -> Sample:
    """Return rows of the newest sessions, evenly over them.

    Parameters
    ----------
    dataset : Dataset
        Features of all symbols.
    rows : int
        How many; every so-manyeth of the newest tenth of all rows, or of the newest ``rows``
        where that is fewer.
    """
    newest = min(len(dataset), max(rows, len(dataset) // 10))
    places = np.linspace(len(dataset) - newest, len(dataset) - 1, min(rows, newest))
    return dataset.sample(places.astype(np.int64))


def importance_table(models: Sequence[FittedModel], sample: Sample) -> pl.DataFrame:
    """Return each feature's share of what moves a model's forecasts.

    Parameters
    ----------
    models : sequence of FittedModel
        All trained on the same features.
    sample : Sample
        Rows to forecast; from :func:`newest_sample`.

    Returns
    -------
    pl.DataFrame
        ``IMPORTANCE_SCHEMA``, by family and falling share. The share is the feature's mean
        absolute contribution over the sum of all; all 0 where a model forecasts one number.
    """
    parts: list[pl.DataFrame] = []
    for model in models:
        size = np.abs(model.forecaster.contributions(sample)).mean(axis=0)
        total = float(size.sum())
        found = pl.DataFrame(
            {
                Importance.ENGINE: [model.family.name] * len(model.feature_names),
                Importance.FEATURE: list(model.feature_names),
                Importance.SHARE: size / total if total > 0.0 else np.zeros_like(size),
            }
        ).sort(Importance.SHARE, Importance.FEATURE, descending=[True, False])
        parts.append(found.with_row_index(Importance.RANK, offset=1))
    if not parts:
        return pl.DataFrame(schema=IMPORTANCE_SCHEMA)
    return pl.concat(parts).select(IMPORTANCE_SCHEMA.names()).cast(IMPORTANCE_SCHEMA)
