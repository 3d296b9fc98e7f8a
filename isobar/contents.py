"""The table of contents that `isobar --help` shows: panels, commands and a line for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from typer import rich_utils
from typer.core import TyperGroup

if TYPE_CHECKING:
    from click import Context

CONTENTS: dict[str, dict[str, str]] = {
    "The first day": {
        "demo": "Everything offline on a synthetic market, in minutes",
        "doctor": "What is missing or wrong, and how to mend it",
        "settings": "What is set, where, and what it means",
        "bootstrap": "History, features, models, a first backtest; resumes",
    },
    "Every day": {
        "run": "Do a scheduled run now: premarket, midday, close, eod",
        "status": "What there is, the trading state, positions, orders",
        "signals": "Current signals; all after a hash; each batch as it comes",
        "report": "The first screen of a run's report",
        "explain": "A signal walked back to its bars, and made again",
        "agreement": "The newest batch by symbol and horizon",
        "scoreboard": "What became of signals, beside what was promised",
        "weights": "How much each engine counts in each regime, and why",
    },
    "Trading": {
        "trade": "Turn the newest batch into risk-checked orders",
        "reconcile": "Hold the journal against the account",
        "portfolio": "Positions, profit and loss by horizon, cost of orders",
        "halt": "Stop all orders until a person resumes",
        "resume": "Allow orders again",
    },
    "Data and models": {
        "ingest": "Fetch bars, corporate actions, macro data and news",
        "features": "The registered features",
        "train": "Walk forward and train the champions",
        "tune": "Search a family's parameters on purged windows",
        "predictions": "Out-of-sample predictions of a horizon",
        "models": "Champions and challengers in the registry",
        "backtest": "Backtest through the live code; list; compare",
    },
    "Servers": {
        "ui": "Dagster's pages: assets, runs, checks, schedules",
        "serve": "A vendor's or a broker's protocol on loopback; metrics",
    },
    "Upkeep": {
        "parity": "Whether signals come out again as published",
        "audit": "What must always hold: leaks, signals, orders",
        "ledger": "Back the ledger up, and restore it",
    },
}


class InOrder(TyperGroup):
    """Lists commands in the order of the contents; one that is missing there comes last."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Return the names."""
        order = [name for panel in CONTENTS.values() for name in panel]
        return sorted(self.commands, key=lambda n: order.index(n) if n in order else len(order))


def lay_out(app: typer.Typer) -> None:
    """Put every registered command of an app into its panel, with its line."""
    places = {n: (panel, line) for panel, names in CONTENTS.items() for n, line in names.items()}
    for made in (*app.registered_commands, *app.registered_groups):
        made.rich_help_panel, made.short_help = places[str(made.name)]


_READABLE = {
    "STYLE_TYPES": "bold",
    "STYLE_TYPES_SEPARATOR": "none",
    "STYLE_USAGE": "bold",
    "STYLE_DEPRECATED_COMMAND": "none",
    "STYLE_HELPTEXT": "none",
    "STYLE_OPTION_DEFAULT": "none",
    "STYLE_OPTION_ENVVAR": "none",
    "STYLE_REQUIRED_LONG": "red",
    "STYLE_OPTIONS_PANEL_BORDER": "none",
    "STYLE_COMMANDS_PANEL_BORDER": "none",
    "STYLE_ERRORS_SUGGESTION": "none",
}


def use_readable_colours() -> None:
    """Take yellow and faint text, which a light background swallows, out of help pages."""
    for name, style in _READABLE.items():
        setattr(rich_utils, name, style)
