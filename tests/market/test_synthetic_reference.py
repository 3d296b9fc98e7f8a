"""What lies beside the bars of a synthetic market: repeatable, plausible, in one vendor's form."""

from __future__ import annotations

import datetime as dt

import polars as pl
from pydantic import SecretStr

from market import calendar
from market.identity import resolve
from market.polygon import PolygonSource
from market.reference_quality import (
    inspect_identities,
    inspect_index,
    inspect_news,
    inspect_yields,
)
from market.replay import create_app
from market.serving import BackgroundServer
from market.synthetic_reference import generate_reference, serve_synthetic
from tests.markets import market

MADE = market(sessions=250, symbols=6)
TABLES = generate_reference(MADE)
SYMBOLS = MADE.tickers["symbol"].to_list()
FIRST, LAST = (MADE.regimes["session"][k] for k in (0, -1))
NOW = calendar.session_close(LAST) + dt.timedelta(days=1)


def test_the_same_market_has_the_same_tables() -> None:
    again = generate_reference(MADE)
    other = generate_reference(market(seed=4, sessions=250, symbols=6))
    for name in ("treasury_yields", "indices", "news", "identities"):
        assert getattr(again, name).equals(getattr(TABLES, name))
    assert not other.indices.equals(TABLES.indices)


def test_the_tables_pass_their_own_checks() -> None:
    assert inspect_yields(TABLES.treasury_yields, NOW).is_sound
    assert inspect_index(TABLES.indices, NOW).is_sound
    assert inspect_news(TABLES.news, NOW).is_sound
    found = inspect_identities(TABLES.identities, SYMBOLS)
    assert found.is_sound
    assert (found.renamed, found.delisted) == (1, 1)
    assert set(TABLES.news["symbol"]) <= set(SYMBOLS)
    assert {"positive", "neutral", "negative", None} == set(TABLES.news["sentiment"])


def test_the_vix_is_high_in_a_bear_market() -> None:
    joined = TABLES.indices.join(MADE.regimes, on="session")
    mean = dict(joined.group_by("regime").agg(pl.col("close").mean()).iter_rows())
    others = [v for regime, v in mean.items() if regime != "bear"]
    assert mean["bear"] > max(others)


def test_the_first_symbol_had_another_name_before_its_first_bar() -> None:
    figi = resolve(TABLES.identities, SYMBOLS[0], NOW)
    former = TABLES.identities.filter(
        (pl.col("identity") == figi) & (pl.col("symbol") != SYMBOLS[0])
    )
    assert former["valid_to"].to_list() == [FIRST]
    assert set(MADE.daily["symbol"]) == set(SYMBOLS)


def test_it_comes_back_through_the_vendors_protocol() -> None:
    with BackgroundServer(create_app(serve_synthetic(MADE), api_key="key")) as server:
        source = PolygonSource(SecretStr("key"), server.url)
        assert source.treasury_yields(FIRST, LAST).equals(TABLES.treasury_yields)
        assert source.index_bars(["VIX"], FIRST, LAST).equals(TABLES.indices)
        assert source.news(SYMBOLS, FIRST, LAST).equals(TABLES.news)
        every = TABLES.identities["symbol"].to_list()
        assert source.identities(every).equals(TABLES.identities)
