"""Metrics on a constructed series, and the tear sheet."""

from __future__ import annotations

import datetime as dt
import html
import json
import math
import re
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest

from backtest.benchmark import find_benchmark, universe_benchmark
from backtest.metric_names import METRICS, headline
from backtest.metrics import (
    compute_metrics,
    drawdowns,
    session_curve,
    session_series,
    sharpe_interval,
    sharpe_ratio,
)
from backtest.overfitting import Trials, compare_engines, judge_overfitting
from backtest.sensitivity import capacity, cost_sensitivity
from backtest.session_metrics import METRIC_SCHEMA
from backtest.simulation import (
    CASH_FLOW_SCHEMA,
    DENIAL_SCHEMA,
    EQUITY_SCHEMA,
    MARK_SCHEMA,
    ORDER_SCHEMA,
    Simulation,
)
from backtest.tearsheet import render_tear_sheet
from backtest.tearsheet_tables import monthly_returns
from features.labels import forward_returns
from features.regime import classify_regimes
from market import calendar
from market.actions import forward_adjust, session_factors
from market.costs import CostModel
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


def engines(scored: pl.DataFrame) -> pl.DataFrame:
    """The forecasts, and the same upside down as another engine."""
    other = scored.with_columns(pl.lit("contrary").alias("engine"), -pl.col("expected_return_bps"))
    return pl.concat([scored, other])


@pytest.fixture(scope="module")
def sheet() -> tuple[dict[str, object], Simulation, str]:
    market = scenes.synthetic()
    factors = session_factors(market.daily, market.splits, market.dividends)
    adjusted = forward_adjust(market.daily, factors)
    labels = forward_returns(adjusted, DAY).select("symbol", "bar_end", "excess_return")
    scored = scenes.oracle("1d").join(labels, on=["symbol", "bar_end"], how="left")
    simulation = scenes.run_synthetic("1d")
    metrics = compute_metrics(
        simulation,
        scored,
        horizons=[DAY],
        seed=3,
        benchmark=universe_benchmark(adjusted),
        regimes=classify_regimes(market.daily),
    )
    returns = session_series(session_curve(simulation)).returns
    metrics["overfitting"] = judge_overfitting(
        returns, Trials(2, 6, 30, 1, (), "two <stores>"), compare_engines(engines(scored), [DAY])
    )
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
        horizons=[DAY],
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
    m = compute_metrics(constructed([100.0, 100.0, 100.0]), NO_SCORES, horizons=[DAY], seed=1)
    for name in ("sharpe_ratio", "sortino_ratio", "calmar_ratio", "hit_rate", "rank_ic"):
        assert m[name] is None, name
    assert m["sharpe_interval"] == [None, None]
    assert m["max_drawdown_sessions"] == 0
    assert "NaN" not in json.dumps(m, allow_nan=False)


def test_a_session_without_bars_counts():
    m = compute_metrics(
        constructed([100.0, 110.0, 0.0, 121.0], skip=2), NO_SCORES, horizons=[DAY], seed=1
    )
    assert m["sessions"] == 3


def test_metrics_refuse_another_horizon():
    with pytest.raises(BacktestError, match="another horizon"):
        compute_metrics(constructed([1.0, 2.0]), NO_SCORES, horizons=[find_horizon("7d")], seed=1)


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
    for chart in ("equity", "drawdown", "rolling", "ic", "exposure", "turnover"):
        assert f'id="{chart}"' in body
    for label, value, interval in headline(metrics):
        assert html.escape(label) in body
        assert value in body, label
        assert interval in body, label
    assert metrics["overfitting"]["verdict"] in body
    assert "two &lt;stores&gt;" in body
    for title in ("By year", "By regime", "By side"):
        assert title in body
    assert "A &lt;b&gt;bold&lt;/b&gt; title" in body
    assert "<b>bold" not in text
    assert "Universe" in text


def test_every_metric_is_in_the_table_by_group(sheet):
    metrics, _, _ = sheet
    table = pl.DataFrame(metrics["table"], schema=METRIC_SCHEMA)
    whole = table.filter(pl.col("group") == "all")
    assert set(whole["metric"]) == {m.metric for m in METRICS}
    for by, names in {
        "year": {"sharpe_ratio", "max_drawdown", "hit_rate", "rank_ic"},
        "regime": {"sharpe_ratio", "beta", "profit_factor", "ic"},
        "confidence": {"hit_rate", "rank_ic"},
        "horizon": {"ic", "rank_ic"},
    }.items():
        mine = table.filter(pl.col("group").str.starts_with(f"{by}="))
        assert names <= set(mine["metric"]), by
    assert table.select("metric", "group").is_duplicated().sum() == 0
    assert table.filter(pl.col("low") > pl.col("high")).is_empty()
    assert table["n"].min() > 0
    assert metrics["beta"] is not None


def test_years_make_up_the_whole():
    values = 100.0 * np.cumprod(1.0 + np.random.default_rng(0).normal(0.0, 0.01, 320))
    m = compute_metrics(constructed(values.tolist()), NO_SCORES, horizons=[DAY], seed=1)
    years = [
        r["value"]
        for r in m["table"]
        if r["metric"] == "total_return" and r["group"].startswith("year=")
    ]
    assert len(years) == 2
    assert math.prod(1.0 + v for v in years) - 1.0 == pytest.approx(m["total_return"])


def test_months_make_up_the_whole():
    values = 100.0 * np.cumprod(1.0 + np.random.default_rng(0).normal(0.0, 0.01, 320))
    simulation = constructed(values.tolist())
    curve = session_curve(simulation)
    table = monthly_returns(curve)
    assert table["year"].to_list() == [2024, 2025]
    assert table["1"][0] is None  # the record begins in March
    months = [v for row in table.iter_rows() for v in row[1:-1] if v is not None]
    assert math.prod(1.0 + v for v in months) == pytest.approx(values[-1] / values[0])
    assert math.prod(1.0 + v for v in table["total"]) == pytest.approx(values[-1] / values[0])
    april = curve.filter(pl.col("session") <= dt.date(2024, 4, 30))["equity_usd"][-1]
    march = curve.filter(pl.col("session") <= dt.date(2024, 3, 31))["equity_usd"][-1]
    assert table["4"][0] == pytest.approx(april / march - 1.0)


def test_the_strategy_that_holds_the_benchmark_has_a_beta_of_one():
    values = 100.0 * np.cumprod(1.0 + np.random.default_rng(0).normal(0.0, 0.01, 60))
    simulation = constructed(values.tolist())
    curve = session_curve(simulation)
    held = curve.select("session", (3.0 * pl.col("equity_usd")).alias("value"))
    m = compute_metrics(simulation, NO_SCORES, horizons=[DAY], seed=1, benchmark=held)
    assert m["beta"] == pytest.approx(1.0)
    assert m["alpha"] == pytest.approx(0.0, abs=1e-9)
    assert m["benchmark_total_return"] == pytest.approx(m["total_return"])


@pytest.mark.parametrize(("deflated", "tone"), [(0.99, "green"), (0.81, "gold"), (None, "gold")])
def test_the_verdict_is_green_only_where_the_looks_do_not_explain_it(deflated, tone):
    simulation = scenes.run_synthetic("1d")
    m = compute_metrics(simulation, NO_SCORES, horizons=[DAY], seed=1)
    m |= {
        "sharpe_interval": [0.3, 2.5],
        "overfitting": judge_overfitting(np.zeros(3), Trials(0, 0, 0, 1, (), "nothing"), {})
        | {"deflated_sharpe_ratio": deflated},
    }
    page = render_tear_sheet(m, simulation, title="", subtitle="")
    assert f"border-left: 4px solid var(--{tone})" in page


@pytest.mark.parametrize("day", [None, "2024-05-06"])
def test_that_trading_stopped_is_said_at_the_top(day):
    simulation = scenes.run_synthetic("1d")
    m = compute_metrics(simulation, NO_SCORES, horizons=[DAY], seed=1) | {"stopped_from": day}
    page = render_tear_sheet(m, simulation, title="", subtitle="")
    assert (f"From {day} on the limit on drawdowns" in page) == (day is not None)


def test_every_line_of_costs_is_told_and_shown():
    simulation = scenes.run_synthetic("1d", costs=CostModel(commission_bps=0.2))
    m = compute_metrics(simulation, NO_SCORES, horizons=[DAY], seed=1)
    m |= {
        "cost_sensitivity": cost_sensitivity(simulation).to_dicts(),
        "capacity": asdict(capacity(simulation)),
    }
    assert sum(m["cost_lines"].values()) == pytest.approx(m["total_costs_usd"])
    assert sum(m["orders_by_status"].values()) == m["orders"]
    page = render_tear_sheet(m, simulation, title="", subtitle="")
    names = ("Commission", "Regulatory fees", "Half-spread", "Market impact", "Slippage")
    for name in (*names, "Borrowing shares", "Under other costs", "× 3", "Sharpe ratio is half"):
        assert name in page, name


def test_the_fund_is_the_benchmark_where_it_is_there_all_along():
    bars = scenes.daily_bars({"SPY": [(1, 10), (1, 11), (1, 12)], "AAA": [(1, 5), (1, 5), (1, 5)]})
    days = scenes.sessions(3)
    name, held = find_benchmark(bars, days)
    assert (name, held["value"].to_list()) == ("SPY", [10.0, 11.0, 12.0])
    assert find_benchmark(bars.filter(pl.col("session") != days[1]), days)[0] == "Universe"


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
    metrics = compute_metrics(simulation, NO_SCORES, horizons=[DAY], seed=1)
    text = render_tear_sheet(metrics, simulation, title="Quiet", subtitle="")
    assert "too little to judge" in text


def test_the_benchmark_is_the_mean_return_of_the_universe():
    bars = scenes.daily_bars({"AAA": [(1, 10), (1, 11), (1, 11)], "BBB": [(1, 20), (1, 20), None]})
    assert universe_benchmark(bars)["value"].to_list() == pytest.approx([1.0, 1.05, 1.05])
