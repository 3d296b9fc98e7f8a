"""The sensor that asks for a training where models have drifted."""

import datetime as dt
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

_EVERY_SECONDS = 900


class _Known(TypedDict):
    """What a tick found of a horizon: on what it rests, what it says, and when that was."""

    state: str
    says: str
    at: str


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensors; all are off until switched on."""

    @dg.sensor(
        name="retraining_sensor",
        job_name=TRAINING_JOB,
        minimum_interval_seconds=_EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks for a training of each horizon whose features, calibration or skill went"
        " past their limits since its champions serve; once for each training.",
    )
    def retraining_sensor(
        context: dg.SensorEvaluationContext, stores: dg.ResourceParam[Stores]
    ) -> dg.SensorResult:
        return ask_for_trainings(
            stores, settings.enabled_horizons, dt.datetime.now(dt.UTC), context.cursor
        )

    return [retraining_sensor]


def ask_for_trainings(
    stores: Stores, horizons: tuple[Horizon, ...], now: dt.datetime, cursor: str | None
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
        features, its bars or its forecasts have changed since; one at a tick, the one that waits
        longest, because Dagster gives a tick a minute.

    Returns
    -------
    SensorResult
        A request where the horizon has drifted. Its key names the training, so that the same drift
        asks once, and the training that follows is judged by its own forecasts alone. Otherwise
        what is known of each horizon.
    """
    before: dict[str, _Known] = orjson.loads(cursor) if cursor else {}
    seen: dict[str, _Known] = {}
    told: dict[str, str] = {}
    waiting: dict[str, tuple[Horizon, StoredTraining, str]] = {}
    for horizon in horizons:
        known = before.get(horizon.name, _Known(state="", says="", at=""))
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
        if known["state"] == state:
            told[horizon.name] = f"nothing new; {known['says']}"
        else:
            told[horizon.name] = "changed; judged at one of the next ticks"
            waiting[horizon.name] = (horizon, training, state)
    request: dg.RunRequest | None = None
    if waiting:
        name = min(waiting, key=lambda n: seen[n]["at"])
        horizon, training, state = waiting[name]
        request, says = _judge(stores, horizon, training, now)
        told[name] = says
        seen[name] = _Known(state=state, says=says, at=now.isoformat())
    kept = orjson.dumps(seen, option=orjson.OPT_SORT_KEYS).decode()
    if request is not None:
        return dg.SensorResult(run_requests=[request], cursor=kept)
    reason = "\n".join(f"{name}: {says}" for name, says in told.items())
    return dg.SensorResult(skip_reason=reason, cursor=kept)


def _judge(
    stores: Stores, horizon: Horizon, training: StoredTraining, now: dt.datetime
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
        run_key=f"drift-{horizon.name}-{training.run_id}-{training.since.isoformat()}",
        partition_key=horizon.name,
        tags={"isobar/drift": ", ".join(found.reasons), "isobar/drift_found": says[:500]},
    )
    return request, says
