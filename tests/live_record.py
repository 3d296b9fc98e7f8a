"""A data root with bars, a champion, its walk-forward and a live record of known quality."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from features.compute import compute_features
from features.registry import feature_names
from market.horizons import find_horizon
from market.ingest_log import LOG_SCHEMA, write_entries
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from models.fit import FittedModel, fit_model
from models.forecast import LIVE_SCHEMA, Made, keep_raw, to_predictions
from models.importances import importance_table, newest_sample
from models.registry import FAMILIES
from models.spec import Forecast
from models.trained_features import TrainedFeatures, summarize_training
from pipelines.resources import Stores
from pipelines.scoring import LIVE_TABLE
from pipelines.settings import load_settings
from signals.schema import ENSEMBLE_ENGINE
from tests.markets import adjusted_daily, dataset_of, labels_of, market
from tests.pipelines.installation import environment, environment_of
from tests.trainings import report

MARKET = market(seed=21, symbols=14, sessions=210)
DAYS = MARKET.daily[Bar.SESSION].unique().sort().to_list()
TRAINED, WALKED_FROM = 145, 60
HORIZON = find_horizon("1d")
NAMES = feature_names(family="core")
# A tenth of the variance of what happens is known beforehand.
SKILL = 0.35


_TOML = """\
symbols = ["*"]
[features]
families = ["core"]
[models]
horizons = ["1d"]
families = ["core"]
[costs]
half_spread_bps = 5.0
slippage_bps = 5.0
"""


def closed(place: int) -> dt.datetime:
    """The close of a session, an hour later."""
    ends = MARKET.daily.filter(pl.col(Bar.SESSION) == DAYS[place])[Bar.BAR_END]
    return ends[0] + dt.timedelta(hours=1)


TRAINED_AT, NOW = closed(TRAINED), closed(len(DAYS) - 1)


@lru_cache(maxsize=1)
def features() -> pl.DataFrame:
    made = compute_features(adjusted_daily(MARKET))
    return made.select("symbol", "session", "bar_end", "as_of", *NAMES)


@lru_cache(maxsize=2)
def trained(upto: int = TRAINED) -> tuple[FittedModel, TrainedFeatures]:
    """A model of the sessions up to one, and how its features were distributed."""
    data = dataset_of(MARKET)
    rows = np.flatnonzero((data.keys["session"] <= DAYS[upto]).to_numpy())
    learned = np.flatnonzero((data.keys["session"] < DAYS[upto]).to_numpy())
    linear = FAMILIES["linear"]
    band = 2.0
    model = fit_model(data, learned, linear, horizon="1d", seed=1, data_hash="h", band_bps=band)
    moved = importance_table([model], newest_sample(data, 60))
    kept = summarize_training(data, rows, moved, seed=1)
    assert kept is not None
    return model, kept


def forecasts(first: int, last: int, *, skill: float, boldness: float, seed: int) -> pl.DataFrame:
    """Forecasts of the ensemble: what they see of what happens, and how sure they are of it."""
    labels = labels_of(MARKET).drop_nulls("excess_return").sort("bar_end", "symbol")
    unit = np.full(labels.height, float(labels["excess_return"].std()))
    ahead = labels["excess_return"].to_numpy() / unit
    rng = np.random.default_rng(seed)
    signal = skill * ahead + np.sqrt(1.0 - skill**2) * rng.standard_normal(labels.height)
    spread = float(np.sqrt(1.0 - SKILL**2))
    made = to_predictions(
        labels.with_columns(pl.col("bar_end").alias("as_of")),
        [Made(ENSEMBLE_ENGINE, "v", Forecast(boldness * SKILL * signal), spread)],
        unit,
        volatility=unit,
        band_bps=20.0,
        horizon="1d",
    )
    return keep_raw(made.filter(pl.col("session").is_between(DAYS[first], DAYS[last])))


class LiveRecord:
    """One installation; nothing of it listens to the network."""

    def __init__(self, home: Path, toml: str = "") -> None:
        home.mkdir(parents=True)
        (home / "isobar.toml").write_text(_TOML + toml)
        self.environment = environment(home)
        with environment_of(self.environment, home.parent):
            self.stores = Stores(load_settings())
        assert self.stores.settings.band_bps == 20.0
        lake = self.stores.lake
        lake.replace("bars_1d", MARKET.daily, DAYS)
        lake.replace("splits", empty(SPLIT_SCHEMA), None)
        lake.replace("dividends", empty(DIVIDEND_SCHEMA), None)
        entries = {
            "timeframe": "1d",
            "session": DAYS,
            "fetched_at": NOW,
            "settled": True,
            "source": "test",
            "symbols": "*",
            "content": "",
        }
        write_entries(lake, pl.DataFrame(entries).select(LOG_SCHEMA.names()).cast(LOG_SCHEMA))
        lake.replace("features_1d", features(), DAYS)

    def train(self, upto: int = TRAINED, *, with_features: bool = True) -> None:
        model, kept = trained(upto)
        told = replace(report(), features=kept if with_features else None)
        self.stores.tracker.log_training(
            "1d", [model], params={}, metrics={}, tags={}, now=closed(upto), report=told
        )

    def walk(self) -> None:
        made = forecasts(WALKED_FROM, TRAINED, skill=SKILL, boldness=1.0, seed=1)
        self.stores.lake.replace("predictions", made, ["1d"])

    def forecast(
        self, skill: float = SKILL, boldness: float = 1.0, last: int = len(DAYS) - 2
    ) -> None:
        """Write a live record from the training on, up to a session."""
        made = forecasts(TRAINED + 1, last, skill=skill, boldness=boldness, seed=2)
        ran = pl.col("as_of") + dt.timedelta(minutes=20)
        live = made.with_columns(ran.alias("run_as_of")).select(LIVE_SCHEMA.names())
        days = DAYS[TRAINED + 1 : last + 1]
        self.stores.lake.replace(LIVE_TABLE, live.cast(LIVE_SCHEMA), days)

    def forget(self) -> None:
        """Take back the live record and what was done to features."""
        lake = self.stores.lake
        if lake.exists(LIVE_TABLE):
            empty_table = lake.scan(LIVE_TABLE).head(0).collect()
            lake.replace(LIVE_TABLE, empty_table, sorted(lake.sessions(LIVE_TABLE)))
        later = DAYS[TRAINED + 1 :]
        lake.replace("features_1d", features().filter(pl.col("session").is_in(later)), later)

    def shift(self, names: list[str]) -> None:
        """Move features by two of their deviations since the training."""
        later = DAYS[TRAINED + 1 :]
        moved = (
            features()
            .with_columns(pl.col(n) + 2.0 * pl.col(n).std() for n in names)
            .filter(pl.col("session").is_in(later))
        )
        self.stores.lake.replace("features_1d", moved, later)
