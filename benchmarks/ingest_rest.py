"""REST ingest: page to written partition, against iterating the official client's list_aggs.

The server runs in a process of its own, so that neither client waits for its interpreter lock;
both read the same pages in turns, and of each the best of seven rounds counts. No answer is kept,
but where it says so: there the last rounds keep them, and then find them kept.
"""

import datetime as dt
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from massive import RESTClient
from pydantic import SecretStr

from benchmarks.wanted import Wanted
from market.ingest import ingest
from market.lake import Lake
from market.polygon import PolygonSource
from market.replay import create_app
from market.replay_data import ServedMarket
from market.response_cache import ResponseCache
from market.serving import BackgroundServer
from market.synthetic import SyntheticSpec, generate
from market.timeframes import Timeframe

_SPEC = SyntheticSpec(symbols=40, sessions=60, minute_sessions=60)
_KEY = "bench"
_ROUNDS, _ROUNDS_KEPT = 7, 3
_LEAST_TIMES = 3


def measure(wanted: Wanted) -> list[str]:
    with _server() as (url, symbols, sessions):
        client = RESTClient(_KEY, base=url)
        span = (sessions[0], sessions[-1])

        def iterate() -> list[float]:
            return [
                bar.close
                for s in symbols
                for bar in client.list_aggs(s, 1, "minute", *span, adjusted=False, limit=50_000)
            ]

        def write(cache: ResponseCache | None = None) -> list[float]:
            source = PolygonSource(SecretStr(_KEY), url, cache=cache)
            with tempfile.TemporaryDirectory() as folder:
                lake = Lake(folder)
                ingest(lake, source, Timeframe.M1, sessions, symbols, now=dt.datetime.now(dt.UTC))
                stopped.append(time.perf_counter())
                return lake.read_bars("bars_1m")["close"].to_list()

        stopped: list[float] = []
        peer = ours = keeping = kept = float("inf")
        closes = list[float]()
        for _ in range(_ROUNDS):
            seconds, closes = _timed(iterate, [])
            peer = min(peer, seconds)
            seconds, stored = _timed(write, stopped)
            ours = min(ours, seconds)
            _compare(stored, closes)
        for _ in range(_ROUNDS_KEPT):
            with tempfile.TemporaryDirectory() as folder:
                cache = ResponseCache(folder)
                seconds, stored = _timed(lambda c=cache: write(c), stopped)
                keeping = min(keeping, seconds)
                _compare(stored, closes)
                seconds, stored = _timed(lambda c=cache: write(c), stopped)
                kept = min(kept, seconds)
                _compare(stored, closes)
    return [
        f"{len(closes):,} bars, values equal",
        f"list_aggs, iterated only   {len(closes) / peer:12,.0f} bars/s",
        f"ingest, written            {len(closes) / ours:12,.0f} bars/s",
        f"ratio                      {peer / ours:12.2f}"
        f"   {wanted.at_least(peer / ours, _LEAST_TIMES)}",
        f"ratio, answers being kept  {peer / keeping:12.2f}",
        f"ratio, answers kept before {peer / kept:12.2f}",
    ]


def _compare(stored: list[float], closes: list[float]) -> None:
    if stored != closes:
        raise SystemExit("the two disagree: nothing to compare")


def _timed(work: Callable[[], list[float]], stopped: list[float]) -> tuple[float, list[float]]:
    """Return the seconds that work took; it may say itself when it was done."""
    stopped.clear()
    began = time.perf_counter()
    found = work()
    return (stopped[0] if stopped else time.perf_counter()) - began, found


@contextmanager
def _server() -> Iterator[tuple[str, list[str], list[dt.date]]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join(30)


def _serve(line: Connection) -> None:
    """Serve until the other end says so (or is gone)."""
    market = generate(_SPEC)
    served = ServedMarket(
        market.daily, market.minute, market.splits, market.dividends, market.tickers
    )
    sessions = sorted(market.minute["session"].unique())
    with BackgroundServer(create_app(served, api_key=_KEY)) as server:
        line.send((server.url, market.tickers["symbol"].to_list(), sessions))
        try:
            line.recv()
        except EOFError:
            return


if __name__ == "__main__":
    wanted = Wanted()
    print("\n".join(measure(wanted)))
    wanted.end()
