"""What `isobar doctor` asks, in the order in which a first day needs it."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from execution.audit import verify_orders
from execution.risk_context import CLOCK_TOLERANCE
from market import calendar
from market.errors import (
    IsobarError,
    LedgerError,
    MarketError,
    ModelError,
    SettingsError,
    SourceError,
)
from pipelines.assets.orders import check_trading
from pipelines.redaction import redact
from pipelines.resources import Stores
from signals.publish import verify_chain

_GIB = 2**30
_LEAST_FREE_GIB = 1.0
_DAY = dt.timedelta(days=1)
_COVERED = 365 * _DAY
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: whether it is well, and what it says, with the remedy where it is not."""

    check: str
    ok: bool
    says: str


def examine(stores: Stores, now: dt.datetime) -> Iterator[Finding]:
    """Ask everything that a day of Isobar rests on; what hangs on a missing answer is not.

    Parameters
    ----------
    stores : Stores
        Of one installation.
    now : datetime
        Aware, by this machine's clock.

    Yields
    ------
    Finding
        Settings, keys, market data (with the vendor's clock), data plan, calendar, disk, ledger,
        models, broker, and then whether the account may trade (:mod:`execution.preflight`). At
        most four requests go to the vendor; three of them find the plan out, which is remembered.
    """
    settings = stores.settings
    profile = f"profile {settings.profile}" if settings.profile else "no profile"
    yield _ask("settings", lambda: f"hash {settings.config_hash}, {profile}")
    yield _ask("keys", lambda: _keys(stores))
    if stores.has_vendor:
        yield (vendor := _ask("market data", lambda: _vendor(stores, now)))
        if vendor.ok:
            yield _ask("data plan", lambda: _plan(stores))
    yield _ask("calendar", lambda: _calendar(now))
    yield _ask("disk", lambda: _disk(stores))
    yield _ask("ledger", lambda: _ledger(stores))
    yield _ask("models", lambda: _models(stores, now))
    if stores.has_broker:
        yield from trading_findings(stores)


def trading_findings(stores: Stores) -> list[Finding]:
    """Return what live trading asks too; where the broker does not answer there is but one."""
    try:
        with stores.ledger as ledger:
            checks = check_trading(stores, ledger)
    except (IsobarError, OSError) as error:
        return [Finding("broker", ok=False, says=redact(str(error)))]
    broker = Finding("broker", ok=True, says=stores.settings.alpaca.base_url)
    return [broker, *(Finding(c.name, c.ok, redact(c.says)) for c in checks)]


def _ask(check: str, question: Callable[[], str]) -> Finding:
    try:
        return Finding(check, ok=True, says=redact(question()))
    except (IsobarError, OSError) as error:
        return Finding(check, ok=False, says=redact(str(error)))


def _keys(stores: Stores) -> str:
    polygon = stores.settings.polygon
    wanted = {
        "POLYGON_API_KEY (or MASSIVE_API_KEY)": stores.has_vendor,
        "ALPACA_API_KEY and ALPACA_SECRET_KEY": stores.has_broker,
    }
    missing = [name for name, is_set in wanted.items() if not is_set]
    if missing:
        raise SettingsError(
            "keys are missing, and what needs them is not asked",
            allowed="; ".join(missing),
            remedy="set them in .env (see .env.example) or in the environment; a paper account is"
            " free, and `isobar demo` needs none",
        )
    flat = "set" if polygon.has_flat_files else "none, all bars come over REST"
    return f"market data set, broker set; flat files: {flat}"


def _vendor(stores: Stores, now: dt.datetime) -> str:
    """Ask the vendor for its time: one request, which a wrong key does not survive."""
    polygon = stores.settings.polygon
    there = stores.vendor_time()
    if polygon.is_replay:
        return f"{polygon.base_url}, replayed"
    apart = abs(there - now)
    if apart > CLOCK_TOLERANCE:
        raise SourceError(
            "the clocks of this machine and of the vendor are apart",
            got=f"{apart.total_seconds():.0f} s",
            allowed=f"{CLOCK_TOLERANCE.total_seconds():.0f} s at most",
            remedy="set this machine's clock, by NTP",
        )
    return f"{polygon.base_url}, clocks {apart.total_seconds():.1f} s apart"


def _plan(stores: Stores) -> str:
    plan, delay = stores.plan, stores.settings.polygon.delay_minutes
    if not plan.is_real_time and not delay:
        raise SourceError(
            "bars of this data plan come late, and no delay is set",
            got=f"plan {plan.value}, polygon.delay_minutes = 0",
            allowed="the delay of the data plan: 15 where quotes are not real-time",
            remedy="set polygon.delay_minutes = 15 in isobar.toml, or use a real-time plan",
        )
    limit = plan.requests_per_minute
    pace = f"{limit:,} requests a minute" if limit else "requests without a limit"
    return f"{plan.value}: {pace}, bars {delay} minutes late"


def _calendar(now: dt.datetime) -> str:
    today = now.astimezone(calendar.NEW_YORK).date()
    if today + _COVERED > calendar.LAST_DATE:
        raise MarketError(
            "the calendar does not cover the next year",
            got=f"it ends on {calendar.LAST_DATE}",
            allowed=f"{today + _COVERED} or later",
            remedy="upgrade Isobar",
        )
    coming = calendar.next_session(today)
    half = ", a half-day" if calendar.is_half_day(coming) else ""
    last = calendar.latest_session(now)
    return f"last closed session {last}, next {coming}{half}; known to {calendar.LAST_DATE}"


def _disk(stores: Stores) -> str:
    home = stores.settings.home
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free / _GIB
    if free < _LEAST_FREE_GIB:
        raise IsobarError(
            "little disk space",
            got=f"{free:.2f} GiB",
            allowed=f"{_LEAST_FREE_GIB:g} GiB or more free",
            remedy=f"free some space on the file system of {home}",
        )
    return f"{free:,.0f} GiB free under {home}"


def _ledger(stores: Stores) -> str:
    with stores.ledger as ledger:
        version = ledger.version
        batches = ledger.read("select count(*) as n from signal_batches").item()
        broken = [
            *((f, "signals") for f in verify_chain(ledger, stores.head_file)),
            *((f, "orders") for f in verify_orders(ledger, stores.audit_head_file)),
        ]
    if broken:
        audits = sorted({audit for _, audit in broken})
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise LedgerError(
            "the ledger is not as it was written",
            got="; ".join(f for f, _ in broken[:_SHOWN]) + more,
            allowed="whole chains of signals and of orders",
            remedy="see "
            + " and ".join(f"`isobar audit {a}`" for a in audits)
            + ", then restore a backup (`isobar ledger restore FILE`)",
        )
    return f"version {version}, {batches:,} batches of signals, chains whole"


def _models(stores: Stores, now: dt.datetime) -> str:
    """Judge every horizon's oldest champion by the age up to which its signals may trade."""
    horizons = [h.name for h in stores.settings.enabled_horizons]
    known = {
        name: min(dt.datetime.fromisoformat(m.known_at) for m in found)
        for name in horizons
        if (found := stores.tracker.champions(name, now))
    }
    present = _present(stores, now)
    limit = stores.settings.risk.model_age_days
    ages = {name: (present - at) / _DAY for name, at in known.items()}
    old = {name: f"{age:.0f} days" for name, age in ages.items() if age > limit}
    if old:
        raise ModelError(
            "models are too old: their signals are not traded",
            got=", ".join(f"{name} {age}" for name, age in old.items()),
            allowed=f"risk.model_age_days = {limit:g}",
            remedy=f"run `isobar train --horizon {next(iter(old))}`",
        )
    oldest = max(0.0, *ages.values())
    return f"champions for {', '.join(horizons)}; the oldest learned {oldest:.0f} days ago"


def _present(stores: Stores, now: dt.datetime) -> dt.datetime:
    """Return the present by which ages count: a replay's ends with its bars."""
    lake = stores.lake
    if stores.settings.polygon.is_replay and lake.exists("bars_1d"):
        return min(now, calendar.session_close(max(lake.sessions("bars_1d"))))
    return now
