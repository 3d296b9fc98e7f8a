"""Commands that serve: the vendor's protocol, the broker's protocol, metrics, the UI."""

from __future__ import annotations

import datetime as dt
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import dagster as dg
import polars as pl
import sqlalchemy as sa
import typer

import pipelines
from execution.paper import ReplayClock
from execution.paper import create_app as create_broker
from execution.paper_conditions import PaperConditions
from isobar import output
from isobar.arguments import read_time
from market.errors import UsageError
from market.ledger_tables import signal_batches
from market.replay import create_app as create_vendor
from market.replay_data import ServedMarket, load_bars_file
from market.replay_faults import FaultKind, FaultPlan
from market.replay_macro import load_reference_files
from market.request_limiter import Plan
from market.serving import serve
from market.synthetic import SyntheticSpec, generate
from market.synthetic_reference import serve_synthetic
from pipelines.lake_store import open_lake
from pipelines.launch import prepare_dagster_home
from pipelines.metrics import create_metrics_app
from pipelines.resources import Stores
from pipelines.settings import Settings, load_settings

_DEFAULT_KEY = "replay"

Port = Annotated[int, typer.Option("--port", help="Port to listen on.", min=1, max=65535)]
BarsFile = Annotated[
    list[Path] | None,
    typer.Option("--bars", help="Parquet of bars; may be repeated, one daily and one intraday."),
]
Synthetic = Annotated[bool, typer.Option("--synthetic", help="The synthetic market.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(
        help="Serve bars or a paper broker in the real services' protocols; or metrics."
    )
    group.command("polygon")(serve_polygon)
    group.command("alpaca")(serve_alpaca)
    group.command("metrics")(serve_metrics)
    app.add_typer(group, name="serve")
    app.command("ui")(ui)


def serve_polygon(
    port: Port,
    bars: BarsFile = None,
    synthetic: Synthetic = False,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic market and of faults.")] = 7,
    requests_per_minute: Annotated[
        int, typer.Option("--rate-limit", help="Requests a minute; 0 for those of the plan.")
    ] = 0,
    vix: Annotated[Path | None, typer.Option(help="Parquet of daily VIX values.")] = None,
    treasury: Annotated[Path | None, typer.Option(help="Parquet of Treasury yields.")] = None,
    plan: Annotated[
        Plan | None, typer.Option(help="Answer as to a key of this plan; all is allowed without.")
    ] = None,
    adjusted: Annotated[
        bool, typer.Option("--adjusted", help="Serve split-adjusted bars only, and say so.")
    ] = False,
    fault: Annotated[
        FaultKind | None, typer.Option(help="Misbehave in this way, half of the time.")
    ] = None,
) -> None:
    """Serve bars as Polygon would. The key is POLYGON_API_KEY, or `replay` when unset."""
    if synthetic == bool(bars):
        raise UsageError(
            "what to serve",
            got="both --bars and --synthetic" if synthetic else "neither",
            allowed="--bars FILE or --synthetic",
            remedy="name exactly one of them",
        )
    if synthetic and (vix or treasury):
        raise UsageError(
            "the synthetic market has its own VIX and yields",
            allowed="--vix and --treasury with --bars",
            remedy="leave one of them out",
        )
    reference = load_reference_files(vix=vix, treasury=treasury)
    market = (
        _synthetic(seed) if synthetic else replace(_from_files(bars or []), reference=reference)
    )
    key = load_settings().polygon.api_key.get_secret_value() or _DEFAULT_KEY
    app = create_vendor(
        market,
        api_key=key,
        requests_per_minute=requests_per_minute or None,
        plan=plan,
        adjusted=adjusted,
        faults=None if fault is None else FaultPlan(fault, seed),
    )
    output.log.print(f"Serving the Polygon protocol on http://127.0.0.1:{port}")
    needed = " ISOBAR_POLYGON__ADJUSTED=true" if adjusted else ""
    output.log.print(f"Use it: POLYGON_BASE_URL=http://127.0.0.1:{port}{needed} isobar ingest ...")
    serve(app, port=port)


def serve_alpaca(
    port: Port,
    bars: BarsFile = None,
    synthetic: Synthetic = False,
    as_of: Annotated[str, typer.Option("--as-of", help="Where the replayed clock starts.")] = "",
    speed: Annotated[float, typer.Option(help="Replayed seconds per second.", min=0.0)] = 1.0,
    cash: Annotated[float, typer.Option(help="Cash at the start, USD.", min=1.0)] = 100_000.0,
    participation: Annotated[
        str,
        typer.Option(help="Share of a bar's volume that an order may take; without it any size."),
    ] = "",
) -> None:
    """Serve a paper broker as Alpaca would, filling at replayed prices.

    Prices are those of the lake unless --bars or --synthetic is given. The clock follows the
    newest batch of signals unless --as-of is given. Keys are ALPACA_API_KEY and
    ALPACA_SECRET_KEY, or `replay` when unset. With --participation, such as 0.1, large orders
    fill in parts, bar after bar.
    """
    conditions = PaperConditions(participation=_share(participation))
    settings = load_settings()
    frame = _prices(settings, bars, synthetic)
    clock = _clock(settings, frame, as_of, speed)
    keys = settings.alpaca
    app = create_broker(
        frame,
        api_key=keys.api_key.get_secret_value() or _DEFAULT_KEY,
        secret_key=keys.secret_key.get_secret_value() or _DEFAULT_KEY,
        clock=clock,
        starting_cash_usd=Decimal(str(round(cash, 2))),
        conditions=conditions,
    )
    output.log.print(f"Serving the Alpaca protocol on http://127.0.0.1:{port}")
    output.log.print(f"Replayed clock: {clock.now():%Y-%m-%d %H:%M:%S}Z at {speed:g}x")
    serve(app, port=port)


def serve_metrics(
    port: Port = 9108,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback by default.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Serve Prometheus metrics of this installation at /metrics, read from its stores."""
    settings = load_settings()
    prepare_dagster_home(settings)
    app = create_metrics_app(Stores(settings), dg.DagsterInstance.get())
    output.log.print(f"Prometheus metrics on http://{host}:{port}/metrics")
    serve(app, host=host, port=port)


def _share(text: str) -> Decimal | None:
    if not text:
        return None
    try:
        share = Decimal(text)
    except InvalidOperation:
        share = Decimal("NaN")
    if not (share.is_finite() and 0 < share <= 1):
        raise UsageError(
            "--participation is no share of a bar's volume",
            got=text,
            allowed="above 0 and at most 1",
            remedy="use 0.1, or leave it out to fill orders whole",
        )
    return share


class PacedClock(ReplayClock):
    """A replayed clock that runs by itself, can be advanced, and may follow something.

    Parameters
    ----------
    start : datetime
        Aware.
    speed : float
        Replayed seconds per second.
    follow : callable, optional
        Asked once a second for a moment that the clock must not lag behind.
    """

    def __init__(
        self,
        start: dt.datetime,
        speed: float,
        follow: Callable[[], dt.datetime | None] | None = None,
    ) -> None:
        super().__init__(start)
        self._pace = threading.Lock()
        self._anchor, self._speed, self._began = start, speed, time.monotonic()
        self._follow, self._asked = follow, time.monotonic()

    def advance_to(self, moment: dt.datetime) -> None:
        """Move forwards, and run on from there."""
        with self._pace:
            super().advance_to(moment)
            self._anchor, self._began = moment, time.monotonic()

    def now(self) -> dt.datetime:
        """Return the replayed present."""
        with self._pace:
            present = time.monotonic()
            passed = dt.timedelta(seconds=(present - self._began) * self._speed)
            moment = max(self._anchor + passed, super().now())
            if self._follow is not None and present - self._asked >= 1.0:
                self._asked = present
                ahead = self._follow()
                if ahead is not None and ahead > moment:
                    self._anchor, self._began, moment = ahead, present, ahead
            super().advance_to(moment)
            return moment

    __call__ = now


def ui(port: Port = 3000) -> None:
    """Open Dagster's UI on this installation: assets, runs, schedules, checks."""
    settings = load_settings()
    home = prepare_dagster_home(settings)
    output.log.print(f"Dagster UI on http://127.0.0.1:{port} (instance {home})")
    workspace = Path(pipelines.__file__).resolve().parent.parent / "workspace.yaml"
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace)]
    command += ["-h", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "ISOBAR_HOME": str(settings.home.resolve())}
    # In this one's place: whoever ends this process ends Dagster, not a parent of it.
    os.execve(sys.executable, command, environment)


def _synthetic(seed: int) -> ServedMarket:
    return serve_synthetic(generate(SyntheticSpec(seed=seed)))


def _from_files(paths: list[Path]) -> ServedMarket:
    loaded = [load_bars_file(p, as_of=dt.datetime.now(dt.UTC)) for p in paths]
    daily = [m.daily for m in loaded if m.daily is not None]
    minute = [m.minute for m in loaded if m.minute is not None]
    if len(daily) > 1 or len(minute) > 1:
        raise UsageError(
            "several files of one kind",
            got=", ".join(map(str, paths)),
            allowed="at most one daily and one intraday file",
            remedy="leave one out",
        )
    tickers = pl.concat([m.tickers for m in loaded]).unique("symbol").sort("symbol")
    return ServedMarket(
        daily[0] if daily else None,
        minute[0] if minute else None,
        pl.concat([m.splits for m in loaded]),
        pl.concat([m.dividends for m in loaded]),
        tickers,
    )


def _prices(settings: Settings, bars: list[Path] | None, synthetic: bool) -> pl.DataFrame:
    if synthetic:
        return _finest(_synthetic(7).daily, _synthetic(7).minute)
    if bars:
        market = _from_files(bars)
        return _finest(market.daily, market.minute)
    lake = open_lake(settings)
    parts = [lake.read_bars(t) if lake.exists(t) else None for t in ("bars_1d", "bars_1m")]
    return _finest(parts[0], parts[1])


def _finest(daily: pl.DataFrame | None, minute: pl.DataFrame | None) -> pl.DataFrame:
    """Return minutes of the symbols that have them, daily bars of the others."""
    if minute is None or minute.is_empty():
        if daily is None or daily.is_empty():
            raise UsageError(
                "no prices to fill at",
                allowed="--bars FILE, --synthetic, or bars in the lake",
                remedy="ingest bars first, or name a file",
            )
        return daily
    if daily is None:
        return minute
    others = daily.filter(~pl.col("symbol").is_in(minute["symbol"].unique().to_list()))
    return pl.concat([minute, others])


def _newest_emission(settings: Settings) -> dt.datetime | None:
    with Stores(settings).ledger as ledger:
        rows = ledger.rows(sa.select(sa.func.max(signal_batches.c.ts_emit)))
    newest = next(iter(rows[0].values()), None)
    return newest if isinstance(newest, dt.datetime) else None


def _clock(settings: Settings, frame: pl.DataFrame, as_of: str, speed: float) -> PacedClock:
    given = read_time(as_of, "--as-of")
    if given is not None:
        return PacedClock(given, speed)
    last = min(dt.datetime.now(dt.UTC), max(frame["bar_end"].to_list()))
    start = _newest_emission(settings) or last
    return PacedClock(start, speed, lambda: _newest_emission(settings))
