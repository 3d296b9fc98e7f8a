"""The predictions command: what models forecast out of sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from isobar import output
from isobar.arguments import End, JsonFlag, Start, read_date, read_horizons, read_period
from isobar.workspace import Workspace
from models.forecast import Prediction


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("predictions")(predictions)


def predictions(
    horizon: Annotated[str, typer.Option("--horizon", help="One horizon.")],
    start: Start = "",
    end: End = "",
    out: Annotated[str, typer.Option("--out", help="Parquet file to write.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Show the out-of-sample predictions of a horizon, or write them to a file."""
    workspace = Workspace()
    read_horizons([horizon], workspace.settings)
    if start and end:
        read_period(start, end)
    rows = workspace.predictions(
        horizon,
        read_date(start, "--start") if start else None,
        read_date(end, "--end") if end else None,
    )
    if out:
        _write(rows, Path(out))
    summary = _summary(rows)
    if as_json:
        output.print_json({"rows": rows.height, "file": out or None, "engines": summary})
        return
    columns = ("engine", "rows", "models", "from", "to")
    shown = [tuple(str(v) for v in row.values()) for row in summary]
    output.out.print(output.table(f"Predictions {horizon} ({rows.height:,})", columns, shown))
    if out:
        output.out.print(f"Written to {out}", soft_wrap=True)


def _write(rows: pl.DataFrame, path: Path) -> None:
    # Whole or not at all: a reader never sees half a file under this name.
    part = path.with_name(f".{path.name}.part")
    try:
        rows.write_parquet(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _summary(rows: pl.DataFrame) -> list[dict[str, object]]:
    return (
        rows.group_by(Prediction.ENGINE)
        .agg(
            pl.len().alias("rows"),
            pl.col(Prediction.MODEL_VERSION).n_unique().alias("models"),
            pl.col(Prediction.AS_OF).min().dt.strftime("%Y-%m-%d %H:%M").alias("from"),
            pl.col(Prediction.AS_OF).max().dt.strftime("%Y-%m-%d %H:%M").alias("to"),
        )
        .sort(Prediction.ENGINE)
        .to_dicts()
    )
