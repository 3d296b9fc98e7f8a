"""The switch of trading: halt and resume.

By themselves, so that little is imported: who halts is in a hurry.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from execution.holdings import own_quantities
from execution.state import halt as halt_trading
from execution.state import newest_reason
from execution.state import resume as resume_trading
from isobar import output
from isobar.arguments import JsonFlag
from market.ledger import Ledger
from pipelines.resources import Stores
from pipelines.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("halt")(halt)
    app.command("resume")(resume)


def halt(
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "by hand",
    close: Annotated[
        bool, typer.Option("--flatten", help="Also cancel open orders and close what is ours.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Stop all orders until `isobar resume`. Survives restarts. Again carries --flatten on."""
    stores = Stores(load_settings())
    with stores.ledger as ledger:
        # The halt comes first: it must hold also where the broker cannot be reached.
        state = halt_trading(ledger, reason, dt.datetime.now(dt.UTC))
        if not as_json:
            output.out.print(output.styled("Trading is ", (state.value, "bold"), "."))
        closing = _flatten(stores, ledger) if close else []
        left = {s: output.plain(q) for s, q in own_quantities(ledger).items()}
    if as_json:
        output.print_json({"trading_state": state.value, "closing": closing, "held": left})
    elif close:
        _show_closing(closing, left)


def _flatten(stores: Stores, ledger: Ledger) -> list[dict[str, str]]:
    # The halt itself must not wait for what only closing needs.
    from execution.flatten import flatten
    from execution.trade import assert_may_trade

    broker, settings = stores.broker, stores.settings.trading
    assert_may_trade(settings.mode, broker, settings.allow_live)
    now = broker.clock().now
    made = flatten(ledger, broker, now)
    return [
        {
            "symbol": o.intent.symbol,
            "side": o.intent.side.value,
            "quantity": output.plain(o.intent.quantity),
            "state": o.state.value,
        }
        for o in made
        # Closings of other days are history.
        if not o.state.is_final or o.updated_at.date() == now.date()
    ]


def _show_closing(closing: list[dict[str, str]], left: dict[str, str]) -> None:
    if closing:
        rows = [tuple(c.values()) for c in closing]
        output.out.print(output.table("Closing", ("symbol", "side", "shares", "state"), rows))
    if left:
        held = ", ".join(f"{s} {q}" for s, q in left.items())
        output.out.print(f"Isobar still holds {held}: repeat the command until it does not.")
    else:
        output.out.print("Isobar holds nothing.")


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
        output.out.print(output.styled("Trading is ", (state.value, "bold"), "."))
