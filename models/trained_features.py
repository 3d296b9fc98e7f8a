"""How the features of a training were distributed, kept with its run to hold later rows against.

Bounded, whatever the size of the training: the features that move its forecasts most, on a drawn
sample of its rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import polars as pl

from market.errors import ModelError
from market.schema import Bar
from models.dataset import Dataset
from models.drift_reference import FeatureSummary, Reference, summarize_features
from models.importances import Importance
from models.normal_scores import SUFFIX
from models.spec import Indices

FEATURES_KEPT = 60
ROWS_DRAWN = 500_000
_STRETCHES = 4


@dataclass(frozen=True, slots=True)
class TrainedFeatures:
    """The features of a training in summary.

    Attributes
    ----------
    reference : Reference
        Their distributions.
    importance : mapping
        What each weighs: its share of what moves a model's forecasts, summed over the models; all
        0 where no model's forecasts are moved by any.
    last_session : date
        The newest session of the rows; what comes later is new.
    """

    reference: Reference
    importance: Mapping[str, float]
    last_session: dt.date

    @property
    def weights(self) -> Mapping[str, float] | None:
        """The importance as :func:`models.retraining.needs_retraining` takes it."""
        return self.importance if sum(self.importance.values()) > 0.0 else None

    def to_json(self) -> str:
        """Return the summary as JSON text, some 4 KB per feature."""
        body = {
            "last_session": self.last_session,
            "importance": dict(self.importance),
            "reference": orjson.loads(self.reference.to_json()),
        }
        return orjson.dumps(body).decode()

    @classmethod
    def from_json(cls, text: str) -> TrainedFeatures:
        """Return the summary that :meth:`to_json` wrote.

        Raises
        ------
        ModelError
            When the text is something else.
        """
        try:
            given: dict[str, Any] = orjson.loads(text)
            inner = orjson.dumps(given["reference"]).decode()
            importance = {str(k): float(v) for k, v in given["importance"].items()}
            last = dt.date.fromisoformat(given["last_session"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the stored features of a training cannot be read ({type(error).__name__})",
                allowed="what TrainedFeatures.to_json wrote",
                remedy="train again",
            ) from error
        return cls(Reference.from_json(inner), importance, last)


def summarize_training(
    dataset: Dataset,
    rows: Indices,
    importances: pl.DataFrame,
    *,
    seed: int,
    live_sessions: int = 20,
    features: int = FEATURES_KEPT,
    most_rows: int = ROWS_DRAWN,
) -> TrainedFeatures | None:
    """Summarise the features of the rows that a training had.

    Parameters
    ----------
    dataset : Dataset
        What was trained on.
    rows : (n,) int64
        Its rows, those without a label included: rows that come later have none either.
    importances : pl.DataFrame
        ``IMPORTANCE_SCHEMA`` of the models that learned from the dataset.
    seed : int
        Of the sample.
    live_sessions : int
        Longest stretch of later sessions to hold against it; a quarter of the training's sessions
        where these are few.
    features : int
        How many are kept: those of the largest importance, summed over the models.
    most_rows : int
        So many rows are drawn without replacement where there are more; later rows must then be
        drawn to the same number a session (:func:`draw_alike`).

    Returns
    -------
    TrainedFeatures or None
        Nothing where the training has fewer than four sessions.

    Examples
    --------
    >>> from features.compute import compute_features
    >>> from market.synthetic import SyntheticSpec, generate
    >>> from features.labels import forward_returns
    >>> from market.horizons import find_horizon
    >>> from models.dataset import assemble
    >>> bars = generate(SyntheticSpec(symbols=3, sessions=90, minute_sessions=0)).daily
    >>> labels = forward_returns(bars, find_horizon("1d"))
    >>> data = assemble(compute_features(bars), labels, ["return_1", "return_5"], steps=1)
    >>> moved = pl.DataFrame({"engine": "linear", "feature": ["return_1", "return_5"],
    ...     "share": [0.2, 0.8], "rank": [2, 1]})
    >>> kept = summarize_training(data, np.arange(len(data)), moved, seed=1, features=1)
    >>> dict(kept.importance), kept.reference.live_sessions
    ({'return_5': 0.8}, 17)
    """
    days = dataset.keys[rows][Bar.SESSION]
    sessions = days.n_unique()
    if sessions < _STRETCHES:
        return None
    taken = rows
    if len(rows) > most_rows:
        drawn = np.random.default_rng(seed).choice(len(rows), most_rows, replace=False)
        taken = rows[np.sort(drawn)]
        days = dataset.keys[taken][Bar.SESSION]
        sessions = days.n_unique()
    stretch = max(1, min(live_sessions, sessions // _STRETCHES))
    weight = _heaviest(importances, features)
    columns = {name: k for k, name in enumerate(dataset.feature_names)}
    made: list[FeatureSummary] = []
    for name in weight:
        # One at a time: beside the matrix there is room for one column more.
        frame = pl.DataFrame({"session": days, name: dataset.x[taken, columns[name]]})
        made += summarize_features(frame, [name], live_sessions=stretch).features
    if not made:
        return None
    last: Any = days.max()
    return TrainedFeatures(Reference(sessions, stretch, tuple(made)), weight, last)


def merge_trained(parts: Sequence[TrainedFeatures | None]) -> TrainedFeatures | None:
    """Return the features of several trainings of one horizon as those of one.

    Recipes with features of their own are trained apart. What each weighs adds up, and the
    shortest stretch of the fewest sessions holds for all.
    """
    there = [p for p in parts if p is not None]
    if not there:
        return None
    features: dict[str, FeatureSummary] = {}
    importance: dict[str, float] = {}
    for part in there:
        for feature in part.reference.features:
            features.setdefault(feature.name, feature)
            weighs = part.importance.get(feature.name, 0.0)
            importance[feature.name] = importance.get(feature.name, 0.0) + weighs
    reference = Reference(
        min(p.reference.sessions for p in there),
        min(p.reference.live_sessions for p in there),
        tuple(features.values()),
    )
    return TrainedFeatures(reference, importance, max(p.last_session for p in there))


def draw_alike(frame: pl.DataFrame, reference: Reference, *, seed: int) -> pl.DataFrame:
    """Return later rows, drawn to as many a session as the reference has, in their order.

    How far stretches of the training lie apart was measured with so many rows a session; more of
    them would be believed too much.
    """
    sessions = max(1, frame["session"].n_unique())
    most = -(-sessions * max(f.rows for f in reference.features) // reference.sessions)
    if frame.height <= most:
        return frame
    drawn = np.random.default_rng(seed).choice(frame.height, most, replace=False)
    return frame[np.sort(drawn)]


def _heaviest(importances: pl.DataFrame, features: int) -> dict[str, float]:
    # Ranks are spread alike on every day.
    own = ~pl.col(Importance.FEATURE).str.ends_with(SUFFIX)
    found = (
        importances.filter(own)
        .group_by(Importance.FEATURE)
        .agg(pl.col(Importance.SHARE).sum())
        .sort(Importance.SHARE, Importance.FEATURE, descending=[True, False])
        .head(features)
    )
    return dict(found.select(Importance.FEATURE, Importance.SHARE).iter_rows())
