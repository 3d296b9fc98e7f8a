"""Sums of products by session: those of a loop over rows, and nothing of other sessions."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from models.session_moments import CLIP, MOMENT_SCHEMA, OUTCOME, Moment, session_moments
from tests.forecasts import forecasts
from tests.markets import bits

KEYS = ["symbol", "bar_end"]


def scored(horizon: str = "1d") -> pl.DataFrame:
    """Two engines' forecasts with outcomes; the second has not all rows."""
    made, outcomes = forecasts(30, 8, seed=3, skill=2.0, boldness=1.0, horizon=horizon)
    other = made.with_columns(
        pl.lit("trees").alias("engine"), pl.col("expected_return_bps") * -0.5 + 3.0
    )
    both = pl.concat([made, other.filter(pl.col("symbol") != "S003")])
    outcome = outcomes.select(*KEYS, "excess_return", "label_known_at")
    return both.join(outcome, on=KEYS, how="left")


@pytest.mark.parametrize("horizon", ["1d", "14d"])
def test_they_are_those_of_a_loop_over_rows(horizon: str) -> None:
    of = scored(horizon)
    got = session_moments(of, ["linear", "trees"])
    assert got.schema == MOMENT_SCHEMA
    found = {
        (row[Moment.SESSION], row[Moment.ENGINE], row[Moment.OTHER]): row for row in got.to_dicts()
    }
    steps = {"1d": 1, "14d": 10}[horizon]
    clipped = 0
    for (session,), day in of.partition_by("session", as_dict=True).items():
        sums: dict[tuple[str, str], float] = {}
        for (symbol,), rows in day.partition_by("symbol", as_dict=True).items():
            if symbol == "S003":
                continue
            said = {r["engine"]: r for r in rows.to_dicts()}
            unit = said["linear"]["volatility_bps"] * np.sqrt(steps)
            y = said["linear"]["excess_return"] * 1e4 / unit
            clipped += abs(y) > CLIP
            value = {e: r["expected_return_bps"] / unit for e, r in said.items()}
            value[OUTCOME] = min(max(y, -CLIP), CLIP)
            for pair in (
                ("linear", "linear"),
                ("linear", "trees"),
                ("linear", OUTCOME),
                ("trees", "trees"),
                ("trees", OUTCOME),
            ):
                sums[pair] = sums.get(pair, 0.0) + value[pair[0]] * value[pair[1]]
        for pair, total in sums.items():
            row = found.pop((session, *pair))
            assert row[Moment.PRODUCT] == pytest.approx(total)
            assert row[Moment.ROWS] == 7
            assert row[Moment.KNOWN_AT] == day["label_known_at"].max()
    assert not found
    assert clipped or horizon != "1d"


def test_a_session_follows_from_its_own_rows_in_any_order() -> None:
    of = scored()
    whole = session_moments(of, ["linear", "trees"])
    days = of["session"].unique().sort()
    late = of.filter(pl.col("session") > days[20]).sample(fraction=1.0, shuffle=True, seed=5)
    got = session_moments(late, ["linear", "trees"])
    assert bits(got) == bits(whole.filter(pl.col("session") > days[20]))


def test_what_is_not_known_or_no_number_does_not_count() -> None:
    of = scored()
    days = of["session"].unique().sort()
    spoiled = of.with_columns(
        pl.when(pl.col("session") == days[4])
        .then(None)
        .otherwise(pl.col("label_known_at"))
        .alias("label_known_at"),
        pl.when((pl.col("session") == days[5]) & (pl.col("symbol") == "S001"))
        .then(float("nan"))
        .otherwise(pl.col("expected_return_bps"))
        .alias("expected_return_bps"),
    )
    got = session_moments(spoiled, ["linear"])
    assert days[4] not in got["session"].to_list()
    assert got.filter(pl.col("session") == days[5])["rows"].unique().to_list() == [7]
    assert got["product"].is_finite().all()


def test_an_engine_that_forecast_nothing_leaves_nothing_to_compare() -> None:
    assert session_moments(scored(), ["linear", "absent"]).is_empty()
    assert session_moments(scored(), []).is_empty()
    assert session_moments(scored().clear(), ["linear"]).is_empty()
