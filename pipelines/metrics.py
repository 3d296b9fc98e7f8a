"""Prometheus metrics of an installation, read from its stores whenever they are asked for.

Runs come and go in processes of their own. What they did stands in Dagster's storage and in the
ledger, so nothing is counted twice, and nothing that was counted is lost by a crash. A store that
does not answer is a metric too (``isobar_store_up``): the others are told all the same.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator

import dagster as dg
import sqlalchemy as sa
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from execution.state import TradingState, current_state
from market import calendar
from market.ledger import Ledger
from market.ledger_tables import engines, orders, plans, reconciliations, signal_batches, signals
from pipelines.resources import Stores

_LOG = logging.getLogger("isobar.metrics")
RUNS_LOOKED_AT = 100
"""Newest finished runs in which the duration of each step is looked up."""


def create_metrics_app(stores: Stores, instance: dg.DagsterInstance) -> FastAPI:
    """Return the application that answers Prometheus at ``/metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(InstallationMetrics(stores, instance))
    app = FastAPI(title="Isobar metrics", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


class InstallationMetrics(Collector):
    """The metrics; registered with a ``CollectorRegistry``.

    Parameters
    ----------
    stores : Stores
        Of the installation.
    instance : dagster.DagsterInstance
        Its runs.

    Notes
    -----
    Times are seconds since 1970, UTC; durations are seconds.
    """

    def __init__(self, stores: Stores, instance: dg.DagsterInstance) -> None:
        self._stores, self._instance = stores, instance

    def describe(self) -> list[Metric]:
        """Return nothing: what there is depends on what was done."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family of metrics."""
        up = GaugeMetricFamily("isobar_store_up", "Whether a store answered", labels=["store"])
        parts: dict[str, Callable[[], list[Metric]]] = {
            "runs": self._runs,
            "lake": self._lake,
            "ledger": self._ledger,
        }
        for name, read in parts.items():
            try:
                found = read()
            except Exception as error:  # noqa: BLE001  (the failure is the metric; others are told)
                _LOG.warning("%s cannot be read for metrics: %s", name, error)
                up.add_metric([name], 0.0)
                continue
            up.add_metric([name], 1.0)
            yield from found
        yield up

    # ------------------------------------------------------------------ Dagster

    def _runs(self) -> list[Metric]:
        runs = CounterMetricFamily("isobar_runs", "Runs by job and end", labels=["job", "status"])
        seconds = GaugeMetricFamily(
            "isobar_run_duration_seconds", "Newest finished run of each job", labels=["job"]
        )
        ended = GaugeMetricFamily(
            "isobar_run_finished_timestamp_seconds", "When that was", labels=["job"]
        )
        steps = GaugeMetricFamily(
            "isobar_step_duration_seconds", "Newest finished step of each name", labels=["step"]
        )
        over = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE
        records = self._instance.get_run_records(
            dg.RunsFilter(statuses=list(over)), limit=RUNS_LOOKED_AT
        )
        told_jobs: set[str] = set()
        told_steps: set[str] = set()
        for record in records:
            job = record.dagster_run.job_name
            if job not in told_jobs and record.start_time and record.end_time:
                told_jobs.add(job)
                seconds.add_metric([job], record.end_time - record.start_time)
                ended.add_metric([job], record.end_time)
            for step in self._instance.get_run_step_stats(record.dagster_run.run_id):
                if step.step_key not in told_steps and step.start_time and step.end_time:
                    told_steps.add(step.step_key)
                    steps.add_metric([step.step_key], step.end_time - step.start_time)
        for job in sorted(told_jobs):
            for status in over:
                wanted = dg.RunsFilter(job_name=job, statuses=[status])
                count = self._instance.get_runs_count(wanted)
                runs.add_metric([job, status.value.lower()], count)
        return [runs, seconds, ended, steps, *self._assets()]

    def _assets(self) -> list[Metric]:
        made = GaugeMetricFamily(
            "isobar_asset_materialized_timestamp_seconds", "Newest version", labels=["asset"]
        )
        values = GaugeMetricFamily(
            "isobar_asset_value", "Numbers that the newest version tells", labels=["asset", "name"]
        )
        for record in self._instance.get_asset_records():
            entry = record.asset_entry
            event = entry.last_materialization_record
            if event is None or event.asset_materialization is None:
                continue
            asset = entry.asset_key.to_user_string()
            made.add_metric([asset], event.timestamp)
            for name, value in event.asset_materialization.metadata.items():
                if isinstance(value.value, int | float) and not isinstance(value.value, bool):
                    values.add_metric([asset, name], float(value.value))
        return [made, values]

    # ------------------------------------------------------------------ lake and ledger

    def _lake(self) -> list[Metric]:
        newest = GaugeMetricFamily(
            "isobar_bars_newest_session_timestamp_seconds",
            "Close of the newest session with bars",
            labels=["table"],
        )
        for table in ("bars_1d", "bars_1m"):
            sessions = self._stores.lake.sessions(table) if self._stores.lake.exists(table) else []
            if sessions:
                newest.add_metric([table], calendar.session_close(max(sessions)).timestamp())
        return [newest]

    def _ledger(self) -> list[Metric]:
        with self._stores.ledger as ledger:
            return [*_published(ledger), *_models(ledger), *_traded(ledger)]


def _published(ledger: Ledger) -> list[Metric]:
    batches = CounterMetricFamily("isobar_signal_batches", "Batches by run", labels=["run"])
    late = CounterMetricFamily("isobar_signal_batches_late", "Of them late", labels=["run"])
    delay = GaugeMetricFamily(
        "isobar_publication_delay_seconds",
        "From the schedule of the newest batch to its publication",
        labels=["run"],
    )
    as_of = GaugeMetricFamily(
        "isobar_batch_as_of_timestamp_seconds", "As of the newest batch", labels=["run"]
    )
    rows = CounterMetricFamily("isobar_signals", "Signals by horizon", labels=["horizon"])
    b = signal_batches.c
    for row in ledger.rows(
        sa.select(b.run, sa.func.count().label("n"), sa.func.sum(sa.cast(b.late, sa.Integer)))
        .group_by(b.run)
        .order_by(b.run)
    ):
        run, count, were_late = row.values()
        batches.add_metric([run], count)
        late.add_metric([run], were_late or 0)
        newest = ledger.rows(sa.select(b).where(b.run == run).order_by(b.seq.desc()).limit(1))[0]
        waited: dt.timedelta = newest["ts_emit"] - newest["scheduled_for"]
        delay.add_metric([run], waited.total_seconds())
        as_of.add_metric([run], newest["as_of"].timestamp())
    s = signals.c
    for row in ledger.rows(sa.select(s.horizon, sa.func.count().label("n")).group_by(s.horizon)):
        rows.add_metric([row["horizon"]], row["n"])
    return [batches, late, delay, as_of, rows]


def _models(ledger: Ledger) -> list[Metric]:
    known = GaugeMetricFamily(
        "isobar_models_as_of_timestamp_seconds", "As of the newest models", labels=["horizon"]
    )
    e = engines.c
    newest = sa.select(e.horizon, sa.func.max(e.as_of).label("newest")).group_by(e.horizon)
    for row in ledger.rows(newest):
        known.add_metric([row["horizon"]], row["newest"].timestamp())
    return [known]


def _traded(ledger: Ledger) -> list[Metric]:
    states = CounterMetricFamily("isobar_orders", "Orders by state", labels=["state"])
    for row in ledger.rows(
        sa.select(orders.c.state, sa.func.count().label("n")).group_by(orders.c.state)
    ):
        states.add_metric([row["state"]], row["n"])
    last = GaugeMetricFamily(
        "isobar_plan_duration_seconds", "From the newest plan to the last change of its orders"
    )
    newest = ledger.rows(
        sa.select(plans.c.created_at, sa.func.max(orders.c.updated_at).label("changed_at"))
        .join(orders, orders.c.plan_id == plans.c.plan_id)
        .group_by(plans.c.plan_id, plans.c.created_at)
        .order_by(plans.c.created_at.desc())
        .limit(1)
    )
    if newest:
        last.add_metric([], (newest[0]["changed_at"] - newest[0]["created_at"]).total_seconds())
    state = GaugeMetricFamily("isobar_trading_state", "1 for the one in force", labels=["state"])
    present = current_state(ledger)
    for each in TradingState:
        state.add_metric([each.value], float(each is present))
    return [states, last, state, *_account(ledger)]


def _account(ledger: Ledger) -> list[Metric]:
    equity = GaugeMetricFamily("isobar_account_equity_usd", "At the newest reconciliation")
    clean = GaugeMetricFamily("isobar_reconciliation_clean", "Whether all was explained")
    at = GaugeMetricFamily("isobar_reconciliation_timestamp_seconds", "When that was")
    r = reconciliations.c
    newest = ledger.rows(sa.select(reconciliations).order_by(r.seq.desc()).limit(1))
    if newest:
        equity.add_metric([], float(newest[0]["equity_usd"]))
        clean.add_metric([], float(newest[0]["clean"]))
        at.add_metric([], newest[0]["at"].timestamp())
    return [equity, clean, at]
