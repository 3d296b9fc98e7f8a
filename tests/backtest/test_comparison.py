"""Runs side by side: their own numbers, and differences over what they share."""

from __future__ import annotations

import datetime as dt
import math
import re

import numpy as np
import polars as pl
import pytest

from backtest.comparison import (
    SESSION_SCHEMA,
    Run,
    compare_runs,
    comparison_verdict,
    render_comparison,
    written_rows,
)
from backtest.metrics import compute_metrics, session_curve
from market.errors import BacktestError
from tests.backtest.test_report import DAY, NO_SCORES, constructed


def run_of(name: str, returns: np.ndarray) -> Run:
    simulation = constructed([100.0, *(100.0 * np.cumprod(1.0 + returns)).tolist()])
    metrics = compute_metrics(simulation, NO_SCORES, horizons=[DAY], seed=1)
    return Run(name, metrics, session_curve(simulation).select(SESSION_SCHEMA.names()))


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    shared = np.random.default_rng(0).normal(0.0, 0.01, 120)
    own = np.random.default_rng(1).normal(0.0, 0.001, 120)
    return [run_of("one", shared), run_of("better", shared + 0.001), run_of("like", shared + own)]


def test_each_column_is_the_run_s_own(runs: list[Run]) -> None:
    rows = {r["metric"]: r for r in compare_runs(runs, seed=1)}
    for run in runs:
        for metric in ("total_return", "sharpe_ratio", "max_drawdown"):
            assert rows[metric]["values"][run.name]["value"] == run.metrics[metric]
        low, high = run.metrics["sharpe_interval"]
        assert rows["sharpe_ratio"]["values"][run.name]["low"] == low
        assert rows["sharpe_ratio"]["values"][run.name]["high"] == high
    assert rows["sessions"]["values"]["one"]["value"] == 120


def test_what_moves_both_is_no_part_of_their_difference(runs: list[Run]) -> None:
    """Ten basis points a day more are far above noise that both share, unknowable alone."""
    rows = compare_runs(runs, seed=1)
    leads = next(r for r in rows if r["metric"] == "sharpe_difference")["values"]
    assert leads["one"]["value"] is None
    better, like = leads["better"], leads["like"]
    first, second = (r.returns["value"].to_numpy() for r in runs[:2])
    sharpes = [v.mean() / v.std(ddof=1) * math.sqrt(252) for v in (first, second)]
    assert better["value"] == pytest.approx(sharpes[1] - sharpes[0])
    assert 0.0 < better["low"] < better["value"] < better["high"]
    assert like["low"] < 0.0 < like["high"]
    alone = runs[1].metrics["sharpe_interval"]
    assert alone[1] - alone[0] > 3 * (better["high"] - better["low"])
    assert comparison_verdict(runs, rows) == "Against one, by more than chance: better above."
    pair = [runs[0], runs[2]]
    assert "No Sharpe ratio differs" in comparison_verdict(pair, compare_runs(pair, seed=1))


def test_only_shared_sessions_are_compared(runs: list[Run]) -> None:
    late = Run("late", runs[1].metrics, runs[1].sessions[60:])
    rows = compare_runs([runs[0], late], seed=1)
    lead = next(r for r in rows if r["metric"] == "sharpe_difference")["values"]["late"]
    a, b = (r.returns["value"].to_numpy()[-60:] for r in runs[:2])
    sharpes = [v.mean() / v.std(ddof=1) * math.sqrt(252) for v in (a, b)]
    assert lead["value"] == pytest.approx(sharpes[1] - sharpes[0])
    moved = runs[1].sessions.with_columns(pl.col("session") + dt.timedelta(days=4000))
    other = compare_runs([runs[0], Run("other", runs[1].metrics, moved)], seed=1)
    lead = next(r for r in other if r["metric"] == "sharpe_difference")["values"]["other"]
    assert lead["value"] is None


def test_the_page_shows_every_run_and_loads_nothing(runs: list[Run]) -> None:
    named = [runs[0], Run("<i>two</i>", runs[1].metrics, runs[1].sessions)]
    page = render_comparison(named, title="Side by side", seed=1)
    body = page[: page.index("<script>")]
    assert "&lt;i&gt;two&lt;/i&gt;" in body
    assert "<i>two" not in body
    for row in written_rows(compare_runs(named, seed=1)):
        for cell in row[1:]:
            assert cell.partition("\n")[0] in body
    for chart in ("growth", "drawdown", "rolling", "ic"):
        assert f'id="{chart}"' in body
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", page[:20_000])


def test_one_run_or_one_twice_is_no_comparison(runs: list[Run]) -> None:
    for wrong in (runs[:1], [runs[0], runs[0]], [run for _ in range(4) for run in runs]):
        with pytest.raises(BacktestError, match="runs to compare"):
            compare_runs(wrong, seed=1)
