"""The audit of forecasts finds a scaler that has seen one row too many, and no sound one."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import polars as pl

from features.leakage import audit
from features.registry import CORE
from market.horizons import find_horizon
from market.schema import Bar
from models.audited import scalers_subject
from tests.markets import market

DAILY = find_horizon("1d")
WINDOWS = {"min_train_sessions": 30, "test_sessions": 10}


@lru_cache(maxsize=1)
def tables() -> dict[str, pl.DataFrame]:
    made = market(seed=4, symbols=4, sessions=70)
    return {"bars_1d": made.daily, "splits": made.splits, "dividends": made.dividends}


def cuts() -> list:
    return [tables()["bars_1d"][Bar.KNOWN_AT].unique().sort()[55]]


def test_walk_forward_forecasts_are_audited_and_not_accused() -> None:
    subject = scalers_subject(DAILY, CORE, **WINDOWS)
    assert subject.name == "scalers and linear forecasts of 1d"
    made = subject.compute(tables())
    days = tables()["bars_1d"][Bar.SESSION].unique().sort()
    # Volatility takes twenty sessions; of the other fifty, thirty are learned from first.
    assert made[Bar.SESSION].unique().sort().to_list() == days[50:].to_list()
    assert made["model_version"].n_unique() == 2
    assert made.select(subject.keys).is_unique().all()
    assert audit(subject, tables(), cuts()) == []


def test_a_scaler_that_saw_the_future_is_found() -> None:
    subject = scalers_subject(DAILY, CORE, **WINDOWS)

    def scaled(given) -> pl.DataFrame:
        forecast = pl.col("expected_return_bps")
        return subject.compute(given).with_columns(forecast / forecast.std())

    found = audit(replace(subject, compute=scaled), tables(), cuts())
    assert "expected_return_bps" in {f.column for f in found}
