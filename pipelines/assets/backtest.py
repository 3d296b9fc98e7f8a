"""Walk-forward backtest of each horizon's out-of-sample signals."""

import datetime as dt
from dataclasses import asdict
from functools import partial

import dagster as dg
import polars as pl
import sqlalchemy as sa

from backtest.benchmark import universe_benchmark
from backtest.metrics import compute_metrics
from backtest.sensitivity import capacity, cost_lines, cost_sensitivity
from backtest.simulate import Simulation, simulate
from backtest.tearsheet import render_tear_sheet
from market import calendar
from market.bars import read_adjusted, read_bars
from market.errors import BacktestError
from market.frame_hash import frame_hash
from market.horizons import Horizon, find_horizon
from market.ledger_tables import backtests
from market.timeframes import Timeframe
from pipelines.assets.models import PeriodConfig, parse_date
from pipelines.partitions import horizon_partitions
from pipelines.resources import Stores, moment_of
from pipelines.settings import Settings
from pipelines.training import read_labels
from signals.record import insert_new

GROUP = "backtest"
OWNERS = ["team:research"]


def build_backtest_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the backtest asset, partitioned by horizon."""

    @dg.asset(
        partitions_def=horizon_partitions(settings),
        deps=["models"],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"vectorbt", "plotly"},
        description="The out-of-sample signals through the live targets, planning and risk code, "
        "filled at the next bar's open as far as its volume allows, after costs.",
    )
    def walk_forward_backtest(
        context: dg.AssetExecutionContext,
        config: PeriodConfig,
        stores: dg.ResourceParam[Stores],
    ) -> dg.MaterializeResult:
        horizon = find_horizon(context.partition_key)
        now = moment_of(context)
        metrics, path = run_backtest(
            stores, horizon, parse_date(config.start), parse_date(config.end), now
        )
        return dg.MaterializeResult(
            metadata={
                "tear sheet": dg.MetadataValue.path(str(path)),
                "metrics": dg.MetadataValue.json(metrics),
            }
        )

    return [walk_forward_backtest]


def run_backtest(
    stores: Stores,
    horizon: Horizon,
    start: dt.date | None,
    end: dt.date | None,
    now: dt.datetime,
) -> tuple[dict[str, object], object]:
    """Simulate one horizon, write its tear sheet and its row in the ledger."""
    settings = stores.settings
    predictions = _predictions(stores, horizon, start, end)
    run = _simulation(stores, horizon, predictions)
    simulation = run()
    outcomes = read_labels(stores.lake, horizon).select("symbol", "bar_end", "excess_return")
    metrics = compute_metrics(
        simulation,
        predictions.join(outcomes, on=["symbol", "bar_end"], how="left"),
        horizon=horizon,
        seed=settings.models.seed,
    ) | _costs(run, simulation)
    page = render_tear_sheet(
        metrics,
        simulation,
        title=f"Walk-forward backtest, horizon {horizon.name}",
        subtitle=f"{predictions['symbol'].n_unique()} symbols, {predictions['session'].min()} to "
        f"{predictions['session'].max()}, out of sample, after costs",
        benchmark=_benchmark(stores, predictions),
    )
    folder = settings.home / "backtests"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tear-sheet-{horizon.name}.html"
    scratch = path.with_suffix(".part")
    scratch.write_text(page)
    scratch.replace(path)
    _record(stores, horizon, predictions, metrics, path.as_posix(), now)
    return metrics, path


def _predictions(
    stores: Stores, horizon: Horizon, start: dt.date | None, end: dt.date | None
) -> pl.DataFrame:
    rows = stores.lake.scan("predictions").filter(
        (pl.col("horizon") == horizon.name) & (pl.col("engine") == "ensemble")
    )
    if start is not None:
        rows = rows.filter(pl.col("session") >= start)
    if end is not None:
        rows = rows.filter(pl.col("session") <= end)
    frame = rows.sort("bar_end", "symbol").collect()
    if frame.is_empty():
        raise BacktestError(
            f"no out-of-sample predictions of horizon {horizon.name} in this period",
            got=f"{start or 'beginning'} to {end or 'end'}",
            allowed="a period that was trained walk-forward",
            remedy=f"run `isobar train --horizon {horizon.name}` for it first",
        )
    return frame


def is_backtested(stores: Stores, horizon: Horizon) -> bool:
    """Say whether the present predictions were backtested with the present settings."""
    predictions = _predictions(stores, horizon, None, None)
    query = sa.select(backtests.c.backtest_id).where(
        backtests.c.data_hash == frame_hash(predictions),
        backtests.c.config_hash == stores.settings.config_hash,
    )
    with stores.ledger as ledger:
        return bool(ledger.rows(query))


def _benchmark(stores: Stores, predictions: pl.DataFrame) -> pl.DataFrame:
    sessions = predictions["session"]
    # It needs a value at the close before the first decision.
    start = calendar.previous_session(min(sessions.to_list()))
    daily = read_adjusted(stores.lake, Timeframe.D1, start, max(sessions.to_list()))
    return universe_benchmark(daily)


def _costs(run: partial[Simulation], simulation: Simulation) -> dict[str, object]:
    """Return what costs took, what multiples of them would have, and the capacity."""
    return {
        "cost_lines": cost_lines(simulation),
        "cost_sensitivity": cost_sensitivity(run, known=simulation).to_dicts(),
        "capacity": asdict(capacity(simulation)),
        "sessions_without_forecast": len(simulation.sessions_without_forecast),
    }


def _simulation(stores: Stores, horizon: Horizon, predictions: pl.DataFrame) -> partial[Simulation]:
    """Return the simulation of one horizon, to be run under one or several costs."""
    settings, lake = stores.settings, stores.lake
    first = predictions["session"].min()
    return partial(
        simulate,
        predictions,
        read_bars(lake, horizon.timeframe, first),
        horizon=horizon,
        regimes=lake.scan("regimes").sort("as_of").collect(),
        rules=settings.targets,
        limits=settings.risk,
        plan_rules=settings.orders,
        costs=settings.costs,
        band_bps=settings.band_bps,
        starting_cash_usd=float(settings.starting_cash_usd),
        splits=lake.scan("splits").collect(),
        dividends=lake.scan("dividends").collect(),
        progress=lambda done, total: stores.progress(f"backtest {horizon.name}", done, total),
    )


def _record(
    stores: Stores,
    horizon: Horizon,
    predictions: pl.DataFrame,
    metrics: dict[str, object],
    path: str,
    now: dt.datetime,
) -> None:
    settings = stores.settings
    row = {
        "backtest_id": f"{horizon.name}-{settings.config_hash}-{now:%Y%m%dT%H%M%S%f}",
        "as_of": max(predictions["as_of"].to_list()),
        "created_at": now,
        "start_session": str(predictions["session"].min()),
        "end_session": str(predictions["session"].max()),
        "horizons": [horizon.name],
        "metrics": metrics,
        "data_hash": frame_hash(predictions),
        "config_hash": settings.config_hash,
        "tear_sheet": path,
    }
    with stores.ledger as ledger:
        insert_new(ledger, backtests, [row])
