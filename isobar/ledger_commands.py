"""Commands that keep the ledger: backup, restore, and the audit of the chain of signals."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from execution.audit import keep_restored_heads
from execution.state import halt
from isobar import output
from isobar.arguments import JsonFlag
from isobar.feature_commands import audit_app
from pipelines.resources import Stores
from pipelines.settings import load_settings
from signals.backup import Backup, backup_ledger, restore_ledger
from signals.publish import verify_chain

_SHOWN = 40
_RESTORED = "a backup of the ledger was restored"

ledger_app = typer.Typer(
    no_args_is_help=True, help="Keep the ledger: signals, orders and all that must not be lost."
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(ledger_app, name="ledger")


@ledger_app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")],
    as_json: JsonFlag = False,
) -> None:
    """Back the ledger up, with its head file, while runs go on.

    The file is a SQLite database, also where the ledger lies in PostgreSQL. It appears only
    after the chain of signals in it was verified.
    """
    stores = Stores(load_settings())
    with stores.ledger as ledger:
        made = backup_ledger(ledger, stores.head_file, file, made_at=dt.datetime.now(dt.UTC))
    _show("Backed up", made, file, as_json)


@ledger_app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Made by `isobar ledger backup`.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Give up what the ledger holds now. Back it up before."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Restore the ledger and its head file: all of it, or nothing.

    The target is the ledger of the settings, SQLite or PostgreSQL, wherever the backup was
    made. A ledger with content is refused without --replace. Stop scheduled runs before.
    Trading is halted afterwards: the backup knows nothing of orders that were sent since.
    """
    stores = Stores(load_settings())
    with stores.ledger as ledger:
        made = restore_ledger(file, ledger, stores.head_file, replace=replace)
        # The state of then came back with it, and a halt of since then did not.
        halt(ledger, _RESTORED, dt.datetime.now(dt.UTC))
        keep_restored_heads(ledger, stores.audit_head_file)
    _show("Restored", made, file, as_json)
    if not as_json:
        output.out.print(
            "Trading is halted: `isobar reconcile`, then `isobar resume --reason WHY`."
        )


@audit_app.command("signals")
def audit_signals(as_json: JsonFlag = False) -> None:
    """Find altered, removed and inserted signals; exit with 1 when there are any."""
    stores = Stores(load_settings())
    with stores.ledger as ledger:
        findings = verify_chain(ledger, stores.head_file)
        rows = ledger.read("SELECT count(*) AS n FROM signals").item()
    show_audit(
        findings, {"signals": rows}, f"{rows:,} signals are as they were published.", as_json
    )


def show_audit(findings: list[str], counted: dict[str, int], all_well: str, as_json: bool) -> None:
    """Show what an audit found, the first of it in a terminal; exit with 1 if there is any."""
    if as_json:
        output.print_json({"clean": not findings, **counted, "findings": findings})
    else:
        for finding in findings[:_SHOWN]:
            output.out.print(output.styled(("broken", "bold red"), f" {finding}"), soft_wrap=True)
        if len(findings) > _SHOWN:
            output.out.print(f"... and {len(findings) - _SHOWN:,} more: use --json")
        if not findings:
            output.out.print(output.styled((all_well, "bold green")))
    if findings:
        raise typer.Exit(1)


def _show(what: str, made: Backup, file: Path, as_json: bool) -> None:
    if as_json:
        output.print_json({"file": str(file), **asdict(made)})
        return
    told = {
        "file": str(file),
        "made at": made.made_at,
        "version": made.version,
        "rows": made.rows,
        "batches of signals": made.batches,
        "last hash": made.head_hash or "none",
    }
    output.print_mapping(what, told)
