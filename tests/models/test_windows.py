"""The windows of a walk-forward as a table."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from market.errors import ModelError
from market.horizons import find_horizon
from models.registry import FAMILIES
from models.splits import PurgedWalkForward
from models.walk_forward import walk_forward
from models.windows import WINDOW_SCHEMA, describe_windows, versions_by_window, windows_of
from tests.markets import dataset_of, market
from tests.trainings import engines


@pytest.fixture(scope="module")
def walked():
    data = dataset_of(market(sessions=160))
    splitter = PurgedWalkForward(
        find_horizon("1d"), min_train_sessions=60, test_sessions=20, embargo_sessions=2
    )
    families = [FAMILIES["linear"]]
    made = walk_forward(data, families, splitter, seed=1, band_bps=5.0, data_hash="h")
    return data, splitter, made.predictions


def test_windows_are_those_that_were_walked(walked) -> None:
    data, splitter, predictions = walked
    windows = describe_windows(data, splitter)
    assert windows.schema == WINDOW_SCHEMA
    shown = windows_of(predictions, ["linear"])
    same = ["window", "test_from", "test_to", "test_rows"]
    assert windows.select(same).equals(shown.select(same))
    days = data.keys["session"].unique().sort().to_list()
    for row in windows.to_dicts():
        between = [d for d in days if row["train_to"] < d < row["test_from"]]
        gap = row["purge_sessions"] + row["embargo_sessions"]
        assert (row["purge_sessions"], len(between)) == (1, gap)
        inside = pl.col("session").is_between(row["train_from"], row["train_to"])
        labelled = data.keys.filter(inside).drop_nulls("label_known_at")
        assert row["train_rows"] == labelled.height


def test_each_window_has_its_model(walked) -> None:
    data, splitter, predictions = walked
    windows = describe_windows(data, splitter)
    found = versions_by_window(predictions, windows, ["linear"])
    assert found["window"].to_list() == windows["window"].to_list()
    assert found["model_version"].n_unique() == windows.height


def test_other_windows_are_refused() -> None:
    predictions, _ = engines()
    windows = windows_of(predictions, ["linear"])
    shifted = windows.with_columns(pl.col("test_from", "test_to") + dt.timedelta(days=7))
    with pytest.raises(ModelError, match="lies in no window"):
        versions_by_window(predictions, shifted, ["linear"])
    with pytest.raises(ModelError, match="lies in no window"):
        versions_by_window(predictions, windows.head(3), ["linear"])
    wide = windows.head(1).with_columns(test_to=pl.lit(windows["test_to"].max()))
    with pytest.raises(ModelError, match="windows do not fit the predictions"):
        versions_by_window(predictions, wide, ["linear"])


def test_blends_alone_show_no_windows() -> None:
    predictions, _ = engines()
    blend = predictions.filter(engine="ensemble")
    with pytest.raises(ModelError, match=r"no model's predictions.*ensemble"):
        windows_of(blend, ["linear"])
