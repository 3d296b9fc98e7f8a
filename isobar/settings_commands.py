"""What is set, and where."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from isobar import output
from isobar.arguments import JsonFlag
from market.errors import UsageError
from pipelines.settings import validate
from pipelines.settings_sources import DEFAULT, read_sources
from pipelines.settings_table import list_settings

settings_app = typer.Typer(
    name="settings", help="What is set, where, and what it means.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(settings_app, name="settings")


@settings_app.command("show")
def show_settings(
    prefix: Annotated[
        str, typer.Argument(help="Only those whose name begins like this, with their meaning.")
    ] = "",
    changed: Annotated[
        bool, typer.Option("--changed", help="Only those that are not defaults.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show every setting with its value and where that comes from. Secrets are not shown."""
    sources = read_sources()
    settings = validate(sources.values)
    found = [s for s in list_settings(settings, sources) if s.name.startswith(prefix)]
    if not found:
        raise UsageError(
            "no setting begins like that",
            got=prefix,
            allowed="the beginning of a name, like `models` or `risk.gross`",
            remedy="run `isobar settings show` for all of them",
        )
    if changed:
        found = [s for s in found if s.origin != DEFAULT]
    if as_json:
        output.print_json({"hash": settings.config_hash, "settings": [asdict(s) for s in found]})
        return
    if not found:
        output.out.print("Everything is as by default.")
        return
    columns = ("setting", "value", "from", *(("meaning",) if prefix else ()))
    rows = [(s.name, s.value, s.origin, *((s.meaning,) if prefix else ())) for s in found]
    made = output.table(f"Settings, hash {settings.config_hash}", columns, rows)
    made.columns[0].no_wrap = True
    output.out.print(made)
