"""Premarket, midday and end-of-day runs, on trading days only, New York time.

And macro data, news and identities in the evening, when the yields of the day before are out; and
each Saturday the months that are settled are sorted by symbol.
"""

import datetime as dt

import dagster as dg

from market import calendar
from market.horizons import Run, scheduled_for
from pipelines.assets.signals import published_horizons
from pipelines.jobs import COMPACTION_JOB, REFERENCE_JOB, run_job_name
from pipelines.settings import Settings

_CRONS = {
    Run.PREMARKET: ["30 8 * * 1-5"],
    Run.MIDDAY: ["15 12 * * 1-5"],
    # Half-days close at 13:00; each tick checks which of the two this session needs.
    Run.EOD: ["20 13 * * 1-5", "20 16 * * 1-5"],
}
# Yields are known at 18:00, one business day later.
_REFERENCE_CRON = "30 18 * * 1-5"
_COMPACTION_CRON = "0 6 * * 6"


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules of the runs that publish something; all are off until switched on."""
    runs = [_schedule(run) for run in _CRONS if published_horizons(settings, run)]
    return [*runs, _reference_schedule(), _compaction_schedule()]


def request_for(run: Run, tick: dt.datetime) -> dg.RunRequest | dg.SkipReason:
    """Return what a tick asks for: a run of its session, or the reason for none.

    Parameters
    ----------
    run : Run
        Premarket, midday or eod.
    tick : datetime
        Aware; the scheduled time of the tick, not the moment at which it is handled, so a late
        run keeps its scheduled ``as_of``.
    """
    session = tick.astimezone(calendar.NEW_YORK).date()
    if not calendar.is_session(session):
        return dg.SkipReason(f"{session} is no trading session of XNYS")
    due = scheduled_for(run, session)
    if tick != due:
        local = due.astimezone(calendar.NEW_YORK)
        return dg.SkipReason(f"{run.value} of {session} is due at {local:%H:%M} New York time")
    return dg.RunRequest(
        run_key=f"{run.value}-{session}",
        partition_key=session.isoformat(),
        tags={"isobar/run": run.value, "isobar/scheduled_for": due.isoformat()},
    )


def _reference_schedule() -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="reference_schedule",
        job_name=REFERENCE_JOB,
        cron_schedule=_REFERENCE_CRON,
        execution_timezone=calendar.NEW_YORK.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Fetches macro data, news and identities every weekday evening.",
    )


def _schedule(run: Run) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{run.value}_schedule",
        job_name=run_job_name(run),
        cron_schedule=_CRONS[run],
        execution_timezone=calendar.NEW_YORK.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Launches the {run.value} run of each trading session.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return request_for(run, context.scheduled_execution_time.astimezone(dt.UTC))

    return schedule


def _compaction_schedule() -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="compaction_schedule",
        job_name=COMPACTION_JOB,
        cron_schedule=_COMPACTION_CRON,
        execution_timezone=calendar.NEW_YORK.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Sorts settled months of minutes by symbol each Saturday: nothing trades then.",
    )
