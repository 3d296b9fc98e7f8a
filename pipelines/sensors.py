"""The sensor that asks for a training where models have drifted."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypedDict

import dagster as dg
import orjson

from market.errors import IsobarError
from market.horizons import Horizon
from models.registry_store import StoredTraining
from pipelines.drift import judge_drift, state_of
from pipelines.jobs import TRAINING_JOB
from pipelines.resources import Stores
from pipelines.settings import Settings

TRIES = 3
"""How often a training is asked for at the most, where it fails."""
WAIT = dt.timedelta(hours=6)
"""How long after a training failed it is asked for again."""

_EVERY_SECONDS = 900
_RUN_KEY = "dagster/run_key"


class _Known(TypedDict):
    """What a tick found of a horizon: on what it rests, what it says, and when that was.

    And of which training drift was asked to train again, and how often.
    """

    state: str
    says: str
    at: str
    asked: str
    tries: int


_NOTHING = _Known(state="", says="", at="", asked="", tries=0)


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensors; all are off until switched on."""

    @dg.sensor(
        name="retraining_sensor",
        job_name=TRAINING_JOB,
        minimum_interval_seconds=_EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks for a training of each horizon whose features, calibration or skill went"
        " past their limits since its champions serve; once for each training, and again, up to"
        f" {TRIES} times in all, {WAIT.total_seconds() / 3600:.0f} hours after it failed.",
    )
    def retraining_sensor(
        context: dg.SensorEvaluationContext, stores: dg.ResourceParam[Stores]
    ) -> dg.SensorResult:
        return ask_for_trainings(
            stores,
            settings.enabled_horizons,
            dt.datetime.now(dt.UTC),
            context.cursor,
            failed_at=partial(_failed_at, context.instance),
        )

    return [retraining_sensor]


def _failed_at(instance: dg.DagsterInstance, run_key: str) -> dt.datetime | None:
    found = instance.get_run_records(dg.RunsFilter(tags={_RUN_KEY: run_key}), limit=1)
    # One that a person ended was not wanted: it is not asked for again.
    if not found or found[0].dagster_run.status is not dg.DagsterRunStatus.FAILURE:
        return None
    ended = found[0].end_time
    return found[0].update_timestamp if ended is None else dt.datetime.fromtimestamp(ended, dt.UTC)


def ask_for_trainings(
    stores: Stores,
    horizons: tuple[Horizon, ...],
    now: dt.datetime,
    cursor: str | None,
    *,
    failed_at: Callable[[str], dt.datetime | None],
) -> dg.SensorResult:
    """Return a request for each horizon that has drifted, or why there is none.

    Parameters
    ----------
    stores : Stores
        Of the installation.
    horizons : tuple of Horizon
        Which to judge.
    now : datetime
        Aware.
    cursor : str, optional
        What the result before this one returned. A horizon is judged anew where its training, its
        features, its bars or its forecasts have changed since, or the training that was asked for
        failed :data:`WAIT` ago; one at a tick, the one that waits longest, because Dagster gives a
        tick a minute.
    failed_at : callable
        Given the key of a request, returns when its run failed; ``None`` where it did not.

    Returns
    -------
    SensorResult
        A request where the horizon has drifted. Its key names the training and the try, so that
        the same drift asks once, and again only after a failure, :data:`TRIES` times in all; the
        training that follows is judged by its own forecasts alone. Otherwise what is known of each
        horizon.
    """
    before: dict[str, _Known] = orjson.loads(cursor) if cursor else {}
    seen: dict[str, _Known] = {}
    told: dict[str, str] = {}
    waiting: dict[str, tuple[Horizon, StoredTraining, str, _Try]] = {}
    for horizon in horizons:
        # The cursor of an earlier version says less.
        known: _Known = {**_NOTHING, **before.get(horizon.name, _NOTHING)}
        try:
            training = stores.tracker.training(horizon.name)
            state = "" if training is None else state_of(stores, horizon, training)
        except IsobarError as error:
            told[horizon.name] = f"cannot be judged: {error}"
            continue
        if training is None:
            told[horizon.name] = "no model is trained yet"
            continue
        seen[horizon.name] = known
        attempt = _next_try(horizon, training, known, now, failed_at)
        if attempt.held:
            told[horizon.name] = attempt.held
        elif known["state"] == state and not attempt.after_failure:
            told[horizon.name] = f"nothing new; {known['says']}"
        else:
            told[horizon.name] = "changed; judged at one of the next ticks"
            waiting[horizon.name] = (horizon, training, state, attempt)
    request: dg.RunRequest | None = None
    if waiting:
        name = min(waiting, key=lambda n: seen[n]["at"])
        horizon, training, state, attempt = waiting[name]
        request, says = _judge(stores, horizon, attempt.run_key, now)
        told[name] = says
        kept = _Known(**{**seen[name], "state": state, "says": says, "at": now.isoformat()})
        if request is not None:
            kept.update(asked=_base_key(horizon, training), tries=attempt.number)
        elif attempt.after_failure:
            # What it was asked for is gone; nothing is left to try.
            kept.update(asked="", tries=0)
        seen[name] = kept
    kept_text = orjson.dumps(seen, option=orjson.OPT_SORT_KEYS).decode()
    if request is not None:
        return dg.SensorResult(run_requests=[request], cursor=kept_text)
    reason = "\n".join(f"{name}: {says}" for name, says in told.items())
    return dg.SensorResult(skip_reason=reason, cursor=kept_text)


@dataclass(frozen=True)
class _Try:
    """The next request of a training: its key, or why there is none."""

    run_key: str
    number: int = 1
    after_failure: bool = False
    held: str = ""


def _base_key(horizon: Horizon, training: StoredTraining) -> str:
    return f"drift-{horizon.name}-{training.run_id}-{training.since.isoformat()}"


def _run_key(base: str, number: int) -> str:
    return base if number == 1 else f"{base}-{number}"


def _next_try(
    horizon: Horizon,
    training: StoredTraining,
    known: _Known,
    now: dt.datetime,
    failed_at: Callable[[str], dt.datetime | None],
) -> _Try:
    base = _base_key(horizon, training)
    if known["asked"] != base:
        return _Try(base)
    number = known["tries"]
    last = _Try(_run_key(base, number), number)
    failed = failed_at(last.run_key)
    if failed is None:
        # Under way or in the queue: the same key is launched once.
        return last
    if number >= TRIES:
        return replace(
            last,
            held=f"asked for {TRIES} times, and each training failed: train it by"
            f" hand (isobar train --horizon {horizon.name}); {known['says']}",
        )
    if now < failed + WAIT:
        again = f"{failed + WAIT:%Y-%m-%d %H:%M} UTC"
        return replace(last, held=f"its training failed; asked for again from {again} on")
    return _Try(_run_key(base, number + 1), number + 1, after_failure=True)


def _judge(
    stores: Stores, horizon: Horizon, run_key: str, now: dt.datetime
) -> tuple[dg.RunRequest | None, str]:
    try:
        found = judge_drift(stores, horizon, now, since_training=True)
    except IsobarError as error:
        # The other horizons have their turn; this one again when something has changed.
        return None, f"cannot be judged: {error}"
    says = "; ".join(dict.fromkeys(found.told.values()))
    if not found.reasons:
        return None, says
    request = dg.RunRequest(
        run_key=run_key,
        partition_key=horizon.name,
        tags={"isobar/drift": ", ".join(found.reasons), "isobar/drift_found": says[:500]},
    )
    return request, says
