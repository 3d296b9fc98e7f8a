"""What a download is said to cost, against what it costs at a server of the vendor's protocol."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from market import request_estimate as estimate
from market.polygon import PolygonSource
from market.replay import ServedMarket, create_app
from market.serving import BackgroundServer
from market.timeframes import Timeframe
from tests.markets import market

MADE = market(symbols=4, sessions=12, minute_sessions=3)
SYMBOLS = MADE.tickers["symbol"].to_list()
DAYS = sorted(MADE.daily["session"].unique())
MINUTE_DAYS = sorted(MADE.minute["session"].unique())


@pytest.fixture(scope="module")
def source():
    served = ServedMarket(MADE.daily, MADE.minute, MADE.splits, MADE.dividends, MADE.tickers)
    with BackgroundServer(create_app(served, api_key="key")) as server:
        yield PolygonSource(SecretStr("key"), server.url)


@pytest.mark.parametrize("symbols", [1, 4])
@pytest.mark.parametrize("sessions", [1, 3, 12])
def test_daily_bars_cost_what_is_said(source: PolygonSource, symbols: int, sessions: int):
    before = source.metrics.requests
    source.bars(SYMBOLS[:symbols], Timeframe.D1, DAYS[-sessions], DAYS[-1])
    cost = source.metrics.requests - before
    assert cost == estimate.bar_requests(Timeframe.D1, sessions, symbols)


def test_minutes_cost_no_more_than_is_said(source: PolygonSource):
    before = source.metrics.requests
    source.bars(SYMBOLS, Timeframe.M1, MINUTE_DAYS[0], MINUTE_DAYS[-1])
    cost = source.metrics.requests - before
    assert cost == estimate.bar_requests(Timeframe.M1, len(MINUTE_DAYS), len(SYMBOLS))


@pytest.mark.parametrize("days", [1, 300, 9_000])
def test_actions_cost_what_is_said(source: PolygonSource, days: int):
    start = DAYS[-1] - dt.timedelta(days=days - 1)
    before = source.metrics.requests
    source.splits(SYMBOLS, start, DAYS[-1])
    source.dividends(SYMBOLS, start, DAYS[-1])
    cost = source.metrics.requests - before
    assert cost == estimate.action_requests(start, DAYS[-1], len(SYMBOLS))


@given(st.sampled_from([Timeframe.M1, Timeframe.D1]), st.integers(1, 4_000), st.integers(1, 12_000))
def test_more_never_costs_less_and_nothing_costs_nothing(
    timeframe: Timeframe, sessions: int, symbols: int
):
    cost = estimate.bar_requests(timeframe, sessions, symbols)
    assert 0 < cost <= estimate.bar_requests(timeframe, sessions + 1, symbols)
    assert estimate.bar_requests(timeframe, 0, symbols) == 0
    if timeframe is Timeframe.M1:
        # Every bar of the extended day fits on the pages.
        assert cost * estimate.BARS_PER_PAGE >= 960 * sessions * symbols
