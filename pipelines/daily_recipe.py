"""What models of daily bars learn where there are many symbols: their ranks, and neutral labels.

Chosen on real daily bars of 2000 to 2009; docs/evidence.md has the figures.
"""

import polars as pl

from features.labels import forward_returns
from features.neutral_labels import EXPOSURES, nested_steps, neutral_returns
from market.bars import by_company, read_adjusted
from market.horizons import HORIZONS, Horizon
from market.lake import Lake
from pipelines.resources import Stores
from pipelines.settings import Settings
from pipelines.side_tables import read_sectors


def learns_ranks(settings: Settings, horizon: Horizon, features: pl.LazyFrame) -> bool:
    """Say whether a horizon's models learn from ranks, and returns beyond market and sector.

    They do where bars are daily and the median session has at least
    ``models.ranks_from_symbols`` symbols. It is part of each model's feature names and rule, so
    that scoring makes the same.

    Parameters
    ----------
    settings : Settings
        Of the installation.
    horizon : Horizon
        A row of the horizons table.
    features : pl.LazyFrame
        Of the members; without ``beta_60`` and ``volatility_20`` no label can be neutral.
    """
    least = settings.models.ranks_from_symbols
    columns = features.collect_schema().names()
    if horizon.timeframe.is_intraday or not least or not set(EXPOSURES) <= set(columns):
        return False
    counts = features.group_by("session").len().collect()["len"].sort().to_list()
    return bool(counts) and counts[len(counts) // 2] >= least


def neutral_labels(
    stores: Stores, horizon: Horizon, features: pl.LazyFrame, labels: pl.DataFrame
) -> pl.DataFrame:
    """Return labels of daily bars with ``NEUTRAL_RETURN`` beside them.

    Parameters
    ----------
    stores : Stores
        The lake and the settings.
    horizon : Horizon
        A row of the horizons table.
    features : pl.LazyFrame
        Of the members.
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`.
    """
    exposures = features.select("symbol", "session", "bar_end", *EXPOSURES).collect()
    path = stores.settings.features.sectors_file
    last = max(exposures["session"].to_list())
    sectors = None if path is None else read_sectors(stores.lake, path, last)
    steps = nested_steps(horizon.steps)
    nested = [*(_labels(stores.lake, _daily(s)) for s in steps[:-1]), labels]
    return neutral_returns(nested, steps, exposures, sectors)


def _daily(steps: int) -> Horizon:
    return next(h for h in HORIZONS if h.steps == steps and not h.timeframe.is_intraday)


def _labels(lake: Lake, horizon: Horizon) -> pl.DataFrame:
    bars = read_adjusted(lake, horizon.timeframe, None, None)
    return by_company(lake, bars, lambda rows: forward_returns(rows, horizon))
