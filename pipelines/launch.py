"""Launch the jobs from a program: what the command line and the demo do."""

import datetime as dt
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from market import calendar
from market.errors import IsobarError, MarketError
from market.horizons import Horizon, Run
from market.ingest import bars_table
from market.ingest_log import missing_sessions
from market.lineage import contiguous, stale_sessions
from market.timeframes import Timeframe
from pipelines import jobs
from pipelines.cluster import is_heavy
from pipelines.cluster_runs import ClusterRun, Metadata, metadata_of, run_abreast, run_on_cluster
from pipelines.definitions import build_definitions
from pipelines.event_log import quiet_logging
from pipelines.feature_run import definitions_of, feature_inputs, kept_features, used_timeframes
from pipelines.resources import NOW_TAG, Progress, Stores
from pipelines.settings import Settings

_PARTITION = "dagster/partition"
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def prepare_dagster_home(settings: Settings) -> Path:
    """Create Dagster's folder under the data root and point ``DAGSTER_HOME`` at it.

    A ``DAGSTER_HOME`` that is set already is left alone.
    """
    given = os.environ.get("DAGSTER_HOME")
    if given:
        return Path(given)
    home = (settings.home / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    template = Path(__file__).resolve().parent.parent / "dagster.yaml"
    if template.exists() and not (home / "dagster.yaml").exists():
        shutil.copyfile(template, home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


class Launcher:
    """Runs jobs in this process, recorded in the same instance that the UI shows.

    Parameters
    ----------
    settings : Settings
        Which installation.
    now : datetime, optional
        The present of a replay; the clock's otherwise.
    progress : callable, optional
        Called with (what, done, total).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: dt.datetime | None = None,
        progress: Progress | None = None,
    ) -> None:
        prepare_dagster_home(settings)
        self.settings = settings
        self.stores = Stores(settings, progress)
        self.now = now
        self._definitions = build_definitions(settings, self.stores)
        self._instance = dg.DagsterInstance.get()

    def present(self) -> dt.datetime:
        """Return the present: the replay's or the clock's."""
        return self.now or dt.datetime.now(dt.UTC)

    def launch(
        self,
        job: str,
        *,
        partition: str | None = None,
        sessions: Sequence[dt.date] = (),
        config: Mapping[str, Mapping[str, object]] | None = None,
    ) -> dict[str, Metadata]:
        """Run a job to its end; return each asset's metadata.

        Parameters
        ----------
        job : str
            A name from :mod:`pipelines.jobs`.
        partition : str, optional
            A horizon or a session.
        sessions : sequence of date
            Several sessions in one run, contiguous; instead of ``partition``.
        config : mapping
            Asset name to its configuration.

        Raises
        ------
        IsobarError
            Whatever the first asset that failed raised, when all that does not depend on it
            is done.
        """
        tags = {NOW_TAG: self.now.isoformat()} if self.now else {}
        ops = {name: {"config": dict(values)} for name, values in (config or {}).items()}
        settings: dict[str, Any] = {**_QUIET, "ops": ops} if ops else _QUIET
        whole = self._definitions.resolve_job_def(job)
        execute = self._execute_on_cluster if is_heavy(whole) else self._execute
        if len(sessions) < 2:
            day = sessions[0].isoformat() if sessions else None
            return execute(whole, tags, settings, partition or day)
        # Apart: a planned check is stored once for each session of its run, every time with all of
        # them, which is gigabytes for ten years. The checks look at what is there in any case.
        span = {_RANGE_START: sessions[0].isoformat(), _RANGE_END: sessions[-1].isoformat()}
        graph = whole.asset_layer.asset_graph
        assets, checks = graph.materializable_asset_keys, graph.asset_check_keys
        made = whole.get_subset(asset_selection=assets, asset_check_selection=set())
        found = execute(made, tags | span, settings)
        if checks:
            judged = whole.get_subset(asset_selection=set(), asset_check_selection=checks)
            self._execute(judged, tags, _QUIET)
        return found

    def _execute(
        self,
        job: dg.JobDefinition,
        tags: Mapping[str, str],
        run_config: Mapping[str, Any],
        partition: str | None = None,
    ) -> dict[str, Metadata]:
        name = job.name.removesuffix("_job").replace("_", " ")
        finished, steps = 0, len(job.graph.nodes)
        self.stores.progress(name, 0, steps)
        errors: list[BaseException] = []

        @dg.failure_hook(name="keep_the_error")
        def keep_the_error(context: dg.HookContext) -> None:
            if context.op_exception is not None:
                errors.append(context.op_exception)

        @dg.success_hook(name="tell_the_step")
        def tell_the_step(context: dg.HookContext) -> None:
            nonlocal finished
            finished += 1
            self.stores.progress(name, finished, steps)

        # As under the daemon: what does not depend on the asset that failed is made all the same.
        with quiet_logging():
            result = job.with_hooks({keep_the_error, tell_the_step}).execute_in_process(
                raise_on_error=False,
                instance=self._instance,
                partition_key=partition,
                tags=tags,
                run_config=run_config,
            )
        if not result.success:
            raise (
                errors[0]
                if errors
                else IsobarError(
                    f"job {job.name} failed", remedy="see its run in Dagster: isobar ui"
                )
            )
        return metadata_of(result)

    def _execute_on_cluster(
        self,
        job: dg.JobDefinition,
        tags: Mapping[str, str],
        run_config: Mapping[str, Any],
        partition: str | None = None,
    ) -> dict[str, Metadata]:
        name = job.name.removesuffix("_job").replace("_", " ")
        named = {_PARTITION: partition} if partition else {}
        self.stores.progress(name, 0, 1)
        found = run_on_cluster(
            ClusterRun(
                job.name,
                self.settings.config_hash,
                {**tags, **named},
                run_config,
                job.asset_selection,
            )
        )
        self.stores.progress(name, 1, 1)
        return found

    def ingest(
        self,
        start: dt.date,
        end: dt.date,
        timeframes: Sequence[Timeframe],
        symbols: Sequence[str] = (),
    ) -> dict[str, Metadata]:
        """Fetch corporate actions and the bars of a period."""
        sessions = self._sessions(start, end)
        wanted = {"symbols": list(symbols)}
        found = self.launch(jobs.ACTIONS_JOB, config={"splits": wanted, "dividends": wanted})
        names = symbols or self.stores.universe
        for timeframe in timeframes:
            missing = missing_sessions(
                self.stores.lake,
                timeframe,
                sessions,
                names,
                now=self.present(),
                policy=self.settings.refetch,
            )
            table = bars_table(timeframe)
            if missing:
                span = calendar.sessions_between(missing[0], missing[-1])
                job = jobs.ingest_job_name(timeframe)
                found |= self.launch(job, sessions=span, config={table: wanted})
            else:
                settled = len(sessions)
                nothing = {"bars": 0, "sessions fetched": 0}
                found[table] = nothing | {"sessions already settled": settled}
        return found

    def fetch_reference(self, symbols: Sequence[str] = ()) -> dict[str, Metadata]:
        """Fetch macro data, news and identities, as far as the data plan has them."""
        wanted = {"symbols": list(symbols)}
        return self.launch(jobs.REFERENCE_JOB, config={"news": wanted, "identities": wanted})

    def prepare(self) -> dict[str, Metadata]:
        """Compute features that are missing or were made from other bars or definitions.

        Regimes and the dataset version follow.
        """
        found: dict[str, Metadata] = {}
        for timeframe in used_timeframes(self.settings):
            lake = self.stores.lake
            features = kept_features(self.settings, timeframe)
            inputs = feature_inputs(lake, timeframe, features)
            definitions = definitions_of(features, self.settings.features.sectors_file)
            behind = stale_sessions(lake, timeframe, inputs, definitions)
            newest = self.settings.features.newest_sessions.get(timeframe.value)
            wanted = set(sorted(inputs)[-newest:] if newest else inputs)
            for run in contiguous([s for s in behind if s in wanted or s not in inputs]):
                found |= self.launch(jobs.features_job_name(timeframe), sessions=run)
        return found | self.launch(jobs.VERSION_JOB)

    def train(
        self, horizons: Sequence[Horizon], start: str = "", end: str = ""
    ) -> dict[str, Metadata]:
        """Train horizons, one after the other or side by side on a cluster; metadata by horizon."""
        self.prepare()
        config = {"models": {"start": start, "end": end}}

        if not self.settings.cluster.is_on:
            return {
                h.name: self.launch(jobs.TRAINING_JOB, partition=h.name, config=config)["models"]
                for h in horizons
            }
        # The cluster begins as many as it has room for; the others wait there.
        ops = {"models": {"config": config["models"]}}
        tags = {NOW_TAG: self.now.isoformat()} if self.now else {}
        hashed = self.settings.config_hash
        wanted = [
            ClusterRun(
                jobs.TRAINING_JOB, hashed, {**tags, _PARTITION: h.name}, {**_QUIET, "ops": ops}
            )
            for h in horizons
        ]
        self.stores.progress("trainings", 0, len(wanted))
        found: dict[str, Metadata] = {}
        for horizon, made in zip(horizons, run_abreast(wanted), strict=True):
            found[horizon.name] = made["models"]
            self.stores.progress("trainings", len(found), len(wanted))
        return found

    def backtest(
        self, horizons: Sequence[Horizon], start: str = "", end: str = ""
    ) -> dict[str, Metadata]:
        """Backtest horizons one after the other; metadata by horizon."""
        config = {"walk_forward_backtest": {"start": start, "end": end}}
        return {
            h.name: self.launch(jobs.BACKTEST_JOB, partition=h.name, config=config)[
                "walk_forward_backtest"
            ]
            for h in horizons
        }

    def combined_backtest(
        self, names: Sequence[str] = (), start: str = "", end: str = ""
    ) -> Metadata:
        """Backtest several horizons in one account, those that are set where none is named."""
        config = {"combined_backtest": {"horizons": list(names), "start": start, "end": end}}
        return self.launch(jobs.COMBINED_BACKTEST_JOB, config=config)["combined_backtest"]

    def scheduled_run(self, run: Run, session: dt.date) -> dict[str, Metadata]:
        """Do what the schedule of this run does for a session."""
        self._sessions(session, session)
        return self.launch(jobs.run_job_name(run), partition=session.isoformat())

    def _sessions(self, start: dt.date, end: dt.date) -> list[dt.date]:
        history = self.settings.history
        last = history.end or self.present().astimezone(calendar.NEW_YORK).date()
        if start < history.start or end > last:
            raise MarketError(
                "dates outside the history that this installation covers",
                got=f"{start} to {end}",
                allowed=f"{history.start} to {last}",
                remedy="widen history.start or history.end in isobar.toml, or change the dates",
            )
        sessions = calendar.sessions_between(start, end)
        if not sessions:
            raise MarketError(
                "no trading session between these dates",
                got=f"{start} to {end}",
                allowed="a period with at least one trading day",
                remedy="widen it",
            )
        return sessions
