"""The whole way on slices of real bars. What is asserted is structure and causality, not skill."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from execution.paper import ReplayClock
from execution.paper import create_app as create_broker
from market import calendar
from market.horizons import Run, find_horizon, scheduled_for
from market.ledger_tables import orders, signals
from market.replay import create_app as create_vendor
from market.replay_data import load_bars_file
from market.schema import Bar
from market.serving import BackgroundServer
from market.timeframes import Timeframe
from pipelines.assets.orders import trade_newest
from pipelines.launch import Launcher
from pipelines.resources import Stores
from pipelines.settings import load_settings
from tests.pipelines.installation import (
    ALPACA_KEY,
    ALPACA_SECRET,
    POLYGON_KEY,
    environment,
    environment_of,
)

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")
pytestmark = [
    pytest.mark.real_bars,
    pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars"),
]
DAILY = ("AAPL", "MSFT", "IBM", "JPM", "XOM", "GE", "WMT", "PG", "KO", "PFE", "INTC", "CSCO")

# The policy practises little: what is asserted is not its skill.
_DAILY_TOML = """\
symbols = {symbols}
[history]
start = 2013-03-01
end = 2014-12-31
[models]
horizons = ["1d"]
daily_min_train_sessions = 252
daily_test_sessions = 126
[models.tuned."1d".policy.params]
steps = 3072
[costs]
half_spread_bps = 0.2
slippage_bps = 0.2
"""
_MINUTE_TOML = """\
symbols = {symbols}
[history]
start = 2018-03-12
end = 2018-04-20
[models]
horizons = ["1h"]
intraday_min_train_sessions = 8
intraday_test_sessions = 6
[models.tuned."1h".policy.params]
steps = 3072
"""


def slice_of(name: str, symbols: tuple[str, ...], first: dt.date, last: dt.date, to: Path) -> Path:
    """Write the rows of these symbols and dates into a file of their own."""
    frame = pl.scan_parquet(Path(SAMPLES) / name)
    if "date" in frame.collect_schema():
        day = pl.col("date")
    else:
        day = pl.col("ts").dt.convert_time_zone(calendar.NEW_YORK.key).dt.date()
    rows = frame.filter(pl.col("symbol").is_in(symbols), day.is_between(first, last))
    path = to / name
    rows.collect().write_parquet(path)
    return path


@contextmanager
def served(path: Path, home: Path, toml: str, start: dt.datetime) -> Iterator[ReplayClock]:
    """Serve the file as vendor and broker, and set the environment of a new installation."""
    market = load_bars_file(path, as_of=dt.datetime(2019, 1, 1, tzinfo=dt.UTC))
    bars = market.daily if market.daily is not None else market.minute
    assert bars is not None
    clock = ReplayClock(start)
    symbols = str(market.tickers["symbol"].to_list()).replace("'", '"')
    home.mkdir()
    (home / "isobar.toml").write_text(toml.format(symbols=symbols))
    vendor = create_vendor(market, api_key=POLYGON_KEY, now=clock.now)
    broker = create_broker(bars, api_key=ALPACA_KEY, secret_key=ALPACA_SECRET, clock=clock)
    with (
        BackgroundServer(vendor) as first,
        BackgroundServer(broker) as second,
        environment_of(environment(home, first.url, second.url), home),
    ):
        yield clock


def published(stores: Stores, as_of: dt.datetime) -> pl.DataFrame:
    with stores.ledger as ledger:
        return ledger.read(sa.select(signals).where(signals.c.as_of == as_of))


def assert_causal(stores: Stores, horizon: str) -> None:
    """No forecast was dated before its bar was known, nor made by a model from its future."""
    found = stores.lake.scan("predictions").filter(pl.col("horizon") == horizon).collect()
    assert found.height > 0
    assert found.filter(pl.col("as_of") < pl.col("bar_end")).is_empty()
    frame = find_horizon(horizon).timeframe
    features = stores.lake.scan(f"features_{frame.value}").collect()
    joined = found.join(features, on=["symbol", "bar_end"], suffix="_feature")
    assert joined.height == found.height
    assert joined.filter(pl.col("as_of") != pl.col("as_of_feature")).is_empty()


def test_daily_bars_from_vendor_to_fill(tmp_path: Path):
    path = slice_of(
        "daily_us504_raw_1999_2014.parquet",
        DAILY,
        dt.date(2013, 3, 1),
        dt.date(2014, 12, 31),
        tmp_path,
    )
    evening, morning = dt.date(2014, 12, 30), dt.date(2014, 12, 31)
    with served(path, tmp_path / "home", _DAILY_TOML, scheduled_for(Run.EOD, evening)) as clock:
        launcher = Launcher(load_settings(), now=clock.now())
        horizon = find_horizon("1d")
        got = launcher.ingest(dt.date(2013, 3, 1), evening, [Timeframe.D1])
        assert got["bars_1d"]["sessions without bars"] == []
        trained = launcher.train([horizon])["1d"]
        assert trained["windows"] == 2
        metrics = launcher.backtest([horizon])["1d"]["metrics"]
        assert metrics
        stores = launcher.stores
        stored = stores.lake.read_bars("bars_1d")
        source = pl.read_parquet(path).filter(pl.col("date") <= evening)
        assert stored.height == source.height
        ordered = source.sort("symbol", "date")["close"]
        assert stored.sort(Bar.SYMBOL, Bar.SESSION)[Bar.CLOSE].equals(ordered)
        assert_causal(stores, "1d")
        launcher.scheduled_run(Run.EOD, evening)
        assert published(stores, clock.now())["symbol"].n_unique() == len(DAILY)
        clock.advance_to(scheduled_for(Run.PREMARKET, morning))
        Launcher(load_settings(), now=clock.now()).scheduled_run(Run.PREMARKET, morning)
        batch = published(stores, clock.now())
        assert set(batch["horizon"]) == {"1d"}
        report = trade_newest(stores, now=clock.now(), dry_run=False)
        states = filled_after(stores, clock, calendar.session_close(morning))
        accepted = [v for v in report.verdicts if not v.denials]
        assert report.verdicts
        assert len(states) == len(report.verdicts)
        assert states.count("filled") == len(accepted) > 0


def filled_after(stores: Stores, clock: ReplayClock, moment: dt.datetime) -> list[str]:
    """Move on, poll the broker by trading again, and return the states of all orders."""
    clock.advance_to(moment + dt.timedelta(minutes=1))
    trade_newest(stores, now=clock.now(), dry_run=False)
    with stores.ledger as ledger:
        rows: list[dict[str, Any]] = ledger.rows(sa.select(orders))
    return [r["state"] for r in rows]


def test_minute_bars_from_vendor_to_a_midday_run(tmp_path: Path):
    name = "minute_142_2018_02_04.parquet"
    held = pl.scan_parquet(Path(SAMPLES) / name).select(pl.col("symbol").unique()).collect()
    symbols = tuple(sorted(held["symbol"]))[:8]
    first, last = dt.date(2018, 3, 12), dt.date(2018, 4, 6)
    path = slice_of(name, symbols, first, last, tmp_path)
    before = calendar.previous_session(last)
    with served(path, tmp_path / "home", _MINUTE_TOML, scheduled_for(Run.EOD, before)) as clock:
        launcher = Launcher(load_settings(), now=clock.now())
        launcher.ingest(first, before, [Timeframe.D1, Timeframe.M1])
        trained = launcher.train([find_horizon("1h")])["1h"]
        assert trained["windows"] >= 1
        stores = launcher.stores
        assert_causal(stores, "1h")
        features = stores.lake.scan("features_15m").collect()
        assert set(features["session"]) == set(calendar.sessions_between(first, before))
        assert features.group_by("symbol", "session").len()["len"].max() == 26
        clock.advance_to(scheduled_for(Run.MIDDAY, last))
        Launcher(load_settings(), now=clock.now()).scheduled_run(Run.MIDDAY, last)
        batch = published(stores, clock.now())
        assert set(batch["horizon"]) == {"1h"}
        assert set(batch["symbol"]) <= set(symbols)
        assert batch["symbol"].n_unique() >= 6
        assert batch.filter(pl.col("valid_until") > calendar.session_close(last)).is_empty()
        newest = stores.lake.read_bars("bars_1m", start=last)[Bar.KNOWN_AT].max()
        assert isinstance(newest, dt.datetime)
        assert newest <= clock.now()
