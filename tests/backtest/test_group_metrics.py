"""Groups are those of the trades and forecasts, and their numbers a plain count of them."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr

from backtest.group_metrics import (
    confidence_bucket,
    regime_of_sessions,
    skill_metrics,
    trade_metrics,
)
from backtest.metrics import session_curve
from backtest.session_metrics import draw_sessions
from features.labels import forward_returns
from market import calendar
from market.actions import forward_adjust, session_factors
from market.horizons import find_horizon
from tests.backtest import scenes

DAY = find_horizon("1d")
SECTORS = ("Energy", "Health")


@pytest.fixture(scope="module")
def scene() -> dict[str, Any]:
    market = scenes.synthetic()
    factors = session_factors(market.daily, market.splits, market.dividends)
    labels = forward_returns(forward_adjust(market.daily, factors), DAY)
    rng = np.random.default_rng(0)
    predictions = scenes.oracle("1d")
    sure = rng.uniform(0.34, 0.8, predictions.height)
    up = (predictions["expected_return_bps"] >= 0.0).to_numpy()
    predictions = predictions.with_columns(
        pl.Series("p_long", np.where(up, sure, 0.1)), pl.Series("p_short", np.where(up, 0.1, sure))
    )
    simulation = scenes.run_synthetic("1d", predictions=predictions)
    symbols = predictions["symbol"].unique().sort()
    return {
        "simulation": simulation,
        "scored": predictions.join(
            labels.select("symbol", "bar_end", "excess_return"), on=["symbol", "bar_end"]
        ),
        "sessions": session_curve(simulation)["session"][1:].to_list(),
        "sectors": pl.DataFrame(
            {"symbol": symbols, "sector": [SECTORS[k % 2] for k in range(len(symbols))]}
        ),
        "regimes": pl.DataFrame(
            {
                "as_of": [dt.datetime(2025, 3, 3, 22, tzinfo=dt.UTC)],
                "regime": ["bull"],
            }
        ),
    }


def trades_of(scene: dict[str, Any]) -> pl.DataFrame:
    sessions = scene["sessions"]
    return trade_metrics(
        scene["simulation"],
        scene["scored"],
        sessions,
        draw_sessions(len(sessions), block=3.0, seed=1),
        regimes=scene["regimes"],
        sectors=scene["sectors"],
    )


def row(table: pl.DataFrame, metric: str, group: str) -> dict[str, Any]:
    return table.filter(pl.col("metric") == metric, pl.col("group") == group).row(0, named=True)


def test_trades_are_counted_by_sector_side_and_regime(scene: dict[str, Any]) -> None:
    table = trades_of(scene)
    closed = scene["simulation"].trades.filter("is_closed").join(scene["sectors"], on="symbol")
    switch = calendar.session_close(dt.date(2025, 3, 3))
    labels = {
        "sector=Energy": closed["sector"] == "Energy",
        "side=short": closed["direction"] == "short",
        "regime=bull": closed["exited_at"] > switch,
        "regime=neutral": closed["exited_at"] <= switch,
        "all": closed["symbol"] != "",
    }
    for group, mask in labels.items():
        pnl = closed.filter(mask)["pnl_usd"].to_list()
        assert row(table, "hit_rate", group)["n"] == len(pnl) > 0
        assert row(table, "hit_rate", group)["value"] == pytest.approx(
            sum(p > 0 for p in pnl) / len(pnl)
        )
        gains, losses = sum(p for p in pnl if p > 0), -sum(p for p in pnl if p < 0)
        assert row(table, "profit_factor", group)["value"] == pytest.approx(gains / losses)
        assert row(table, "mean_trade_usd", group)["value"] == pytest.approx(np.mean(pnl))
        found = row(table, "hit_rate", group)
        assert found["low"] <= found["value"] <= found["high"]


def test_a_trade_is_in_the_bucket_of_the_forecast_it_was_entered_on(scene: dict[str, Any]) -> None:
    table = trades_of(scene)
    simulation, scored = scene["simulation"], scene["scored"]
    counts: dict[str, int] = {}
    for trade in simulation.trades.filter("is_closed").iter_rows(named=True):
        entry = simulation.fills.filter(
            pl.col("symbol") == trade["symbol"], pl.col("bar_end") == trade["entered_at"]
        )
        known = scored.filter(
            pl.col("symbol") == trade["symbol"], pl.col("as_of") <= entry["as_of"].min()
        ).sort("as_of")
        last = known.row(-1, named=True)
        side = last["p_short"] if last["expected_return_bps"] < 0 else last["p_long"]
        bucket = pl.select(confidence_bucket(pl.lit(side))).item()
        counts[bucket] = counts.get(bucket, 0) + 1
    assert len(counts) == 4
    for bucket, count in counts.items():
        assert row(table, "hit_rate", f"confidence={bucket}")["n"] == count


def test_trades_are_counted_by_the_horizon_that_opened_them() -> None:
    # Forecasts of a day are less sure than those of an hour.
    less = pl.col("horizon") == "1d"
    predictions = scenes.oracle("1h+1d").with_columns(
        pl.when(less).then(0.45).otherwise(p).alias(p) for p in ("p_long", "p_short")
    )
    simulation = scenes.run_synthetic("1h+1d", predictions=predictions)
    sessions = session_curve(simulation)["session"][1:].to_list()
    draws = draw_sessions(len(sessions), block=2.0, seed=1)
    table = trade_metrics(simulation, predictions, sessions, draws)
    counts = {"1h": 0, "1d": 0}
    # The last order before a position was there, told by a plain account of shares.
    held: dict[str, float] = {}
    opener: dict[str, str] = {}
    for order in simulation.fills.iter_rows(named=True):
        symbol, before = order["symbol"], held.get(order["symbol"], 0.0)
        signed = order["quantity"] if order["side"] == "buy" else -order["quantity"]
        held[symbol] = before + signed
        if before == 0.0:
            opener[symbol] = order["horizon"]
        elif before * signed < 0.0:
            counts[opener[symbol]] += 1
    assert min(counts.values()) > 3
    for name, count in counts.items():
        assert row(table, "hit_rate", f"horizon={name}")["n"] == count
    assert row(table, "hit_rate", "confidence=0.4 to 0.5")["n"] == counts["1d"]
    assert row(table, "hit_rate", "all")["n"] == sum(counts.values())


def test_a_change_of_sides_is_a_trade_of_the_horizon_that_opens() -> None:
    views = [("14d", 0, -100.0), ("7d", 2, 300.0), ("7d", 4, 300.0)]
    predictions = pl.concat(
        scenes.forecasts([("AAA", n, bps)], name).with_columns(
            pl.lit(0.9 if name == "7d" else 0.6).alias(p) for p in ("p_long", "p_short")
        )
        for name, n, bps in views
    )
    bars = scenes.daily_bars({"AAA": [(100.0 + k, 100.0 + k) for k in range(16)]})
    simulation = scenes.run(predictions, bars, plan_rules=scenes.HOLD)
    crossed = simulation.fills.filter(pl.col("filled_at").is_duplicated())
    # The week turns the position, and when it is over the fortnight turns it back.
    assert crossed.select("side", "horizon").rows() == [
        ("buy", "14d"),
        ("buy", "7d"),
        ("sell", "7d"),
        ("sell", "14d"),
    ]
    sessions = session_curve(simulation)["session"][1:].to_list()
    draws = draw_sessions(len(sessions), block=2.0, seed=1)
    table = trade_metrics(simulation, predictions, sessions, draws)
    for name, side in (("14d", "short"), ("7d", "long")):
        one, other = (row(table, "mean_trade_usd", g) for g in (f"horizon={name}", f"side={side}"))
        assert (one["value"], one["n"]) == (other["value"], other["n"])


def test_skill_of_several_horizons_is_the_mean_of_theirs(scene: dict[str, Any]) -> None:
    day, week = scene["scored"], find_horizon("7d")
    rng = np.random.default_rng(3)
    other = day.with_columns(
        pl.lit("7d").alias("horizon"),
        pl.Series("expected_return_bps", rng.standard_normal(day.height)),
    )
    alone = [skill_metrics(s, horizons=[h], seed=1)[0] for s, h in ((day, DAY), (other, week))]
    table, block = skill_metrics(pl.concat([day, other]), horizons=[DAY, week], seed=1)
    assert block >= 2 * week.sessions
    for metric in ("ic", "rank_ic", "forecast_hit_rate"):
        values = [row(a, metric, "all")["value"] for a in alone]
        assert row(table, metric, "all")["value"] == pytest.approx(np.mean(values))
        for name, value in zip(("1d", "7d"), values, strict=True):
            assert row(table, metric, f"horizon={name}")["value"] == pytest.approx(value)


def test_skill_by_group_is_the_mean_of_sessions(scene: dict[str, Any]) -> None:
    table, block = skill_metrics(
        scene["scored"], horizons=[DAY], seed=1, regimes=scene["regimes"], sectors=scene["sectors"]
    )
    assert block >= 5.0
    joined = scene["scored"].join(scene["sectors"], on="symbol")
    for group, rows in {
        "all": joined,
        "sector=Health": joined.filter(pl.col("sector") == "Health"),
        "year=2025": joined.filter(pl.col("session").dt.year() == 2025),
        "horizon=1d": joined,
    }.items():
        pearson, spearman, hits = [], [], []
        for part in rows.drop_nulls("excess_return").partition_by("bar_end"):
            if part.height < 3:
                continue
            x, y = part["expected_return_bps"].to_numpy(), part["excess_return"].to_numpy()
            pearson.append(pearsonr(x, y)[0])
            spearman.append(spearmanr(x, y)[0])
            hits.append(float((np.sign(x) == np.sign(y)).mean()))
        assert row(table, "ic", group)["value"] == pytest.approx(np.mean(pearson))
        found = row(table, "rank_ic", group)
        assert found["value"] == pytest.approx(np.mean(spearman))
        assert found["n"] == len(spearman)
        assert found["low"] < found["value"] < found["high"]
        assert row(table, "forecast_hit_rate", group)["value"] == pytest.approx(np.mean(hits))
    groups = set(table["group"])
    assert {"regime=bull", "regime=neutral"} <= groups
    assert sum(g.startswith("confidence=") for g in groups) >= 3


def test_without_outcomes_nothing_is_claimed(scene: dict[str, Any]) -> None:
    blind = scene["scored"].with_columns(pl.lit(None, dtype=pl.Float64).alias("excess_return"))
    table, block = skill_metrics(blind, horizons=[DAY], seed=1)
    assert math.isnan(block)
    assert table["value"].null_count() == table.height
    assert set(table["n"]) == {0}


def test_a_session_has_the_regime_that_was_known_when_it_opened() -> None:
    days = [dt.date(2025, 3, 3), dt.date(2025, 3, 4)]
    regimes = pl.DataFrame(
        {
            "as_of": [calendar.session_open(days[0]) + dt.timedelta(minutes=1)],
            "regime": ["bear"],
        }
    )
    assert regime_of_sessions(days, regimes)["regime"].to_list() == ["neutral", "bear"]


@pytest.mark.parametrize(
    ("confidence", "bucket"),
    [(0.0, "0.0 to 0.4"), (0.4, "0.4 to 0.5"), (0.5, "0.5 to 0.6"), (0.6, "0.6 to 1.0")],
)
def test_a_bucket_begins_at_its_edge(confidence: float, bucket: str) -> None:
    assert pl.select(confidence_bucket(pl.lit(confidence))).item() == bucket
