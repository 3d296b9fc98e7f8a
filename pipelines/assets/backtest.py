"""Walk-forward backtest of each horizon's out-of-sample signals."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg
import polars as pl
import sqlalchemy as sa

from backtest.benchmark import find_benchmark
from backtest.metric_names import headline
from backtest.metrics import compute_metrics, session_curve, session_series
from backtest.overfitting import compare_engines, judge_overfitting
from backtest.sensitivity import capacity, cost_sensitivity
from backtest.simulate import Simulation, simulate
from backtest.tearsheet import render_tear_sheet
from market.bars import read_adjusted, read_bars
from market.errors import BacktestError
from market.frame_hash import frame_hash
from market.horizons import Horizon, find_horizon
from market.ledger_tables import backtests
from market.timeframes import Timeframe
from pipelines.assets.models import PeriodConfig, parse_date
from pipelines.backtest_store import StoredBacktest, count_looks, keep_backtest
from pipelines.partitions import horizon_partitions
from pipelines.resources import Stores, moment_of
from pipelines.settings import Settings
from pipelines.side_tables import read_sectors
from pipelines.training import read_labels
from signals.schema import ENSEMBLE_ENGINE

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
        made = run_backtest(stores, horizon, parse_date(config.start), parse_date(config.end), now)
        return dg.MaterializeResult(
            metadata={
                "backtest": made.backtest_id,
                "tear sheet": dg.MetadataValue.path(made.tear_sheet),
                "summary": dg.MetadataValue.md(summary_table(made.metrics)),
                "metrics": dg.MetadataValue.json(dict(made.metrics)),
            }
        )

    return [walk_forward_backtest]


def summary_table(metrics: Mapping[str, Any]) -> str:
    """Return every metric of the whole period with its interval as a table in Markdown."""
    lines = [
        "| metric | value | 95% |",
        "|---|---:|---:|",
        *(f"| {label} | {value} | {known} |" for label, value, known in headline(metrics)),
    ]
    return "\n".join([metrics["overfitting"]["verdict"], "", *lines])


def run_backtest(
    stores: Stores,
    horizon: Horizon,
    start: dt.date | None,
    end: dt.date | None,
    now: dt.datetime,
) -> StoredBacktest:
    """Simulate one horizon, judge it, and keep its tear sheet and its row in the ledger."""
    settings, lake = stores.settings, stores.lake
    every = _predictions(stores, horizon, start, end)
    predictions = every.filter(pl.col("engine") == ENSEMBLE_ENGINE)
    simulation = _simulate(stores, horizon, predictions)
    outcomes = read_labels(lake, horizon).select("symbol", "bar_end", "excess_return")
    scored = every.join(outcomes, on=["symbol", "bar_end"], how="left")
    curve = session_curve(simulation)
    benchmark_name, benchmark = _benchmark(stores, curve["session"].to_list())
    metrics = compute_metrics(
        simulation,
        scored.filter(pl.col("engine") == ENSEMBLE_ENGINE),
        horizon=horizon,
        seed=settings.models.seed,
        benchmark=benchmark,
        benchmark_name=benchmark_name,
        regimes=lake.scan("regimes").collect(),
        sectors=_sectors(stores, predictions),
    )
    metrics |= _costs(simulation)
    data_hash = frame_hash(predictions)
    metrics["overfitting"] = judge_overfitting(
        session_series(simulation, curve).returns,
        count_looks(stores, horizon, data_hash, settings.config_hash),
        compare_engines(scored, horizon),
    )
    page = render_tear_sheet(
        metrics,
        simulation,
        title=f"Walk-forward backtest, horizon {horizon.name}",
        subtitle=f"{predictions['symbol'].n_unique()} symbols, {predictions['session'].min()} to "
        f"{predictions['session'].max()}, out of sample, after costs",
        benchmark=benchmark,
    )
    return keep_backtest(
        stores,
        horizon,
        predictions,
        metrics=metrics,
        page=page,
        sessions=curve,
        data_hash=data_hash,
        now=now,
    )


def _sectors(stores: Stores, predictions: pl.DataFrame) -> pl.DataFrame | None:
    path = stores.settings.features.sectors_file
    last = max(predictions["session"].to_list())
    return None if path is None else read_sectors(stores.lake, path, last)


def _predictions(
    stores: Stores, horizon: Horizon, start: dt.date | None, end: dt.date | None
) -> pl.DataFrame:
    """Return the out-of-sample predictions of every engine."""
    rows = stores.lake.scan("predictions").filter(pl.col("horizon") == horizon.name)
    if start is not None:
        rows = rows.filter(pl.col("session") >= start)
    if end is not None:
        rows = rows.filter(pl.col("session") <= end)
    frame = rows.sort("engine", "bar_end", "symbol").collect()
    if ENSEMBLE_ENGINE not in frame["engine"]:
        raise BacktestError(
            f"no out-of-sample predictions of horizon {horizon.name} in this period",
            got=f"{start or 'beginning'} to {end or 'end'}",
            allowed="a period that was trained walk-forward",
            remedy=f"run `isobar train --horizon {horizon.name}` for it first",
        )
    return frame


def is_backtested(stores: Stores, horizon: Horizon) -> bool:
    """Say whether the present predictions were backtested with the present settings."""
    every = _predictions(stores, horizon, None, None)
    predictions = every.filter(pl.col("engine") == ENSEMBLE_ENGINE)
    query = sa.select(backtests.c.backtest_id).where(
        backtests.c.data_hash == frame_hash(predictions),
        backtests.c.config_hash == stores.settings.config_hash,
    )
    with stores.ledger as ledger:
        return bool(ledger.rows(query))


def _benchmark(stores: Stores, sessions: list[dt.date]) -> tuple[str, pl.DataFrame]:
    # From the session before the first decision on: it needs a value there.
    daily = read_adjusted(stores.lake, Timeframe.D1, sessions[0], sessions[-1])
    return find_benchmark(daily, sessions)


def _costs(simulation: Simulation) -> dict[str, object]:
    """Return what multiples of the costs would leave, and the capital that the market bears."""
    return {
        "cost_sensitivity": cost_sensitivity(simulation).to_dicts(),
        "capacity": asdict(capacity(simulation)),
        "sessions_without_forecast": len(simulation.sessions_without_forecast),
    }


def _simulate(stores: Stores, horizon: Horizon, predictions: pl.DataFrame) -> Simulation:
    settings, lake = stores.settings, stores.lake
    first = predictions["session"].min()
    return simulate(
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
