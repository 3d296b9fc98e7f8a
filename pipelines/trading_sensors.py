"""Sensors that look after trading: the account between runs, and runs that failed."""

import datetime as dt

import dagster as dg

from market.errors import BrokerError, ExecutionError
from pipelines.alerts import Alert, send_alert
from pipelines.assets.orders import attend_account
from pipelines.redaction import redact
from pipelines.resources import Stores
from pipelines.settings import Settings

ACCOUNT_SENSOR = "account_sensor"
FAILURE_SENSOR = "failure_alert_sensor"
_EVERY_SECONDS = 30


def build_trading_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensors; the account is looked after where trading is switched on."""
    on = dg.DefaultSensorStatus.RUNNING if settings.trading.enabled else None

    @dg.sensor(
        name=ACCOUNT_SENSOR,
        minimum_interval_seconds=_EVERY_SECONDS,
        default_status=on or dg.DefaultSensorStatus.STOPPED,
        description="Writes fills, sends second legs, settles unclear orders, holds the journal"
        " against the account, and stops trading where that calls for it. It makes no plan.",
    )
    def account_sensor(stores: dg.ResourceParam[Stores]) -> dg.SkipReason:
        return dg.SkipReason(look_after(stores))

    @dg.run_failure_sensor(
        name=FAILURE_SENSOR,
        minimum_interval_seconds=_EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people of runs that failed: the log, and webhook and e-mail where set.",
    )
    def failure_alert_sensor(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        where = run.tags.get("dagster/partition")
        text = context.failure_event.message or "no message"
        subject = f"run {run.job_name} failed" + (f" for {where}" if where else "")
        send_alert(settings.alerts, Alert(dt.datetime.now(dt.UTC), subject, redact(text)))

    return [account_sensor, failure_alert_sensor]


def look_after(stores: Stores) -> str:
    """Attend to the account once, and say in a line what came of it."""
    if not stores.settings.trading.enabled:
        return "trading is off"
    if not stores.has_broker:
        return "no keys for the broker are set"
    if not stores.lake.exists("bars_1d"):
        return "there are no bars yet: `isobar bootstrap` fetches them"
    try:
        # The broker's clock decides what is fresh: it is the one that fills.
        found = attend_account(stores, now=stores.broker.clock().now)
    except (BrokerError, ExecutionError) as error:
        return f"not this time: {redact(str(error))}"
    drift = "; ".join(f"{f.kind.value} {f.key}" for f in found.drift)
    return f"{found.sync.fills} new fills; " + (drift or "journal and account agree")
