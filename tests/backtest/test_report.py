"""Metrics on a constructed series, and the tear sheet."""

from __future__ import annotations

import datetime as dt
import json
import math
import re

import numpy as np
import polars as pl
import pytest

from backtest.benchmark import universe_benchmark
from backtest.metrics import compute_metrics, drawdowns, sharpe_interval, sharpe_ratio
from backtest.simulation import (
    CASH_FLOW_SCHEMA,
    DENIAL_SCHEMA,
    EQUITY_SCHEMA,
    MARK_SCHEMA,
    ORDER_SCHEMA,
    Simulation,
)
from backtest.tearsheet import render_tear_sheet
from features.labels import forward_returns
from market import calendar
from market.actions import forward_adjust, session_factors
from market.errors import BacktestError
from market.horizons import find_horizon
from tests.backtest import scenes

DAY = find_horizon("1d")
NO_SCORES = pl.DataFrame(
    schema={
        "bar_end": EQUITY_SCHEMA["bar_end"],
        "expected_return_bps": pl.Float64,
        "excess_return": pl.Float64,
    }
)


def constructed(values: list[float], cost: float = 0.0, skip: int | None = None) -> Simulation:
    """A simulation that has nothing but an equity curve, one session per value."""
    days = [d for n, d in enumerate(scenes.sessions(len(values))) if n != skip]
    kept = [v for n, v in enumerate(values) if n != skip]
    equity = pl.DataFrame(
        {
            "bar_end": [calendar.session_close(d) for d in days],
            "session": days,
            "cash_usd": kept,
            "equity_usd": kept,
            "gross_exposure": [0.5] * len(kept),
            "net_exposure": [-0.25] * len(kept),
            "turnover": [0.0] + [0.1] * (len(kept) - 1),
            "cost_usd": [0.0] + [cost] * (len(kept) - 1),
        },
        schema=EQUITY_SCHEMA,
    )
    return Simulation(
        horizon="1d",
        starting_cash_usd=values[0],
        orders=pl.DataFrame(schema=ORDER_SCHEMA),
        denials=pl.DataFrame(schema=DENIAL_SCHEMA),
        equity=equity,
        cash_flows=pl.DataFrame(schema=CASH_FLOW_SCHEMA),
        marks=pl.DataFrame(schema=MARK_SCHEMA),
        skips=pl.DataFrame(schema={"reason": pl.String, "count": pl.Int64}),
    )


@pytest.fixture(scope="module")
def sheet() -> tuple[dict[str, object], Simulation, str]:
    market = scenes.synthetic()
    factors = session_factors(market.daily, market.splits, market.dividends)
    adjusted = forward_adjust(market.daily, factors)
    labels = forward_returns(adjusted, DAY).select("symbol", "bar_end", "excess_return")
    scored = scenes.oracle("1d").join(labels, on=["symbol", "bar_end"], how="left")
    simulation = scenes.run_synthetic("1d")
    metrics = compute_metrics(simulation, scored, horizon=DAY, seed=3)
    text = render_tear_sheet(
        metrics,
        simulation,
        title="A <b>bold</b> title </script>",
        subtitle="& more",
        benchmark=universe_benchmark(adjusted),
    )
    return metrics, simulation, text


def test_metrics_of_a_constructed_series():
    m = compute_metrics(
        constructed([100.0, 110.0, 99.0, 104.5, 110.0, 121.0], cost=1.0),
        NO_SCORES,
        horizon=DAY,
        seed=1,
    )
    returns = np.array([0.1, -0.1, 104.5 / 99 - 1, 110 / 104.5 - 1, 0.1])
    assert m["sessions"] == 5
    assert m["start"] == scenes.sessions(2)[1].isoformat()
    assert m["total_return"] == pytest.approx(0.21)
    assert m["annual_return"] == pytest.approx(1.21 ** (252 / 5) - 1)
    assert m["annual_volatility"] == pytest.approx(returns.std(ddof=1) * math.sqrt(252))
    assert m["sharpe_ratio"] == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(252))
    assert m["sortino_ratio"] == pytest.approx(
        returns.mean() / math.sqrt(0.01 / 5) * math.sqrt(252)
    )
    assert m["max_drawdown"] == pytest.approx(-0.1)
    assert m["max_drawdown_sessions"] == 3  # from the peak to the session that regains it
    assert m["calmar_ratio"] == pytest.approx((1.21 ** (252 / 5) - 1) / 0.1)
    assert m["annual_turnover"] == pytest.approx(0.1 * 252)
    assert m["average_gross_exposure"] == 0.5
    assert m["average_net_exposure"] == -0.25
    assert m["total_costs_usd"] == 5.0
    assert m["total_return_before_costs"] == pytest.approx(0.26)


def test_what_cannot_be_computed_is_null():
    m = compute_metrics(constructed([100.0, 100.0, 100.0]), NO_SCORES, horizon=DAY, seed=1)
    for name in ("sharpe_ratio", "sortino_ratio", "calmar_ratio", "hit_rate", "rank_ic"):
        assert m[name] is None, name
    assert m["sharpe_interval"] == [None, None]
    assert m["max_drawdown_sessions"] == 0
    assert "NaN" not in json.dumps(m, allow_nan=False)


def test_a_session_without_bars_counts():
    m = compute_metrics(
        constructed([100.0, 110.0, 0.0, 121.0], skip=2), NO_SCORES, horizon=DAY, seed=1
    )
    assert m["sessions"] == 3


def test_metrics_refuse_another_horizon():
    with pytest.raises(BacktestError, match="another horizon"):
        compute_metrics(constructed([1.0, 2.0]), NO_SCORES, horizon=find_horizon("7d"), seed=1)


def test_the_sharpe_interval_holds_the_ratio_and_is_reproducible():
    returns = np.random.default_rng(4).normal(0.001, 0.01, 500)
    low, high = sharpe_interval(returns, seed=1, block=5.0)
    assert low < sharpe_ratio(returns) < high
    assert [low, high] == sharpe_interval(returns, seed=1, block=5.0)
    # The large-sample standard error of an annual Sharpe ratio is near sqrt(252 / n).
    assert (high - low) / 3.92 == pytest.approx(math.sqrt(252 / 500), rel=0.25)
    assert drawdowns(np.array([1.0, 2.0, 1.0])).tolist() == [0.0, 0.0, -0.5]


def test_metrics_of_a_simulation_are_json_and_say_what_happened(sheet):
    metrics, simulation, _ = sheet
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["orders_filled"] == simulation.fills.height
    assert metrics["total_costs_usd"] == pytest.approx(simulation.fills["cost_usd"].sum())
    assert metrics["rank_ic"] > 0.0
    assert metrics["total_return_before_costs"] > metrics["total_return"]
    closed = simulation.trades.filter("is_closed")["pnl_usd"]
    assert metrics["hit_rate"] == pytest.approx((closed > 0).mean())
    assert len(metrics["rank_ic_by_month"]) == simulation.equity["session"].dt.month().n_unique()


def test_the_tear_sheet_shows_its_numbers(sheet):
    metrics, _, text = sheet
    body = text[: text.index("<script>")]
    for expected in (
        f"{metrics['sharpe_ratio']:.2f}".replace("-", "−"),
        f"{metrics['sharpe_interval'][0]:.2f}".replace("-", "−"),
        f"{metrics['rank_ic']:.3f}",
        f"{metrics['total_return']:.1%}".replace("-", "−"),
        f"${metrics['total_costs_usd']:,.0f}",
        f"{metrics['orders']:,}",
        str(metrics["start"]),
        str(metrics["end"]),
    ):
        assert expected in body, expected
    for chart in ("equity", "drawdown", "ic", "exposure", "turnover"):
        assert f'id="{chart}"' in body
    assert "A &lt;b&gt;bold&lt;/b&gt; title" in body
    assert "<b>bold" not in text
    assert "Universe" in text


def test_the_tear_sheet_loads_nothing(sheet):
    text = sheet[2]
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=", text[:20_000])
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]
    assert "http:" not in own
    assert "https:" not in own
    assert "@import" not in own
    assert "url(" not in own


def test_the_tear_sheet_refuses_what_does_not_belong_together(sheet):
    metrics, simulation, _ = sheet
    with pytest.raises(BacktestError, match="another simulation"):
        render_tear_sheet({"horizon": "1h"}, simulation, title="", subtitle="")
    late = pl.DataFrame({"session": [dt.date(2029, 1, 2)], "value": [1.0]})
    with pytest.raises(BacktestError, match="no value at the start"):
        render_tear_sheet(metrics, simulation, title="", subtitle="", benchmark=late)


def test_a_tear_sheet_without_any_trade_is_drawn():
    simulation = constructed([100.0, 100.0, 100.0])
    metrics = compute_metrics(simulation, NO_SCORES, horizon=DAY, seed=1)
    text = render_tear_sheet(metrics, simulation, title="Quiet", subtitle="")
    assert "too little to judge" in text


def test_the_benchmark_is_the_mean_return_of_the_universe():
    bars = scenes.daily_bars({"AAA": [(1, 10), (1, 11), (1, 11)], "BBB": [(1, 20), (1, 20), None]})
    assert universe_benchmark(bars)["value"].to_list() == pytest.approx([1.0, 1.05, 1.05])
