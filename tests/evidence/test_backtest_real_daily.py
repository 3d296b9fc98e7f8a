"""What stands beside the backtest on real daily bars, against loops and hand arithmetic."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from backtest.metrics import session_curve, session_series
from evidence import backtest_real_daily, daily_strategies, real_daily
from evidence import backtest_real_daily_runs as runs
from evidence.backtests import COSTS, STARTING_CASH_USD, Market, simulate_live
from evidence.cache_folders import cache_folder, run_of
from evidence.code_version import code_hash
from evidence.daily_peers import PYTHON
from evidence.part import Run
from features.regime import classify_regimes
from market.actions import forward_adjust, session_factors
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate
from models.forecast import PREDICTION_SCHEMA
from tests.evidence.small import result_of


@pytest.fixture(scope="module")
def made():
    return generate(SyntheticSpec(symbols=20, sessions=300, minute_sessions=0, seed=3))


@pytest.fixture(scope="module")
def market(made):
    return Market(made.daily, classify_regimes(made.daily), made.splits, made.dividends)


@pytest.fixture(scope="module")
def adjusted(made):
    factors = session_factors(made.daily, made.splits, made.dividends)
    return forward_adjust(made.daily, factors)


def predictions_of(daily: pl.DataFrame, horizon: str, expected: float = 10.0) -> pl.DataFrame:
    values = {"p_short": 0.2, "p_neutral": 0.3, "p_long": 0.5, "expected_return_bps": expected}
    words = {"horizon": horizon, "engine": "ensemble", "model_version": "x"}
    return daily.select(
        "symbol",
        "session",
        "bar_end",
        pl.col("bar_end").alias("as_of"),
        pl.lit(150.0).alias("volatility_bps"),
        **{k: pl.lit(v) for k, v in (values | words).items()},
    ).select(pl.col(n).cast(t) for n, t in PREDICTION_SCHEMA.items())


# ---------------------------------------------------------------------- the benchmark


def test_the_members_line_is_that_of_a_loop(adjusted):
    days = adjusted["session"].unique().sort().to_list()
    names = adjusted["symbol"].unique().sort().to_list()
    # One leaves after the tenth session, one joins after the twentieth.
    members = pl.DataFrame(
        [
            (d, n)
            for k, d in enumerate(days)
            for n in names
            if not (n == names[0] and k >= 10) and not (n == names[1] and k < 20)
        ],
        schema=["session", "symbol"],
        orient="row",
    )
    _, line = daily_strategies.member_benchmark(adjusted, members)
    closes = {(s, d): c for s, d, c in adjusted.select("symbol", "session", "close").iter_rows()}
    value, wanted = 1.0, [1.0]
    for before, day in pairwise(days):
        own = members.filter(pl.col("session") == before)["symbol"].to_list()
        moves = [
            closes[n, day] / closes[n, before] - 1
            for n in own
            if {(n, before), (n, day)} <= set(closes)
        ]
        value *= 1.0 + float(np.mean(moves))
        wanted.append(value)
    assert line["session"].to_list() == days
    np.testing.assert_allclose(line["value"].to_numpy()[:40], wanted[:40], rtol=1e-9)


# ---------------------------------------------------------------------- buy and hold


def test_holding_flat_prices_loses_the_costs_of_buying_and_no_more(made):
    flat = made.daily.with_columns(pl.lit(50.0).alias(c) for c in ("open", "high", "low", "close"))
    market = Market(flat, classify_regimes(made.daily), made.splits[:0], made.dividends[:0])
    days = flat["session"].unique().sort().to_list()
    names = flat.filter(pl.col("session") == days[100])["symbol"].to_list()[:4]
    curve = daily_strategies.buy_and_hold(market, flat, names, days[100])
    each = STARTING_CASH_USD / 4
    # No volatility, so no impact: the constant half-spread is half a tick, or one basis point.
    rate = max(COSTS.half_spread_bps, 0.005 / 50.0 * 1e4) + COSTS.slippage_bps
    assert curve["session"][0] == days[99]
    assert curve["equity_usd"][0] == STARTING_CASH_USD
    assert curve["costs_usd"][-1] == pytest.approx(4 * each * rate / 1e4, rel=1e-6)
    np.testing.assert_allclose(curve["equity_usd"][1:], STARTING_CASH_USD - curve["costs_usd"][1:])


def test_what_is_held_follows_adjusted_prices_and_keeps_the_last_one(market, adjusted):
    days = adjusted["session"].unique().sort().to_list()
    whole = adjusted.group_by("symbol").len().filter(pl.col("len") == len(days))["symbol"].sort()
    gone, stays = whole.to_list()[:2]
    ended = (pl.col("symbol") == gone) & (pl.col("session") > days[150])
    left = Market(market.bars.filter(~ended), market.regimes, market.splits, market.dividends)
    known = adjusted.filter(~ended)
    curve = daily_strategies.buy_and_hold(left, known, [gone, stays], days[100])

    def growth(symbol, until):
        own = adjusted.filter(pl.col("symbol") == symbol)
        start = own.filter(pl.col("session") == days[100])["open"][0]
        return own.filter(pl.col("session") == until)["close"][0] / start

    paid = curve["costs_usd"][-1]
    assert 0.0 < paid < 0.01 * STARTING_CASH_USD
    half = STARTING_CASH_USD / 2
    for until in (days[120], days[-1]):
        before_costs = half * (growth(gone, min(until, days[150])) + growth(stays, until))
        found = curve.filter(pl.col("session") == until)["equity_usd"][0]
        assert found == pytest.approx(before_costs, abs=3.0 * paid)
        assert found < before_costs


# ---------------------------------------------------------------------- momentum


def test_momentum_is_long_in_the_best_of_a_loop_and_in_nothing_else(adjusted):
    like = predictions_of(adjusted, "1M")
    found = daily_strategies.momentum_predictions(adjusted, like, every=10, share=0.2)
    days = adjusted["session"].unique().sort().to_list()
    closes = {(s, d): c for s, d, c in adjusted.select("symbol", "session", "close").iter_rows()}
    by_symbol = {
        str(k[0]): f["session"].to_list() for k, f in adjusted.sort("session").group_by("symbol")
    }
    formed = found["session"].unique().sort().to_list()
    assert [days.index(b) - days.index(a) for a, b in pairwise(formed)] == [10] * (len(formed) - 1)
    for day in formed:
        past = {}
        for name, own in by_symbol.items():
            if day in own and own.index(day) >= 252:
                at = own.index(day)
                past[name] = closes[name, own[at - 21]] / closes[name, own[at - 252]] - 1
        best = sorted(past, key=past.__getitem__, reverse=True)[: round(0.2 * len(past))]
        rows = found.filter(pl.col("session") == day)
        assert set(rows["symbol"]) == set(past)
        long = rows.filter(pl.col("p_long") > pl.col("p_neutral"))
        assert set(long["symbol"]) == set(best)
    assert np.allclose(found.select(pl.sum_horizontal("p_short", "p_neutral", "p_long")), 1.0)


def test_the_live_code_trades_momentum_and_holds_nothing_else(market, adjusted):
    like = predictions_of(adjusted, "1M")
    traded = daily_strategies.momentum_predictions(adjusted, like, every=21, share=0.2)
    simulation = simulate_live(traded, market, find_horizon("1M"))
    bought = simulation.fills.filter(pl.col("side") == "buy")["symbol"].unique()
    best = traded.filter(pl.col("p_long") > pl.col("p_neutral"))["symbol"].unique()
    assert len(bought) > 0
    assert set(bought) <= set(best)
    assert float(simulation.equity["net_exposure"].max()) > 0.1


# ---------------------------------------------------------------------- looks and rates


def test_every_look_raises_the_number_of_trials():
    now, later = runs.count_trials(5), runs.count_trials(6)
    assert later.total - now.total == real_daily.engines_judged()
    # Four horizons; the fourth look judged linear, lightgbm and their mean, and the group.
    assert now.forecasters == 4 * (8 + 7 + 7 + 7)
    assert now.backtests == 8
    assert now.total == now.forecasters + now.backtests


def test_another_configuration_of_the_backtest_is_a_look_and_other_forecasts_are_too(tmp_path):
    looks = tmp_path / "looks.json"
    day = dt.date(2026, 1, 1)

    def look(config):
        return real_daily.count_look(config, looks, today=day, changed="a", what="b")["look"]

    assert [look(real_daily.CONFIG), look(runs.CONFIG), look(runs.CONFIG)] == [1, 2, 2]
    assert look({**runs.CONFIG, "horizons": ["1d"]}) == 3
    other = real_daily.config_hash({**real_daily.CONFIG, "seed": 2})
    assert other != runs.CONFIG["forecasts"]
    assert look({**runs.CONFIG, "forecasts": other}) == 4
    assert {x["what"] for x in real_daily.read_looks(looks)} == {"b"}


def test_rates_are_what_orders_paid(market, adjusted):
    simulation = simulate_live(predictions_of(market.bars, "1d"), market, find_horizon("1d"))
    rates = runs.cost_rates(simulation)
    for side in ("buy", "sell"):
        own = [r for r in simulation.fills.to_dicts() if r["side"] == side]
        cost = sum(r["cost_usd"] for r in own)
        assert rates[side] == pytest.approx(cost / sum(r["quantity"] * r["price"] for r in own))
    assert rates["sell"] > 0.0002


def test_a_curve_is_measured_as_the_simulator_measures_its_own(market, adjusted):
    simulation = simulate_live(predictions_of(market.bars, "7d"), market, find_horizon("7d"))
    curve = session_curve(simulation)
    days = adjusted.select("session").unique().sort("session")
    benchmark = days.with_columns(pl.int_range(pl.len()).alias("value") + 100.0)
    series = daily_strategies.series_of(curve, benchmark)
    same = session_series(curve, benchmark)
    for name in ("returns", "before_costs", "turnover", "gross", "net", "benchmark"):
        np.testing.assert_allclose(
            getattr(series, name), getattr(same, name), rtol=1e-9, atol=1e-15
        )


def test_another_parts_files_are_found_where_the_command_keeps_them(tmp_path):
    mine = Run(tmp_path / "cache" / runs.NAME / "x", Path("bars"))
    beside = run_of(real_daily, mine)
    code = code_hash(real_daily.measure.__module__)
    assert beside.folder == cache_folder(tmp_path / "cache", "real_daily", code, real_daily.CONFIG)
    assert beside.folder.parent == tmp_path / "cache" / "real_daily"
    assert beside.bars == mine.bars


# ---------------------------------------------------------------------- pyqlib


@pytest.mark.skipif(not PYTHON.exists(), reason="pyqlib is not installed")
def test_pyqlibs_strategy_trades_at_the_open_at_our_rates(tmp_path, adjusted):
    days = adjusted["session"].unique().sort().to_list()
    daily = adjusted.filter(pl.col("session") <= days[40])
    counts = daily.group_by("symbol").len().filter(pl.col("len") == 41)["symbol"].sort().to_list()
    a, b = counts[:2]
    # The first is the best until the thirtieth close, then the second.
    signal = pl.DataFrame(
        [(s, d, float((s == a) == (k < 30))) for k, d in enumerate(days[:41]) for s in (a, b)],
        schema=["symbol", "session", "forecast"],
        orient="row",
    )
    curve = daily_strategies.topk_dropout(
        tmp_path,
        signal,
        "one",
        bars=daily_strategies.dump_for_pyqlib(tmp_path, daily),
        first=days[21],
        last=days[40],
        deal="open",
        rates={"buy": 0.001, "sell": 0.002},
        config={"topk": 1, "n_drop": 1},
    )
    assert curve["session"].to_list() == days[20:41]

    def price(symbol, k, what):
        own = daily.filter(pl.col("symbol") == symbol, pl.col("session") == days[k])
        return own[what][0]

    spent = 0.95 * STARTING_CASH_USD
    cash = STARTING_CASH_USD - spent * 1.001
    held = cash + spent / price(a, 21, "open") * price(a, 29, "close")
    assert curve["equity_usd"][9] == pytest.approx(held, rel=1e-5)
    cash += spent / price(a, 21, "open") * price(a, 31, "open") * 0.998
    # What is sold at this open is cash for what is bought at it.
    bought = 0.95 * cash
    wanted = cash - bought * 1.001 + bought / price(b, 31, "open") * price(b, 40, "close")
    assert curve["equity_usd"][20] == pytest.approx(wanted, rel=1e-3)


# ---------------------------------------------------------------------- the chapter


def test_the_chapter_shows_what_was_measured():
    reports = result_of("backtest_planted_alpha")["seeds"]
    both = {
        "as installed": {**reports[0], "delisted": 0, "stopped_from": "2010-07-01"},
        runs.UNSTOPPED: {**reports[1], "delisted": 1},
    }
    beside = {
        "table": [r for r in reports[0]["table"] if r["group"] == "all"],
        "probabilistic_sharpe_ratio": 0.97,
        "minimum_track_record_sessions": None,
    }
    gap = {"value": -0.512, "low": -1.0, "high": 0.1}
    result = {
        "config": runs.CONFIG,
        "look": {"look": 5, "looks": 5, "date": "2026-01-01", "config": "abc"},
        "universe": {
            "members": 500.0,
            "members_with_bars": 330.0,
            "with_bars_by_year": {"2010": 0.6, "2011": 0.7},
            "symbols": 504,
            "ended_before_the_end": 0,
        },
        "horizons": {"1d": {"reports": both, "rates": {"buy": 0.0005, "sell": 0.0006}}},
        "momentum": {"reports": both},
        "held": beside,
        "topk": {"1d": {"linear, open": beside}},
        "differences": {"1d": {"held": gap, "topk-1d-linear-open": gap}},
    }
    text = backtest_real_daily.sections(result)
    assert "It happened: 1d from 2010-07-01, momentum from 2010-07-01." in text
    assert "2 positions were closed because a symbol stopped trading" in text
    assert "| 1d | TopkDropout linear, open | -0.51 (-1.00 to +0.10) |" in text
    assert "1d 5.0 and 6.0 bps" in text
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.strip().splitlines()}) == 1
    assert "None" not in text.replace("None of", "")
