"""Commands on backtests: make one, list those that are kept, hold several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from backtest.comparison import (
    MOST_RUNS,
    compare_runs,
    comparison_verdict,
    render_comparison,
    written_rows,
)
from backtest.metric_names import headline
from isobar import output
from isobar.arguments import End, Horizons, JsonFlag, Start, read_horizons
from isobar.pipeline_commands import check_dates
from market.errors import UsageError
from pipelines.backtest_store import FOLDER, find_backtest, list_backtests, read_run
from pipelines.launch import Launcher
from pipelines.resources import Stores
from pipelines.settings import load_settings

backtest_app = typer.Typer(
    invoke_without_command=True,
    help="Backtest the out-of-sample signals through the live targets, planning and risk code.",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(backtest_app, name="backtest")


@backtest_app.callback()
def backtest(
    context: typer.Context,
    horizon: Horizons = None,
    start: Start = "",
    end: End = "",
    combined: Annotated[
        bool,
        typer.Option(
            "--combined",
            help="The horizons in one account; all with predictions where none is named.",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Backtest the out-of-sample signals through the live targets, planning and risk code."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    check_dates(start, end)
    wanted = read_horizons(horizon, settings)
    with output.progress_bars(quiet=as_json) as progress:
        launcher = Launcher(settings, progress=progress)
        if combined:
            named = [h.name for h in wanted] if horizon else []
            made = launcher.combined_backtest(named, start, end)
            done = {made["horizons"]: made}
        else:
            done = launcher.backtest(wanted, start, end)
    if as_json:
        output.print_json(
            {
                h: {**m["metrics"], "backtest": m["backtest"], "tear_sheet": m["tear sheet"]}
                for h, m in done.items()
            }
        )
        return
    for name, made in done.items():
        _show(f"Backtest {name}", made["metrics"])
        output.out.print(f"Backtest: {made['backtest']}", soft_wrap=True)
        output.out.print(f"Tear sheet: {made['tear sheet']}", soft_wrap=True)


@backtest_app.command("list")
def list_kept(horizon: Horizons = None, as_json: JsonFlag = False) -> None:
    """List the backtests that are kept, the newest first."""
    stores = Stores(load_settings())
    names = {h.name for h in read_horizons(horizon, stores.settings)} if horizon else None
    kept = [s for s in list_backtests(stores) if names is None or names & set(s.horizons)]
    if as_json:
        output.print_json(
            [
                {
                    "backtest": s.backtest_id,
                    "horizon": s.horizon,
                    "horizons": s.horizons,
                    "created_at": s.created_at,
                    "start_session": s.start_session,
                    "end_session": s.end_session,
                    "sharpe_ratio": s.metrics.get("sharpe_ratio"),
                    "sharpe_interval": s.metrics.get("sharpe_interval"),
                    "tear_sheet": s.tear_sheet,
                }
                for s in kept
            ]
        )
        return
    rows = [
        (s.backtest_id, s.start_session, s.end_session, s.metrics.get("sharpe_ratio")) for s in kept
    ]
    columns = ("backtest", "from", "to", "Sharpe ratio")
    output.out.print(output.table(f"{len(kept)} backtests", columns, rows))


@backtest_app.command("compare")
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Ids of backtests, their beginnings, or horizons for the newest."),
    ],
    page: Annotated[
        str, typer.Option("--page", help="Where to write the page; in the data root by default.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Hold backtests side by side: a table here, and a page with pictures."""
    settings = load_settings()
    stores = Stores(settings)
    kept = list_backtests(stores)
    chosen = [find_backtest(kept, name) for name in runs]
    if not 2 <= len({s.backtest_id for s in chosen}) == len(chosen) <= MOST_RUNS:
        raise UsageError(
            "runs to compare",
            got=[s.backtest_id for s in chosen],
            allowed=f"two to {MOST_RUNS} different ones",
            remedy="see `isobar backtest list`",
        )
    read = [read_run(stores, s) for s in chosen]
    seed = settings.models.seed
    rows = compare_runs(read, seed=seed)
    path = Path(page) if page else settings.home / FOLDER / "comparison.html"
    _write(path, render_comparison(read, title="Backtests side by side", seed=seed))
    if as_json:
        ids = {r.name: s.backtest_id for r, s in zip(read, chosen, strict=True)}
        output.print_json({"runs": ids, "rows": rows, "page": path})
        return
    columns = ("95% under each", *(r.name for r in read))
    output.out.print(output.table("Backtests side by side", columns, written_rows(rows)))
    output.out.print(comparison_verdict(read, rows))
    output.out.print(f"Page: {path}", soft_wrap=True)


def _show(title: str, metrics: Mapping[str, Any]) -> None:
    span = f"{metrics['start']} to {metrics['end']}"
    output.out.print(
        output.table(f"{title}, {span}", ("metric", "value", "95%"), headline(metrics))
    )
    output.out.print(metrics["overfitting"]["verdict"])


def _write(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(page, "utf-8")
    scratch.replace(path)
