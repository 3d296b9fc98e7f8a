"""Commands that do work: bootstrap, ingest, train, run, demo."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from isobar import output
from isobar.arguments import (
    AsOf,
    End,
    Horizons,
    JsonFlag,
    Start,
    due_session,
    read_date,
    read_horizons,
    read_period,
    read_run,
    read_time,
    read_timeframe,
)
from isobar.bootstrap import Step, bootstrap, explain_bootstrap
from isobar.demo import run_demo
from market.errors import UsageError
from market.horizons import PUBLISHING_RUNS, Run
from market.timeframes import Timeframe
from pipelines.launch import Launcher
from pipelines.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for function in (
        demo,
        bootstrap_command,
        ingest_command,
        train_command,
        run_command,
    ):
        name = function.__name__.removesuffix("_command")
        app.command(name)(function)


def demo(
    seed: Annotated[int, typer.Option(help="Seed of the synthetic market.")] = 7,
    as_json: JsonFlag = False,
) -> None:
    """Run everything offline on a synthetic market, from vendor to filled orders."""
    with output.progress_bars(quiet=as_json) as progress:
        summary = run_demo(seed=seed, progress=progress)
    if as_json:
        output.print_json(summary.as_dict())
    else:
        summary.show()


def bootstrap_command(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only explain the steps and their cost.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """The first day: history, features, models, a first backtest. Resumes where it stopped.

    Each step is explained before it is done: what it fetches, about how many requests that takes
    and how long at the data plan's pace. --dry-run explains and does nothing else.
    """
    with output.progress_bars(quiet=as_json or dry_run) as progress:
        launcher = Launcher(load_settings(), progress=progress)
        if not dry_run:
            done = bootstrap(launcher, announce=None if as_json else _announce)
    if dry_run:
        _show_steps(explain_bootstrap(launcher), as_json)
    else:
        _report("Bootstrap", done, as_json)


def _announce(step: Step) -> None:
    output.log.print(output.styled((step.name, "bold"), f": {step.what}."))
    output.log.print(f"  {step.cost}; stopped and run again: {step.resumes}.", highlight=False)


def _show_steps(steps: list[Step], as_json: bool) -> None:
    if as_json:
        output.print_json({"dry run": True, "steps": [asdict(s) for s in steps]})
        return
    rows = [(s.name, f"{s.what}.\nAgain: {s.resumes}.", s.cost) for s in steps]
    output.out.print(output.table("The first day", ("step", "what it does", "cost"), rows))
    output.out.print("Nothing was fetched. `isobar bootstrap` does it; stop it at any time.")


def ingest_command(
    start: Start,
    end: End,
    timeframe: Annotated[str, typer.Option(help="1m or 1d; both when absent.")] = "",
    symbols: Annotated[str, typer.Option(help="A,B,C; the universe when absent.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Fetch bars, corporate actions, macro data and news. What is settled is not fetched again."""
    first, last = read_period(start, end)
    wanted = [read_timeframe(timeframe)] if timeframe else [Timeframe.D1, Timeframe.M1]
    if not {Timeframe.D1, Timeframe.M1}.issuperset(wanted):
        raise UsageError(
            "bars of this length are not ingested",
            got=timeframe,
            allowed="1m, 1d; others are resampled from them",
            remedy="ingest one of these",
        )
    named = [s.strip() for s in symbols.split(",") if s.strip()]
    with output.progress_bars(quiet=as_json) as progress:
        launcher = Launcher(load_settings(), progress=progress)
        done = launcher.ingest(first, last, wanted, named) | launcher.fetch_reference(named)
    _report("Ingested", done, as_json)


def train_command(
    horizon: Horizons = None,
    as_of: AsOf = "",
    start: Start = "",
    end: End = "",
    as_json: JsonFlag = False,
) -> None:
    """Walk forward over the out-of-sample period and train the champions."""
    settings = load_settings()
    check_dates(start, end)
    wanted = read_horizons(horizon, settings)
    with output.progress_bars(quiet=as_json) as progress:
        launcher = Launcher(settings, now=read_time(as_of, "--as-of"), progress=progress)
        done = launcher.train(wanted, start, end)
    _report("Trained", done, as_json)


def run_command(
    run: Annotated[str, typer.Argument(help="premarket, midday, close or eod")],
    as_of: AsOf = "",
    as_json: JsonFlag = False,
) -> None:
    """Do a scheduled run now. It keeps its scheduled as_of and says when it is late.

    premarket, midday and eod publish signals; close sends the exits of horizons that are flat
    overnight to the closing auction, if trading is on.
    """
    kind = read_run(run, (*PUBLISHING_RUNS, Run.CLOSE))
    now = read_time(as_of, "--as-of")
    with output.progress_bars(quiet=as_json) as progress:
        launcher = Launcher(load_settings(), now=now, progress=progress)
        done = launcher.scheduled_run(kind, due_session(kind, launcher.present()))
    _report(f"Run {kind.value}", done, as_json)


def check_dates(start: str, end: str) -> None:
    """Refuse dates that are none, or reversed; either may be empty."""
    if start and end:
        read_period(start, end)
    elif start or end:
        read_date(start or end, "--start" if start else "--end")


def _report(title: str, done: Mapping[str, Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        output.print_json(done)
        return
    rows = [
        (name if k == 0 else "", key, _one_line(value))
        for name, metadata in done.items()
        for k, (key, value) in enumerate(metadata.items())
        if not (isinstance(value, str) and ("\n" in value or _is_picture(value)))
        and not key.startswith("dagster/")
    ]
    output.out.print(output.table(title, ("asset", "what", "value"), rows))
    for metadata in done.values():
        for value in metadata.values():
            # Small tables are for Dagster's page of the asset.
            told = isinstance(value, str) and "\n" in value
            if told and not value.startswith("|") and not _is_picture(value):
                output.out.print(value)


def _is_picture(text: str) -> bool:
    """Whether it is a picture in Markdown, for Dagster; in a terminal it is thousands of lines."""
    return text.startswith("![") and "](data:image/" in text


def _one_line(value: object) -> object:
    if isinstance(value, Mapping):
        return f"{len(value)} values, shown by --json"
    if isinstance(value, list):
        return ", ".join(map(str, value[:6])) + (" ..." if len(value) > 6 else "")
    return value if isinstance(value, int | float | str | dt.datetime) else str(value)
