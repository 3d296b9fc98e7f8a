"""The demo on one machine and on a Ray cluster of several workers: same contents, what it costs.

The cluster is real and small: one node of as many CPUs as workers are asked for, the lake on an
S3 server, Dagster, ledger and studies on PostgreSQL, models on an MLflow server, all on loopback
and all on the cores of this machine.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.processes import run_module
from benchmarks.wanted import Wanted
from isobar.demo import live_through, serve_world, settle, spec_of
from market.frame_hash import frame_hash
from market.lake import Lake
from market.lake_tables import TABLES
from market.layouts import BUILT_FROM, BY_SYMBOL_TABLE
from pipelines.jobs import TRAINING_JOB
from pipelines.launch import prepare_dagster_home
from pipelines.resources import Stores
from pipelines.scoreboard import PROMISES_TABLE
from pipelines.settings import load_settings
from tests.mlflow_server import mlflow_server
from tests.pipelines.installation import clean_environment
from tests.postgres import postgres_server
from tests.ray_cluster import ray_cluster
from tests.s3_server import s3_server

ROOT = Path(__file__).parents[1]
SEED = 7
BATCHES = "select run, as_of, rows, content_hash from signal_batches order by seq"
ORDERS = "select symbol, side, quantity, state from orders order by client_order_id"
NAMES_FILES = {PROMISES_TABLE: "made_from", BY_SYMBOL_TABLE: BUILT_FROM}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DAGSTER_DISABLE_TELEMETRY": "true"}


def live(symbols: int, workers: int) -> dict[str, Any]:
    """Live through the demo's days; with no worker in this process alone."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isobar-cluster-")))
        world = stack.enter_context(serve_world(spec_of(SEED, symbols)))
        settle(home, world)
        given = QUIET | {
            "ISOBAR_HOME": str(home),
            "POLYGON_API_KEY": world.vendor_key,
            "POLYGON_BASE_URL": world.vendor_url,
            "ALPACA_API_KEY": world.broker_key,
            "ALPACA_SECRET_KEY": world.broker_secret,
            "ALPACA_BASE_URL": world.broker_url,
        }
        if workers:
            given |= stack.enter_context(machines(given, home, workers))
        os.environ.update(given)
        os.chdir(home)
        settings = load_settings()
        prepare_dagster_home(settings)
        began = time.perf_counter()
        live_through(settings, world, lambda what, done, total: None)
        spent = time.perf_counter() - began
        return {"seconds": spent, "contents": contents(Stores(settings)), **steps()}


@contextmanager
def machines(given: Mapping[str, str], home: Path, workers: int) -> Generator[dict[str, str]]:
    """Begin the servers and the cluster; give the settings that name them."""
    dagster = home / "dagster"
    dagster.mkdir()
    (dagster / "dagster.yaml").write_text((ROOT / "containers/dagster.yaml").read_text())
    with postgres_server() as postgres, s3_server() as s3, mlflow_server(home) as tracking:
        for database in ("dagster", "ledger"):
            postgres.execute(f"CREATE DATABASE {database}")
        reached, server = s3.settings(), f"isobar@127.0.0.1:{postgres.port}"
        shared = {
            "DAGSTER_HOME": str(dagster),
            "DAGSTER_POSTGRES_URL": f"postgresql+psycopg2://{server}/dagster",
            "ISOBAR_LEDGER_URL": f"postgresql+psycopg://{server}/ledger",
            "ISOBAR_LAKE_URL": f"s3://{s3.bucket()}",
            "ISOBAR_S3__ENDPOINT": reached.endpoint,
            "ISOBAR_S3__ACCESS_KEY": reached.access_key.get_secret_value(),
            "ISOBAR_S3__SECRET_KEY": reached.secret_key.get_secret_value(),
            "ISOBAR_MLFLOW_URL": tracking,
            "ISOBAR_CLUSTER__TRAINING_CPUS": "1",
            "ISOBAR_CLUSTER__TRAINING_MEMORY_GB": "4",
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        machine = (
            clean_environment() | dict(given) | shared | {"PYTHONPATH": str(ROOT), "PATH": path}
        )
        with ray_cluster(machine, home, cpus=workers) as address:
            yield shared | {"ISOBAR_CLUSTER__RAY_ADDRESS": address}


def contents(stores: Stores) -> dict[str, Any]:
    """Return what was made, whatever its files and ids: tables, published batches, orders."""
    tables = {name: _digest(stores.lake, name) for name in sorted(TABLES)}
    with stores.ledger as ledger:
        told = {"batches": ledger.read(BATCHES).rows(), "orders": ledger.read(ORDERS).rows()}
    return json.loads(json.dumps({"tables": tables, **told}, default=str))


def _digest(lake: Lake, table: str) -> str:
    """Return the content of a table, less the column that says from which files it was made.

    Files are called differently each time.
    """
    if not lake.exists(table):
        return "none"
    named = NAMES_FILES.get(table)
    rows = lake.scan(table).drop(*([named] if named else [])).collect()
    keys = [k for k in TABLES[table].keys if k in rows.columns]
    return frame_hash(rows.select(sorted(rows.columns)).sort(keys))


def steps() -> dict[str, float]:
    """Return the seconds of all trainings: added up, and from the first one's begin to the end."""
    added, spans = 0.0, list[tuple[float, float]]()
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_run_records(dg.RunsFilter(job_name=TRAINING_JOB)):
            spans.append((run.start_time or 0.0, run.end_time or 0.0))
            for step in instance.get_run_step_stats(run.dagster_run.run_id):
                added += (step.end_time or 0.0) - (step.start_time or 0.0)
    first, last = min(s for s, _ in spans), max(e for _, e in spans)
    return {"training steps": added, "trainings": last - first}


def main() -> None:
    """Compare; a child of this module lives through one demo and prints it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--symbols", type=int, nargs="+", default=[5])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(live(asked.symbols[0], asked.workers[0])))
        return
    wanted = Wanted()
    print("symbols  workers  demo s  trainings s  training steps s  contents that differ")
    for symbols in asked.symbols:
        alone: dict[str, Any] = {}
        for workers in (0, *asked.workers):
            given = ("--child", "--symbols", str(symbols), "--workers", str(workers))
            made = run_module("benchmarks.cluster", *given)
            alone = alone or made
            differ = [
                f"{part} {name}".strip()
                for part, whole in alone["contents"].items()
                for name in (whole if isinstance(whole, dict) else [""])
                if made["contents"][part] != whole
                and (not name or made["contents"][part].get(name) != whole[name])
            ]
            says = f"{', '.join(differ) or 'none'} {wanted.at_most(len(differ), 0)}"
            print(
                f"{symbols:7}  {workers or 'none':>7}  {made['seconds']:6.0f}"
                f"  {made['trainings']:11.0f}  {made['training steps']:16.0f}  {says}",
                flush=True,
            )
    wanted.end()


if __name__ == "__main__":
    main()
