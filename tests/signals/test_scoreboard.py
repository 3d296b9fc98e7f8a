"""The scoreboard: the same measures on both sides, honest where there is little."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy.stats import spearmanr

from market import calendar
from market.horizons import find_horizon
from models.forecast import PREDICTION_SCHEMA
from signals.compose import direction_of
from signals.outcomes import SIGNAL_OUTCOME_SCHEMA
from signals.schema import SIGNAL_SCHEMA
from signals.scoreboard import (
    BOARD_SCHEMA,
    MEASURES,
    Judged,
    join_sides,
    judge_predictions,
    judge_signals,
    score_judged,
)

BAND = 10.0
DAYS = calendar.sessions_between(dt.date(2023, 1, 3), dt.date(2023, 12, 29))
CLOSES = [calendar.session_close(d) for d in DAYS]
SYMBOLS = 8


def make_board(
    live: pl.DataFrame, promised: pl.DataFrame, *, seed: int, draws: int = 1000
) -> pl.DataFrame:
    return join_sides(*(score_judged(side, seed=seed, draws=draws) for side in (live, promised)))


def sides(
    sessions: int, seed: int = 0, skill: float = 0.5, horizon: str = "1d", engine: str = "ensemble"
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The same forecasts as signals with outcomes, and as predictions with labels and regimes."""
    rng = np.random.default_rng(seed)
    n = sessions * SYMBOLS
    excess = rng.normal(0, 100, n)
    expected = skill * excess + (1 - skill) * rng.normal(0, 100, n)
    expected[rng.random(n) < 0.1] = 0.0
    p = rng.dirichlet([2, 2, 2], n)
    words = rng.choice(["bull", "bear"], sessions)
    predictions = pl.DataFrame(
        {
            "symbol": [f"S{k}" for k in range(SYMBOLS)] * sessions,
            "session": [d for d in DAYS[:sessions] for _ in range(SYMBOLS)],
            "bar_end": [c for c in CLOSES[:sessions] for _ in range(SYMBOLS)],
            "as_of": [c for c in CLOSES[:sessions] for _ in range(SYMBOLS)],
            "horizon": horizon,
            "engine": engine,
            "model_version": "v",
            "p_short": p[:, 0],
            "p_neutral": p[:, 1],
            "p_long": p[:, 2],
            "expected_return_bps": expected,
            "volatility_bps": 100.0,
        }
    ).select(pl.col(c).cast(t) for c, t in PREDICTION_SCHEMA.items())
    labels = predictions.select("symbol", "bar_end", pl.Series("excess_return", excess / 1e4))
    regimes = pl.DataFrame({"as_of": CLOSES[:sessions], "regime": words}).with_columns(
        pl.col("as_of").cast(PREDICTION_SCHEMA["as_of"])
    )
    rows = []
    for k, row in enumerate(predictions.to_dicts()):
        said = direction_of(row["expected_return_bps"], BAND)
        rows.append(
            dict.fromkeys(SIGNAL_SCHEMA.names())
            | {
                "id": str(k),
                "as_of": row["as_of"],
                "valid_until": find_horizon(horizon).end_of(row["as_of"]),
                "symbol": row["symbol"],
                "engine": engine,
                "horizon": horizon,
                "direction": said.value,
                "confidence": row[f"p_{said.value}"],
                "expected_return_bps": row["expected_return_bps"],
                "regime": str(words[k // SYMBOLS]),
            }
        )
    signals = pl.DataFrame(rows, schema=SIGNAL_SCHEMA)
    outcomes = pl.DataFrame(
        {
            "signal_id": signals["id"],
            "known_at": signals["valid_until"],
            "realised_return_bps": excess,
            "target_touched_at": None,
            "stop_touched_at": None,
        }
    ).cast(SIGNAL_OUTCOME_SCHEMA)
    return signals, outcomes, predictions, labels, regimes


def judged(sessions: int, **how) -> tuple[pl.DataFrame, pl.DataFrame]:
    signals, outcomes, predictions, labels, regimes = sides(sessions, **how)
    live = judge_signals(signals, outcomes, band_bps=BAND)
    return live, judge_predictions(predictions, labels, regimes, band_bps=BAND)


def test_signals_and_the_forecasts_that_they_came_from_are_judged_alike() -> None:
    live, walked = judged(40)
    order = [Judged.AS_OF, Judged.SYMBOL]
    assert_frame_equal(live.sort(order), walked.sort(order), rel_tol=1e-12)
    board = make_board(live, walked, seed=1)
    assert board.schema == BOARD_SCHEMA
    assert board["regime"].to_list() == ["all", "bull", "bear"]
    names = ["sessions", "signals", *MEASURES]
    promised = board.select(pl.col(f"promised_{name}").alias(name) for name in names)
    assert_frame_equal(board.select(names), promised, rel_tol=1e-9)


def test_measures_are_those_of_a_slow_count() -> None:
    signals, outcomes, *_ = sides(30, seed=3)
    live = judge_signals(signals, outcomes, band_bps=BAND)
    row = make_board(live, live.clear(), seed=1).row(0, named=True)
    hits = directed = 0
    squares, ranks = [], []
    both = signals.join(outcomes, left_on="id", right_on="signal_id")
    for moment in both["as_of"].unique().sort():
        part = both.filter(pl.col("as_of") == moment)
        ranks.append(spearmanr(part["expected_return_bps"], part["realised_return_bps"]).statistic)
        for r in part.to_dicts():
            came = direction_of(r["realised_return_bps"], BAND).value
            squares.append((r["confidence"] - (came == r["direction"])) ** 2)
            if r["direction"] != "neutral":
                directed += 1
                up = r["realised_return_bps"] > 0
                hits += up if r["direction"] == "long" else not up
    assert (row["sessions"], row["signals"]) == (30, 240)
    assert row["coverage"] == pytest.approx(directed / 240)
    assert row["hit_rate"] == pytest.approx(hits / directed)
    assert row["brier"] == pytest.approx(np.mean(squares))
    assert row["rank_ic"] == pytest.approx(np.mean(ranks))
    assert row["hit_rate_low"] < row["hit_rate"] < row["hit_rate_high"]
    assert row["rank_ic_low"] < row["rank_ic"] < row["rank_ic_high"]


def test_calibration_tells_honest_confidence_from_bold() -> None:
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.1, 0.9, 4000)
    happened = rng.random(4000) < confidence
    rows = pl.DataFrame(
        {
            "horizon": "1d",
            "regime": "bull",
            "engine": "a",
            "session": [DAYS[k % 100] for k in range(4000)],
            "as_of": [CLOSES[k % 100] for k in range(4000)],
            "symbol": [str(k) for k in range(4000)],
            "direction": 1,
            "confidence": confidence,
            "expected_return_bps": 20.0,
            "excess_return": np.where(happened, 0.01, -0.01),
            "outcome": np.where(happened, 1, -1),
        }
    ).with_columns(pl.col("direction", "outcome").cast(pl.Int8))
    bold = rows.with_columns(
        pl.when(pl.col("confidence") > 0.5).then(0.99).otherwise(0.01).alias("confidence")
    )
    fair, loud = (make_board(r, r.clear(), seed=1).row(0, named=True) for r in (rows, bold))
    assert fair["ece"] < 0.04 < 0.15 < loud["ece"]
    assert fair["brier_high"] < loud["brier_low"]
    # All forecasts are the same: there is no rank of them.
    assert fair["rank_ic"] is None


@pytest.mark.parametrize(
    ("sessions", "horizon", "there"), [(9, "1d", False), (40, "1d", True), (40, "14d", False)]
)
def test_intervals_are_absent_where_sessions_are_too_few(sessions, horizon, there) -> None:
    """Below ten; and where labels overlap over half of them."""
    live, _ = judged(sessions, horizon=horizon)
    row = make_board(live, live.clear(), seed=1).row(0, named=True)
    assert row["rank_ic"] is not None
    assert (row["rank_ic_low"] is not None) is there
    assert row["promised_sessions"] is None
    assert row["promised_rank_ic"] is None


def test_skill_is_seen_and_its_absence_is_not_denied() -> None:
    live, _ = judged(120, skill=0.5)
    row = make_board(live, live.clear(), seed=1).row(0, named=True)
    assert row["rank_ic_low"] > 0.3
    assert row["hit_rate_low"] > 0.55
    blind = [
        make_board(*[judged(120, skill=0.0, seed=s)[0]] * 2, seed=1).row(0, named=True)
        for s in range(20)
    ]
    outside = sum(not r["rank_ic_low"] <= 0.0 <= r["rank_ic_high"] for r in blind)
    assert outside <= 4, "of twenty intervals at 95 percent one misses on average"


def test_runs_of_one_day_count_one_forecast_once() -> None:
    signals, outcomes, *_ = sides(20)
    # Before the open the same bar is the newest: the same end, another row, another outcome row.
    morning = signals.with_columns(
        pl.col("as_of") + dt.timedelta(hours=16),
        ("m" + pl.col("id")).alias("id"),
        pl.lit("neutral").alias("direction"),
    )
    again = outcomes.with_columns(("m" + pl.col("signal_id")).alias("signal_id"))
    both = judge_signals(pl.concat([morning, signals]), pl.concat([outcomes, again]), band_bps=BAND)
    alone = judge_signals(signals, outcomes, band_bps=BAND)
    order = [Judged.AS_OF, Judged.SYMBOL]
    assert both.sort(order).equals(alone.sort(order))


def test_signals_without_an_outcome_do_not_count() -> None:
    signals, outcomes, *_ = sides(12)
    assert judge_signals(signals, outcomes.clear(), band_bps=BAND).is_empty()
    some = judge_signals(signals, outcomes.head(5), band_bps=BAND)
    assert some.height == 5
    unknown = sides(12)[3].with_columns(pl.lit(None, pl.Float64).alias("excess_return"))
    _, _, predictions, _, regimes = sides(12)
    assert judge_predictions(predictions, unknown, regimes, band_bps=BAND).is_empty()


def test_nothing_at_all_is_an_empty_board() -> None:
    live, _ = judged(1)
    board = make_board(live.clear(), live.clear(), seed=1)
    assert board.is_empty()
    assert board.schema == BOARD_SCHEMA


def test_rows_follow_the_horizons_table() -> None:
    parts = [judged(12, horizon=h)[0] for h in ("1M", "5m", "1d")]
    board = make_board(pl.concat(parts), parts[0].clear(), seed=1)
    assert board["horizon"].unique(maintain_order=True).to_list() == ["5m", "1d", "1M"]


@given(st.integers(0, 10_000))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_the_order_of_rows_does_not_matter(seed) -> None:
    live, walked = judged(25, seed=seed)
    mixed = live.sample(fraction=1.0, shuffle=True, seed=seed)
    one, two = (make_board(side, walked, seed=1, draws=50) for side in (live, mixed))
    floats = pl.selectors.float()
    assert one.select(~floats).equals(two.select(~floats))
    for a, b in zip(one.select(floats), two.select(floats), strict=True):
        assert a.to_list() == pytest.approx(b.to_list(), abs=1e-12)


def test_scores_are_added_up_in_the_order_of_the_rows() -> None:
    """Whatever the number of threads: promises are kept and compared by their content."""
    _, _, predictions, labels, regimes = sides(sessions=200, seed=3)
    rows = judge_predictions(predictions, labels, regimes, band_bps=BAND).with_columns(
        pl.lit(DAYS[0]).alias(Judged.SESSION)
    )
    total = 0.0
    for confidence, outcome, direction in rows.select(
        Judged.CONFIDENCE, Judged.OUTCOME, Judged.DIRECTION
    ).iter_rows():
        total += (confidence - float(outcome == direction)) ** 2
    (brier,) = score_judged(rows, seed=1).filter(regime="all")["brier"]
    assert brier == total / rows.height
