"""Live signals and the backtest's promises, read from the stores for the scoreboard."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl

from market.horizons import Horizon
from market.lake import Lake
from market.ledger import Ledger
from models.forecast import Prediction
from pipelines.drift import newest_walked
from pipelines.training import read_labels
from signals.publish import read_signals
from signals.record import read_outcomes
from signals.scoreboard import Judged, judge_predictions, judge_signals, make_scoreboard


def read_scoreboard(
    lake: Lake,
    ledger: Ledger,
    horizon: Horizon,
    *,
    band_bps: float,
    seed: int,
    engine: str | None = None,
    since: dt.datetime | None = None,
) -> pl.DataFrame:
    """Return the scoreboard of one horizon.

    Parameters
    ----------
    lake, ledger
        The stores.
    horizon : Horizon
        A row of the horizons table.
    band_bps, seed
        The neutral band, and the seed of the bootstrap.
    engine : str, optional
        One alone.
    since : datetime, optional
        Signals of which ``as_of`` is from then on.

    Returns
    -------
    pl.DataFrame
        ``signals.scoreboard.BOARD_SCHEMA``. Promises are the walk-forward's forecasts of the
        newest sessions before the first live one.
    """
    signals = read_signals(ledger, since=since, horizon=horizon.name, engine=engine)
    live = judge_signals(signals, read_outcomes(ledger, since=since), band_bps=band_bps)
    first: Any = live[Judged.SESSION].min()
    promised = _promised(lake, horizon, engine, first, band_bps)
    return make_scoreboard(live, live.clear() if promised is None else promised, seed=seed)


def _promised(
    lake: Lake, horizon: Horizon, engine: str | None, before: dt.date | None, band_bps: float
) -> pl.DataFrame | None:
    if not lake.exists("predictions"):
        return None
    wanted = pl.col(Prediction.HORIZON) == horizon.name
    if engine is not None:
        wanted &= pl.col(Prediction.ENGINE) == engine
    walked = newest_walked(lake, horizon, wanted, before)
    if walked.is_empty():
        return None
    begin: Any = walked[Prediction.SESSION].min()
    regimes = lake.scan("regimes").collect()
    return judge_predictions(walked, read_labels(lake, horizon, begin), regimes, band_bps=band_bps)
