"""What is sampled, how skill and hit rates are worked out, and the way through, on made-up bars."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from evidence.part import Run
from evidence.real_minute_runs import (
    BASELINE,
    CONFIG,
    hit_rates,
    measure,
    measure_with,
    one_bar_later,
    sample_times,
    skill_of,
)
from market import calendar
from market.errors import UsageError
from market.replay_data import load_bars_file
from tests.evidence.small import MINUTE, result_of
from tests.forecasts import forecasts

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")


def labels(sessions: int = 12, bars: int = 24, symbols: int = 5, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    day, rows = dt.date(2024, 7, 8), []
    for _ in range(sessions):
        opened = calendar.session_open(day)
        for k in range(1, bars + 1):
            end = opened + dt.timedelta(minutes=5 * k)
            rows += [(f"S{s}", day, end, end) for s in range(symbols)]
        day = calendar.next_session(day)
    frame = pl.DataFrame(rows, schema=["symbol", "session", "bar_end", "as_of"], orient="row")
    values = rng.standard_normal(frame.height)
    return frame.with_columns(
        label_known_at=pl.col("bar_end") + pl.duration(minutes=5),
        forward_return=pl.Series(values),
        excess_return=pl.Series(values),
    )


@given(most=st.integers(100, 2_000), train=st.integers(2, 8))
def test_training_rows_keep_to_the_budget_by_times_alone(most: int, train: int) -> None:
    every = labels()
    k, sampled = sample_times(every, train, most)
    kept = sampled.filter(pl.col("excess_return").is_not_null())
    assert sampled.height == every.height
    first = every["session"].unique().sort().head(train)
    rows = every.filter(pl.col("session").is_in(first.implode())).height
    assert k == 1 or rows / (k - 1) > most
    # All symbols at a time, or none.
    assert set(kept.group_by("bar_end").len()["len"]) <= {5}
    # Other outcomes, the same times.
    _, other = sample_times(labels(seed=1), train, most)
    assert (
        other["excess_return"].is_null().to_list() == sampled["excess_return"].is_null().to_list()
    )
    # What is kept is as it was.
    assert kept.join(every, on=every.columns, how="semi").height == kept.height


def test_every_time_of_day_is_trained_on_equally_often() -> None:
    k, sampled = sample_times(labels(sessions=12), 12, 12 * 24 * 5 // 4)
    assert k == 4
    kept = sampled.filter(pl.col("excess_return").is_not_null())
    minute = pl.col("bar_end").dt.time().alias("time")
    assert set(kept.group_by(minute).len()["len"]) == {12 // 4 * 5}
    assert kept["bar_end"].dt.time().n_unique() == 24


def test_skill_is_that_of_a_naive_loop() -> None:
    rng = np.random.default_rng(3)
    frame = labels().with_columns(
        expected_return_bps=pl.col("excess_return") * 0.3 + pl.Series(rng.standard_normal(12 * 120))
    )
    found = skill_of(frame, block=2.0)
    days = []
    for _, day in frame.group_by("session", maintain_order=True):
        pairs = [
            (bar["expected_return_bps"].to_numpy(), bar["excess_return"].to_numpy())
            for _, bar in day.group_by("bar_end", maintain_order=True)
        ]
        days.append(
            (np.mean([pearsonr(*p)[0] for p in pairs]), np.mean([spearmanr(*p)[0] for p in pairs]))
        )
    ic, ranks = np.array(days).T
    assert found["ic"]["mean"] == pytest.approx(ic.mean())
    assert found["rank_ic"]["mean"] == pytest.approx(ranks.mean())
    assert found["information_ratio"] == pytest.approx(ranks.mean() / ranks.std(ddof=1))
    assert found["sessions"] == 12


def test_one_bar_later_is_the_next_bar_of_the_same_symbol_and_session() -> None:
    frame = labels(sessions=2, bars=4, symbols=2)
    known = {(r[0], r[2]): r[6] for r in frame.iter_rows()}
    for r in one_bar_later(frame.sample(fraction=1.0, shuffle=True, seed=1)).iter_rows(named=True):
        after = (r["symbol"], r["bar_end"] + dt.timedelta(minutes=5))
        assert r["excess_return"] == known.get(after)


def test_hit_rates_are_those_of_a_naive_loop() -> None:
    predictions, outcomes = forecasts(sessions=30, symbols=8, seed=2, boldness=0.3)
    newest = outcomes["label_known_at"].max()
    found = hit_rates(predictions, outcomes, newest, [0.5, 0.55, 0.6], 2.0)
    came = {(r["symbol"], r["bar_end"]): r["excess_return"] for r in outcomes.iter_rows(named=True)}
    for row in found:
        right = rows = 0
        for p in predictions.iter_rows(named=True):
            outcome = came.get((p["symbol"], p["bar_end"]))
            larger = max(p["p_long"], p["p_short"])
            if outcome is None or larger / (p["p_long"] + p["p_short"]) < row["confidence"]:
                continue
            rows += 1
            right += (outcome > 0.0) == (p["p_long"] > p["p_short"])
        assert row["rows"] == rows
        assert row["accuracy"]["mean"] == pytest.approx(right / rows)
        assert row["coverage"]["mean"] == pytest.approx(rows / predictions.height)
        assert row["accuracy"]["low"] < row["accuracy"]["mean"] < row["accuracy"]["high"]


def test_made_up_minutes_go_the_whole_way() -> None:
    found = result_of("real_minute")["horizons"]["15m"]
    assert set(found["skill"]) == {"lightgbm", "cnn", "ensemble", BASELINE}
    assert all(s["sessions"] == 12 for s in found["skill"].values())
    assert found["every"] > 1
    assert len(found["confidence"]["ensemble"]["from"]) == 3


def test_without_bars_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ISOBAR_SAMPLE_BARS"):
        measure(Run(tmp_path))


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars")
def test_real_minutes_go_the_whole_way(tmp_path: Path) -> None:
    read_at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    minutes = load_bars_file(Path(SAMPLES) / CONFIG["file"], as_of=read_at).minute
    assert minutes is not None
    symbols = minutes["symbol"].unique().sort().head(8)
    days = minutes["session"].unique().sort().head(18)
    few = minutes.filter(
        pl.col("symbol").is_in(symbols.implode()) & pl.col("session").is_in(days.implode())
    )
    found = measure_with({**MINUTE, "horizons": ["1h"]}, Run(tmp_path), few)["horizons"]["1h"]
    assert set(found["skill"]) == {"lstm", "transformer", "lightgbm", "ensemble", BASELINE}
    assert all(s["sessions"] == 12 for s in found["skill"].values())
