"""Backtests as they are kept, found and compared; how often one looked, counted from the stores."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
import sqlalchemy as sa

from backtest.metric_names import METRICS
from market.errors import BacktestError, ModelError, SettingsError
from market.horizons import find_horizon
from market.ledger_tables import backtests
from models.recipe import challenger_engine
from models.tuning import Budget, count_trials, tune
from pipelines.assets.backtest import (
    _shared_period,
    combined_horizons,
    is_backtested,
    run_backtest,
    summary_table,
)
from pipelines.backtest_store import (
    StoredBacktest,
    count_looks,
    find_backtest,
    list_backtests,
    read_run,
)
from pipelines.report_data import _evidence
from pipelines.resources import Stores
from pipelines.settings import load_settings
from pipelines.tuning import STORAGE
from tests.commands import isobar
from tests.live_record import DAYS, HORIZON, MARKET, NOW, SKILL, TRAINED, WALKED_FROM, LiveRecord
from tests.live_record import forecasts as forecast
from tests.markets import regimes_of
from tests.models.planted import WINDOWS, blend_family, mix_space, moment, planted
from tests.pipelines.installation import environment_of

ENGINES = {"ensemble": 1.0, "linear": 0.6, challenger_engine("linear"): 0.0}
LATER = NOW + dt.timedelta(hours=3)


def made_record(home: Path) -> LiveRecord:
    record = LiveRecord(home)
    record.train()
    parts = [
        forecast(WALKED_FROM, TRAINED, skill=share * SKILL, boldness=1.0, seed=k).with_columns(
            pl.lit(engine).alias("engine")
        )
        for k, (engine, share) in enumerate(ENGINES.items())
    ]
    lake = record.stores.lake
    lake.replace("predictions", pl.concat(parts), ["1d"])
    lake.replace("regimes", regimes_of(MARKET), None)
    return record


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> LiveRecord:
    made = made_record(tmp_path_factory.mktemp("backtests") / "home")
    run_backtest(made.stores, [HORIZON], None, None, NOW)
    run_backtest(made.stores, [HORIZON], DAYS[WALKED_FROM], DAYS[TRAINED - 20], LATER)
    return made


def rows_of(record: LiveRecord) -> list[dict[str, Any]]:
    with record.stores.ledger as ledger:
        return ledger.rows(sa.select(backtests).order_by(backtests.c.created_at))


def search(storage: str, study: str, horizon: str, trials: int) -> None:
    data = planted()
    tune(
        data,
        blend_family(),
        find_horizon(horizon),
        as_of=moment(data),
        budget=Budget(trials=trials),
        study=study,
        storage=storage,
        seed=1,
        band_bps=5.0,
        space=mix_space,
        windows=WINDOWS,
    )


class TestKept:
    def test_the_ledger_has_every_metric(self, record: LiveRecord) -> None:
        first = rows_of(record)[0]
        metrics = first["metrics"]
        named = {r["metric"] for r in metrics["table"] if r["group"] == "all"}
        assert named == {m.metric for m in METRICS}
        assert metrics["overfitting"]["splits"]["strategies"] == sorted(ENGINES)
        assert metrics["benchmark"] == "Universe"
        assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
        assert first["start_session"] == str(DAYS[WALKED_FROM])
        assert is_backtested(record.stores, HORIZON)

    def test_the_page_and_the_sessions_are_beside_each_other(self, record: LiveRecord) -> None:
        for stored in list_backtests(record.stores):
            page = Path(stored.tear_sheet)
            assert page.read_text()[:15] == "<!doctype html>"
            run = read_run(record.stores, stored)
            assert run.sessions.height == stored.metrics["sessions"] + 1
            assert run.sessions["equity_usd"][-1] == stored.metrics["ending_equity_usd"]
        assert not list((record.stores.settings.home / "backtests").glob("*.part"))

    def test_what_the_asset_shows_is_the_whole_in_short(self, record: LiveRecord) -> None:
        metrics = rows_of(record)[0]["metrics"]
        shown = summary_table(metrics)
        assert shown.startswith(metrics["overfitting"]["verdict"])
        for metric in METRICS:
            assert f"| {metric.label} |" in shown

    def test_no_row_without_its_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = made_record(tmp_path / "home")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(pl.DataFrame, "write_parquet", full)
            with pytest.raises(OSError, match="No space"):
                run_backtest(made.stores, [HORIZON], None, None, NOW)
        assert rows_of(made) == []
        assert not is_backtested(made.stores, HORIZON)
        stored = run_backtest(made.stores, [HORIZON], None, None, NOW)
        assert Path(stored.tear_sheet).is_file()


class TestLooks:
    def test_engines_of_runs_and_other_backtests_are_counted(self, record: LiveRecord) -> None:
        first, second = rows_of(record)
        runs, engines = record.stores.tracker.count_runs("1d")
        # The report of the one training judges two families and the ensemble.
        assert (runs, engines) == (1, 3)
        before = first["metrics"]["overfitting"]["trials"]
        assert (before["forecasters"], before["backtests"], before["total"]) == (3, 1, 4)
        after = second["metrics"]["overfitting"]["trials"]
        assert (after["forecasters"], after["backtests"], after["total"]) == (3, 2, 5)
        assert after["sharpe_ratios"] == [first["metrics"]["sharpe_ratio"] / 252**0.5]

    def test_the_same_again_is_no_new_look(self, record: LiveRecord) -> None:
        first, second = rows_of(record)
        hashes = [(r["data_hash"], r["config_hash"]) for r in (first, second)]
        assert count_looks(record.stores, [HORIZON], *hashes[0]).backtests == 2
        assert count_looks(record.stores, [HORIZON], *hashes[1]).backtests == 2
        assert count_looks(record.stores, [HORIZON], hashes[0][0], "other settings").backtests == 3

    def test_another_horizon_has_looks_of_its_own(self, record: LiveRecord) -> None:
        found = count_looks(record.stores, [find_horizon("14d")], "d", "c")
        assert (found.training_runs, found.forecasters, found.backtests) == (0, 0, 1)
        assert found.total == 1

    def test_trials_of_every_study_of_the_horizon_count(self, tmp_path: Path) -> None:
        storage = f"sqlite:///{tmp_path / 'tuning.db'}"
        assert count_trials(storage, "1d") == (0, 0)
        assert not (tmp_path / "tuning.db").exists()
        search(storage, "one", "1d", 3)
        search(storage, "whatever it is called", "1d", 5)
        search(storage, "of a week", "7d", 2)
        # A study that tuning did not make says nothing of a horizon.
        optuna.create_study(storage=storage, study_name="foreign").ask()
        assert count_trials(storage, "1d") == (2, 8)
        assert count_trials(storage, "7d") == (1, 2)
        assert count_trials(storage, "14d") == (0, 0)

    def test_studies_that_cannot_be_read_are_not_taken_for_none(self, tmp_path: Path) -> None:
        made = made_record(tmp_path / "home")
        (tmp_path / "home" / STORAGE).write_bytes(b"not a database" * 100)
        with pytest.raises(ModelError, match="cannot be counted"):
            run_backtest(made.stores, [HORIZON], None, None, NOW)
        assert rows_of(made) == []


BOTH = [HORIZON, find_horizon("14d")]
LONG = {"ISOBAR_MODELS__HORIZONS": "1d,14d"}


def with_two_horizons(home: Path) -> LiveRecord:
    made = made_record(home)
    # The longer horizon has fewer sessions.
    parts = [
        forecast(WALKED_FROM + 10, TRAINED - 5, skill=SKILL, boldness=1.0, seed=9).with_columns(
            pl.lit(engine).alias("engine"), pl.lit("14d").alias("horizon")
        )
        for engine in ENGINES
    ]
    made.stores.lake.replace("predictions", pl.concat(parts), ["14d"])
    return made


def stores_of(made: LiveRecord, **changes: str) -> Stores:
    with environment_of({**made.environment, **LONG, **changes}, made.stores.settings.home):
        return Stores(load_settings())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> LiveRecord:
    made = with_two_horizons(tmp_path_factory.mktemp("combined") / "home")
    run_backtest(made.stores, [HORIZON], None, None, NOW)
    done = isobar("backtest", "--combined", "--json", environment=made.environment | LONG)
    assert done.status == 0, done.err
    assert list(done.document) == ["1d+14d"]
    return made


class TestCombined:
    def test_the_ledger_has_all_horizons_and_every_metric(self, both: LiveRecord) -> None:
        row = rows_of(both)[1]
        assert row["horizons"] == ["1d", "14d"]
        assert row["start_session"] == str(DAYS[WALKED_FROM + 10])
        assert row["end_session"] == str(DAYS[TRAINED - 5])
        table = row["metrics"]["table"]
        assert {r["metric"] for r in table if r["group"] == "all"} == {m.metric for m in METRICS}
        by_horizon = {r["group"] for r in table if r["metric"] == "rank_ic"}
        assert {"horizon=1d", "horizon=14d"} <= by_horizon
        assert {r["group"] for r in table if r["metric"] == "hit_rate"} >= {"horizon=1d"}
        judged = row["metrics"]["overfitting"]
        assert set(judged["probability_by_horizon"]) == {"1d", "14d"}
        assert judged["splits"]["purge"] == find_horizon(judged["splits"]["horizon"]).sessions
        assert "in one account" in Path(row["tear_sheet"]).read_text()
        assert json.loads(json.dumps(row["metrics"], allow_nan=False)) == row["metrics"]

    def test_looks_at_any_of_its_horizons_count(self, both: LiveRecord) -> None:
        alone, together = (r["metrics"]["overfitting"]["trials"] for r in rows_of(both))
        assert alone["backtests"] == 1
        # That of the one horizon, and this one.
        assert (together["forecasters"], together["backtests"]) == (3, 2)
        for horizons, looks in (([HORIZON], 3), ([BOTH[1]], 2), ([find_horizon("7d")], 1)):
            assert count_looks(both.stores, horizons, "other", "settings").backtests == looks

    def test_the_report_does_not_take_it_for_one_of_its_horizons(self, both: LiveRecord) -> None:
        with both.stores.ledger as ledger:
            found = _evidence(ledger, pl.DataFrame({"horizon": ["1d", "14d"]}), LATER)
        assert found["horizon"].to_list() == ["1d"]
        assert found["rank_ic"][0] == rows_of(both)[0]["metrics"]["rank_ic"]

    def test_commands_know_it_by_its_name(self, both: LiveRecord) -> None:
        listed = isobar(
            "backtest", "list", "--horizon", "14d", "--json", environment=both.environment | LONG
        )
        assert [r["horizons"] for r in listed.document] == [["1d", "14d"]]
        done = isobar("backtest", "compare", "1d", "1d+14d", "--json", environment=both.environment)
        assert done.status == 0, done.err
        assert [n.partition(" ")[0] for n in done.document["runs"]] == ["1d", "1d+14d"]

    def test_one_horizon_is_no_combination(self, both: LiveRecord) -> None:
        asked = ("backtest", "--combined", "--horizon", "1d")
        done = isobar(*asked, environment=both.environment | LONG)
        assert done.status != 0
        assert "several horizons" in done.message

    def test_settings_and_arguments_say_which(self, both: LiveRecord) -> None:
        assert [h.name for h in combined_horizons(stores_of(both))] == ["1d", "14d"]
        assert [h.name for h in combined_horizons(both.stores, ["7d", "1d"])] == ["7d", "1d"]
        chosen = stores_of(both, ISOBAR_BACKTEST__COMBINED_HORIZONS="14d,7d")
        assert [h.name for h in combined_horizons(chosen)] == ["14d", "7d"]
        # What is backtested changes no forecast, and no hash of the settings.
        assert chosen.settings.config_hash == stores_of(both).settings.config_hash
        with pytest.raises(SettingsError, match="two horizons or more"):
            stores_of(both, ISOBAR_BACKTEST__COMBINED_HORIZONS="14d")

    def test_periods_that_do_not_meet_are_refused(self, both: LiveRecord) -> None:
        day = DAYS[TRAINED]
        with pytest.raises(BacktestError, match="no out-of-sample predictions of horizon 14d"):
            run_backtest(both.stores, BOTH, day, None, NOW)
        late = forecast(TRAINED - 2, TRAINED, skill=SKILL, boldness=1.0, seed=9)
        frames = [
            late,
            forecast(WALKED_FROM, TRAINED - 9, skill=SKILL, boldness=1.0, seed=9),
        ]
        with pytest.raises(BacktestError, match="no session in common"):
            _shared_period(frames)


class TestFound:
    def stored(self, *ids: str) -> list[StoredBacktest]:
        at = dt.datetime(2025, 1, 2, tzinfo=dt.UTC)
        return [StoredBacktest(i, i.partition("-")[0], at, "", "", {}, "d", "c", "") for i in ids]

    def test_by_horizon_by_id_and_by_its_beginning(self) -> None:
        kept = self.stored("1d-b-2", "1d-a-1", "14d-a-1")
        assert find_backtest(kept, "1d").backtest_id == "1d-b-2"
        assert find_backtest(kept, "14d").backtest_id == "14d-a-1"
        assert find_backtest(kept, "1d-a").backtest_id == "1d-a-1"
        assert find_backtest(kept, "1d-b-2").backtest_id == "1d-b-2"

    def test_a_combination_by_its_name(self) -> None:
        kept = self.stored("1d+14d-b-2", "1d-a-1", "1d+14d-a-1")
        assert find_backtest(kept, "1d+14d").backtest_id == "1d+14d-b-2"
        assert find_backtest(kept, "1d").backtest_id == "1d-a-1"

    @pytest.mark.parametrize(("named", "problem"), [("1d-", "several"), ("2h", "no such")])
    def test_what_is_not_one_is_refused(self, named: str, problem: str) -> None:
        with pytest.raises(BacktestError, match=f"{problem}.*isobar backtest list"):
            find_backtest(self.stored("1d-b-2", "1d-a-1"), named)
        with pytest.raises(BacktestError, match="none is stored"):
            find_backtest([], named)


class TestCommands:
    def test_the_list_is_the_ledger_s(self, record: LiveRecord) -> None:
        done = isobar("backtest", "list", "--json", environment=record.environment)
        assert done.status == 0, done.err
        ids = [r["backtest_id"] for r in reversed(rows_of(record))]
        assert [r["backtest"] for r in done.document] == ids
        table = isobar("backtest", "list", environment=record.environment)
        assert "2 backtests" in table.out

    def test_two_stand_side_by_side(self, record: LiveRecord, tmp_path: Path) -> None:
        first, second = (r["backtest_id"] for r in rows_of(record))
        page = tmp_path / "both.html"
        asked = ("backtest", "compare", first, second, "--page", str(page))
        done = isobar(*asked, "--json", environment=record.environment)
        assert done.status == 0, done.err
        assert list(done.document["runs"].values()) == [first, second]
        names = list(done.document["runs"])
        rows = {r["metric"]: r["values"] for r in done.document["rows"]}
        for name, row in zip(names, rows_of(record), strict=True):
            assert rows["sharpe_ratio"][name]["value"] == row["metrics"]["sharpe_ratio"]
            assert name in page.read_text()
        assert rows["sharpe_difference"][names[1]]["low"] is not None
        shown = isobar(*asked, environment=record.environment)
        assert "Sharpe ratio" in shown.out
        assert "95% under each" in shown.out

    @pytest.mark.parametrize("runs", [("1d",), ("1d", "1d"), ("1d", "7d")])
    def test_what_cannot_be_compared_is_refused(
        self, record: LiveRecord, runs: tuple[str, ...]
    ) -> None:
        done = isobar("backtest", "compare", *runs, environment=record.environment)
        assert done.status != 0
        assert "isobar backtest list" in done.message

    def test_a_backtest_of_an_older_version_says_so(self, record: LiveRecord) -> None:
        stored = list_backtests(record.stores)[0]
        (record.stores.settings.home / "backtests" / stored.backtest_id).rename(
            hidden := record.stores.settings.home / "hidden"
        )
        try:
            with pytest.raises(BacktestError, match="isobar backtest --horizon 1d"):
                read_run(record.stores, stored)
        finally:
            hidden.rename(record.stores.settings.home / "backtests" / stored.backtest_id)
