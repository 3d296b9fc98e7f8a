"""Commands about where signals come from: `explain` and `parity`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from isobar import output
from isobar.arguments import JsonFlag, read_run
from market.ledger_tables import parity_checks, signal_batches
from pipelines.resources import Stores
from pipelines.settings import load_settings

_SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("explain")(explain)
    app.command("parity")(parity)


def explain(
    signal_id: Annotated[str, typer.Argument(metavar="ID", help="A signal's id, or its start.")],
    as_json: JsonFlag = False,
) -> None:
    """Walk a signal back to models, features and bars, and make it again."""
    from pipelines.explain import explain_signal

    stores = Stores(load_settings())
    with output.waiting("making the signal again", quiet=as_json):
        found = explain_signal(stores, signal_id)
    if as_json:
        output.print_json(found)
    else:
        _print_explanation(found)
    if not found["again"]["equal"]:
        raise typer.Exit(1)


def _print_explanation(found: dict[str, Any]) -> None:
    signal, batch, again = found["signal"], found["batch"], found["again"]
    output.print_mapping(
        f"{signal['symbol']}, {signal['horizon']}, {signal['engine']}",
        {
            "says": signal["explain"],
            "confidence": f"{signal['confidence']:.1%} {signal['direction']}",
            "target, stop": f"{_levels(signal['targets'])}, {_levels(signal['stops'])}",
            "valid until": signal["valid_until"],
            "current": "yes" if signal["is_current"] else "no: a newer revision took its place",
            "batch": f"{batch['run']} as of {output.show(batch['as_of'])}, revision "
            f"{batch['revision']}{', late' if batch['late'] else ''}",
            "made again": "the same" if again["equal"] else "NOT the same",
            "regime": signal["regime"],
            "scale of the ensemble's return": f"{found['scale']:.3f}",
            "code": found["code"],
        },
    )
    for line in (*again["differences"], *(f"changed since: {c}" for c in again["changed"])):
        output.out.print(output.styled(("!", "bold red"), f" {line}"))
    weights = {w["engine"]: w["weight"] for w in found["weights"]}
    until = {m["engine"]: m["as_of"] for m in found["models"]}
    forecasts = [
        (
            f["engine"],
            f"{f['expected_return_bps']:+.2f}",
            f"{f['p_short']:.0%} / {f['p_neutral']:.0%} / {f['p_long']:.0%}",
            weights.get(f["engine"]),
            until.get(f["engine"]),
        )
        for f in found["forecasts"]
    ]
    columns = ("engine", "bps", "short / neutral / long", "weight", "its data until")
    output.out.print(
        output.table(f"Forecasts, weights in a {signal['regime']} regime", columns, forecasts)
    )
    versions = [(f["engine"], f["model_version"]) for f in found["forecasts"]]
    output.out.print(output.table("Versions of models", ("engine", "version"), versions))
    reasons = [(f["feature"], f["value"], f["contribution"]) for f in found["features"]]
    shown = ("feature", "value", "contribution, bps")
    output.out.print(output.table("What moved it most", shown, reasons))
    bars = found["bars"]
    rows = [(b["bar_end"], b["close"], b["volume"], b["known_at"]) for b in bars["newest"]]
    title = f"Newest bars of {bars['table']}, price {bars['price_usd']:,.4g} USD"
    output.out.print(output.table(title, ("bar ends", "close", "volume", "known"), rows))
    versions = ", ".join(f"{t} {v}" for t, v in sorted(found["tables"].items()))
    output.out.print(f"Versions of tables: {versions}", highlight=False)


def _levels(levels: list[float]) -> str:
    return " ".join(f"{v:,.4g}" for v in levels) or "none"


def parity(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="Check now: premarket, midday or eod.")
    ] = "",
    accept: Annotated[
        str, typer.Option("--accept", help="Why the newest finding is harmless.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Show whether signals come out again as published; a finding stops all orders.

    With a RUN the batch before its newest one is made again now.
    """
    from pipelines.parity import accept_parity, check_parity

    stores, now = Stores(load_settings()), dt.datetime.now(dt.UTC)
    if run:
        named = read_run(run)
        with output.waiting("making the batch again", quiet=as_json):
            check_parity(stores, named, now)
    with stores.ledger as ledger:
        if accept:
            accept_parity(ledger, reason=accept, now=now)
        checks = ledger.rows(
            sa.select(parity_checks, signal_batches.c.run, signal_batches.c.as_of)
            .join(signal_batches, signal_batches.c.batch_id == parity_checks.c.batch_id)
            .order_by(parity_checks.c.checked_at.desc())
            .limit(_SHOWN)
        )
    if as_json:
        output.print_json(checks)
    elif not checks:
        output.out.print("Nothing was checked yet: a run checks the batch before its own.")
    else:
        rows = [
            (c["checked_at"], c["run"], c["as_of"], c["equal"], "\n".join(c["findings"]) or "-")
            for c in checks
        ]
        columns = ("checked", "run", "as of", "the same", "findings")
        output.out.print(output.table("Parity checks, times in UTC", columns, rows))
    if checks and not checks[0]["equal"]:
        raise typer.Exit(1)
