"""Train, step forward, forecast what was not seen, repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
import polars as pl

from market import calendar
from market.errors import ModelError
from models.dataset import Dataset
from models.forecast import to_predictions
from models.spec import Family, Forecaster, Params, Vector
from models.splits import Indices, PurgedWalkForward

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FittedModel:
    """A trained model with what is needed to use it and to say where it came from.

    ``known_at`` is when the last label it learned from was known: it may forecast nothing
    before that.
    """

    family: Family
    forecaster: Forecaster = field(repr=False)
    horizon: str
    spread: float
    params: Params
    seed: int
    feature_names: tuple[str, ...]
    rows: int
    trained_from: str
    known_at: str
    version: str


@dataclass(frozen=True)
class WalkForward:
    """Out-of-sample predictions, one engine per family, and the newest models."""

    predictions: pl.DataFrame
    windows: int


def fit_model(
    dataset: Dataset,
    rows: Indices,
    family: Family,
    *,
    horizon: str,
    seed: int,
    data_hash: str,
    params: Params | None = None,
) -> FittedModel:
    """Fit one family on some rows of a dataset.

    Raises
    ------
    ModelError
        When fewer than 50 rows have a label, or all labels are equal.
    """
    labelled = rows[np.isfinite(dataset.y[rows])]
    y = dataset.y[labelled]
    if len(y) < 50 or float(np.std(y)) == 0.0:
        raise ModelError(
            f"cannot train {family.name} for horizon {horizon}",
            got=f"{len(y)} labelled rows, {len(np.unique(y))} distinct labels",
            allowed="50 rows or more with different labels",
            remedy="ingest more history or more symbols",
        )
    used = dict(family.defaults if params is None else params)
    model = family.build(used, seed, None)
    model.fit(dataset.x[labelled], y, np.ones(len(y)))
    spread = float(np.std(y - model.predict(dataset.x[labelled])))
    first = dataset.keys["bar_end"].to_list()[int(labelled[0])]
    last = max(dataset.keys["label_known_at"][labelled].to_list())
    identity: Mapping[str, object] = {
        "family": family.name,
        "horizon": horizon,
        "params": used,
        "seed": seed,
        "features": dataset.feature_names,
        "rows": len(y),
        "from": str(first),
        "known_at": str(last),
        "data": data_hash,
    }
    digest = hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
    return FittedModel(
        family=family,
        forecaster=model,
        horizon=horizon,
        spread=spread,
        params=used,
        seed=seed,
        feature_names=dataset.feature_names,
        rows=len(y),
        trained_from=first.isoformat(),
        known_at=last.isoformat(),
        version=f"{family.name}-{horizon}-{digest}",
    )


def predict_rows(
    model: FittedModel, dataset: Dataset, rows: Indices, band_bps: float
) -> pl.DataFrame:
    """Forecast some rows of a dataset (``PREDICTION_SCHEMA``).

    Raises
    ------
    ModelError
        When a row lies before the moment at which the model could have existed, or the
        dataset's features are not those the model was trained on.
    """
    if dataset.feature_names != model.feature_names:
        raise ModelError(
            f"model {model.version} was trained on other features",
            got=sorted(set(dataset.feature_names) ^ set(model.feature_names)),
            allowed="the very features it was trained on, in their order",
            remedy="train it again",
        )
    keys = dataset.keys[rows]
    early = keys.filter(pl.col("as_of").dt.convert_time_zone("UTC") < _moment(model.known_at))
    if early.height:
        raise ModelError(
            f"model {model.version} would forecast a time before its training data was known",
            got=str(early["as_of"][0]),
            allowed=f"from {model.known_at}",
            remedy="use an older model for these rows",
        )
    return to_predictions(
        keys,
        model.forecaster.predict(dataset.x[rows]),
        dataset.unit[rows],
        volatility=dataset.volatility[rows],
        spread=model.spread,
        band_bps=band_bps,
        horizon=model.horizon,
        engine=model.family.name,
        model_version=model.version,
    )


def walk_forward(
    dataset: Dataset,
    families: Sequence[Family],
    splitter: PurgedWalkForward,
    *,
    seed: int,
    band_bps: float,
    data_hash: str = "",
    progress: Progress | None = None,
) -> WalkForward:
    """Forecast every test window with models that saw only what was known before it.

    Parameters
    ----------
    dataset : Dataset
        Features and labels of all symbols.
    families : sequence of Family
        Engines to train in each window.
    splitter : PurgedWalkForward
        Windows by time across all symbols.
    seed : int
        Base of every model's seed.
    band_bps : float
        The neutral band.
    data_hash : str
        What the bars hash to; part of each model's version.
    progress : callable, optional
        Called with (models trained, models in all).

    Returns
    -------
    WalkForward
        Predictions with the version of the model that made each.

    Raises
    ------
    ModelError
        When a training label was not yet known at a test row: asserted on every window.
    """
    sessions = dataset.keys["session"].to_numpy()
    windows = list(splitter.split(dataset.x, groups=sessions))
    parts: list[pl.DataFrame] = []
    done, total = 0, len(windows) * len(families)
    for train, test in windows:
        _assert_apart(dataset, train, test)
        for family in families:
            model = fit_model(
                dataset,
                train,
                family,
                horizon=splitter.horizon.name,
                seed=seed,
                data_hash=data_hash,
            )
            parts.append(predict_rows(model, dataset, test, band_bps))
            done += 1
            if progress is not None:
                progress(done, total)
    return WalkForward(pl.concat(parts), len(windows))


def _assert_apart(dataset: Dataset, train: Indices, test: Indices) -> None:
    known = max(
        dataset.keys["label_known_at"][train].drop_nulls().to_list(),
        default=calendar.session_open(calendar.FIRST_DATE),
    )
    first = min(dataset.keys["as_of"][test].to_list())
    if known > first:
        raise ModelError(
            "a training label was not known before the test window",
            got=f"label known at {known}, first forecast at {first}",
            allowed="labels known earlier",
            remedy="raise purge_sessions",
        )


def _moment(text: str) -> pl.Expr:
    return pl.lit(text).str.to_datetime("%+", time_zone="UTC", time_unit="us")


__all__ = ["FittedModel", "Vector", "WalkForward", "fit_model", "predict_rows", "walk_forward"]
