"""The table of contents that `isobar --help` shows: panels, commands and a line for each.

What a command needs is imported when the command is asked for: help and Tab answer at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer import rich_utils
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from click import Command, Context

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


MODULES: dict[str, tuple[str, ...]] = {
    "backtest_commands": ("backtest",),
    "feature_commands": ("features", "audit"),
    "ledger_commands": ("ledger", "audit"),
    "pipeline_commands": ("demo", "bootstrap", "ingest", "train", "run"),
    "prediction_commands": ("predictions",),
    "provenance_commands": ("explain", "parity"),
    "query_commands": ("status", "doctor"),
    "registry_commands": ("models",),
    "report_commands": ("report",),
    "score_commands": ("scoreboard", "weights", "agreement"),
    "server_commands": ("serve", "ui"),
    "settings_commands": ("settings",),
    "signal_commands": ("signals",),
    "switch_commands": ("halt", "resume"),
    "trading_commands": ("trade", "reconcile", "portfolio", "audit"),
    "tune_commands": ("tune",),
}
"""By module of this package: the commands that it registers, `audit` by its share."""


class Contents(TyperGroup):
    """Lists the contents without importing a command's module; imports it to run the command."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for panel, names in CONTENTS.items():
            for name, line in names.items():
                self.commands[name] = TyperCommand(name, short_help=line, rich_help_panel=panel)
        self._whole: dict[str, Command] = {}

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """Find the command that was asked for, whole."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and self.whole(str(name)), rest

    def whole(self, name: str) -> Command:
        """Return a command of the contents with all its options."""
        if name not in self._whole:
            app = typer.Typer()
            for module in (m for m, names in MODULES.items() if name in names):
                import_module(f"isobar.{module}").register(app)
            self._whole[name] = typer.main.get_group(app).commands[name]
        return self._whole[name]


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
