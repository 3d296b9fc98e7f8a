"""A home with published signals and bars, and a paper broker that replays a session of them."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from execution.paper import ReplayClock, create_app
from market import calendar
from market.schema import BAR_SCHEMA
from market.serving import BackgroundServer
from pipelines.resources import Stores
from pipelines.settings import load_settings
from tests.commands import Outcome, isobar
from tests.execution.scenes import content, publish
from tests.faults.trading_day import MINUTE, OPEN, SESSION, SYMBOLS, bars_of
from tests.pipelines.installation import ALPACA_KEY, ALPACA_SECRET, environment, environment_of

_TOML = """\
[trading]
enabled = true
[risk]
restricted = ["C"]
"""
_VOLATILITY = 0.03


@dataclass
class TradingDesk:
    """One person's installation: commands are asked at the broker's time."""

    home: Path
    url: str
    clock: ReplayClock
    environment: dict[str, str]

    def ask(self, *arguments: str, **changes: str) -> Outcome:
        return isobar(*arguments, environment=self.environment | changes)

    def json(self, *arguments: str) -> Any:
        done = self.ask(*arguments, "--json")
        assert done.err == ""
        return done.document

    @property
    def stores(self) -> Stores:
        with environment_of(self.environment, self.home):
            return Stores(load_settings())

    def publish(self, *rows: dict[str, Any]) -> str:
        """Publish a batch a minute before the broker's present."""
        at = self.clock.now() - MINUTE
        with self.stores.ledger as ledger:
            times = {"as_of": at, "scheduled_for": at, "ts_emit": at}
            heads = self.stores.head_file
            return publish(ledger, self.home, *rows, head_file=heads, **times).batch_id

    def wait(self, minutes: int = 2) -> None:
        """Let the replay go on, so that market orders find a bar."""
        self.clock.advance_to(self.clock.now() + minutes * MINUTE)


def signal(symbol: str, **changes: Any) -> dict[str, Any]:
    return content(symbol, **{"valid_until": OPEN + dt.timedelta(days=3), **changes})


@contextlib.contextmanager
def a_desk(home: Path, **options: Any) -> Iterator[TradingDesk]:
    """An hour after the open, with minutes up to then and later, and daily bars before."""
    home.mkdir(parents=True)
    (home / "isobar.toml").write_text(_TOML)
    bars = bars_of(3)
    clock = ReplayClock(OPEN + 60 * MINUTE)
    app = create_app(bars, api_key=ALPACA_KEY, secret_key=ALPACA_SECRET, clock=clock, **options)
    with BackgroundServer(app) as server:
        made = TradingDesk(home, server.url, clock, environment(home, "", server.url))
        _fill_lake(made, bars)
        yield made


def _fill_lake(desk: TradingDesk, minutes: pl.DataFrame) -> None:
    lake = desk.stores.lake
    lake.replace("bars_1m", minutes, [SESSION])
    first = dict(
        minutes.group_by("symbol", maintain_order=True).first().select("symbol", "open").rows()
    )
    days = calendar.sessions_between(calendar.offset_session(SESSION, -25), SESSION)[:-1]
    rows = [
        [
            s,
            day,
            calendar.session_open(day),
            *[calendar.session_close(day)] * 2,
            *[first[s]] * 4,
            1e7,
            first[s],
            9,
        ]
        for day in days
        for s in SYMBOLS
    ]
    daily = pl.DataFrame(rows, schema=BAR_SCHEMA, orient="row")
    lake.replace("bars_1d", daily, days)
    made = daily.filter(pl.col("session") == days[-1]).select(
        "symbol",
        "session",
        "bar_end",
        pl.col("bar_end").alias("as_of"),
        pl.lit(_VOLATILITY).alias("volatility_20"),
    )
    lake.replace("features_1d", made, [days[-1]])
