"""The vendor's clock, as its answer about the state of the market tells it."""

from __future__ import annotations

import datetime as dt

import pytest
from pydantic import SecretStr

from market.errors import SourceError
from market.polygon import PolygonSource
from market.polygon_reference_parse import market_status
from market.replay import ServedMarket, create_app
from market.serving import BackgroundServer
from tests.markets import market

NOON = dt.datetime(2024, 7, 15, 16, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def url():
    made = market(symbols=2, sessions=3, minute_sessions=2)
    served = ServedMarket(made.daily, made.minute, made.splits, made.dividends, made.tickers)
    with BackgroundServer(create_app(served, api_key="key", now=lambda: NOON)) as server:
        yield server.url


def test_the_clock_is_told_in_utc_for_one_request(url: str):
    source = PolygonSource(SecretStr("key"), url)
    told = source.server_time()
    assert (told, told.utcoffset()) == (NOON, dt.timedelta(0))
    assert source.metrics.requests == 1


def test_a_wrong_key_is_refused(url: str):
    with pytest.raises(SourceError, match="POLYGON_API_KEY"):
        PolygonSource(SecretStr("other"), url).server_time()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"serverTime": 5}',
        b'{"serverTime": "soon"}',
        b'{"serverTime": "2024-07-15T12:00:00"}',
    ],
)
def test_an_answer_without_a_time_is_no_answer(body: bytes):
    with pytest.raises(SourceError):
        market_status(body)
