"""One model of one family: what it learns from, how it is fitted, how it forecasts."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from features.spec import PANEL_KEYS
from market.errors import ModelError
from models.dataset import EXCESS_RETURN, Dataset
from models.forecast import Made, Prediction, to_predictions
from models.spec import Family, Forecaster, Indices, Labelled, Params, window_of

LEAST_ROWS = 50
HELD_SHARE = 0.15
"""Share of the training sessions, the newest, on which a family that stops early decides when."""

EMBARGO_SESSIONS = 1
# So many residuals tell the standard deviation to one percent.
_SPREAD_ROWS = 6_000
NEUTRAL = "neutral"


@dataclass(frozen=True)
class FittedModel:
    """A trained model with what is needed to use it and to say where it came from.

    ``known_at`` is when the last label it learned from was known: it may forecast nothing
    before that. ``rule`` is how its rows were chosen and weighted (:class:`Lesson`).
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
    rule: Mapping[str, float] = field(default_factory=dict[str, float])


def fit_model(
    dataset: Dataset,
    rows: Indices,
    family: Family,
    *,
    horizon: str,
    seed: int,
    data_hash: str,
    band_bps: float = 0.0,
    params: Params | None = None,
    last_weight: float = 1.0,
) -> FittedModel:
    """Fit one family on some rows of a dataset.

    Parameters
    ----------
    dataset : Dataset
        Features and labels of all symbols.
    rows : (n,) int64
        What may be learned from, ascending.
    family : Family
        Which models; one that stops early is given the newest of the rows for that.
    horizon : str
        Name of a row of the horizons table.
    seed : int
        Of the model.
    data_hash : str
        What the bars hash to; part of the version.
    band_bps : float
        The neutral band, of which classes are made.
    params : mapping, optional
        The family's defaults when absent.
    last_weight : float
        What the oldest label weighs beside the newest.

    Raises
    ------
    ModelError
        When fewer than 50 rows have a label, or all labels are equal.
    """
    lesson = prepare(dataset, rows, horizon=horizon, band_bps=band_bps, last_weight=last_weight)
    return fit_lesson(lesson, family, seed=seed, data_hash=data_hash, params=params)


@dataclass(frozen=True)
class Lesson:
    """Rows to learn from, prepared once for all families.

    Attributes
    ----------
    whole : Labelled
        Every row with a label.
    horizon : str
        Whose labels they carry.
    feature_names : tuple of str
        Columns of the matrix.
    trained_from, known_at : datetime
        When the first bar ended, and when the last label was known.
    begun : (n,) datetime64
        ``as_of`` of each row.
    known : (n,) datetime64
        When each row's label was known.
    sessions : (n,) datetime64
        Session of each row.
    rule : mapping
        How the rows were chosen and weighted: ``band_bps``, ``last_weight`` and, where windows
        roll, ``max_train_sessions``; ``neutral`` is 1 where another label than the excess
        return is learned.
    """

    whole: Labelled
    horizon: str
    feature_names: tuple[str, ...]
    trained_from: dt.datetime
    known_at: dt.datetime
    known: npt.NDArray[np.datetime64] = field(repr=False)
    begun: npt.NDArray[np.datetime64] = field(repr=False)
    sessions: npt.NDArray[np.datetime64] = field(repr=False)
    rule: Mapping[str, float] = field(default_factory=dict[str, float])

    def split(self) -> tuple[Labelled, Labelled]:
        """Return the older rows, purged, and the newest sessions, to decide when to stop."""
        days = np.unique(self.sessions)
        first = days[min(len(days) - 1, int(len(days) * (1.0 - HELD_SHARE)))]
        held = np.flatnonzero(self.sessions >= first)
        gap = np.flatnonzero(days == first)[0] - EMBARGO_SESSIONS
        before = days[gap] if gap > 0 else days[0]
        older = (self.sessions < before) & (self.known <= self.begun[held].min())
        return self._take(np.flatnonzero(older)), self._take(held)

    def _take(self, places: Indices) -> Labelled:
        whole = self.whole
        return Labelled(
            whole.sample.take(places),
            whole.y[places],
            whole.weight[places],
            whole.band[places],
            whole.steps,
        )


def prepare(
    dataset: Dataset,
    rows: Indices,
    *,
    horizon: str,
    band_bps: float,
    last_weight: float = 1.0,
    max_train_sessions: int | None = None,
) -> Lesson:
    """Return the rows with a label, weighted; see :func:`fit_model`.

    ``max_train_sessions`` says how many sessions the rows were limited to; it is noted only.

    Raises
    ------
    ModelError
        When fewer than 50 rows have a label, or all labels are equal.
    """
    whole = dataset.labelled(rows, band_bps=band_bps, last_weight=last_weight)
    _require_labels(whole, horizon)
    _require_values(whole, horizon)
    keys = dataset.keys[whole.sample.rows]
    latest: Any = keys["label_known_at"].max()
    rule: dict[str, float] = {"band_bps": band_bps, "last_weight": last_weight}
    if max_train_sessions is not None:
        rule["max_train_sessions"] = max_train_sessions
    if dataset.target != EXCESS_RETURN:
        rule[NEUTRAL] = 1.0
    return Lesson(
        whole,
        horizon,
        dataset.feature_names,
        keys["bar_end"][0],
        latest,
        known=keys["label_known_at"].to_numpy(),
        begun=keys["as_of"].to_numpy(),
        sessions=keys["session"].to_numpy(),
        rule=rule,
    )


def fit_lesson(
    lesson: Lesson, family: Family, *, seed: int, data_hash: str, params: Params | None = None
) -> FittedModel:
    """Fit one family on what was prepared; see :func:`fit_model`."""
    used = dict(family.defaults if params is None else params)
    model = family.build(used, seed, None)
    train, held = lesson.split() if family.stops_early else (lesson.whole, None)
    if held is not None:
        _require_labels(train, lesson.horizon)
    if family.needs_sequences:
        _require_windows(train, window_of(used), family.name)
    model.fit(train, held)
    # Residuals of rows that a model did not see tell how wide its forecasts are.
    judged = train if held is None else held
    some = np.arange(0, len(judged), -(-len(judged) // _SPREAD_ROWS))
    spread = float(np.std(judged.y[some] - model.predict(judged.sample.take(some)).mean))
    identity: Mapping[str, object] = {
        "family": family.name,
        "horizon": lesson.horizon,
        "params": used,
        "seed": seed,
        "features": lesson.feature_names,
        "rows": len(lesson.whole),
        "from": str(lesson.trained_from),
        "known_at": str(lesson.known_at),
        "data": data_hash,
        "rule": lesson.rule,
    }
    digest = hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
    return FittedModel(
        family=family,
        forecaster=model,
        horizon=lesson.horizon,
        spread=spread,
        params=used,
        seed=seed,
        feature_names=lesson.feature_names,
        rows=len(lesson.whole),
        trained_from=lesson.trained_from.isoformat(),
        known_at=lesson.known_at.isoformat(),
        version=f"{family.name}-{lesson.horizon}-{digest}",
        rule=lesson.rule,
    )


def _require_labels(rows: Labelled, horizon: str) -> None:
    if len(rows) < LEAST_ROWS or float(np.std(rows.y)) == 0.0:
        raise ModelError(
            f"cannot train for horizon {horizon}",
            got=f"{len(rows)} labelled rows, {len(np.unique(rows.y))} distinct labels",
            allowed=f"{LEAST_ROWS} rows or more with different labels",
            remedy="ingest more history or more symbols",
        )
    if np.ptp(rows.classes) == 0:
        raise ModelError(
            f"cannot train for horizon {horizon}: every label is of one class",
            got=("short", "neutral", "long")[int(rows.classes[0])],
            allowed="returns inside and outside of the neutral band, or on both sides of it",
            remedy="look at the costs that the band is made of, or ingest more history",
        )


def _require_values(rows: Labelled, horizon: str) -> None:
    """Refuse rows without one known feature: from these a model learns the mean and no more."""
    x, places = rows.sample.x, rows.sample.rows
    # A block at a time: as a rule the first one has a value.
    blocks = range(0, len(places), 4096)
    if not any(np.isfinite(x[places[k : k + 4096]]).any() for k in blocks):
        raise ModelError(
            f"cannot train for horizon {horizon}: every feature of every row is missing",
            got=f"{x.shape[1]} features of {len(places)} rows, all null",
            allowed="features with values",
            remedy="compute the features again, and see the checks on their asset",
        )


def _require_windows(rows: Labelled, bars: int, family: str) -> None:
    lines, places = rows.sample.lines, rows.sample.rows
    longest = 1 if lines is None else int((lines.place[places] - lines.first[places]).max()) + 1
    if longest < bars:
        raise ModelError(
            f"cannot train {family}: no row has as many bars before it as its window",
            got=f"at most {longest} bars",
            allowed=f"{bars} bars or more of some symbol",
            remedy="ingest a longer history, or lower the family's parameter window",
        )


def predict_rows(
    model: FittedModel, dataset: Dataset, rows: Indices, band_bps: float
) -> pl.DataFrame:
    """Forecast some rows of a dataset; see :func:`predict_engines`.

    The engine is named after the family.
    """
    return predict_engines({model.family.name: model}, dataset, rows, band_bps)


def predict_engines(
    engines: Mapping[str, FittedModel], dataset: Dataset, rows: Indices, band_bps: float
) -> pl.DataFrame:
    """Forecast some rows of a dataset with several models of one horizon.

    Parameters
    ----------
    engines : mapping
        Name of an engine to its model, one or more.
    dataset : Dataset
        Made of the features that all of the models were trained on.
    rows : (n,) int64
        Rows of the dataset.
    band_bps : float
        The neutral band.

    Returns
    -------
    pl.DataFrame
        ``PREDICTION_SCHEMA``, engine after engine.

    Raises
    ------
    ModelError
        When a row lies before the moment at which a model could have existed, or the
        dataset's features are not those it was trained on.
    """
    keys = dataset.keys[rows].select(*PANEL_KEYS)
    first: Any = keys[Prediction.AS_OF].min()
    made: list[Made] = []
    for engine, model in engines.items():
        _require_its_rows(model, dataset, first)
        forecast = model.forecaster.predict(dataset.sample(rows))
        made.append(Made(engine, model.version, forecast, model.spread))
    return to_predictions(
        keys,
        made,
        dataset.unit[rows],
        volatility=dataset.volatility[rows],
        band_bps=band_bps,
        horizon=next(iter(engines.values())).horizon,
    )


def _require_its_rows(model: FittedModel, dataset: Dataset, first: dt.datetime | None) -> None:
    if dataset.feature_names != model.feature_names:
        raise ModelError(
            f"model {model.version} was trained on other features",
            got=sorted(set(dataset.feature_names) ^ set(model.feature_names)),
            allowed="the very features it was trained on, in their order",
            remedy="train it again",
        )
    if first is not None and first < dt.datetime.fromisoformat(model.known_at):
        raise ModelError(
            f"model {model.version} would forecast a time before its training data was known",
            got=str(first),
            allowed=f"from {model.known_at}",
            remedy="use an older model for these rows",
        )
