"""What models of daily bars learn where there are many symbols: their ranks, and neutral labels.

Chosen on real daily bars of 2000 to 2009; docs/evidence.md has the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from features.labels import forward_returns
from features.neutral_labels import EXPOSURES, NEUTRAL_RETURN, nested_steps, neutral_returns
from market.bars import by_company, read_adjusted
from market.horizons import HORIZONS, Horizon
from market.lake import Lake
from models.dataset import EXCESS_RETURN
from models.normal_scores import ranked
from pipelines.resources import Stores
from pipelines.side_tables import read_sectors


@dataclass(frozen=True)
class Learned:
    """Labels, the columns of the matrix, and which label is learned."""

    labels: pl.DataFrame
    names: Sequence[str]
    target: str = EXCESS_RETURN


def learned_from(
    stores: Stores,
    horizon: Horizon,
    features: pl.LazyFrame,
    labels: pl.DataFrame,
    names: Sequence[str],
) -> Learned:
    """Return what a horizon's models learn from.

    Ranks of the features and neutral labels where bars are daily and the median session has
    at least ``models.ranks_from_symbols`` symbols; else features as they are and the excess
    return. Which of them it was is part of each model's feature names and rule, so that scoring
    makes the same.

    Parameters
    ----------
    stores : Stores
        The lake and the settings.
    horizon : Horizon
        A row of the horizons table.
    features : pl.LazyFrame
        Of the members; with ``beta_60`` and ``volatility_20``, or nothing changes.
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`.
    names : sequence of str
        Features that models learn from.
    """
    plain = Learned(labels, names)
    least = stores.settings.models.ranks_from_symbols
    columns = features.collect_schema().names()
    if horizon.timeframe.is_intraday or not least or not set(EXPOSURES) <= set(columns):
        return plain
    exposures = features.select("symbol", "session", "bar_end", *EXPOSURES).collect()
    if exposures.is_empty() or _symbols(exposures) < least:
        return plain
    path = stores.settings.features.sectors_file
    last = max(exposures["session"].to_list())
    sectors = None if path is None else read_sectors(stores.lake, path, last)
    steps = nested_steps(horizon.steps)
    nested = [*(_labels(stores.lake, _daily(s)) for s in steps[:-1]), labels]
    neutral = neutral_returns(nested, steps, exposures, sectors)
    return Learned(neutral, ranked(names), NEUTRAL_RETURN)


def _symbols(rows: pl.DataFrame) -> float:
    counts = rows.group_by("session").len()["len"].to_list()
    return sorted(counts)[len(counts) // 2]


def _daily(steps: int) -> Horizon:
    return next(h for h in HORIZONS if h.steps == steps and not h.timeframe.is_intraday)


def _labels(lake: Lake, horizon: Horizon) -> pl.DataFrame:
    bars = read_adjusted(lake, horizon.timeframe, None, None)
    return by_company(lake, bars, lambda rows: forward_returns(rows, horizon))
