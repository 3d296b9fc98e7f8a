"""Commands on what signals are worth: scoreboard, weights, agreement."""

from __future__ import annotations

from typing import Annotated, Any

import polars as pl
import typer

from isobar import output
from isobar.arguments import AsOf, JsonFlag, read_horizons, read_time
from isobar.workspace import Workspace
from market.errors import UsageError
from market.regimes import RegimeLabel
from signals.agreement import DISAGREES
from signals.schema import ENSEMBLE_ENGINE
from signals.scoreboard import ALL_REGIMES, PROMISED, Board

_EVERY = "every"
_REGIMES = [r.value for r in RegimeLabel]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("scoreboard")(scoreboard)
    app.command("weights")(weights)
    app.command("agreement")(agreement)


def scoreboard(
    horizon: Annotated[str, typer.Option("--horizon", help="One horizon; all by default.")] = "",
    regime: Annotated[
        str, typer.Option("--regime", help="bull, bear, neutral, all of them as one, or every.")
    ] = ALL_REGIMES,
    engine: Annotated[str, typer.Option("--engine", help="One engine; all by default.")] = "",
    since: Annotated[str, typer.Option("--since", help="as_of from this ISO time on.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Show what live signals were worth, beside what the backtest promised."""
    wanted = _regime(regime, [ALL_REGIMES, *_REGIMES, _EVERY])
    workspace = Workspace()
    if horizon:
        read_horizons([horizon], workspace.settings)
    moment = read_time(since, "--since")
    with output.waiting("judging what has ended", quiet=as_json):
        rows = workspace.scoreboard(
            horizon=horizon or None,
            regime=None if wanted == _EVERY else wanted,
            engine=engine or None,
            since=moment,
        )
    if as_json:
        output.print_json(rows.to_dicts())
        return
    if rows.is_empty():
        output.out.print("Nothing to judge: no signal has ended and no backtest is there.")
        return
    columns = ("signals of", "", "days", "rows", "cover", "hit rate", "Brier", "ECE", "rank IC")
    shown = [line for row in rows.to_dicts() for line in _lines(row)]
    made = output.table("Scoreboard", columns, shown)
    made.columns[1].no_wrap = True
    output.out.print(made)
    output.out.print(
        "Hit rate, Brier score and ECE of the confidence, and rank IC against the excess return; "
        "days are sessions. 95 percent intervals from sessions drawn again; none where they are "
        "too few (ten at the least, more where horizons overlap)."
    )


def _lines(row: dict[str, Any]) -> list[tuple[object, ...]]:
    """Return what came and, below it, what was promised."""
    regime = row[Board.REGIME]
    name = f"{row[Board.HORIZON]} {row[Board.ENGINE]}"
    name += "" if regime == ALL_REGIMES else f", {regime}"
    lines: list[tuple[object, ...]] = []
    for side, prefix in (("live", ""), ("backtest", PROMISED)):
        shown = name if side == "live" else ""
        sessions = row[prefix + Board.SESSIONS]
        if sessions is None:
            lines.append((shown, side, 0, 0, *["-"] * 5))
            continue
        lines.append(
            (
                shown,
                side,
                sessions,
                row[prefix + Board.SIGNALS],
                _share(row[prefix + Board.COVERAGE]),
                _interval(row, prefix + Board.HIT_RATE, "{:.1%}"),
                _interval(row, prefix + Board.BRIER, "{:.3f}"),
                f"{row[prefix + Board.ECE]:.3f}",
                _interval(row, prefix + Board.RANK_IC, "{:+.3f}"),
            )
        )
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _interval(row: dict[str, Any], name: str, form: str) -> str:
    mean, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if mean is None:
        return "-"
    if low is None or high is None:
        return form.format(mean)
    return f"{form.format(mean)} ({form.format(low)} to {form.format(high)})"


def weights(
    horizon: Annotated[str, typer.Option("--horizon", help="One horizon; all by default.")] = "",
    regime: Annotated[str, typer.Option("--regime", help="bull, bear or neutral.")] = "",
    as_of: AsOf = "",
    as_json: JsonFlag = False,
) -> None:
    """Show how much each engine counts in each regime, and on what evidence."""
    if regime:
        _regime(regime, _REGIMES)
    workspace = Workspace()
    if horizon:
        read_horizons([horizon], workspace.settings)
    rows = workspace.weights(
        horizon=horizon or None, regime=regime or None, as_of=read_time(as_of, "--as-of")
    )
    if as_json:
        output.print_json(rows.to_dicts())
        return
    if rows.is_empty():
        output.out.print("No weights match. `isobar run eod` works some out.")
        return
    columns = ("for", "regime", "engine", "weight", "shrunk rank IC", "sessions", "since")
    shown = [
        (
            r["horizon"],
            r["regime"],
            r["engine"],
            f"{r['weight']:.1%}",
            f"{r['rank_ic']:+.4f}",
            r["sessions"],
            r["as_of"],
        )
        for r in rows.to_dicts()
    ]
    output.out.print(output.table("Weights in force", columns, shown))


def agreement(
    engine: Annotated[str, typer.Option("--engine", help="Whose signals.")] = ENSEMBLE_ENGINE,
    as_json: JsonFlag = False,
) -> None:
    """Show the newest batch by symbol and horizon, and where horizons disagree."""
    rows = Workspace().agreement(engine=engine)
    if as_json:
        output.print_json(rows.to_dicts())
        return
    if rows.is_empty():
        output.out.print(f"No signals of {engine}. `isobar run eod` publishes some.")
        return
    horizons = rows.columns[2:]
    shown = [
        (r["symbol"], *(r[h] or "-" for h in horizons), "disagree" if r[DISAGREES] else "")
        for r in rows.to_dicts()
    ]
    against = rows.select(pl.col(DISAGREES).sum()).item()
    title = f"Directions of the newest batch: {against} of {rows.height} symbols disagree"
    output.out.print(output.table(title, ("symbol", *horizons, ""), shown))


def _regime(name: str, allowed: list[str]) -> str:
    if name not in allowed:
        raise UsageError(
            "unknown regime",
            got=name,
            allowed=", ".join(allowed),
            remedy="name one of these",
        )
    return name
