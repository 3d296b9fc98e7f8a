"""Two days of a tiny installation, from a vendor's server to a broker's, and what they left."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

from execution.denials import DenialCode
from execution.state import halt
from isobar.workspace import Workspace
from market import calendar
from market.errors import FeatureError, IsobarError, LakeError, MarketError, UsageError
from market.horizons import Run, find_horizon, scheduled_for
from market.ledger_tables import (
    backtests,
    engine_weights,
    orders,
    signal_batches,
    signal_outcomes,
    signals,
)
from market.schema import BAR_SCHEMA, Bar
from models.ensemble import META_ENGINE
from models.registry import families_of
from pipelines.assets.orders import trade_newest
from pipelines.launch import Launcher
from pipelines.settings import load_settings
from pipelines.training import read_labels
from signals.publish import verify_chain
from tests.families import engines_of
from tests.pipelines.installation import (
    HORIZONS,
    KEYS,
    RUNS,
    TODAY,
    YESTERDAY,
    Installation,
    environment_of,
)

pytestmark = pytest.mark.xdist_group("installation")
NAMES = [f"{run.value} {session}" for run, session in RUNS]


@pytest.fixture(scope="module")
def workspace(installation: Installation) -> Workspace:
    with environment_of(installation.environment, installation.home):
        return Workspace()


def rows_of(installation: Installation, query: Any) -> list[dict[str, Any]]:
    with installation.stores.ledger as ledger:
        return ledger.rows(query)


class TestLake:
    @pytest.mark.parametrize("table", ["bars_1d", "bars_1m"])
    def test_bars_in_the_lake_are_the_generated_ones(self, installation: Installation, table: str):
        market = installation.market
        made = market.daily if table == "bars_1d" else market.minute
        stored = installation.stores.lake.read_bars(table)
        same = [c for c in BAR_SCHEMA.names() if c not in (Bar.VWAP, Bar.TRADES)]
        expected = made.select(same).sort(Bar.SYMBOL, Bar.BAR_START)
        assert stored.select(same).equals(expected)

    def test_features_exist_for_every_session_with_bars(self, installation: Installation):
        lake = installation.stores.lake
        assert lake.sessions("features_1d") == lake.sessions("bars_1d")
        assert lake.sessions("features_15m") == lake.sessions("bars_1m")
        assert max(lake.sessions("bars_1d")) == TODAY

    @pytest.mark.parametrize("horizon", HORIZONS)
    def test_predictions_are_out_of_sample(self, installation: Installation, horizon: str):
        found = (
            installation.stores.lake.scan("predictions")
            .filter((pl.col("horizon") == horizon) & (pl.col("engine") != "ensemble"))
            .collect()
        )
        assert set(found["engine"]) == set(engines_of(find_horizon(horizon)))
        frame = find_horizon(horizon).timeframe.value
        features = installation.stores.lake.scan(f"features_{frame}").collect()
        # A row without volatility is no example: the first sessions of a history.
        usable = features.filter(pl.col("volatility_20").is_not_null())
        sessions = sorted(usable["session"].unique())
        first, length = (6, 3) if horizon == "1h" else (50, 25)
        # The session of today came after the training.
        tested = sessions[first : sessions.index(YESTERDAY) + 1]
        assert sorted(found["session"].unique()) == tested
        # The meta-learner is worked out by the month.
        for part in found.filter(pl.col("engine") != META_ENGINE).partition_by("engine"):
            windows = part.group_by("model_version").agg(pl.col("session").unique().sort())
            expected = [tested[k : k + length] for k in range(0, len(tested), length)]
            assert sorted(windows["session"].to_list()) == expected
            assert not part.select("symbol", "bar_end").is_duplicated().any()

    @pytest.mark.parametrize("horizon", HORIZONS)
    def test_no_label_of_a_training_window_reaches_its_test(
        self, installation: Installation, horizon: str
    ):
        lake, row = installation.stores.lake, find_horizon(horizon)
        found = lake.scan("predictions").filter(pl.col("horizon") == horizon).collect()
        first = found["as_of"].min()
        assert isinstance(first, dt.datetime)
        features = lake.scan(f"features_{row.timeframe.value}").collect()
        labels = read_labels(lake, row)
        before = sorted(features.filter(pl.col("as_of") < first)["session"].unique())
        gap = row.sessions + installation.settings.models.embargo_sessions
        trained = labels.filter(pl.col("session") <= before[-gap - 1])
        known = trained["label_known_at"].drop_nulls().max()
        assert isinstance(known, dt.datetime)
        assert known < first


class TestModels:
    @pytest.mark.parametrize("horizon", HORIZONS)
    def test_champions_are_in_mlflow_and_know_nothing_later(
        self, installation: Installation, horizon: str
    ):
        trained = scheduled_for(Run.EOD, YESTERDAY)
        champions = installation.stores.tracker.champions(horizon, trained)
        assert [m.family.name for m in champions] == sorted(
            f.name for f in families_of(find_horizon(horizon))
        )
        for model in champions:
            assert dt.datetime.fromisoformat(model.known_at) <= trained

    def test_one_backtest_per_horizon_with_its_tear_sheet(self, installation: Installation):
        found = rows_of(installation, sa.select(backtests))
        assert sorted(r["horizons"][0] for r in found) == sorted(HORIZONS)
        for row in found:
            assert row["config_hash"] == installation.settings.config_hash
            assert "<html" in Path(row["tear_sheet"]).read_text()[:500].lower()


class TestCombinedBacktest:
    def test_hours_and_days_share_an_account_over_the_sessions_of_the_hours(
        self, installation: Installation, tmp_path: Path
    ):
        copy = installation.copy(tmp_path)
        with environment_of(copy.environment, copy.home):
            made = Launcher(load_settings(), now=copy.clock.now()).combined_backtest()
        row = rows_of(copy, sa.select(backtests).where(backtests.c.backtest_id == made["backtest"]))
        assert row[0]["horizons"] == list(HORIZONS)
        alone = rows_of(copy, sa.select(backtests))
        hours = next(r for r in alone if r["horizons"] == ["1h"])
        for bound in ("start_session", "end_session"):
            assert row[0][bound] == hours[bound]
        groups = {r["group"] for r in made["metrics"]["table"]}
        assert {f"horizon={name}" for name in HORIZONS} <= groups
        assert made["metrics"]["overfitting"]["trials"]["backtests"] == len(alone)
        assert "<html" in Path(made["tear sheet"]).read_text()[:500].lower()


class TestSignals:
    @pytest.mark.parametrize(("run", "session"), RUNS, ids=NAMES)
    def test_a_run_publishes_what_the_horizons_table_says(
        self, installation: Installation, run: Run, session: dt.date
    ):
        as_of = scheduled_for(run, session)
        batch = rows_of(
            installation, sa.select(signal_batches).where(signal_batches.c.as_of == as_of)
        )
        assert [b["run"] for b in batch] == [run.value]
        found = rows_of(installation, sa.select(signals).where(signals.c.as_of == as_of))
        due = {h for h in HORIZONS if run in find_horizon(h).runs}
        assert {r["horizon"] for r in found} == due
        for horizon in due:
            engines = {r["engine"] for r in found if r["horizon"] == horizon}
            assert engines == {*engines_of(find_horizon(horizon)), "ensemble"}
            symbols = [r["symbol"] for r in found if r["horizon"] == horizon]
            assert len(symbols) == 6 * len(engines)

    def test_no_signal_outlives_its_horizon(self, installation: Installation):
        for row in rows_of(installation, sa.select(signals)):
            assert row["as_of"] < row["valid_until"]
            assert row["valid_until"] <= find_horizon(row["horizon"]).end_of(row["as_of"])

    def test_the_chain_is_whole(self, installation: Installation):
        with installation.stores.ledger as ledger:
            assert verify_chain(ledger, installation.stores.head_file) == []

    def test_what_has_ended_has_its_outcome_and_nothing_else(self, installation: Installation):
        close = calendar.session_close(TODAY)
        published = pl.DataFrame(
            rows_of(installation, sa.select(signals.c["id", "valid_until", "horizon"]))
        )
        ended = published.filter(pl.col("valid_until") <= close)
        assert set(ended["horizon"]) == set(HORIZONS)
        assert ended.height < published.height
        found = pl.DataFrame(rows_of(installation, sa.select(signal_outcomes)))
        assert sorted(found["signal_id"]) == sorted(ended["id"])
        assert found["known_at"].max() == close
        asset = installation.story[f"eod {TODAY}"]["signal_outcomes"]
        assert (asset["settled"], asset["waiting for bars"]) == (ended.height, 0)
        assert installation.story[f"eod {TODAY} again"]["signal_outcomes"]["settled"] == 0

    def test_outcomes_are_the_returns_that_were_forecast(self, installation: Installation):
        made = scheduled_for(Run.EOD, YESTERDAY)
        query = sa.select(signals.c["symbol", "engine"], signal_outcomes.c.realised_return_bps)
        joined = query.join(signal_outcomes, signals.c.id == signal_outcomes.c.signal_id)
        found = pl.DataFrame(rows_of(installation, joined.where(signals.c.as_of == made)))
        labels = read_labels(installation.stores.lake, find_horizon("1d"), YESTERDAY)
        both = found.join(labels.filter(pl.col("session") == YESTERDAY), on="symbol")
        assert both.height == found.height > 0
        wrong = (both["realised_return_bps"] - both["excess_return"] * 1e4).abs()
        assert wrong.max() < 1e-6

    def test_weights_of_a_horizon_add_up_to_one(self, installation: Installation):
        found = pl.DataFrame(rows_of(installation, sa.select(engine_weights)))
        sums = found.group_by("horizon", "regime", "as_of").agg(pl.col("weight").sum())
        assert sums.height > 0
        assert sums.filter((pl.col("weight") - 1).abs() > 1e-9).is_empty()


class TestRepetition:
    def test_bootstrap_again_asks_for_no_bar(self, installation: Installation):
        story = installation.story
        first = [p for p in story["requests of the first bootstrap"] if "/aggs/" in p]
        again = [p for p in story["requests of the second bootstrap"] if "/aggs/" in p]
        assert len(first) == 12 + 1  # And the VIX.
        assert again == []

    def test_bootstrap_again_trains_and_backtests_nothing(self, installation: Installation):
        first, again = installation.story["bootstrap"], installation.story["bootstrap again"]
        for horizon in HORIZONS:
            assert "MLflow run" in first[f"models {horizon}"]
            assert list(again[f"models {horizon}"]) == ["already trained on dataset"]
            assert f"backtest {horizon}" not in again
        assert again["bars_1d"]["sessions fetched"] == 0

    def test_bootstrap_again_changes_no_table(self, installation: Installation):
        story = installation.story
        assert story["hashes after bootstrap again"] == story["hashes after bootstrap"]

    @pytest.mark.parametrize("name", [f"premarket {TODAY}", f"eod {TODAY}"])
    def test_a_run_again_is_the_same_run(self, installation: Installation, name: str):
        story, asset = installation.story, f"signals_{name.split()[0]}"
        first, again = story[name][asset], story[f"{name} again"][asset]
        assert (first["already published"], again["already published"]) == (False, True)
        assert again["batch"] == first["batch"]
        assert story[f"ledger after {name} again"] == story[f"ledger after {name}"]
        assert story[f"hashes after {name} again"] == story[f"hashes after {name}"]

    def test_a_trading_run_again_sends_no_second_order(self, installation: Installation):
        story, name = installation.story, f"premarket {TODAY}"
        assert story[f"orders sent by {name}"] > 0
        assert story[f"orders sent by {name} again"] == 0
        assert story[f"{name} again"]["orders_premarket"]["resumed"] is True


class TestOrders:
    def test_only_the_runs_of_the_day_trade(self, installation: Installation):
        story = installation.story
        assert story[f"orders sent by eod {YESTERDAY}"] == 0
        assert story[f"orders sent by eod {TODAY}"] == 0
        assert story[f"orders sent by midday {TODAY}"] > 0

    def test_the_journal_and_the_broker_tell_the_same(self, installation: Installation):
        own = {r["client_order_id"]: r for r in rows_of(installation, sa.select(orders))}
        assert own
        assert {r["state"] for r in own.values()} == {"filled"}
        held: dict[str, int] = {}
        for row in own.values():
            sign = 1 if row["side"] == "buy" else -1
            held[row["symbol"]] = held.get(row["symbol"], 0) + sign * int(row["filled_quantity"])
        positions = installation.stores.broker.positions()
        assert {p.symbol: int(p.quantity) for p in positions} == {
            s: q for s, q in held.items() if q
        }

    def test_a_halted_installation_denies_every_order(
        self, installation: Installation, tmp_path: Path
    ):
        copy = installation.copy(tmp_path)
        stores, now = copy.stores, copy.clock.now()
        with stores.ledger as ledger:
            halt(ledger, "a test", now)
        report = trade_newest(stores, now=now, dry_run=True)
        assert report.batch_id is not None
        assert report.verdicts
        for verdict in report.verdicts:
            assert DenialCode.TRADING_HALTED in {d.code for d in verdict.denials}


class TestDagster:
    def test_every_check_that_ran_passed(self, installation: Installation):
        with (
            environment_of(
                {**installation.environment, "DAGSTER_HOME": str(installation.home / "dagster")}
            ),
            dg.DagsterInstance.get() as instance,
        ):
            runs = instance.get_runs()
            logs = [
                c.event_log_entry.dagster_event
                for r in runs
                for c in instance.get_records_for_run(
                    r.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
                ).records
            ]
        checks = [e.event_specific_data for e in logs if e is not None]
        assert len({c.check_name for c in checks}) >= 7
        assert [c.check_name for c in checks if not c.passed] == []
        assert {r.status for r in runs} == {dg.DagsterRunStatus.SUCCESS}

    def test_a_session_outside_the_history_is_refused(self, installation: Installation):
        with environment_of(installation.environment):
            launcher = Launcher(installation.settings, now=installation.clock.now())
            with pytest.raises(MarketError, match="outside the history"):
                launcher.scheduled_run(Run.EOD, calendar.next_session(TODAY))


class TestSecrets:
    def test_no_file_of_the_installation_holds_a_key(self, installation: Installation):
        files = [p for p in installation.home.rglob("*") if p.is_file()]
        assert len(files) > 100
        found = [
            str(p.relative_to(installation.home))
            for p in files
            if any(k.encode() in p.read_bytes() for k in KEYS)
        ]
        assert found == []


class TestWorkspace:
    def test_raw_bars_are_those_of_the_lake(self, installation: Installation, workspace: Workspace):
        lake = installation.stores.lake
        one = lake.read_bars("bars_1d", symbols=["ZZAB"])
        assert workspace.bars("ZZAB", adjusted="raw").equals(one)
        minutes = lake.read_bars("bars_1m", symbols=["ZZAA", "ZZAB"], start=TODAY, end=TODAY)
        found = workspace.bars(["ZZAA", "ZZAB"], "1m", TODAY, str(TODAY), adjusted="raw")
        assert found.equals(minutes)
        quarters = workspace.bars("ZZAA", "15m", TODAY, TODAY)
        assert quarters.height == 26
        assert quarters[Bar.VOLUME].sum() == pytest.approx(
            minutes.filter(pl.col("symbol") == "ZZAA")[Bar.VOLUME].sum()
        )

    def test_bars_as_of_a_moment_hold_nothing_later(self, workspace: Workspace):
        moment = dt.datetime(2025, 6, 30, 15, 0, tzinfo=dt.UTC)
        found = workspace.bars("ZZAA", "1m", as_of=moment)
        assert found[Bar.KNOWN_AT].max() == moment

    def test_weeks_and_months_are_made_of_days(self, workspace: Workspace):
        days = workspace.bars("ZZAC", "1d", "2025-06-02", "2025-06-30")
        month = workspace.bars("ZZAC", "1M", "2025-06-02", "2025-06-30")
        assert month.height == 1
        assert month[Bar.HIGH].item() == days[Bar.HIGH].max()

    def test_features_are_those_of_the_lake(self, installation: Installation, workspace: Workspace):
        found = workspace.features("ZZAA", "1d", names=["volatility_20"])
        stored = (
            installation.stores.lake.scan("features_1d")
            .filter(pl.col("symbol") == "ZZAA")
            .sort("bar_end")
            .collect()
        )
        assert found["volatility_20"].equals(stored["volatility_20"])
        assert workspace.features(start=TODAY, end=TODAY).height == 6

    def test_signals_are_those_of_the_ledger(
        self, installation: Installation, workspace: Workspace
    ):
        found = workspace.signals(engine="ensemble", horizon="1d", symbol="ZZAA")
        assert found.height == len(RUNS)
        since = scheduled_for(Run.EOD, TODAY)
        assert workspace.signals(since=since)["as_of"].unique().to_list() == [since]

    def test_sql_joins_lake_and_ledger(self, workspace: Workspace):
        found = workspace.sql(
            """select s.symbol, s.direction, b.close
               from signals_current s join bars_1d b using (symbol)
               where s.engine = 'ensemble' and s.horizon = '1d'
                 and b.session = date '2025-06-30' and s.as_of like '2025-06-30T20%'
               order by s.symbol"""
        )
        bars = workspace.bars(found["symbol"].to_list(), start=TODAY, end=TODAY, adjusted="raw")
        assert found["close"].to_list() == bars[Bar.CLOSE].to_list()
        assert found.height == 6

    def test_sql_sees_the_ledger_alone_and_both_regimes(self, workspace: Workspace):
        orders_held = workspace.sql("select count(*) as n from orders").item()
        assert orders_held > 0
        joined = workspace.sql(
            "select count(*) as n from regimes r, ledger_regimes l where l.regime = r.regime"
        )
        assert joined.item() > 0

    def test_what_is_wrong_is_said(self, workspace: Workspace, tmp_path: Path):
        wrong: list[tuple[type[IsobarError], str, Any]] = [
            (MarketError, "symbols without bars", lambda: workspace.bars("NOPE")),
            (MarketError, "timeframe", lambda: workspace.bars("ZZAA", "7m")),
            (MarketError, "price view", lambda: workspace.bars("ZZAA", adjusted="none")),
            (MarketError, "not a date", lambda: workspace.bars("ZZAA", start="June")),
            (
                MarketError,
                "got",
                lambda: workspace.bars("ZZAA", start="2025-06-03", end="2025-06-02"),
            ),
            (FeatureError, "volatility_20", lambda: workspace.features(names=["volatility_2"])),
            (UsageError, "SQL", lambda: workspace.sql("selec 1")),
        ]
        for kind, text, call in wrong:
            with pytest.raises(kind, match=text):
                call()
        with environment_of({"ISOBAR_HOME": str(tmp_path)}):
            empty = Workspace(tmp_path)
        assert "isobar bootstrap" in repr(empty)
        with pytest.raises(LakeError, match="no table 'bars_1d' yet"):
            empty.features()
        with pytest.raises(LakeError, match="isobar ingest"):
            empty.bars("ZZAA")

    def test_it_names_what_it_holds(self, installation: Installation, workspace: Workspace):
        assert str(installation.home) in repr(workspace)
        assert "2025-06-30" in repr(workspace)
