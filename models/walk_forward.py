"""Walk forward through time: fit on the past, forecast the next window, move on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from market import calendar
from market.errors import ModelError
from models.dataset import Dataset
from models.fit import FittedModel, fit_lesson, predict_rows, prepare
from models.spec import Family, Indices
from models.splits import PurgedWalkForward

Progress = Callable[[int, int], None]
Reader = Callable[[Dataset, Indices], Iterable[tuple[Dataset, Indices]]]
"""From a dataset and its rows of a test window to the rows that are forecast, part by part."""


def read_as_learned(dataset: Dataset, rows: Indices) -> Iterable[tuple[Dataset, Indices]]:
    """Forecast the very rows of the dataset that is learned from."""
    yield dataset, rows


@dataclass(frozen=True)
class WalkForward:
    """Out-of-sample predictions, one engine per family, and the newest models."""

    predictions: pl.DataFrame
    windows: int


def walk_forward(
    dataset: Dataset,
    families: Sequence[Family],
    splitter: PurgedWalkForward,
    *,
    seed: int,
    band_bps: float,
    last_weight: float = 1.0,
    data_hash: str = "",
    read: Reader = read_as_learned,
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
    last_weight : float
        What the oldest label of a window weighs beside the newest.
    data_hash : str
        What the bars hash to; part of each model's version.
    read : callable
        What a test window's forecasts are made from, where the dataset lacks some of its rows.
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
        lesson = prepare(
            dataset,
            train,
            horizon=splitter.horizon.name,
            band_bps=band_bps,
            last_weight=last_weight,
        )
        models: list[FittedModel] = []
        for family in families:
            models.append(fit_lesson(lesson, family, seed=seed, data_hash=data_hash))
            done += 1
            if progress is not None:
                progress(done, total)
        parts += [
            predict_rows(model, part, rows, band_bps)
            for part, rows in read(dataset, test)
            for model in models
        ]
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
