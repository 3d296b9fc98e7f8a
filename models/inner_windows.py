"""What tuning judges parameters by: purged windows inside the training side.

All of it lies before the moment of the tuning. Rows that come later are cut off before anything
looks at them, and labels that were not known by then are unknown here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import polars as pl

from market.errors import ModelError
from market.horizons import Horizon
from models.dataset import Dataset, lines_of
from models.evaluation import rank_ic
from models.fit import fit_model, predict_rows
from models.forecast import Prediction
from models.spec import Family, Params, Vector
from models.splits import Indices, PurgedWalkForward

_LABELS = ("y", "excess_return", "forward_return")
_LEAST_PROBABILITY = 1e-6


class Objective(StrEnum):
    """What a tuning optimises, a mean over sessions.

    ``rank_ic``: rank correlation of forecast and excess return across symbols, the higher the
    better. ``log_loss``: of the three class probabilities, the lower the better.
    """

    RANK_IC = "rank_ic"
    LOG_LOSS = "log_loss"

    @property
    def sign(self) -> float:
        """1 where more is better, else -1."""
        return 1.0 if self is Objective.RANK_IC else -1.0


@dataclass(frozen=True, slots=True)
class InnerWindows:
    """How the training side is cut into windows that parameters are judged on.

    Attributes
    ----------
    windows : int
        Number of test windows; the last ends with the last session whose labels are known.
    test_sessions : int
        Length of each.
    embargo_sessions : int
        Sessions left out before each, beyond the horizon's purge.
    max_train_sessions : int, optional
        Rolling training window; expanding when ``None``.
    """

    windows: int = 6
    test_sessions: int = 21
    embargo_sessions: int = 1
    max_train_sessions: int | None = None

    def __post_init__(self) -> None:
        if self.windows < 1 or self.test_sessions < 1:
            raise ModelError(
                "inner windows of a tuning",
                got=f"{self.windows} windows of {self.test_sessions} sessions",
                allowed="at least one window of at least one session",
                remedy="correct the settings",
            )

    def splitter(self, horizon: Horizon, sessions: int) -> PurgedWalkForward:
        """Return the purged walk-forward of so many sessions with just these test windows.

        Examples
        --------
        >>> from market.horizons import find_horizon
        >>> InnerWindows(windows=3, test_sessions=10).splitter(find_horizon("1d"), 100).gap
        2
        """
        first = sessions - self.windows * self.test_sessions
        gap = horizon.sessions + self.embargo_sessions
        if first <= gap:
            raise ModelError(
                "too little history before the inner windows",
                got=f"{sessions} sessions with known labels",
                allowed=f"more than {self.windows * self.test_sessions + gap}",
                remedy="fewer or shorter windows, or ingest more history",
            )
        return PurgedWalkForward(
            horizon,
            min_train_sessions=first,
            test_sessions=self.test_sessions,
            embargo_sessions=self.embargo_sessions,
            max_train_sessions=self.max_train_sessions,
        )


def known_by(dataset: Dataset, as_of: dt.datetime) -> Dataset:
    """Return the dataset as it was at a moment: no later row, no label that came later.

    Parameters
    ----------
    dataset : Dataset
        In order of time; its features are not copied.
    as_of : datetime
        Aware.

    Raises
    ------
    ModelError
        When nothing was known by then, or the rows are not in order of time.
    """
    rows = (dataset.keys["as_of"] <= as_of).to_numpy()
    end = int(rows.sum())
    if end == 0 or not rows[:end].all():
        raise ModelError(
            f"the dataset as it was at {as_of.isoformat()}",
            got=f"{end} rows, in order of time: {bool(rows[:end].all())}",
            allowed="rows in order of time, some of them known by then",
            remedy="a later as_of, or a dataset as models.dataset.assemble returns it",
        )
    cut = {
        f.name: getattr(dataset, f.name)[:end]
        for f in dataclasses.fields(dataset)
        if isinstance(getattr(dataset, f.name), np.ndarray)
    }
    keys = dataset.keys.head(end)
    known = (keys["label_known_at"] <= as_of).fill_null(value=False)
    blank = {name: np.where(known.to_numpy(), cut[name], np.nan) for name in _LABELS}
    arrived = keys.with_columns(pl.when(known).then(pl.col("label_known_at")))
    lines = lines_of(keys, dataset.lines.reach_sessions)
    return dataclasses.replace(dataset, **cut | blank | {"keys": arrived, "lines": lines})


def take_features(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Return the dataset with some of its features, in its own order."""
    if len(names) == len(dataset.feature_names):
        return dataset
    columns = [k for k, name in enumerate(dataset.feature_names) if name in set(names)]
    kept = tuple(dataset.feature_names[k] for k in columns)
    x = np.ascontiguousarray(dataset.x[:, columns])
    return dataclasses.replace(dataset, x=x, feature_names=kept)


@dataclass(frozen=True)
class Judge:
    """Fits and scores parameters on the inner windows.

    Attributes
    ----------
    dataset : Dataset
        From :func:`known_by`.
    family : Family
        What is fitted.
    horizon : Horizon
        Whose labels are learned.
    windows : tuple of (training rows, test rows)
        In order of time.
    objective : Objective
        What is measured.
    band_bps : float
        The neutral band of the classes.
    seed : int
        Of every model: each trial meets the same chance.
    """

    dataset: Dataset
    family: Family
    horizon: Horizon
    windows: tuple[tuple[Indices, Indices], ...]
    objective: Objective
    band_bps: float
    seed: int

    def score(self, params: Params, data: Dataset, window: int) -> Vector:
        """Return one value per judged session of a window; which sessions hangs on outcomes only.

        Parameters
        ----------
        params : mapping
            All parameters of the family.
        data : Dataset
            The dataset, or :func:`take_features` of it.
        window : int
            From 0.

        Raises
        ------
        ModelError
            When no session of the window can be judged.
        """
        train, test = self.windows[window]
        model = fit_model(
            data,
            train,
            self.family,
            horizon=self.horizon.name,
            seed=self.seed,
            data_hash="",
            params=params,
        )
        made = predict_rows(model, data, test, self.band_bps)
        frame = made.with_columns(pl.Series("excess_return", data.excess_return[test]))
        values = session_scores(frame, self.objective, self.band_bps)
        if values.is_empty():
            raise ModelError(
                f"no session of inner window {window + 1} can be judged",
                got=f"{len(test)} rows",
                allowed="three symbols or more with different known outcomes at one time",
                remedy="more symbols, or other windows",
            )
        return values["score"].to_numpy()


def session_scores(
    predictions: pl.DataFrame, objective: Objective, band_bps: float
) -> pl.DataFrame:
    """Return the objective of each session.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA`` and ``excess_return`` (fraction; NaN or null when not known).
    objective : Objective
        What is measured.
    band_bps : float
        A return inside plus or minus this band is neutral.

    Returns
    -------
    pl.DataFrame
        ``session`` and ``score``, ascending. Rank IC: the mean over the session's times at which
        three symbols or more have different known outcomes; 0 where the forecasts do not differ,
        so that no model gains by abstaining. Log loss: the mean over the session's rows. NaN where
        a forecast is not finite.

    Examples
    --------
    >>> day = dt.datetime(2024, 7, 1, 20, tzinfo=dt.UTC)
    >>> frame = pl.DataFrame({"session": [day.date()] * 3, "bar_end": [day] * 3,
    ...     "expected_return_bps": [1.0, 2.0, 3.0], "excess_return": [0.01, 0.02, 0.0]})
    >>> session_scores(frame, Objective.RANK_IC, 5.0)["score"].to_list()
    [-0.5]
    """
    known = predictions.filter(pl.col("excess_return").is_finite())
    if objective is Objective.LOG_LOSS:
        rows = known.select("session", _log_loss(band_bps).alias("score"))
    else:
        rows = _rank_ic_of_times(known)
    # Sums in a fixed order: a group-by's depends on threads, and a study is held to the bit.
    rows = rows.sort("session", maintain_order=True)
    group = (rows["session"].rank("dense") - 1).to_numpy()
    total = np.bincount(group, weights=rows["score"].to_numpy())
    sessions = rows["session"].unique(maintain_order=True)
    return pl.DataFrame({"session": sessions, "score": total / np.bincount(group)})


def _rank_ic_of_times(known: pl.DataFrame) -> pl.DataFrame:
    forecast = pl.col(Prediction.EXPECTED_RETURN_BPS)
    times = (
        known.group_by("bar_end")
        .agg(
            pl.col("session").first(),
            forecast.is_finite().all().alias("finite"),
            pl.len().alias("symbols"),
            pl.col("excess_return").n_unique().alias("outcomes"),
        )
        .filter((pl.col("symbols") >= 3) & (pl.col("outcomes") > 1))
    )
    found = rank_ic(known, Prediction.EXPECTED_RETURN_BPS, "excess_return")
    value = pl.when("finite").then(pl.col("rank_ic").fill_null(0.0)).otherwise(float("nan"))
    return (
        times.join(found, on="bar_end", how="left")
        .sort("bar_end")
        .select("session", value.alias("score"))
    )


def _log_loss(band_bps: float) -> pl.Expr:
    band = band_bps / 1e4
    outcome = pl.col("excess_return")
    chosen = (
        pl.when(outcome > band)
        .then(pl.col(Prediction.P_LONG))
        .when(outcome < -band)
        .then(pl.col(Prediction.P_SHORT))
        .otherwise(pl.col(Prediction.P_NEUTRAL))
    )
    return -chosen.clip(lower_bound=_LEAST_PROBABILITY).log()
