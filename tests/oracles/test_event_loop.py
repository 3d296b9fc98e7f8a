from __future__ import annotations

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtest.simulation import Simulation
from market.costs import CostModel
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, empty
from tests.backtest import scenes
from tests.oracles.event_loop import equity_curve

SESSIONS = 8
SYMBOLS = ("AAA", "BBB", "CCC")
CENT = 0.005

cents = st.integers(2_000, 30_000).map(lambda n: n / 100)
quotes = st.one_of(st.tuples(cents, cents), st.tuples(cents, cents), st.none())
paths = st.lists(quotes, min_size=SESSIONS - 1, max_size=SESSIONS - 1)
views = st.lists(
    st.tuples(st.sampled_from(SYMBOLS), st.integers(0, SESSIONS - 2), st.integers(-300, 300)),
    min_size=4,
    max_size=20,
    unique_by=lambda v: (v[0], v[1]),
)
actions = st.lists(
    st.tuples(st.sampled_from(SYMBOLS), st.integers(1, SESSIONS - 1)), max_size=3, unique=True
)
ratios = st.sampled_from([2.0, 3.0, 1.5, 0.5, 0.1])


def assert_same(simulation: Simulation, oracle: dict, ends: pl.Series) -> None:
    ours = simulation.equity.filter(pl.col("bar_end").is_in(ends.implode()))[1:]
    for end, value in ours.select("bar_end", "equity_usd").iter_rows():
        assert abs(float(oracle[end]) - value) < CENT, end


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    prices=st.tuples(paths, paths, paths),
    rows=views,
    others=st.one_of(st.just([]), views),
    splits=actions,
    ratio=ratios,
    dividends=actions,
    amount=st.sampled_from([0.1, 0.37, 2.0]),
    cost=st.sampled_from([0.0, 3.0, 25.0]),
)
def test_simulator_event_loop_and_vectorbt_agree_to_the_cent(
    prices, rows, others, splits, ratio, dividends, amount, cost
):
    market = {s: [(50.0, 50.0), *p] for s, p in zip(SYMBOLS, prices, strict=True)}
    # Every session of the grid has a bar of a symbol that nothing is forecast of.
    market["GRID"] = [(10.0, 10.0)] * SESSIONS
    bars = scenes.daily_bars(market)
    split_table = scenes.splits_of(*((s, n, ratio) for s, n in splits))
    dividend_table = scenes.dividends_of(*((s, n, amount) for s, n in dividends))
    simulation = scenes.run(
        pl.concat(
            scenes.forecasts(views, name, volatility_bps=3000.0)
            for name, views in (("1d", rows), ("7d", others))
            if views
        ),
        bars,
        costs=CostModel.flat(slippage_bps=cost),
        splits=split_table,
        dividends=dividend_table,
    )
    oracle = equity_curve(simulation.orders, bars, split_table, dividend_table, 100_000.0)
    assert_same(simulation, oracle, bars["bar_end"])
    replayed = simulation.replay.equity
    assert replayed["bar_end"].to_list() == simulation.equity["bar_end"][1:].to_list()
    difference = (replayed["equity_usd"] - simulation.equity["equity_usd"][1:]).abs()
    assert difference.max() < CENT


@pytest.mark.parametrize("name", ["1d", "1h", "1h+1d"])
def test_the_three_agree_on_the_synthetic_market(name):
    market = scenes.synthetic()
    simulation = scenes.run_synthetic(name)
    assert simulation.fills.height > 50
    bars = scenes.synthetic_bars(name)
    oracle = equity_curve(simulation.orders, bars, market.splits, market.dividends, 1e6)
    assert_same(simulation, oracle, bars["bar_end"])
    replayed = simulation.replay.equity["equity_usd"]
    assert (replayed - simulation.equity["equity_usd"][1:]).abs().max() < CENT


def test_vectorbt_alone_gives_the_equity_where_no_action_happens():
    none = {"splits": empty(SPLIT_SCHEMA), "dividends": empty(DIVIDEND_SCHEMA)}
    simulation = scenes.run_synthetic("1h", **none)
    assert simulation.cash_flows.is_empty()
    replayed = simulation.replay.equity["equity_usd"]
    assert (replayed - simulation.equity["equity_usd"][1:]).abs().max() < CENT
