"""The model card: what a training's models are worth, for a person to read.

After Mitchell et al. (2019), "Model Cards for Model Reporting". An accuracy is never told without
its coverage and its interval.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import polars as pl

from market.horizons import Horizon
from models.card_tables import (
    DASH,
    coverage_table,
    show_cell,
    show_interval,
    show_number,
    show_percent,
    show_percents,
    show_plain,
    show_signed,
    skill_table,
    table,
    tell_reached,
    tell_skill,
)
from models.ensemble_report import Choice, Contrast
from models.fit import FittedModel
from models.forecast import Prediction
from models.importances import Importance
from models.provenance import Provenance
from models.session_scores import Grouping, Score
from models.training_tables import SetScore, TrainingTables

_TOP_FEATURES = 10


def write_card(
    tables: TrainingTables,
    predictions: pl.DataFrame,
    models: Sequence[FittedModel],
    *,
    horizon: Horizon,
    provenance: Provenance,
    ensemble: str,
    as_of: dt.datetime,
) -> str:
    """Return the model card of a training as Markdown.

    Parameters
    ----------
    tables : TrainingTables
        What is known about it.
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, out of sample; for their period and symbols.
    models : sequence of FittedModel
        The newest ones.
    horizon, provenance, ensemble
        Of the training.
    as_of : datetime
        Aware; when it was trained.

    Returns
    -------
    str
        The first lines say whether any skill is shown.
    """
    parts = (
        f"# Model card: {horizon.name}",
        tell_opening(tables, ensemble),
        _forecasts(horizon, provenance, ensemble),
        _data(predictions, models, provenance, as_of),
        _families(models),
        _windows(tables),
        _skill(tables, ensemble),
        _members(tables),
        _calibration(tables),
        _coverage(tables),
        _sets(tables, ensemble),
        _features(tables),
        _limits(horizon, provenance),
        _rollback(horizon, models),
    )
    return "\n\n".join(p for p in parts if p) + "\n"


def tell_opening(tables: TrainingTables, ensemble: str) -> str:
    """Return whether skill is shown: of the ensemble, or where there is none, of each engine."""
    overall = tables.overall(ensemble)
    if overall is not None or tables.scores.is_empty():
        return tell_skill(overall)
    every = tables.grouped(Grouping.ALL).iter_rows(named=True)
    told = (f"- `{row[Score.ENGINE]}`: {tell_skill(row)}" for row in every)
    return "There is no ensemble; engine by engine:\n\n" + "\n".join(told)


def _forecasts(horizon: Horizon, provenance: Provenance, ensemble: str) -> str:
    bars = "one bar" if horizon.steps == 1 else f"{horizon.steps} bars"
    return (
        "## What it forecasts\n"
        f"The return of a US stock over {horizon.name} ({bars} of {horizon.timeframe.value}) in"
        " excess of the mean of all symbols at the same time: its expectation in basis points, and"
        " the probabilities of short, neutral and long. Neutral is an excess return within"
        f" {provenance.band_bps:g} basis points either way. Every family is an engine; signals are"
        f" made of the engine `{ensemble}`."
    )


def _data(
    predictions: pl.DataFrame,
    models: Sequence[FittedModel],
    provenance: Provenance,
    as_of: dt.datetime,
) -> str:
    session = predictions[Prediction.SESSION]
    rows = [
        ("trained at", f"{as_of:%Y-%m-%d %H:%M} UTC"),
        ("out of sample", f"{session.min()} to {session.max()}"),
        ("symbols", f"{predictions[Prediction.SYMBOL].n_unique():,}"),
        ("data hash", f"`{provenance.data_hash}`"),
        ("feature hash", f"`{provenance.feature_hash}`"),
        ("config hash", f"`{provenance.config_hash}`"),
        ("code version", f"`{provenance.code_version}`"),
        ("seed", str(provenance.seed)),
    ]
    if models:
        newest = models[0]
        span = f"{newest.trained_from[:10]} to {newest.known_at[:10]}, {newest.rows:,} rows"
        rows.insert(1, ("the newest models learned from", span))
        rows.insert(4, ("features", f"{len(newest.feature_names):,}"))
    return "## Data and code\n" + table(("what", "value"), rows)


def _families(models: Sequence[FittedModel]) -> str:
    rows = [
        (
            f"`{m.family.name}`",
            f"`{m.version}`",
            ", ".join(f"{k} {show_plain(v)}" for k, v in sorted(m.params.items())) or DASH,
        )
        for m in models
    ]
    return "## Families\n" + table(("family", "version", "parameters"), rows) if rows else ""


def _windows(tables: TrainingTables) -> str:
    windows = tables.windows
    if windows.is_empty():
        return ""
    gap = windows.select("purge_sessions", "embargo_sessions").row(0)
    apart = (
        "" if None in gap else f" Between the two, sessions purged: {gap[0]}, embargoed: {gap[1]}."
    )
    shown = windows if windows.height <= 4 else pl.concat([windows.head(2), windows.tail(2)])
    columns = ("window", "train_from", "train_to", "train_rows", "test_from", "test_to")
    rows = [[show_cell(v) for v in row] for row in shown.select(columns).rows()]
    if shown.height < windows.height:
        rows.insert(2, ["..."] * len(columns))
    return (
        f"## Windows\n{windows.height} windows, each tested on sessions that its models had not"
        f" seen.{apart}\n\n" + table([c.replace("_", " ") for c in columns], rows)
    )


def _skill(tables: TrainingTables, ensemble: str) -> str:
    if tables.scores.is_empty():
        return ""
    parts = [
        "## Skill, out of sample",
        "Intervals are 95 percent, from whole sessions drawn again.",
    ]
    every = tables.grouped(Grouping.ALL)
    parts.append(skill_table(every, "engine", Score.ENGINE))
    mine = pl.col(Score.ENGINE) == ensemble
    for grouping in (Grouping.REGIME, Grouping.YEAR):
        of = tables.grouped(grouping).filter(mine)
        if of.height:
            parts.append(f"By {grouping.value}, `{ensemble}`:")
            parts.append(skill_table(of, grouping.value, Score.GROUP))
    return "\n\n".join(parts)


def _members(tables: TrainingTables) -> str:
    found = tables.against_members
    if found.is_empty():
        return ""
    chosen = {
        Choice.HINDSIGHT: "best in hindsight",
        Choice.EARLIER: "best by what was known before",
    }
    rows = [
        (
            row[Contrast.MEASURE].replace("_", " "),
            chosen[Choice(row[Contrast.CHOICE])],
            f"`{row[Contrast.MEMBER]}`" if row[Contrast.MEMBER] else DASH,
            show_signed(row[Contrast.DIFFERENCE]),
            show_interval(row[Contrast.LOW], row[Contrast.HIGH]),
            row[Contrast.STANDING],
            f"{row[Contrast.SESSIONS]:,}",
        )
        for row in found.iter_rows(named=True)
        if row[Contrast.CHOICE] in chosen
    ]
    head = ("by", "held against", "member", "difference", "interval", "the ensemble is", "sessions")
    return (
        "## The ensemble beside its best member\nA positive difference is the ensemble's.\n\n"
        + table(head, rows)
    )


def _calibration(tables: TrainingTables) -> str:
    if tables.calibration.is_empty():
        return ""
    rows = [
        (r["stage"], show_number(r["ece"]), show_interval(r["low"], r["high"], show_number))
        for r in tables.calibration.iter_rows(named=True)
    ]
    return (
        "## Calibration\nExpected calibration error of the ensemble: the mean distance of stated"
        " and observed shares, above zero by chance alone.\n\n"
        + table(("probabilities", "ECE", "interval"), rows)
    )


def _coverage(tables: TrainingTables) -> str:
    if tables.accuracy.is_empty():
        return ""
    return (
        "## Accuracy against coverage\nHow often the direction is right among the most confident"
        " rows of the ensemble.\n\n"
        + coverage_table(tables.accuracy)
        + "\n\n"
        + "\n".join(f"- {line}" for line in tell_reached(tables.reached))
    )


def _sets(tables: TrainingTables, ensemble: str) -> str:
    mine = tables.sets.filter(pl.col(SetScore.ENGINE) == ensemble)
    if mine.is_empty():
        return ""
    row = mine.row(0, named=True)
    alone = (
        f" {show_percent(row[SetScore.SINGLE])} of the sets are one class alone, right in"
        f" {show_percent(row[SetScore.SINGLE_COVERED])} of those cases"
        f" ({show_percents(row[SetScore.SINGLE_COVERED_LOW], row[SetScore.SINGLE_COVERED_HIGH])})."
        if row[SetScore.SINGLE]
        else " No set is one class alone: the classes cannot be told apart at this coverage."
    )
    return (
        "## Prediction sets\nConformal sets at a declared coverage of"
        f" {row[SetScore.DECLARED]:.0%}, from past outcomes alone, held what happened in"
        f" {show_percent(row[SetScore.COVERED])} of {int(row[SetScore.ROWS]):,} rows"
        f" ({show_percents(row[SetScore.COVERED_LOW], row[SetScore.COVERED_HIGH])}).{alone}"
    )


def _features(tables: TrainingTables) -> str:
    if tables.importances.is_empty():
        return ""
    top = tables.importances.filter(pl.col(Importance.RANK) <= _TOP_FEATURES)
    rows = [
        (
            f"`{engine[0]}`",
            ", ".join(
                f"{name} {share:.1%}"
                for name, share in part.select(Importance.FEATURE, Importance.SHARE).rows()
            ),
        )
        for engine, part in top.partition_by(
            Importance.ENGINE, as_dict=True, maintain_order=True
        ).items()
    ]
    return (
        "## What moves the forecasts\nShare of the mean absolute contribution on the newest"
        " rows.\n\n" + table(("family", f"the first {_TOP_FEATURES} features"), rows)
    )


def _limits(horizon: Horizon, provenance: Provenance) -> str:
    overlap = [
        f"- Outcomes of {horizon.name} overlap: sessions say less than their number, which the"
        " intervals allow for in blocks.",
    ]
    return "\n".join(
        [
            "## Not for",
            "- Absolute returns or the direction of the market: forecasts are in excess of the mean"
            " of all symbols.",
            "- Symbols, bars or horizons other than those above, or sizes from confidence alone.",
            f"- Forecasts within {provenance.band_bps:g} basis points, which do not pay a round"
            " trip. No figure here is after costs.",
            "",
            "## Limits",
            "- Confidence and accuracy hold on the past. A break in the market breaks them until"
            " the calibration has moved on.",
            "- The confidence from which an accuracy holds was found on the sample that it is told"
            " of.",
            *(overlap if horizon.sessions > 1 else []),
            "- Who looks at the same history several times sees the best of them look better than"
            " it is.",
        ]
    )


def _rollback(horizon: Horizon, models: Sequence[FittedModel]) -> str:
    family = models[0].family.name if models else "FAMILY"
    return (
        f"## Going back\n`isobar models rollback --horizon {horizon.name} --family {family}"
        ' --reason "..."` brings back the champion before the present one, family by family.'
        f" `isobar models history --horizon {horizon.name}` shows what served when."
    )
