"""pyqlib's published recipes on the same bars, members and periods, in their own environment."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from evidence.daily_models import steps_of

PYTHON = Path(".venv-peers/bin/python")
DUMP = Path("benchmarks/peers/alpha158_pyqlib.py")
SCRIPT = Path(__file__).parent / "peers" / "daily_pyqlib.py"
_FIELDS = ("symbol", "session", "open", "high", "low", "close", "volume", "vwap")


def forecasts(
    run: Any, daily: pl.DataFrame, members: pl.DataFrame, config: Mapping[str, Any]
) -> dict[str, dict[str, pl.DataFrame]]:
    """Return the recipes' forecasts by horizon and name.

    What a killed run left is taken up again.
    """
    jobs = {
        (horizon, recipe): run.folder / f"peer_{recipe}_{horizon}.parquet"
        for recipe, every in config["peers"].items()
        for horizon in every
    }
    table = run.folder / "peer_table.parquet"
    if not all(p.exists() for p in jobs.values()) and not table.exists():
        _load(run, daily, members, table, sorted({steps_of(h) for h, _ in jobs}))
    made: dict[str, dict[str, pl.DataFrame]] = {}
    for (horizon, recipe), path in jobs.items():
        if not path.exists():
            run.progress(f"pyqlib {recipe}, {horizon}")
            every = config["peers"][recipe][horizon]
            _walk(table, path, recipe, steps_of(horizon), every, config)
        frame = pl.read_parquet(path).with_columns(pl.col("session").cast(pl.Date))
        made.setdefault(horizon, {})[f"pyqlib_{recipe}"] = frame
    return made


def member_spans(daily: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    """Return ``symbol``, ``first``, ``last`` of each unbroken spell of member bars."""
    sessions = daily.select(pl.col("session").unique().sort()).with_row_index("_at")
    rows = (
        daily.select("symbol", "session")
        .join(members, on=["session", "symbol"], how="semi")
        .join(sessions, on="session")
        .sort("symbol", "session")
    )
    spell = pl.col("_at").cast(pl.Int64) - pl.int_range(pl.len()).over("symbol")
    return (
        rows.with_columns(spell.alias("_spell"))
        .group_by("symbol", "_spell")
        .agg(pl.col("session").min().alias("first"), pl.col("session").max().alias("last"))
        .sort("symbol", "first")
        .select("symbol", "first", "last")
    )


def _load(
    run: Any, daily: pl.DataFrame, members: pl.DataFrame, table: Path, steps: list[int]
) -> None:
    run.progress("pyqlib: Alpha158")
    bars, folder = run.folder / "peer_bars.parquet", run.folder / "qlib"
    daily.select(_FIELDS).write_parquet(bars)
    if not folder.exists():
        _call(DUMP, "dump", bars, folder)
    lines = ("\t".join(map(str, row)) for row in member_spans(daily, members).iter_rows())
    (folder / "instruments" / "members.txt").write_text("\n".join(lines) + "\n")
    _call(SCRIPT, "load", folder, table, "--steps", *steps)


def _walk(
    table: Path, out: Path, recipe: str, steps: int, every: int, config: Mapping[str, Any]
) -> None:
    years = config["first_session"][:4], config["last_session"][:4]
    options = ("--recipe", recipe, "--steps", steps, "--every", every)
    _call(SCRIPT, "walk", table, out, *options, "--first", years[0], "--last", years[1])


def _call(script: Path, *words: object) -> None:
    subprocess.run([str(PYTHON), str(script), *map(str, words)], check=True)
