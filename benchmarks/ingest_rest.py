"""REST ingest: page to written partition, against iterating the official client's list_aggs."""

import datetime as dt
import tempfile
import time

from massive import RESTClient
from pydantic import SecretStr

from market.ingest import ingest
from market.lake import Lake
from market.polygon import PolygonSource
from market.replay import create_app
from market.replay_data import ServedMarket
from market.serving import BackgroundServer
from market.synthetic import SyntheticSpec, generate
from market.timeframes import Timeframe


def measure() -> list[str]:
    market = generate(SyntheticSpec(symbols=10, sessions=60, minute_sessions=60))
    served = ServedMarket(
        market.daily, market.minute, market.splits, market.dividends, market.tickers
    )
    sessions = sorted(market.minute["session"].unique())
    symbols = market.tickers["symbol"].to_list()
    with BackgroundServer(create_app(served, api_key="bench")) as server:
        source = PolygonSource(SecretStr("bench"), server.url)
        client = RESTClient("bench", base=server.url)
        began = time.perf_counter()
        closes = [
            bar.close
            for s in symbols
            for bar in client.list_aggs(
                s, 1, "minute", sessions[0], sessions[-1], adjusted=False, limit=50_000
            )
        ]
        peer = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            lake = Lake(folder)
            began = time.perf_counter()
            done = ingest(
                lake, source, Timeframe.M1, sessions, symbols, now=dt.datetime.now(dt.UTC)
            )
            ours = time.perf_counter() - began
            stored = lake.read_bars("bars_1m")
    if stored["close"].to_list() != closes:
        raise SystemExit("the two disagree: nothing to compare")
    return [
        f"{done.bars:,} bars, values equal",
        f"list_aggs, iterated only   {len(closes) / peer:12,.0f} bars/s",
        f"ingest, written and hashed {done.bars / ours:12,.0f} bars/s",
        f"ratio                      {peer / ours:12.2f}",
    ]
