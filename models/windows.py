"""The windows of a walk-forward as a table: who learned from what, and was tested on what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from market.errors import ModelError
from models.dataset import Dataset
from models.forecast import Prediction
from models.splits import PurgedWalkForward

WINDOW_SCHEMA = pl.Schema(
    {
        "window": pl.Int64(),
        "train_from": pl.Date(),
        "train_to": pl.Date(),
        "train_rows": pl.Int64(),
        "purge_sessions": pl.Int64(),
        "embargo_sessions": pl.Int64(),
        "test_from": pl.Date(),
        "test_to": pl.Date(),
        "test_rows": pl.Int64(),
    }
)
"""One row per window, numbered from 1; training columns are null where they are not known."""


def describe_windows(dataset: Dataset, splitter: PurgedWalkForward) -> pl.DataFrame:
    """Return the windows in which a splitter walks over a dataset.

    Parameters
    ----------
    dataset, splitter
        As given to :func:`models.walk_forward.walk_forward`.

    Returns
    -------
    pl.DataFrame
        ``WINDOW_SCHEMA``; training rows are those with a label.
    """
    sessions = dataset.keys[Prediction.SESSION].to_numpy()
    labelled = np.isfinite(dataset.y)
    purge = splitter.gap - splitter.embargo_sessions
    rows: list[dict[str, object]] = []
    for number, (train, test) in enumerate(splitter.split(dataset.x, groups=sessions), start=1):
        rows.append(
            {
                "window": number,
                "train_from": sessions[train].min().item(),
                "train_to": sessions[train].max().item(),
                "train_rows": int(labelled[train].sum()),
                "purge_sessions": purge,
                "embargo_sessions": splitter.embargo_sessions,
                "test_from": sessions[test].min().item(),
                "test_to": sessions[test].max().item(),
                "test_rows": len(test),
            }
        )
    return pl.DataFrame(rows, schema=WINDOW_SCHEMA)


def windows_of(predictions: pl.DataFrame, families: Sequence[str]) -> pl.DataFrame:
    """Return the windows that out-of-sample predictions show by the versions of their models.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA`` of one horizon.
    families : sequence of str
        Engines that are models, trained together; blends change their version more often.

    Returns
    -------
    pl.DataFrame
        ``WINDOW_SCHEMA``, with nulls for what predictions do not show.

    Raises
    ------
    ModelError
        When none of the families has a prediction.
    """
    there = set(predictions[Prediction.ENGINE])
    first = next((f for f in families if f in there), None)
    if first is None:
        raise ModelError(
            "no model's predictions show the windows",
            got=", ".join(sorted(there)) or "no prediction",
            allowed=f"predictions of {', '.join(families) or 'a family'}",
            remedy="give the predictions of the training that made these models",
        )
    spans = (
        predictions.filter(pl.col(Prediction.ENGINE) == first)
        .group_by(Prediction.MODEL_VERSION)
        .agg(
            pl.col(Prediction.SESSION).min().alias("test_from"),
            pl.col(Prediction.SESSION).max().alias("test_to"),
            pl.len().alias("test_rows"),
        )
        .sort("test_from")
        .with_row_index("window", offset=1)
    )
    missing = [c for c in WINDOW_SCHEMA.names() if c not in spans.columns]
    return (
        spans.with_columns(pl.lit(None).alias(c) for c in missing)
        .select(WINDOW_SCHEMA.names())
        .cast(WINDOW_SCHEMA)
    )


def versions_by_window(
    predictions: pl.DataFrame, windows: pl.DataFrame, families: Sequence[str]
) -> pl.DataFrame:
    """Return which model made the predictions of each window.

    Returns
    -------
    pl.DataFrame
        ``window``, ``engine``, ``model_version``; one row per window and family.

    Raises
    ------
    ModelError
        When two models of one family forecast in one window, or one in two: these are not the
        windows of that training.
    """
    found = (
        at_window(predictions.filter(pl.col(Prediction.ENGINE).is_in(list(families))), windows)
        .select("window", Prediction.ENGINE, Prediction.MODEL_VERSION)
        .unique()
        .sort("window", Prediction.ENGINE, Prediction.MODEL_VERSION)
    )
    for one in (["window", Prediction.ENGINE], [Prediction.ENGINE, Prediction.MODEL_VERSION]):
        twice = found.filter(found.select(one).is_duplicated())
        if twice.height:
            raise ModelError(
                "windows do not fit the predictions",
                got=[str(v) for v in twice.row(0)],
                allowed="one model of each family per window",
                remedy="give the windows of the training that made the predictions",
            )
    return found


def at_window(frame: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """Return rows with the number of the window that their ``session`` was tested in.

    Raises
    ------
    ModelError
        When a session belongs to none.
    """
    spans = windows.select("window", "test_from", "test_to").sort("test_from")
    days = (
        frame.select(Prediction.SESSION)
        .unique()
        .sort(Prediction.SESSION)
        .join_asof(spans, left_on=Prediction.SESSION, right_on="test_from", strategy="backward")
    )
    outside = days.filter(
        pl.col("window").is_null() | (pl.col(Prediction.SESSION) > pl.col("test_to"))
    )
    if outside.height:
        raise ModelError(
            "a prediction lies in no window",
            got=str(outside[Prediction.SESSION][0]),
            allowed="sessions of the test windows",
            remedy="give the windows of the training that made the predictions",
        )
    return frame.join(days.select(Prediction.SESSION, "window"), on=Prediction.SESSION, how="left")
