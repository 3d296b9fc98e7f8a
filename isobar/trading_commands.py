"""Commands of trading: trade, reconcile, portfolio, and the audit of orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import polars as pl
import typer

from execution.audit import verify_orders
from execution.broker import OrderType
from execution.intents import OrderIntent
from execution.portfolio import Portfolio, read_portfolio
from execution.reconcile import accept
from execution.state import TradingState, current_state, newest_reason
from execution.trade import TradeReport
from isobar import output
from isobar.arguments import JsonFlag
from isobar.feature_commands import audit_app
from isobar.ledger_commands import show_audit
from pipelines.assets.orders import attend_account, describe_trade, trade_newest
from pipelines.launch import Launcher
from pipelines.market_view import newest_prices
from pipelines.resources import Stores
from pipelines.settings import load_settings

_SHOWN = 20
_TABLES = {"plan", "refused", "left out"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("trade")(trade_command)
    app.command("reconcile")(reconcile_command)
    app.command("portfolio")(portfolio_command)


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
    described = describe_trade(report)
    if as_json:
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
        skipped = [dict(zip(_SKIPPED, row, strict=True)) for row in _skipped(report)]
        refused = [asdict(r) for r in report.refused]
        shown = {k: v for k, v in described.items() if k not in _TABLES}
        output.print_json({**shown, "plan": verdicts, "refused": refused, "skipped": skipped})
        return
    _show_trade(report, described)
    _say_if_stopped(launcher.stores)


def _show_trade(report: TradeReport, described: Mapping[str, object]) -> None:
    if report.batch_id is None:
        output.out.print("No batch of signals is published: `isobar run` makes one.")
        return
    title = "Orders of the plan that was there already" if report.resumed else "Plan"
    rows = _order_rows(report)
    if rows:
        output.out.print(output.table(title, ("symbol", "side", "shares", "for", "verdict"), rows))
    else:
        output.out.print("Nothing is to be ordered.")
    if refused := [(r.symbol, r.code.value, r.detail) for r in report.refused]:
        output.out.print(output.table("Refused", ("symbol", "denial", "detail"), refused))
    if skipped := _skipped(report):
        output.out.print(output.table("No order", _SKIPPED, skipped))
    kept = {k: v for k, v in described.items() if k not in {*_TABLES, "intents"}}
    output.print_mapping("Trade", {k: _counted(v) for k, v in kept.items()})


def _order_rows(report: TradeReport) -> list[tuple[str, ...]]:
    """Return the journal's orders, with those that close; in a dry run what would be sent."""
    if report.journalled is None:
        judged = [(v.intent, v.denials, "accepted", None) for v in report.verdicts]
    else:
        orders = report.journalled.orders
        judged = [(o.intent, o.denials, o.state.value, o.parent_id) for o in orders]
    return [
        (
            intent.symbol,
            intent.side.value,
            output.plain(intent.quantity),
            _purpose(intent, is_exit=parent is not None),
            ", ".join(d.code.value for d in denials) or state,
        )
        for intent, denials, state, parent in judged
    ]


def _purpose(intent: OrderIntent, *, is_exit: bool) -> str:
    if not is_exit:
        return intent.reason.value
    if intent.order_type is OrderType.LIMIT:
        return f"target {intent.limit_price_usd} USD"
    return f"stop {intent.stop_price_usd} USD"


_SKIPPED = ("symbol", "reason", "detail")


def _skipped(report: TradeReport) -> list[tuple[str, ...]]:
    if report.journalled is not None:
        return [tuple(s.get(name, "") for name in _SKIPPED) for s in report.journalled.skipped]
    skipped = report.plan.skipped if report.plan else ()
    return [(s.symbol, s.reason.value, s.detail) for s in skipped]


def _counted(value: object) -> object:
    """Return counts as a person reads them."""
    if isinstance(value, Mapping):
        counts: Mapping[str, int] = value
        return ", ".join(f"{n} {what}" for what, n in sorted(counts.items())) or "none"
    return output.show(value)


def _say_if_stopped(stores: Stores) -> None:
    """Say that and why trading is stopped, where it is."""
    with stores.ledger as ledger:
        state, reason = current_state(ledger), newest_reason(ledger)
    if state is not TradingState.ACTIVE:
        output.out.print(
            output.styled(
                "Trading is ",
                (state.value, "bold red"),
                f": {reason or 'no reason was kept'}. ",
                "Once it is safe: isobar resume --reason WHY.",
            )
        )


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
        verdict = ("agree",) if found.is_clean else ("do ", ("not", "bold red"), " agree")
        equity = _usd(float(found.account.equity_usd))
        output.out.print(output.styled("Journal and account ", *verdict, f"; equity {equity}."))
        _say_if_stopped(stores)
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
    rows = [
        tuple(_cell(name, value) for name, value in row.items())
        for row in frame.iter_rows(named=True)
    ]
    names = tuple(c.replace("_usd", "").replace("_", " ") for c in frame.columns)
    made = output.table(title, names, rows)
    for column, kind in zip(made.columns, frame.dtypes, strict=True):
        column.justify = "right" if kind.is_numeric() else "left"
    output.out.print(made)


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    # Shares come in fractions of a billionth; money does not.
    return output.plain(round(value, 9)) if name == "quantity" else f"{value:,.2f}"


def _usd(amount: float) -> str:
    return f"{amount:,.2f} USD"


@audit_app.command("orders")
def audit_orders(as_json: JsonFlag = False) -> None:
    """Find altered, removed and inserted rows of the audit log, and orders that differ from it."""
    stores = Stores(load_settings())
    with stores.ledger as ledger:
        findings = verify_orders(ledger, stores.audit_head_file)
        rows = ledger.read("SELECT count(*) AS n FROM audit_log").item()
    show_audit(findings, {"rows": rows}, f"{rows:,} rows of the audit log hold.", as_json)
