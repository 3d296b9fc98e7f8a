"""All scores of an engine at once agree with the functions that give one at a time."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from models.confidence import accuracy_against_coverage
from models.evaluation import skill
from models.scores import brier, expected_calibration_error, log_loss
from models.session_scores import SCORE_SCHEMA, attach_groups, score_engine, session_means
from models.windows import windows_of
from tests.forecasts import LATER
from tests.trainings import engines, regimes

HOW = {"as_of": LATER, "seed": 1, "block": 5.0, "draws": 200}


def grouped(engine: str = "linear") -> tuple[pl.DataFrame, pl.DataFrame]:
    predictions, outcomes = engines(skill=0.2)
    made = attach_groups(predictions, windows_of(predictions, ["linear"]), regimes(predictions))
    return made.filter(engine=engine), outcomes


def pick(scores: pl.DataFrame, grouping: str, group: str) -> dict[str, float]:
    (row,) = scores.filter(grouping=grouping, group=group).to_dicts()
    return row


def test_over_all_it_is_what_the_single_functions_say() -> None:
    mine, outcomes = grouped()
    found = score_engine(mine, outcomes, **HOW).scores
    assert found.schema == SCORE_SCHEMA
    row = pick(found, "all", "all")
    for name, measure in (("brier", brier), ("log_loss", log_loss)):
        assert row[name] == pytest.approx(measure(mine, outcomes, **HOW).mean, abs=1e-12)
    error = expected_calibration_error(mine, outcomes, **HOW)
    assert row["ece"] == pytest.approx(error.mean, abs=1e-12)
    table = accuracy_against_coverage(mine, outcomes, **HOW)
    every = table.filter(coverage=1.0).row(0, named=True)
    for name, wanted in (("hit_rate", "accuracy"), ("hit_rate_low", "low")):
        assert row[name] == pytest.approx(every[wanted], abs=1e-12)
    top = table.filter(coverage=0.1).row(0, named=True)
    for name in ("confidence", "share", "accuracy"):
        assert row[f"top_{name}"] == pytest.approx(top[name], abs=1e-12), name
    assert row["top_accuracy_high"] == pytest.approx(top["high"], abs=1e-12)
    joined = mine.join(outcomes, on=["symbol", "bar_end"])
    wanted = skill(joined, seed=1, periods_per_block=5.0)
    assert (row["rank_ic"], row["sessions"]) == (pytest.approx(wanted.mean), wanted.periods)
    # Widened for short samples, and otherwise that of the percentiles.
    assert row["rank_ic_low"] == pytest.approx(wanted.low, abs=0.3 * (wanted.high - wanted.low))


@pytest.mark.parametrize("grouping", ["window", "regime", "year"])
def test_a_group_is_scored_as_if_it_were_alone(grouping: str) -> None:
    mine, outcomes = grouped()
    found = score_engine(mine, outcomes, **HOW).scores
    names = mine[grouping].unique().sort().to_list()
    assert sorted(found.filter(grouping=grouping)["group"]) == names
    if grouping != "year":
        assert len(names) > 1
    for name in names:
        part = mine.filter(pl.col(grouping) == name)
        alone = pick(score_engine(part, outcomes, **HOW).scores, "all", "all")
        row = pick(found, grouping, name)
        points = ("sessions", "rows", "rank_ic", "ic", "brier", "log_loss", "ece", "hit_rate")
        for measure in (*points, "top_confidence", "top_share", "top_accuracy"):
            assert row[measure] == pytest.approx(alone[measure], abs=1e-12), (name, measure)


def test_few_sessions_have_no_interval() -> None:
    mine, outcomes = grouped()
    few = mine.filter(pl.col("session").rank("dense") <= 9)
    row = pick(score_engine(few, outcomes, **HOW).scores, "all", "all")
    assert np.isfinite(row["rank_ic"])
    assert np.isnan([row["rank_ic_low"], row["hit_rate_high"]]).all()


def test_a_regime_counts_from_when_it_was_known() -> None:
    predictions, _ = engines()
    moment = predictions["as_of"].unique().sort()[50]
    told = pl.DataFrame(
        {"as_of": [moment, moment + dt.timedelta(microseconds=1)], "regime": ["bull", "bear"]},
        schema={"as_of": pl.Datetime("us", "UTC"), "regime": pl.String},
    )
    made = attach_groups(predictions, windows_of(predictions, ["linear"]), told)
    seen = made.group_by("as_of").agg(pl.col("regime").unique()).sort("as_of")
    regime = dict(seen.rows())
    assert regime[moment] == ["bull"]
    assert all(names == ["neutral"] for at, names in regime.items() if at < moment)
    assert all(names == ["bear"] for at, names in regime.items() if at > moment)


def test_means_of_sessions_are_added_up_in_the_order_of_the_rows() -> None:
    """Whatever the number of threads: kept scores are compared by their content."""
    random = np.random.default_rng(5)
    days = [dt.date(2025, 1, 6), dt.date(2025, 1, 7), dt.date(2025, 1, 9)]
    values = random.normal(size=(3000, 2))
    rows = pl.DataFrame(
        {"session": [days[k % 3] for k in range(3000)], "rank_ic": values[:, 0], "ic": values[:, 1]}
    )
    found = session_means(rows)
    assert found["session"].to_list() == days
    for name in ("rank_ic", "ic"):
        for day, mean in found.select("session", name).iter_rows():
            total = 0.0
            for value in rows.filter(session=day)[name]:
                total += value
            assert mean == total / 1000, (name, day)
