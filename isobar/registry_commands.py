"""Commands about champions and challengers: what serves, what waits, promotion, rollback."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import polars as pl
import typer
from rich.markdown import Markdown

from isobar import output
from isobar.arguments import Horizons, JsonFlag, read_horizons, usage
from market.errors import ModelError
from market.horizons import Horizon
from models.forecast import LIVE_TABLE, PREDICTION_SCHEMA, Prediction
from models.outcomes import outcomes_of
from models.promotion import Verdict, judge_challenger
from models.recipe import challenger_engine
from models.registry import find_family
from models.registry_store import Contest, StoredModel
from models.sequential import Decision, SequentialTest
from models.succession import Event
from pipelines.resources import Stores
from pipelines.settings import load_settings

models_app = typer.Typer(no_args_is_help=True, help="Champions and challengers in the registry.")

OneHorizon = Annotated[str, typer.Option("--horizon", help="One horizon.")]
OneFamily = Annotated[str, typer.Option("--family", help="One model family.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(models_app, name="models")


@models_app.command("list")
def list_models(horizon: Horizons = None, as_json: JsonFlag = False) -> None:
    """List the stored models: version, role, age, recipe and skill."""
    stores = Stores(load_settings())
    wanted = read_horizons(horizon, stores.settings)
    found = [m for h in wanted for m in stores.tracker.stored(h.name)]
    if as_json:
        output.print_json([asdict(m) for m in found])
        return
    columns = ("horizon", "family", "no", "role", "trained", "data until", "recipe", "rank IC")
    output.out.print(output.table(f"{len(found)} models", columns, [_row(m) for m in found]))


def _row(model: StoredModel) -> tuple[Any, ...]:
    return (
        model.horizon,
        model.family,
        model.number,
        model.role or "-",
        model.trained_at,
        model.known_at,
        model.recipe,
        model.metrics.get(f"rank_ic_{model.family}"),
    )


@models_app.command("history")
def show_history(horizon: Horizons = None, as_json: JsonFlag = False) -> None:
    """Show every change of champions and challengers, with reason and evidence."""
    stores = Stores(load_settings())
    wanted = read_horizons(horizon, stores.settings)
    told = pl.concat([stores.tracker.history(h.name) for h in wanted])
    if as_json:
        rows = told.to_dicts()
        output.print_json([r | {"evidence": orjson.loads(r["evidence"])} for r in rows])
        return
    shown = told.select("horizon", "family", "at", "step", "number", "previous", "reason")
    columns = ("horizon", "family", "since", "what", "no", "before", "why")
    output.out.print(output.table(f"{told.height} changes", columns, shown.rows()))


@models_app.command("card")
def show_card(
    horizon: OneHorizon,
    family: Annotated[
        str, typer.Option("--family", help="Of the training that made its champion.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Show the model card of the newest training: skill, calibration, accuracy, limits."""
    settings = load_settings()
    (row,) = read_horizons([horizon], settings)
    name = usage(lambda: find_family(family)).name if family else None
    card = Stores(settings).tracker.card(row.name, name)
    if as_json:
        output.print_json(asdict(card))
        return
    output.out.print(Markdown(card.text))
    output.out.print(f"MLflow run {card.run_id}, stored {output.show(card.trained_at)}")


@models_app.command("promote")
def promote(
    horizon: OneHorizon,
    family: OneFamily,
    reason: Annotated[
        str, typer.Option("--reason", help="By hand, and why. Without it the evidence decides.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make the challenger of a family its champion, where the paired test allows it."""
    stores, row, name = _named(horizon, family)
    now = dt.datetime.now(dt.UTC)
    verdict = None if reason else weigh_challenger(stores, row, name, now)
    if verdict is not None and verdict.decision is not Decision.PROMOTE:
        raise ModelError(
            f"the evidence does not allow to promote {challenger_engine(name)} of {row.name}",
            got=verdict.reason,
            allowed="a challenger that the sequential test found better",
            remedy="wait for more sessions, or promote it by hand with --reason",
        )
    event = stores.tracker.promote(
        row.name,
        name,
        now=now,
        reason=reason or (verdict.reason if verdict else ""),
        evidence=verdict.as_evidence() if verdict else None,
    )
    _report("Promoted", row, name, event, as_json)


@models_app.command("rollback")
def roll_back(
    horizon: OneHorizon,
    family: OneFamily,
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    as_json: JsonFlag = False,
) -> None:
    """Bring back the champion before the present one; again, the one before that."""
    stores, row, name = _named(horizon, family)
    now = dt.datetime.now(dt.UTC)
    event = stores.tracker.rollback(row.name, name, now=now, reason=reason)
    _report("Rolled back", row, name, event, as_json)


@models_app.command("dismiss")
def dismiss(
    horizon: OneHorizon,
    family: OneFamily,
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    as_json: JsonFlag = False,
) -> None:
    """End a challenge: the challenger is scored no more, and the champion goes on serving."""
    stores, row, name = _named(horizon, family)
    now = dt.datetime.now(dt.UTC)
    event = stores.tracker.dismiss(row.name, name, now=now, reason=reason)
    _report("Dismissed", row, name, event, as_json)


def weigh_challenger(stores: Stores, horizon: Horizon, family: str, now: dt.datetime) -> Verdict:
    """Judge a challenger by what both have forecast live since it became one.

    The look is kept with the challenger: each one spends of the same error rate.

    Raises
    ------
    ModelError
        When there is no challenger, or it was trained for another neutral band.
    """
    contest = stores.tracker.contest(horizon.name, family)
    band_bps = stores.settings.band_bps
    _require_one_band(contest, band_bps)
    made = pl.DataFrame(schema=PREDICTION_SCHEMA)
    if stores.lake.exists(LIVE_TABLE):
        since = pl.col(Prediction.AS_OF) >= contest.begun
        of = pl.col(Prediction.HORIZON) == horizon.name
        live = stores.lake.scan(LIVE_TABLE).filter(of & since)
        made = live.select(PREDICTION_SCHEMA.names()).collect()
    champion, challenger = (
        made.filter(pl.col(Prediction.ENGINE) == engine)
        for engine in (family, challenger_engine(family))
    )
    verdict, test = judge_challenger(
        champion,
        challenger,
        _outcomes(stores, horizon, band_bps),
        as_of=now,
        state=contest.test or SequentialTest(overlap=max(1, horizon.sessions)),
    )
    if test != contest.test:
        stores.tracker.keep_test(horizon.name, family, test)
    return verdict


def _outcomes(stores: Stores, horizon: Horizon, band_bps: float) -> pl.DataFrame:
    # Dagster takes a second to import, which the other commands need not wait.
    from pipelines.training import read_labels

    return outcomes_of(read_labels(stores.lake, horizon), horizon=horizon.name, band_bps=band_bps)


def _require_one_band(contest: Contest, band_bps: float) -> None:
    bands = {m.rule.get("band_bps") for m in (contest.champion, contest.challenger)}
    if bands != {band_bps}:
        raise ModelError(
            "champion and challenger were trained for other neutral bands",
            got=sorted(str(b) for b in bands),
            allowed=f"{band_bps:g} bps, that of the settings, for both",
            remedy="their probabilities mean different events: promote by hand with --reason",
        )


def _named(horizon: str, family: str) -> tuple[Stores, Horizon, str]:
    settings = load_settings()
    (row,) = read_horizons([horizon], settings)
    return Stores(settings), row, usage(lambda: find_family(family)).name


def _report(what: str, horizon: Horizon, family: str, event: Event, as_json: bool) -> None:
    if as_json:
        output.print_json({"horizon": horizon.name, "family": family, **asdict(event)})
        return
    before = "none" if event.previous is None else f"version {event.previous}"
    output.out.print(
        f"{what}: {family} of {horizon.name} is version {event.number}"
        f" since {output.show(event.at)}, before it {before}. {event.reason}",
        soft_wrap=True,
        highlight=False,
    )
