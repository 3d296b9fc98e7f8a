"""`isobar tune`: search a family's parameters, and write what was found into the settings."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isobar import output
from isobar.arguments import AsOf, JsonFlag, read_horizons, read_time, usage
from models.inner_windows import Objective
from models.registry import find_family
from models.tuned import Choice, Tuned
from pipelines.resources import Stores
from pipelines.settings import load_settings
from pipelines.settings_file import SettingsFile

if TYPE_CHECKING:
    from models.tuning import Budget


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("tune")(tune)


def tune(
    horizon: Annotated[str, typer.Option("--horizon", help="One horizon.")],
    family: Annotated[str, typer.Option("--family", help="One of its model families.")],
    trials: Annotated[
        int, typer.Option("--trials", min=0, help="Trials in all, earlier runs included.")
    ] = 0,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.0, help="Time in all; 30 where nothing is said.")
    ] = 0.0,
    objective: Annotated[
        Objective, typer.Option("--objective", help="What parameters are judged by.")
    ] = Objective.RANK_IC,
    windows: Annotated[
        int, typer.Option("--windows", min=0, help="Inner windows; 6 by default.")
    ] = 0,
    window_sessions: Annotated[
        int, typer.Option("--window-sessions", min=0, help="Their length; 21, or 5 intraday.")
    ] = 0,
    select_features: Annotated[
        bool, typer.Option("--select-features", help="Let trials leave out families of features.")
    ] = False,
    study: Annotated[
        str, typer.Option("--study", help="Name; that of family, horizon and last session else.")
    ] = "",
    as_of: AsOf = "",
    write: Annotated[
        bool, typer.Option("--write", help="Write what was chosen into isobar.toml.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Search a family's parameters on purged windows of the past. Again goes on with the study."""
    settings = load_settings()
    file = SettingsFile.find(settings.home)
    (row,) = read_horizons([horizon], settings)
    name = usage(lambda: find_family(family)).name
    now = read_time(as_of, "--as-of") or dt.datetime.now(dt.UTC)
    # Dagster and Optuna take a second to import, which the other commands need not wait.
    from pipelines import tuning

    usage(lambda: tuning.family_to_tune(row, name))
    if write:
        # Not after half an hour of search, where it can be known before.
        file.with_tuned(row.name, name, _placeholder(row.name, name))
    budget = tuning.budget_of(trials, minutes)
    with _progress(f"tuning {name} {row.name}", budget, as_json) as progress:
        found = tuning.tune_by_name(
            Stores(settings),
            row,
            name,
            as_of=now,
            budget=budget,
            objective=objective,
            windows=windows,
            window_sessions=window_sessions,
            study=study,
            select=select_features,
            progress=progress,
        )
    fragment = found.to_toml()
    if write:
        file.write(file.with_tuned(row.name, name, fragment))
    _show(found, fragment, str(file.path) if write else None, as_json)


@contextmanager
def _progress(
    what: str, budget: Budget, quiet: bool
) -> Iterator[Callable[[int, float | None], None]]:
    """Show how much of the budget is spent after each trial, and the time left."""
    began = time.monotonic()
    with output.progress_bars(quiet=quiet) as bars:

        def told(done: int, best: float | None) -> None:
            if budget.trials is not None:
                bars(what, min(done, budget.trials), budget.trials)
            elif budget.minutes is not None:
                limit = max(1, round(60 * budget.minutes))
                bars(f"{what}, seconds", min(round(time.monotonic() - began), limit), limit)

        yield told


def _placeholder(horizon: str, family: str) -> str:
    return f'[models.tuned."{horizon}".{family}]\n'


def _show(found: Tuned, fragment: str, written: str | None, as_json: bool) -> None:
    if as_json:
        output.print_json(
            {
                "study": found.study,
                "objective": found.objective.value,
                "windows": found.windows,
                **{n: asdict(getattr(found, n)) for n in ("chosen", "best", "defaults", "gain")},
                "p_value": found.p_value,
                "is_better": found.is_better,
                "trials": found.trials.to_dicts(),
                "settings": found.settings(),
                "toml": fragment,
                "written_to": written,
            }
        )
        return
    rows = [_row(n, getattr(found, n)) for n in ("defaults", "best", "chosen")]
    gain = found.gain
    rows.append(("best less defaults", None, gain.mean, gain.low, gain.high, gain.periods))
    columns = ("", "trial", found.objective.value, "from", "to", "sessions")
    title = f"{found.study}: {found.trials.height} trials, {found.windows} windows"
    output.out.print(output.table(title, columns, rows))
    output.out.print(
        f"That so good a best comes by chance: p = {found.p_value:.3f}. "
        + ("The best is chosen." if found.is_better else "The defaults stay: it is not better."),
        highlight=False,
    )
    output.out.print(fragment, soft_wrap=True, highlight=False)
    if written is not None:
        output.out.print(f"Written to {written}; the next training trains by it.", soft_wrap=True)


def _row(name: str, choice: Choice) -> tuple[Any, ...]:
    score = choice.score
    return (name, choice.trial, score.mean, score.low, score.high, score.periods)
