"""Commands of trading: trade, halt, resume, reconcile, portfolio, and the audit of orders."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import Annotated, Any

import polars as pl
import typer

from execution.audit import verify_orders
from execution.flatten import flatten
from execution.portfolio import Portfolio, read_portfolio
from execution.reconcile import accept
from execution.state import halt as halt_trading
from execution.state import newest_reason
from execution.state import resume as resume_trading
from execution.trade import assert_may_trade
from isobar import output
from isobar.arguments import JsonFlag
from isobar.feature_commands import audit_app
from pipelines.assets.orders import attend_account, describe_trade, trade_newest
from pipelines.launch import Launcher
from pipelines.market_view import newest_prices
from pipelines.resources import Stores
from pipelines.settings import load_settings

_PANEL = "Trading"
_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("trade", rich_help_panel=_PANEL)(trade_command)
    app.command("reconcile", rich_help_panel=_PANEL)(reconcile_command)
    app.command("portfolio", rich_help_panel=_PANEL)(portfolio_command)
    app.command("halt", rich_help_panel=_PANEL)(halt)
    app.command("resume", rich_help_panel=_PANEL)(resume)


def trade_command(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan and check, send nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn the newest batch of signals into risk-checked orders. Again sends nothing twice."""
    launcher = Launcher(load_settings())
    # The broker's clock decides what is fresh: it is the one that fills.
    now = launcher.stores.broker.clock().now
    report = trade_newest(launcher.stores, now=now, dry_run=dry_run)
    shown = {k: getattr(v, "md_str", v) for k, v in describe_trade(report).items()}
    verdicts = [
        {
            "symbol": v.intent.symbol,
            "side": v.intent.side.value,
            "quantity": str(v.intent.quantity),
            "client_order_id": v.intent.client_order_id,
            "denials": [d.code.value for d in v.denials],
        }
        for v in report.verdicts
    ]
    if as_json:
        skipped = [asdict(s) for s in report.plan.skipped] if report.plan else []
        output.print_json({**shown, "plan": verdicts, "left out": skipped})
        return
    rows = [
        (v["symbol"], v["side"], v["quantity"], ", ".join(v["denials"]) or "accepted")
        for v in verdicts
    ]
    output.out.print(output.table("Plan", ("symbol", "side", "shares", "verdict"), rows))
    left_out = [
        (skip.symbol, skip.reason.value.replace("_", " "), skip.detail)
        for skip in (report.plan.skipped if report.plan else ())
    ]
    if left_out:
        output.out.print(output.table("Left out", ("symbol", "why", "detail"), left_out))
    told = {k: str(v) for k, v in shown.items() if k not in ("plan", "left out")}
    output.print_mapping("Trade", told)


def reconcile_command(
    accepted: Annotated[
        str, typer.Option("--accept", help="A symbol or an order's id that drifts.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="What happened; with --accept.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Hold the journal against the account; exit with 1 when something cannot be explained.

    Fills are written and unfinished orders carried on first. What drifts halts trading until a
    person has looked: --accept takes over what the account says.
    """
    stores = Stores(load_settings())
    now = stores.broker.clock().now
    found = attend_account(stores, now=now)
    if accepted:
        with stores.ledger as ledger:
            accept(ledger, found, accepted, reason, now)
        found = attend_account(stores, now=now)
    if as_json:
        output.print_json(
            {
                "clean": found.is_clean,
                "equity_usd": str(found.account.equity_usd),
                "findings": [asdict(f) for f in found.findings],
            }
        )
    else:
        rows = [(f.kind.value, f.key, f.detail) for f in found.findings]
        if rows:
            output.out.print(output.table("Reconciliation", ("finding", "of", "detail"), rows))
        verdict = "agree" if found.is_clean else "do [bold red]not[/] agree"
        output.out.print(f"Journal and account {verdict}; equity {found.account.equity_usd} USD.")
    if not found.is_clean:
        raise typer.Exit(1)


def portfolio_command(as_json: JsonFlag = False) -> None:
    """Show positions, profit and loss by horizon, and what orders cost beyond their decision."""
    stores = Stores(load_settings())
    prices = newest_prices(stores.lake)
    with stores.ledger as ledger:
        found = read_portfolio(ledger, prices)
    if as_json:
        frames = ("positions", "by_horizon", "by_signal", "shortfall")
        output.print_json(
            {
                "realised_usd": found.realised_usd,
                "unrealised_usd": found.unrealised_usd,
                **{name: getattr(found, name).to_dicts() for name in frames},
            }
        )
        return
    _show_portfolio(found)


def _show_portfolio(found: Portfolio) -> None:
    if found.positions.is_empty():
        output.out.print("Isobar has traded nothing yet.")
        return
    held = found.positions.filter(pl.col("quantity") != 0)
    if not held.is_empty():
        _show("Positions", held)
    _show("By horizon", found.by_horizon.with_columns(pl.col("horizon").fill_null("none")))
    paid = found.shortfall["shortfall_usd"].sum()
    output.print_mapping(
        "Profit and loss",
        {
            "realised, dividends included": _usd(found.realised_usd),
            "unrealised": _usd(found.unrealised_usd),
            "paid beyond the decision's price": _usd(float(paid)),
        },
    )


def _show(title: str, frame: pl.DataFrame) -> None:
    rows = [tuple(map(_cell, row)) for row in frame.iter_rows()]
    names = tuple(c.replace("_usd", "").replace("_", " ") for c in frame.columns)
    output.out.print(output.table(title, names, rows))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}".removesuffix(".00") if isinstance(value, float) else str(value)


def _usd(amount: float) -> str:
    return f"{amount:,.2f} USD"


def halt(
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "by hand",
    close: Annotated[
        bool, typer.Option("--flatten", help="Also cancel open orders and close what is ours.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Stop all orders until `isobar resume`. Survives restarts. Again carries --flatten on."""
    stores = Stores(load_settings())
    closing: list[dict[str, str]] = []
    with stores.ledger as ledger:
        # The halt comes first: it must hold also where the broker cannot be reached.
        state = halt_trading(ledger, reason, dt.datetime.now(dt.UTC))
        if close:
            broker, settings = stores.broker, stores.settings.trading
            assert_may_trade(settings.mode, broker, settings.allow_live)
            closing = [
                {
                    "symbol": o.intent.symbol,
                    "side": o.intent.side.value,
                    "quantity": str(o.intent.quantity),
                    "state": o.state.value,
                }
                for o in flatten(ledger, broker, broker.clock().now)
            ]
    if as_json:
        output.print_json({"trading_state": state.value, "closing": closing})
        return
    output.out.print(f"Trading is [bold]{state.value}[/].")
    if close:
        rows = [tuple(c.values()) for c in closing]
        output.out.print(
            output.table("Closing", ("symbol", "side", "shares", "state"), rows)
            if rows
            else "Isobar holds nothing."
        )


def resume(
    reason: Annotated[str, typer.Option("--reason", help="Why it is safe. Required.")],
    as_json: JsonFlag = False,
) -> None:
    """Allow orders again; only a person does this."""
    with Stores(load_settings()).ledger as ledger:
        before = newest_reason(ledger)
        state = resume_trading(ledger, reason, dt.datetime.now(dt.UTC))
    if as_json:
        output.print_json({"trading_state": state.value, "was_stopped_because": before})
    else:
        output.out.print(f"Trading is [bold]{state.value}[/].")


@audit_app.command("orders")
def audit_orders(as_json: JsonFlag = False) -> None:
    """Find altered, removed and inserted rows of the audit log, and orders that differ from it."""
    stores = Stores(load_settings())
    with stores.ledger as ledger:
        findings = verify_orders(ledger, stores.audit_head_file)
        rows = ledger.read("SELECT count(*) AS n FROM audit_log").item()
    if as_json:
        output.print_json({"clean": not findings, "rows": rows, "findings": findings})
    else:
        for finding in findings[:_SHOWN]:
            output.out.print(f"[bold red]broken[/] {finding}", soft_wrap=True, highlight=False)
        if len(findings) > _SHOWN:
            output.out.print(f"... and {len(findings) - _SHOWN:,} more: use --json")
        if not findings:
            output.out.print(f"[bold green]{rows:,} rows of the audit log hold.[/]")
    if findings:
        raise typer.Exit(1)
