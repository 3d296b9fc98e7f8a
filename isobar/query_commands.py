"""Commands that ask how things stand: status and doctor."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from execution.holdings import own_quantities
from execution.portfolio import read_portfolio
from execution.reconcile import newest_reconciliation
from execution.state import current_state, newest_reason
from isobar import output
from isobar.arguments import JsonFlag
from market.lake import Lake
from market.ledger import Ledger
from pipelines.market_view import newest_prices
from pipelines.resources import Stores
from pipelines.settings import load_settings

if TYPE_CHECKING:
    from isobar.doctor import Finding


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("status")(status)
    app.command("doctor")(doctor)


def status(as_json: JsonFlag = False) -> None:
    """Show what is in the lake and the ledger, the trading state, positions and orders."""
    stores = Stores(load_settings())
    document: dict[str, Any] = {"home": str(stores.settings.home)}
    document["lake"] = {
        t: _coverage(stores.lake, t) for t in ("bars_1d", "bars_1m") if stores.lake.exists(t)
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


def _coverage(lake: Lake, table: str) -> str:
    sessions = lake.sessions(table)
    return f"{len(sessions):,} sessions, {min(sessions)} to {max(sessions)}"


def _describe_batch(batch: dict[str, Any] | None) -> str:
    if batch is None:
        return "none published"
    late = ", late" if batch["late"] else ""
    return f"{batch['run']} as of {batch['as_of']}, {batch['rows']} signals{late}"


def doctor(as_json: JsonFlag = False) -> None:
    """Check keys, data plan, clocks, calendar, disk, ledger, models and broker; say how to mend.

    The exit status is 1 where anything is not well. It sends the vendor four requests at most.
    """
    # What it examines takes seconds to import, and `status` needs none of it.
    from isobar.doctor import examine

    stores = Stores(load_settings())
    with output.waiting("asking", quiet=as_json):
        found = list(examine(stores, dt.datetime.now(dt.UTC)))
    failed = [f for f in found if not f.ok]
    if as_json:
        output.print_json({"healthy": not failed, "checks": [asdict(f) for f in found]})
    else:
        rows = [(_verdict(f), f.check, _on_lines(f.says)) for f in found]
        output.out.print(output.table("Doctor", ("", "check", "says"), rows))
        if failed:
            names = ", ".join(f.check for f in failed)
            output.out.print(f"Not well: {names}. docs/runbook.md has an entry for each check.")
    if failed:
        raise typer.Exit(1)


def _verdict(finding: Finding) -> Text:
    return output.styled(("ok", "green") if finding.ok else ("FAIL", "bold red"))


def _on_lines(text: str) -> Text:
    """Return a message with its remedy on a line of its own."""
    problem, *remedy = text.split(". Remedy: ", maxsplit=1)
    more = (".\n", ("Remedy:", "bold"), f" {remedy[0]}") if remedy else ()
    return output.styled(problem, *more)
