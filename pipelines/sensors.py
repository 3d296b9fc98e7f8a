"""The sensor that asks for a training where models have drifted."""

import datetime as dt

import dagster as dg
import orjson

from market.errors import IsobarError
from market.horizons import Horizon
from pipelines.drift import judge_drift, state_of
from pipelines.jobs import TRAINING_JOB
from pipelines.resources import Stores
from pipelines.settings import Settings

_EVERY_SECONDS = 3600


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
        What the result before this one returned: a horizon is judged anew where its training, its
        features, its bars or its forecasts have changed since.

    Returns
    -------
    SensorResult
        One request per drifted horizon. Its key names the training, so that the same drift asks
        once, and the training that follows is judged by its own forecasts alone.
    """
    before: dict[str, dict[str, str]] = orjson.loads(cursor) if cursor else {}
    seen: dict[str, dict[str, str]] = {}
    requests: list[dg.RunRequest] = []
    told: list[str] = []
    for horizon in horizons:
        try:
            request, says, seen[horizon.name] = _ask(
                stores, horizon, now, before.get(horizon.name, {})
            )
        except IsobarError as error:
            # The other horizons are judged all the same; this one again at the next tick.
            request, says = None, f"cannot be judged: {error}"
        told.append(f"{horizon.name}: {says}")
        if request is not None:
            requests.append(request)
    kept = orjson.dumps(seen, option=orjson.OPT_SORT_KEYS).decode()
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=kept)
    return dg.SensorResult(skip_reason="\n".join(told), cursor=kept)


def _ask(
    stores: Stores, horizon: Horizon, now: dt.datetime, before: dict[str, str]
) -> tuple[dg.RunRequest | None, str, dict[str, str]]:
    training = stores.tracker.training(horizon.name)
    if training is None:
        return None, "no model is trained yet", {}
    state = state_of(stores, horizon, training)
    if before.get("state") == state:
        return None, f"nothing new; {before['says']}", before
    found = judge_drift(stores, horizon, now, since_training=True)
    says = "; ".join(dict.fromkeys(found.told.values()))
    kept = {"state": state, "says": says}
    if not found.reasons:
        return None, says, kept
    request = dg.RunRequest(
        run_key=f"drift-{horizon.name}-{training.run_id}-{training.since.isoformat()}",
        partition_key=horizon.name,
        tags={"isobar/drift": ", ".join(found.reasons), "isobar/drift_found": says[:500]},
    )
    return request, says, kept
