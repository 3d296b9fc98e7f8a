"""What each tick of a schedule asks for, and that a late run keeps its scheduled moment."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa
from dagster._core.instance.config import PoolGranularity

from market import calendar
from market.errors import MarketError, ModelError, SignalError
from market.horizons import HORIZONS, Run, scheduled_for
from market.ledger_tables import signal_batches
from pipelines.assets.models import POOL
from pipelines.definitions import build_definitions
from pipelines.jobs import TRAINING_JOB
from pipelines.schedules import RETRAINING, build_schedules, request_for, request_trainings
from pipelines.settings import Settings
from pipelines.signal_run import publish_run
from tests.pipelines.installation import TODAY, YESTERDAY, Installation

HOLIDAY, HALF_DAY, DAY = dt.date(2024, 7, 4), dt.date(2024, 7, 3), dt.date(2024, 7, 2)
WINTER, SUMMER = dt.date(2024, 3, 8), dt.date(2024, 3, 11)
TIMES = {
    Run.PREMARKET: dt.time(8, 30),
    Run.MIDDAY: dt.time(12, 15),
    Run.CLOSE: dt.time(15, 45),
    Run.EOD: dt.time(16, 20),
}
EARLY = {Run.CLOSE: dt.time(12, 45), Run.EOD: dt.time(13, 20)}


def tick(day: dt.date, local: dt.time) -> dt.datetime:
    return dt.datetime.combine(day, local, calendar.NEW_YORK).astimezone(dt.UTC)


@pytest.mark.parametrize("run", TIMES)
def test_a_trading_day_asks_for_a_run_of_its_session(run: Run):
    asked = request_for(run, tick(DAY, TIMES[run]))
    assert isinstance(asked, dg.RunRequest)
    assert asked.run_key == f"{run.value}-2024-07-02"
    assert asked.partition_key == "2024-07-02"
    assert asked.tags["isobar/run"] == run.value
    assert asked.tags["isobar/scheduled_for"] == tick(DAY, TIMES[run]).isoformat()


@pytest.mark.parametrize("day", [HOLIDAY, dt.date(2025, 1, 9), dt.date(2024, 7, 6)])
@pytest.mark.parametrize("run", TIMES)
def test_a_day_without_a_session_is_skipped_with_its_reason(run: Run, day: dt.date):
    asked = request_for(run, tick(day, TIMES[run]))
    assert isinstance(asked, dg.SkipReason)
    assert asked.skip_message == f"{day} is no trading session of XNYS"


@pytest.mark.parametrize(
    ("day", "early", "runs"),
    [(HALF_DAY, True, True), (HALF_DAY, False, False), (DAY, True, False), (DAY, False, True)],
)
@pytest.mark.parametrize("run", EARLY)
def test_of_the_two_ticks_around_a_close_one_runs(run: Run, day: dt.date, early: bool, runs: bool):
    asked = request_for(run, tick(day, (EARLY if early else TIMES)[run]))
    assert isinstance(asked, dg.RunRequest if runs else dg.SkipReason)
    if isinstance(asked, dg.SkipReason):
        due = (EARLY if day == HALF_DAY else TIMES)[run]
        assert f"due at {due:%H:%M} New York time" in str(asked.skip_message)


@pytest.mark.parametrize(("day", "hour"), [(WINTER, 13), (SUMMER, 12)])
def test_clock_changes_move_the_tick_in_utc_and_not_in_new_york(day: dt.date, hour: int):
    moment = dt.datetime.combine(day, dt.time(hour, 30), dt.UTC)
    assert scheduled_for(Run.PREMARKET, day) == moment
    assert isinstance(request_for(Run.PREMARKET, moment), dg.RunRequest)
    other = moment + dt.timedelta(hours=1)
    assert isinstance(request_for(Run.PREMARKET, other), dg.SkipReason)


def test_scheduled_for_refuses_what_has_no_time():
    with pytest.raises(MarketError, match="no scheduled time"):
        scheduled_for(Run.INTRADAY, DAY)
    with pytest.raises(MarketError):
        scheduled_for(Run.EOD, HOLIDAY)


def test_schedules_tick_in_new_york_and_are_off_until_switched_on():
    schedules = {s.name: s for s in build_schedules(Settings())}
    runs = {"premarket_schedule", "midday_schedule", "close_schedule", "eod_schedule"}
    groups = {h.group for h in Settings().enabled_horizons}
    trainings = {f"retrain_{g}_schedule" for g in groups}
    others = {"reference_schedule", "drift_schedule", "compaction_schedule"}
    assert set(schedules) == runs | others | trainings
    assert schedules["drift_schedule"].cron_schedule == "0 19 * * 1-5"
    assert schedules["reference_schedule"].cron_schedule == "30 18 * * 1-5"
    assert schedules["compaction_schedule"].cron_schedule == "0 6 * * 6"
    assert schedules["premarket_schedule"].cron_schedule == ["30 8 * * 1-5"]
    assert schedules["midday_schedule"].cron_schedule == ["15 12 * * 1-5"]
    assert schedules["close_schedule"].cron_schedule == ["45 12 * * 1-5", "45 15 * * 1-5"]
    assert schedules["eod_schedule"].cron_schedule == ["20 13 * * 1-5", "20 16 * * 1-5"]
    for schedule in schedules.values():
        assert schedule.execution_timezone == "America/New_York"
        assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_a_run_that_publishes_nothing_has_no_schedule():
    settings = Settings.model_validate({"models": {"horizons": ["1h"]}})
    names = [s.name for s in build_schedules(settings)]
    others = ["reference_schedule", "drift_schedule", "compaction_schedule"]
    assert names == ["midday_schedule", "close_schedule", *others, "retrain_hourly_schedule"]


def test_where_every_horizon_stays_overnight_nothing_is_closed_with_the_session():
    settings = Settings.model_validate({"models": {"horizons": ["4h", "1d"]}})
    assert "close_schedule" not in [s.name for s in build_schedules(settings)]


SATURDAY, LATER_SATURDAY = dt.date(2024, 7, 6), dt.date(2024, 7, 13)


def test_every_group_of_the_table_has_a_rhythm_on_a_day_without_trading():
    assert set(RETRAINING) == {h.group for h in HORIZONS}
    every = Settings.model_validate({"models": {"horizons": [h.name for h in HORIZONS]}})
    trainings = [s for s in build_schedules(every) if s.name.startswith("retrain_")]
    assert len(trainings) == len(RETRAINING)
    crons = [str(s.cron_schedule) for s in trainings]
    assert all(re.fullmatch(r"0 \d+ \* \* 6", c) for c in crons)
    assert len(set(crons)) == len(crons)
    assert {s.job_name for s in trainings} == {TRAINING_JOB}


@pytest.mark.parametrize("group", RETRAINING)
def test_slow_groups_are_trained_on_the_first_saturday_of_a_month(group: str):
    first, later = (
        request_trainings(group, ("a", "b"), tick(day, dt.time(RETRAINING[group].hour)))
        for day in (SATURDAY, LATER_SATURDAY)
    )
    assert isinstance(first, list)
    assert [r.partition_key for r in first] == ["a", "b"]
    assert [r.run_key for r in first] == ["retrain-a-2024-07-06", "retrain-b-2024-07-06"]
    if RETRAINING[group].monthly:
        assert isinstance(later, dg.SkipReason)
        assert "first Saturday" in str(later.skip_message)
    else:
        assert isinstance(later, list)
        assert not {r.run_key for r in later} & {r.run_key for r in first}


@pytest.mark.parametrize("month", range(1, 13))
def test_every_month_has_one_such_saturday(month: int):
    days = [dt.date(2024, month, d) for d in range(1, 29)]
    asked = [
        request_trainings("swing", ("14d",), tick(d, dt.time(13)))
        for d in days
        if d.isoweekday() == 6
    ]
    assert sum(isinstance(a, list) for a in asked) == 1


def test_a_tick_trains_the_horizons_of_its_group_that_are_on():
    settings = Settings.model_validate({"models": {"horizons": ["30m", "1h", "1d"]}})
    schedule = next(s for s in build_schedules(settings) if s.name == "retrain_hourly_schedule")
    assert "30m, 1h" in str(schedule.description)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=tick(SATURDAY, dt.time(9))
        )
        asked = schedule(context)
    assert [r.partition_key for r in asked] == ["30m", "1h"]


def test_two_trainings_wait_for_each_other(tmp_path: Path):
    """By the instance's own configuration and the asset's pool, as the queue reads them."""
    shutil.copy(Path(__file__).parents[2] / "dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        pools = instance.get_concurrency_config().pool_config
        assert pools.pool_granularity is PoolGranularity.RUN
        assert pools.default_pool_limit == 1
    definitions = build_definitions(Settings())
    assert definitions.resolve_job_def(TRAINING_JOB).graph.node_named(
        "models"
    ).definition.pools == {POOL}


def test_a_tick_that_is_handled_late_keeps_its_scheduled_moment():
    schedule = next(s for s in build_schedules(Settings()) if s.name == "eod_schedule")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=tick(DAY, TIMES[Run.EOD])
        )
        asked = schedule(context)
    assert isinstance(asked, dg.RunRequest)
    assert asked.partition_key == "2024-07-02"


@pytest.mark.xdist_group("installation")
class TestLateness:
    @pytest.mark.parametrize(("minutes", "late"), [(0, False), (30, False), (31, True)])
    def test_a_late_run_keeps_its_as_of_and_says_that_it_is_late(
        self, installation: Installation, tmp_path: Path, minutes: int, late: bool
    ):
        stores = installation.copy(tmp_path, ledger=False).stores
        due = scheduled_for(Run.EOD, TODAY)
        emitted = due + dt.timedelta(minutes=minutes)
        _, batch = publish_run(stores, Run.EOD, TODAY, emitted)
        assert not batch.already_published
        with stores.ledger as ledger:
            row = ledger.rows(sa.select(signal_batches))[0]
        assert (row["as_of"], row["scheduled_for"], row["ts_emit"]) == (due, due, emitted)
        assert row["late"] is late

    def test_lateness_is_no_content(self, installation: Installation, tmp_path: Path):
        stores = installation.copy(tmp_path, ledger=False).stores
        due = scheduled_for(Run.EOD, TODAY)
        _, first = publish_run(stores, Run.EOD, TODAY, due)
        _, again = publish_run(stores, Run.EOD, TODAY, due + dt.timedelta(hours=3))
        assert again.already_published
        assert (again.batch_id, again.head_hash) == (first.batch_id, first.head_hash)

    def test_a_champion_is_not_used_before_it_was_trained(self, installation: Installation):
        due = scheduled_for(Run.PREMARKET, YESTERDAY)
        with pytest.raises(ModelError, match="no champion"):
            publish_run(installation.stores, Run.PREMARKET, YESTERDAY, due)

    def test_a_run_is_refused_before_it_is_due(self, installation: Installation):
        early = scheduled_for(Run.MIDDAY, TODAY) - dt.timedelta(seconds=1)
        with pytest.raises(SignalError, match="not due yet"):
            publish_run(installation.stores, Run.MIDDAY, TODAY, early)

    def test_times_of_a_batch_are_its_schedule(self, installation: Installation):
        with installation.stores.ledger as ledger:
            found = ledger.read("select run, as_of, scheduled_for from signal_batches")
        assert found.height == 4
        assert found.filter(pl.col("as_of") != pl.col("scheduled_for")).is_empty()
