"""The demo: the whole pipeline on a synthetic market, offline, through real servers and clients.

A vendor's server and a broker's server run on loopback, and one replayed clock moves all
three: yesterday evening's history, training and EOD run, this morning's premarket run and orders,
midday, and this evening.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from execution.paper import ReplayClock
from execution.paper import create_app as create_broker
from isobar import output
from isobar.bootstrap import bootstrap
from market import calendar
from market.errors import UsageError
from market.horizons import Horizon, Run, find_horizon, scheduled_for
from market.replay import create_app as create_vendor
from market.serving import BackgroundServer
from market.synthetic import SyntheticMarket, SyntheticSpec, generate
from market.synthetic_reference import serve_synthetic
from models.evaluation import Estimate, skill
from pipelines.launch import Launcher
from pipelines.profiles import DEMO_HORIZONS
from pipelines.resources import Progress, Stores
from pipelines.settings import Settings, validate
from pipelines.settings_sources import over_profile
from pipelines.training import read_labels

SYMBOLS, MINUTE_SESSIONS = 20, 108
_MARKER = "made-by-isobar-demo"


@dataclass(frozen=True)
class DemoSummary:
    """What the demo has to show."""

    home: Path
    bars: dict[str, int]
    skill: dict[str, dict[str, Any]]
    backtests: dict[str, dict[str, Any]]
    signals: dict[str, int]
    orders: dict[str, int]
    tear_sheets: dict[str, str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "home": str(self.home),
            "bars": self.bars,
            "skill": self.skill,
            "backtests": self.backtests,
            "signals": self.signals,
            "orders": self.orders,
            "tear_sheets": self.tear_sheets,
            "seconds": round(self.seconds, 1),
        }

    def show(self) -> None:
        """Print it."""
        columns = ("horizon", "rank IC found", "rank IC planted", "return", "orders")
        rows = [self._row(horizon) for horizon in self.skill]
        title = f"Demo, {self.seconds:.0f} seconds: out of sample, 95% intervals, after costs"
        output.out.print(output.table(title, columns, rows))
        counts = [
            *((f"bars ingested, {name}", f"{n:,}") for name, n in self.bars.items()),
            *((f"signals published, {run}", f"{n:,}") for run, n in self.signals.items()),
            *((f"orders {state}", f"{n:,}") for state, n in self.orders.items()),
        ]
        counted = output.table("", ("", ""), counts)
        counted.show_header = False
        output.out.print(counted)
        sheets = next(iter(self.tear_sheets.values())).rsplit("/", 2)[0]
        output.out.print(f"Tear sheets: {sheets}", soft_wrap=True)
        # As it was called: after `make demo` the command is on nobody's PATH.
        called = sys.argv[0] if Path(sys.argv[0]).name == "isobar" else "isobar"
        further = f"Look further: ISOBAR_HOME={self.home} {called} ui, or status, or signals"
        output.out.print(further, soft_wrap=True)

    def _row(self, horizon: str) -> tuple[str, ...]:
        skill, metrics = self.skill[horizon], self.backtests[horizon]
        return (
            horizon,
            _interval(skill["found"]),
            _interval(skill["planted"]) if "planted" in skill else "",
            f"{metrics['total_return']:+.1%}",
            f"{metrics['orders']:,}",
        )


def _interval(e: dict[str, float]) -> str:
    mean, low, high = (f"{e[k]:+.3f}".replace("0.", ".") for k in ("mean", "low", "high"))
    return f"{mean} ({low}, {high})"


@dataclass(frozen=True)
class World:
    """A synthetic market, and what serves it on loopback, all by one replayed clock.

    Attributes
    ----------
    market : SyntheticMarket
        Bars, symbols and the truth behind them.
    clock : ReplayClock
        Of vendor and broker; it begins at the close of the session before the last.
    vendor_url, broker_url : str
        Where they listen.
    vendor_key, broker_key, broker_secret : str
        What they ask for.
    """

    market: SyntheticMarket
    clock: ReplayClock
    vendor_url: str
    broker_url: str
    vendor_key: str
    broker_key: str
    broker_secret: str

    @property
    def today(self) -> dt.date:
        """Return the market's last session."""
        day = self.market.daily["session"].max()
        assert isinstance(day, dt.date)
        return day


@contextmanager
def serve_world(spec: SyntheticSpec) -> Generator[World]:
    """Make a market and serve it for as long as the block runs."""
    market = generate(spec)
    days = market.daily["session"].unique().sort()
    clock = ReplayClock(calendar.session_close(days[-2]))
    keys = [secrets.token_hex(12) for _ in range(3)]
    vendor = create_vendor(serve_synthetic(market), api_key=keys[0], now=clock.now)
    broker = create_broker(market.minute, api_key=keys[1], secret_key=keys[2], clock=clock)
    with BackgroundServer(vendor) as first, BackgroundServer(broker) as second:
        yield World(market, clock, first.url, second.url, *keys)


def run_demo(*, seed: int, progress: Progress) -> DemoSummary:
    """Run the demo in a fresh data root (``ISOBAR_HOME``, else ``var/demo``).

    Raises
    ------
    UsageError
        When the folder holds something that is not a demo.
    """
    began = dt.datetime.now(dt.UTC)
    home = _fresh_home()
    progress("synthetic market", 0, 1)
    with serve_world(spec_of(seed)) as world:
        progress("synthetic market", 1, 1)
        settings = settle(home, world)
        first, signals = live_through(settings, world, progress)
        summary = _summarise(settings, world.market, first, signals)
    return DemoSummary(**summary, seconds=(dt.datetime.now(dt.UTC) - began).total_seconds())


def spec_of(seed: int, symbols: int = SYMBOLS) -> SyntheticSpec:
    """Return what market the demo makes."""
    return SyntheticSpec(seed=seed, symbols=symbols, minute_sessions=MINUTE_SESSIONS)


def _fresh_home() -> Path:
    home = Path(os.environ.get("ISOBAR_HOME", "var/demo"))
    if home.exists() and any(home.iterdir()):
        if not (home / _MARKER).exists():
            raise UsageError(
                "the demo will not touch a data root that holds something else",
                got=str(home),
                allowed="an empty folder, or one that an earlier demo made",
                remedy="unset ISOBAR_HOME, or name an empty folder",
            )
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / _MARKER).touch()
    return home


def settle(home: Path, world: World) -> Settings:
    """Write the settings of a data root for a world, and return them with its keys and servers.

    The same file serves later commands in this data root; keys are never written.
    """
    symbols = world.market.tickers["symbol"].to_list()
    start = world.market.daily["session"].min()
    minutes = world.market.spec.minute_sessions - 1
    lines = [
        'profile = "demo"',
        f"symbols = {symbols}".replace("'", '"'),
        "[history]",
        f"start = {start}",
        f"end = {world.today}",
        f"minute_sessions = {minutes}",
    ]
    (home / "isobar.toml").write_text("\n".join(lines) + "\n")
    broker = {"api_key": world.broker_key, "secret_key": world.broker_secret}
    ours = {
        "home": home,
        "symbols": symbols,
        "polygon": {"api_key": world.vendor_key, "base_url": world.vendor_url},
        "alpaca": {**broker, "base_url": world.broker_url},
        "history": {"start": start, "end": world.today, "minute_sessions": minutes},
    }
    return validate(over_profile("demo", ours))


@dataclass(frozen=True)
class Evening:
    """What the first evening left: metadata of the bootstrap's steps, and published signals."""

    done: dict[str, dict[str, Any]]
    signals: dict[str, int]


def live_through(
    settings: Settings, world: World, progress: Progress
) -> tuple[Evening, dict[str, int]]:
    """Live from yesterday's close to this evening; return the former and all that was published."""
    first = _evening_before(settings, world.clock, progress)
    signals = first.signals | _trading_day(settings, world.clock, world.today, progress)
    return first, signals


def _evening_before(settings: Settings, clock: ReplayClock, progress: Progress) -> Evening:
    yesterday = clock.now().astimezone(calendar.NEW_YORK).date()
    clock.advance_to(scheduled_for(Run.EOD, yesterday))
    launcher = Launcher(settings, now=clock.now(), progress=progress)
    done = bootstrap(launcher)
    made = launcher.scheduled_run(Run.EOD, yesterday)
    return Evening(done, {f"eod {yesterday}": int(made["signals_eod"]["signals"])})


def _trading_day(
    settings: Settings, clock: ReplayClock, today: dt.date, progress: Progress
) -> dict[str, int]:
    signals: dict[str, int] = {}
    for run in (Run.PREMARKET, Run.MIDDAY, Run.EOD):
        clock.advance_to(scheduled_for(run, today))
        launcher = Launcher(settings, now=clock.now(), progress=progress)
        made = launcher.scheduled_run(run, today)
        signals[f"{run.value} {today}"] = int(made[f"signals_{run.value}"]["signals"])
    return signals


def _summarise(
    settings: Settings, market: SyntheticMarket, evening: Evening, signals: dict[str, int]
) -> dict[str, Any]:
    stores = Stores(settings)
    stores.lake.replace("truth", market.truth, sorted(market.truth["horizon"].unique()))
    with stores.ledger as ledger:
        states = ledger.read("select state, count(*) as n from orders group by state order by n")
    backtests = {h: evening.done[f"backtest {h}"] for h in DEMO_HORIZONS}
    wanted = (
        "total_return",
        "annual_return",
        "sharpe_ratio",
        "sharpe_interval",
        "max_drawdown",
        "annual_turnover",
        "orders",
    )
    return {
        "home": settings.home,
        "bars": {
            t: int(stores.lake.scan(t).select(pl.len()).collect().item())
            for t in ("bars_1d", "bars_1m")
        },
        "skill": {h: _skill(stores, market, h) for h in DEMO_HORIZONS},
        "backtests": {
            h: {k: m["metrics"][k] for k in wanted if k in m["metrics"]}
            for h, m in backtests.items()
        },
        "signals": signals,
        "orders": {str(s): int(n) for s, n in states.iter_rows()},
        "tear_sheets": {h: str(m["tear sheet"]) for h, m in backtests.items()},
    }


def _skill(stores: Stores, market: SyntheticMarket, horizon: str) -> dict[str, Any]:
    row = find_horizon(horizon)
    outcomes = read_labels(stores.lake, row).select("symbol", "bar_end", "excess_return")
    found = (
        stores.lake.scan("predictions")
        .filter((pl.col("horizon") == horizon) & (pl.col("engine") == "ensemble"))
        .collect()
        .join(outcomes, on=["symbol", "bar_end"])
    )
    shown = {"found": _plain(skill(found, seed=1, periods_per_block=_block(row)))}
    truth = market.truth.filter(pl.col("horizon") == horizon).rename({"as_of": "bar_end"})
    # Nothing is planted at the others; what there is to know of them follows from these.
    if truth.height:
        known = truth.select("symbol", "bar_end", "expected_return_bps")
        planted = found.drop("expected_return_bps").join(known, on=["symbol", "bar_end"])
        shown["planted"] = _plain(skill(planted, seed=1, periods_per_block=_block(row)))
    return shown


def _block(horizon: Horizon) -> float:
    return float(max(5, 2 * horizon.sessions))


def _plain(e: Estimate) -> dict[str, float]:
    return {"mean": e.mean, "low": e.low, "high": e.high, "periods": e.periods}
