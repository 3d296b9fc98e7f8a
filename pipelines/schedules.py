"""Premarket, midday, closing and end-of-day runs, on trading days only, New York time.

And macro data, news and identities in the evening, when the yields of the day before are out;
drift after them; and on Saturdays, when nothing trades, the months that are settled are sorted by
symbol and models are trained again, group by group.
"""

import datetime as dt
from dataclasses import dataclass

import dagster as dg

from market import calendar
from market.horizons import ExitRule, Run, scheduled_for
from pipelines.jobs import COMPACTION_JOB, DRIFT_JOB, REFERENCE_JOB, TRAINING_JOB, run_job_name
from pipelines.settings import Settings
from pipelines.signal_run import published_horizons

_CRONS = {
    Run.PREMARKET: ["30 8 * * 1-5"],
    Run.MIDDAY: ["15 12 * * 1-5"],
    # Half-days close at 13:00; each tick checks which of the two this session needs.
    Run.CLOSE: ["45 12 * * 1-5", "45 15 * * 1-5"],
    Run.EOD: ["20 13 * * 1-5", "20 16 * * 1-5"],
}
# Yields are known at 18:00, one business day later.
_REFERENCE_CRON = "30 18 * * 1-5"
_DRIFT_CRON = "0 19 * * 1-5"
_COMPACTION_CRON = "0 6 * * 6"
_FIRST_WEEK = 7


@dataclass(frozen=True)
class RetrainingRhythm:
    """When the models of a group are trained again.

    Attributes
    ----------
    hour : int
        Of a Saturday, New York time; trainings that meet wait for each other.
    monthly : bool
        The first Saturday of a month alone.
    """

    hour: int
    monthly: bool


# The fast ones live on a market that changes within weeks, and have little history to read; the
# slow ones learn from years, of which a week is little.
RETRAINING: dict[str, RetrainingRhythm] = {
    "scalp": RetrainingRhythm(7, monthly=False),
    "short": RetrainingRhythm(8, monthly=False),
    "hourly": RetrainingRhythm(9, monthly=False),
    "session": RetrainingRhythm(10, monthly=False),
    "daily": RetrainingRhythm(11, monthly=True),
    "swing": RetrainingRhythm(13, monthly=True),
    "monthly": RetrainingRhythm(15, monthly=True),
}


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules of what publishes or trains something; all are off until switched on."""
    runs = [_schedule(run) for run in _CRONS if _is_on(run, settings)]
    groups = dict.fromkeys(h.group for h in settings.enabled_horizons)
    trainings = [_retraining_schedule(group, settings) for group in groups]
    return [*runs, _reference_schedule(), _drift_schedule(), _compaction_schedule(), *trainings]


def _is_on(run: Run, settings: Settings) -> bool:
    if run is Run.CLOSE:
        return any(h.exit_rule is ExitRule.AT_CLOSE for h in settings.enabled_horizons)
    return bool(published_horizons(settings, run))


def request_for(run: Run, tick: dt.datetime) -> dg.RunRequest | dg.SkipReason:
    """Return what a tick asks for: a run of its session, or the reason for none.

    Parameters
    ----------
    run : Run
        Premarket, midday, close or eod.
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


def request_trainings(
    group: str, horizons: tuple[str, ...], tick: dt.datetime
) -> list[dg.RunRequest] | dg.SkipReason:
    """Return what a tick asks for: a training of each of a group's horizons, or why none.

    Parameters
    ----------
    group : str
        As in the horizons table.
    horizons : tuple of str
        Those of the group that are on.
    tick : datetime
        Aware; the scheduled time of the tick.
    """
    day = tick.astimezone(calendar.NEW_YORK).date()
    if RETRAINING[group].monthly and day.day > _FIRST_WEEK:
        return dg.SkipReason(f"{group} is trained on the first Saturday of a month, not {day}")
    return [dg.RunRequest(run_key=f"retrain-{name}-{day}", partition_key=name) for name in horizons]


def _retraining_schedule(group: str, settings: Settings) -> dg.ScheduleDefinition:
    rhythm = RETRAINING[group]
    horizons = tuple(h.name for h in settings.enabled_horizons if h.group == group)
    when = "the first Saturday of each month" if rhythm.monthly else "every Saturday"

    @dg.schedule(
        name=f"retrain_{group}_schedule",
        job_name=TRAINING_JOB,
        cron_schedule=f"0 {rhythm.hour} * * 6",
        execution_timezone=calendar.NEW_YORK.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Trains {', '.join(horizons)} on {when}, one after the other.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        tick = context.scheduled_execution_time.astimezone(dt.UTC)
        return request_trainings(group, horizons, tick)

    return schedule


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


def _drift_schedule() -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="drift_schedule",
        job_name=DRIFT_JOB,
        cron_schedule=_DRIFT_CRON,
        execution_timezone=calendar.NEW_YORK.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Judges the drift of all models every weekday evening.",
    )


def _compaction_schedule() -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="compaction_schedule",
        job_name=COMPACTION_JOB,
        cron_schedule=_COMPACTION_CRON,
        execution_timezone=calendar.NEW_YORK.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Sorts settled months of minutes by symbol each Saturday: nothing trades then.",
    )
