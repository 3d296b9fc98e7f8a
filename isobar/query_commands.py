"""Commands that ask, and the trading switch: status, doctor, halt, resume."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

from execution.holdings import own_quantities
from execution.portfolio import read_portfolio
from execution.reconcile import newest_reconciliation
from execution.state import current_state, newest_reason
from isobar import output
from isobar.arguments import JsonFlag
from isobar.workspace import Workspace
from market import calendar
from market.errors import IsobarError
from market.ledger import Ledger
from pipelines.assets.orders import check_trading
from pipelines.market_view import newest_prices
from pipelines.redaction import redact
from pipelines.resources import Stores
from pipelines.settings import load_settings

_PANEL = "Questions"
_GIB = 2**30


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("status", rich_help_panel=_PANEL)(status)
    app.command("doctor", rich_help_panel=_PANEL)(doctor)


def status(as_json: JsonFlag = False) -> None:
    """Show what is in the lake and the ledger, the trading state, positions and orders."""
    workspace = Workspace()
    stores = Stores(workspace.settings)
    document: dict[str, Any] = {"home": str(workspace.settings.home)}
    document["lake"] = {
        t: _coverage(workspace, t) for t in ("bars_1d", "bars_1m") if workspace.lake.exists(t)
    }
    with stores.ledger as ledger:
        document["trading_state"] = current_state(ledger).value
        document["trading_reason"] = newest_reason(ledger)
        document["account"] = _account(ledger)
        document["profit"] = _profit(stores, ledger)
        document["positions"] = {s: str(q) for s, q in own_quantities(ledger).items() if q}
        batch = ledger.read(
            "select batch_id, run, as_of, rows, late from signal_batches order by seq desc limit 1"
        ).to_dicts()
        orders = ledger.read("select state, count(*) as n from orders group by state").to_dicts()
    document["newest_batch"] = batch[0] if batch else None
    document["orders"] = {o["state"]: o["n"] for o in orders}
    if as_json:
        output.print_json(document)
        return
    flat = {
        "data root": document["home"],
        **{f"lake, {t}": c for t, c in document["lake"].items()},
        "trading": document["trading_state"]
        + (f" ({document['trading_reason']})" if document["trading_reason"] else ""),
        "newest batch": _describe_batch(document["newest_batch"]),
        "own positions": ", ".join(f"{s} {q}" for s, q in document["positions"].items()) or "none",
        "orders": ", ".join(f"{n} {s}" for s, n in document["orders"].items()) or "none",
        "journal and account": _describe_account(document["account"]),
        "profit and loss": _describe_profit(document["profit"]),
    }
    output.print_mapping("Status", flat)


def _account(ledger: Ledger) -> dict[str, Any] | None:
    row = newest_reconciliation(ledger)
    if row is None:
        return None
    names = ("at", "broker", "clean", "equity_usd", "cash_usd", "findings")
    return {n: str(row[n]) if n.endswith(("_usd", "at")) else row[n] for n in names}


def _describe_account(account: dict[str, Any] | None) -> str:
    if account is None:
        return "never held against each other"
    verdict = "agree" if account["clean"] else "do not agree: see `isobar reconcile`"
    return f"{verdict}, {account['at']}, equity {account['equity_usd']} USD"


def _profit(stores: Stores, ledger: Ledger) -> dict[str, float] | None:
    found = read_portfolio(ledger, newest_prices(stores.lake))
    if found.positions.is_empty():
        return None
    return {"realised_usd": found.realised_usd, "unrealised_usd": found.unrealised_usd}


def _describe_profit(profit: dict[str, float] | None) -> str:
    if profit is None:
        return "nothing was traded"
    return f"{profit['realised_usd']:,.2f} USD realised, {profit['unrealised_usd']:,.2f} open"


def _coverage(workspace: Workspace, table: str) -> str:
    sessions = workspace.lake.sessions(table)
    return f"{len(sessions):,} sessions, {min(sessions)} to {max(sessions)}"


def _describe_batch(batch: dict[str, Any] | None) -> str:
    if batch is None:
        return "none published"
    late = ", late" if batch["late"] else ""
    return f"{batch['run']} as of {batch['as_of']}, {batch['rows']} signals{late}"


@dataclass(frozen=True)
class _Check:
    name: str
    ask: Callable[[], str]


def doctor(as_json: JsonFlag = False) -> None:
    """Check keys, vendor, models, and whether the account may trade; say how to mend each."""
    settings = load_settings()
    stores = Stores(settings)
    now = dt.datetime.now(dt.UTC)
    results = [_ask(c) for c in _checks(stores, now)] + _trading_checks(stores)
    failed = [r for r in results if not r["ok"]]
    if as_json:
        output.print_json({"healthy": not failed, "checks": results})
    else:
        rows = [(("ok" if r["ok"] else "FAIL"), r["check"], r["says"]) for r in results]
        output.out.print(output.table("Doctor", ("", "check", "says"), rows))
    if failed:
        raise typer.Exit(1)


def _checks(stores: Stores, now: dt.datetime) -> list[_Check]:
    settings = stores.settings

    def vendor() -> str:
        known = stores.source.tickers().height
        return f"{settings.polygon.base_url}, {known:,} tickers"

    def models() -> str:
        names = [h.name for h in settings.enabled_horizons]
        for name in names:
            stores.tracker.champions(name, now)
        return f"champions for {', '.join(names)}"

    def ledger() -> str:
        with stores.ledger as opened:
            batches = opened.read("select count(*) as n from signal_batches").item()
            return f"{batches:,} batches of signals"

    def disk() -> str:
        settings.home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(settings.home).free / _GIB
        if free < 1.0:
            raise IsobarError(
                "little disk space",
                got=f"{free:.2f} GiB",
                allowed="1 GiB or more free",
                remedy="free some space",
            )
        return f"{free:,.0f} GiB free under {settings.home}"

    return [
        _Check("settings", lambda: f"hash {settings.config_hash}"),
        _Check("calendar", lambda: f"last closed session {calendar.latest_session(now)}"),
        _Check("disk", disk),
        _Check("ledger", ledger),
        _Check("market data", vendor),
        _Check("models", models),
    ]


def _trading_checks(stores: Stores) -> list[dict[str, Any]]:
    """Return what live trading asks too; without an answering broker there is but one line."""
    try:
        with stores.ledger as ledger:
            checks = check_trading(stores, ledger)
    except (IsobarError, OSError) as error:
        return [{"check": "broker", "ok": False, "says": redact(str(error))}]
    broker = {"check": "broker", "ok": True, "says": stores.settings.alpaca.base_url}
    return [broker, *({"check": c.name, "ok": c.ok, "says": redact(c.says)} for c in checks)]


def _ask(check: _Check) -> dict[str, Any]:
    try:
        return {"check": check.name, "ok": True, "says": check.ask()}
    except (IsobarError, OSError) as error:
        return {"check": check.name, "ok": False, "says": redact(str(error))}
