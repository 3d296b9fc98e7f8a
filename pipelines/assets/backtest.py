"""Walk-forward backtests of out-of-sample signals: of each horizon, and of all in one account."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg
import polars as pl
import sqlalchemy as sa
from pydantic import Field

from backtest.benchmark import find_benchmark
from backtest.metric_names import headline
from backtest.metrics import compute_metrics, session_curve, session_series
from backtest.overfitting import compare_engines, judge_overfitting
from backtest.pictures import draw_equity
from backtest.schedule import finest_timeframe, in_order
from backtest.sensitivity import capacity, cost_sensitivity
from backtest.simulate import Simulation, simulate
from backtest.tearsheet import render_tear_sheet, stopped_notice
from market.bars import read_adjusted, read_bars
from market.errors import BacktestError
from market.frame_hash import frame_hash
from market.horizons import Horizon, combined_name, find_horizon
from market.lake import Lake
from market.ledger_tables import backtests
from market.timeframes import Timeframe
from models.pictures import as_markdown
from pipelines.assets.models import PeriodConfig, parse_date
from pipelines.backtest_store import StoredBacktest, count_looks, keep_backtest, read_run
from pipelines.partitions import horizon_partitions
from pipelines.resources import Stores, moment_of
from pipelines.settings import Settings
from pipelines.side_tables import read_sectors
from pipelines.training import read_labels
from signals.schema import ENSEMBLE_ENGINE

GROUP = "backtest"
OWNERS = ["team:research"]


class CombinationConfig(PeriodConfig):
    """Period and horizons of a combined backtest; no name for those that are set."""

    horizons: list[str] = Field(default_factory=list)


def build_backtest_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the backtest of each horizon, by partition, and the combined one."""

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
        start, end = parse_date(config.start), parse_date(config.end)
        return _result(stores, run_backtest(stores, [horizon], start, end, now))

    @dg.asset(
        deps=["models"],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"vectorbt", "plotly"},
        description="The out-of-sample signals of several horizons, netted in one account by the "
        "live code, on the shortest bars among theirs, after costs.",
    )
    def combined_backtest(
        context: dg.AssetExecutionContext,
        config: CombinationConfig,
        stores: dg.ResourceParam[Stores],
    ) -> dg.MaterializeResult:
        horizons = combined_horizons(stores, config.horizons)
        start, end = parse_date(config.start), parse_date(config.end)
        made = run_backtest(stores, horizons, start, end, moment_of(context))
        return _result(stores, made)

    return [walk_forward_backtest, combined_backtest]


def _result(stores: Stores, made: StoredBacktest) -> dg.MaterializeResult:
    equity = draw_equity([read_run(stores, made)])
    return dg.MaterializeResult(
        metadata={
            "backtest": made.backtest_id,
            "horizons": made.horizon,
            "equity": dg.MetadataValue.md(as_markdown("equity and drawdown", equity)),
            "sessions": f"{made.start_session} to {made.end_session}",
            "tear sheet": dg.MetadataValue.path(made.tear_sheet),
            "summary": dg.MetadataValue.md(summary_table(made.metrics)),
            "metrics": dg.MetadataValue.json(dict(made.metrics)),
        }
    )


def combined_horizons(stores: Stores, names: Sequence[str] = ()) -> list[Horizon]:
    """Return the horizons of a combined backtest.

    Parameters
    ----------
    stores : Stores
        Of the installation.
    names : sequence of str
        Which; when empty those of ``backtest.combined_horizons``, and where that is empty too
        all that are on and have out-of-sample predictions.

    Raises
    ------
    BacktestError
        When there are fewer than two.
    """
    settings = stores.settings
    wanted = list(names) or list(settings.backtest.combined_horizons)
    if not wanted:
        ensemble = pl.col("engine") == ENSEMBLE_ENGINE
        rows = stores.lake.scan("predictions").filter(ensemble).select("horizon").unique()
        there = set(rows.collect()["horizon"])
        wanted = [n for n in settings.models.horizons if n in there]
    if len(set(wanted)) < 2:
        raise BacktestError(
            "a combined backtest needs several horizons",
            got=wanted,
            allowed="two or more with out-of-sample predictions",
            remedy="run `isobar train` for another horizon, or `isobar backtest` for this one",
        )
    return [find_horizon(n) for n in dict.fromkeys(wanted)]


def summary_table(metrics: Mapping[str, Any]) -> str:
    """Return every metric of the whole period with its interval as a table in Markdown."""
    lines = [
        "| metric | value | 95% |",
        "|---|---:|---:|",
        *(f"| {label} | {value} | {known} |" for label, value, known in headline(metrics)),
    ]
    stopped = stopped_notice(metrics)
    said = [metrics["overfitting"]["verdict"], *([] if stopped is None else [stopped])]
    return "\n".join([*said, "", *lines])


def run_backtest(
    stores: Stores,
    horizons: Sequence[Horizon],
    start: dt.date | None,
    end: dt.date | None,
    now: dt.datetime,
) -> StoredBacktest:
    """Simulate horizons in one account, judge them, and keep tear sheet and row in the ledger.

    Parameters
    ----------
    stores : Stores
        Of the installation.
    horizons : sequence of Horizon
        One or more, each once.
    start, end : date, optional
        Sessions of the predictions, both included. The period of several horizons is that in
        which all have predictions.
    now : datetime
        Aware.

    Returns
    -------
    StoredBacktest
        As it stands in the ledger.

    Raises
    ------
    BacktestError
        When a horizon has no predictions there, the periods do not overlap, or
        :func:`backtest.simulate.simulate` refuses.
    """
    settings, lake, horizons = stores.settings, stores.lake, in_order(horizons)
    every = _shared_period([_predictions(stores, h, start, end) for h in horizons])
    predictions = every.filter(pl.col("engine") == ENSEMBLE_ENGINE)
    simulation = _simulate(stores, horizons, predictions)
    scored = every.join(_outcomes(lake, horizons), on=["horizon", "symbol", "bar_end"], how="left")
    curve = session_curve(simulation)
    benchmark_name, benchmark = _benchmark(stores, curve["session"].to_list())
    metrics = compute_metrics(
        simulation,
        scored.filter(pl.col("engine") == ENSEMBLE_ENGINE),
        horizons=horizons,
        seed=settings.models.seed,
        benchmark=benchmark,
        benchmark_name=benchmark_name,
        regimes=lake.scan("regimes").collect(),
        sectors=_sectors(stores, predictions),
    )
    metrics |= _costs(simulation)
    data_hash = frame_hash(predictions)
    metrics["overfitting"] = judge_overfitting(
        session_series(curve).returns,
        count_looks(stores, horizons, data_hash, settings.config_hash),
        compare_engines(scored, horizons),
    )
    page = render_tear_sheet(
        metrics,
        simulation,
        title=_title(simulation.horizon),
        subtitle=f"{predictions['symbol'].n_unique()} symbols, {predictions['session'].min()} to "
        f"{predictions['session'].max()}, out of sample, after costs",
        benchmark=benchmark,
    )
    return keep_backtest(
        stores,
        horizons,
        predictions,
        metrics=metrics,
        page=page,
        sessions=curve,
        data_hash=data_hash,
        now=now,
    )


def _title(name: str) -> str:
    if "+" not in name:
        return f"Walk-forward backtest, horizon {name}"
    return f"Walk-forward backtest, horizons {', '.join(name.split('+'))} in one account"


def _outcomes(lake: Lake, horizons: Sequence[Horizon]) -> pl.DataFrame:
    return pl.concat(
        read_labels(lake, h).select(
            pl.lit(h.name).alias("horizon"), "symbol", "bar_end", "excess_return"
        )
        for h in horizons
    )


def _shared_period(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the predictions of the sessions from the last first one to the earliest last one."""
    traded = [p.filter(pl.col("engine") == ENSEMBLE_ENGINE)["session"].to_list() for p in parts]
    first, last = max(map(min, traded)), min(map(max, traded))
    if first > last:
        raise BacktestError(
            "the horizons have no session in common",
            got=[
                f"{p['horizon'][0]}: {min(days)} to {max(days)}"
                for p, days in zip(parts, traded, strict=True)
            ],
            allowed="predictions of all horizons over the same sessions",
            remedy="train them for one period, or combine others",
        )
    return pl.concat(p.filter(pl.col("session").is_between(first, last)) for p in parts)


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
    """Return what multiples of the costs would leave, what the market bears, and what stopped."""
    stopped = simulation.stopped_from
    return {
        "cost_sensitivity": cost_sensitivity(simulation).to_dicts(),
        "capacity": asdict(capacity(simulation)),
        "sessions_without_forecast": len(simulation.sessions_without_forecast),
        "stopped_from": None if stopped is None else stopped.isoformat(),
    }


def _simulate(stores: Stores, horizons: Sequence[Horizon], predictions: pl.DataFrame) -> Simulation:
    settings, lake = stores.settings, stores.lake
    first, name = predictions["session"].min(), combined_name(horizons)
    return simulate(
        predictions,
        read_bars(lake, finest_timeframe(horizons), first),
        horizons=horizons,
        regimes=lake.scan("regimes").sort("as_of").collect(),
        rules=settings.targets,
        limits=settings.risk,
        plan_rules=settings.orders,
        costs=settings.costs,
        band_bps=settings.band_bps,
        starting_cash_usd=float(settings.starting_cash_usd),
        splits=lake.scan("splits").collect(),
        dividends=lake.scan("dividends").collect(),
        progress=lambda done, total: stores.progress(f"backtest {name}", done, total),
    )
