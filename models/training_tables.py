"""Everything that is known about a training, as tables: what its card and pictures are made of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypedDict, Unpack

import polars as pl

from models.confidence import (
    accuracy_against_coverage,
    coverage_at_accuracy,
    reliability_table,
)
from models.conformal import SetColumn, conformal_walk_forward
from models.ensemble_report import CONTRAST_SCHEMA, ensemble_against_members
from models.fit import FittedModel
from models.forecast import RAW_COLUMNS, Prediction, as_forecast
from models.importances import IMPORTANCE_SCHEMA
from models.outcomes import Outcome, join_outcomes
from models.scores import expected_calibration_error
from models.session_bootstrap import share_intervals
from models.session_scores import (
    SCORE_SCHEMA,
    Grouping,
    Score,
    attach_groups,
    score_engine,
)
from models.windows import versions_by_window, windows_of

SET_COVERAGE = 0.8
"""Declared coverage of the prediction sets that are told of."""


class SetScore(StrEnum):
    """Columns of what prediction sets are worth; one row per engine.

    ``rows`` had past outcomes to rest on. ``covered`` is the share of sets that hold what
    happened, ``single`` that of sets with one class alone, ``single_covered`` how often that class
    happened; ``directed`` and ``directed_covered`` are the same where that class is long or
    short. A ``_low`` and a ``_high`` are a 95 percent interval.
    """

    ENGINE = "engine"
    DECLARED = "declared"
    ROWS = "rows"
    COVERED = "covered"
    COVERED_LOW = "covered_low"
    COVERED_HIGH = "covered_high"
    SINGLE = "single"
    SINGLE_COVERED = "single_covered"
    SINGLE_COVERED_LOW = "single_covered_low"
    SINGLE_COVERED_HIGH = "single_covered_high"
    DIRECTED = "directed"
    DIRECTED_COVERED = "directed_covered"
    DIRECTED_COVERED_LOW = "directed_covered_low"
    DIRECTED_COVERED_HIGH = "directed_covered_high"


SET_SCHEMA = pl.Schema(
    {c.value: pl.String() if c is SetScore.ENGINE else pl.Float64() for c in SetScore}
)


class Stage(StrEnum):
    """Which probabilities a reliability table is of."""

    RAW = "raw"
    CALIBRATED = "calibrated"


@dataclass(frozen=True)
class TrainingTables:
    """What is known about a training.

    Attributes
    ----------
    scores : pl.DataFrame
        ``SCORE_SCHEMA``, every engine over all, by window, regime and year.
    by_session : pl.DataFrame
        ``engine``, ``session``, ``rank_ic``, ``ic``.
    windows : pl.DataFrame
        ``WINDOW_SCHEMA``.
    versions : pl.DataFrame
        ``window``, ``engine``, ``model_version``.
    importances : pl.DataFrame
        ``IMPORTANCE_SCHEMA``.
    reliability : pl.DataFrame
        ``stage`` (raw, calibrated) and ``models.confidence.Reliability``, of the ensemble.
    calibration : pl.DataFrame
        ``stage``, ``ece``, ``low``, ``high``, of the ensemble.
    accuracy : pl.DataFrame
        ``models.confidence.Accuracy``, of the ensemble.
    reached : pl.DataFrame
        ``models.confidence.Reached``: where 60, 65 and 70 percent are supported.
    sets : pl.DataFrame
        ``SetScore``.
    against_members : pl.DataFrame
        ``models.ensemble_report.CONTRAST_SCHEMA``.
    """

    scores: pl.DataFrame
    by_session: pl.DataFrame
    windows: pl.DataFrame
    versions: pl.DataFrame
    importances: pl.DataFrame
    reliability: pl.DataFrame
    calibration: pl.DataFrame
    accuracy: pl.DataFrame
    reached: pl.DataFrame
    sets: pl.DataFrame
    against_members: pl.DataFrame

    def grouped(self, grouping: Grouping) -> pl.DataFrame:
        """Return the scores of one grouping."""
        return self.scores.filter(pl.col(Score.GROUPING) == grouping.value)

    def overall(self, engine: str) -> dict[str, Any] | None:
        """Return an engine's scores over all, or ``None`` where no outcome of it is known."""
        row = self.grouped(Grouping.ALL).filter(pl.col(Score.ENGINE) == engine)
        return row.row(0, named=True) if row.height else None


class Judging(TypedDict):
    """How everything is judged; see :func:`models.scores.brier`."""

    as_of: dt.datetime
    seed: int
    block: float
    draws: int


def tabulate_training(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    regimes: pl.DataFrame,
    models: Sequence[FittedModel],
    *,
    importances: pl.DataFrame | None,
    windows: pl.DataFrame | None,
    ensemble: str,
    as_of: dt.datetime,
    seed: int,
    block: float,
    draws: int = 1000,
    set_coverage: float = SET_COVERAGE,
) -> TrainingTables:
    """Work out all tables of a training; see :func:`models.training_report.report_training`.

    Engines without a known outcome have no scores; without an ensemble's, its tables are empty.
    """
    families = [m.family.name for m in models]
    spans = windows_of(predictions, families) if windows is None else windows
    how = Judging(as_of=as_of, seed=seed, block=block, draws=draws)
    known = _with_known_outcome(predictions, outcomes, as_of)
    parts = attach_groups(known, spans, regimes).partition_by(Prediction.ENGINE, as_dict=True)
    scored = [score_engine(part, outcomes, **how) for _, part in sorted(parts.items())]
    blended = known.filter(pl.col(Prediction.ENGINE) == ensemble)
    accuracy = _accuracy(blended, outcomes, **how)
    return TrainingTables(
        scores=_concat([s.scores for s in scored], SCORE_SCHEMA),
        by_session=_concat([s.by_session for s in scored], _BY_SESSION),
        windows=spans,
        versions=versions_by_window(predictions, spans, families),
        importances=pl.DataFrame(schema=IMPORTANCE_SCHEMA) if importances is None else importances,
        reliability=_reliability(blended, outcomes, **how),
        calibration=_calibration(blended, outcomes, **how),
        accuracy=accuracy,
        reached=coverage_at_accuracy(accuracy) if accuracy.height else pl.DataFrame(),
        sets=score_sets(predictions, outcomes, coverage=set_coverage, **how),
        against_members=_against_members(known, outcomes, ensemble, **how),
    )


def score_sets(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    coverage: float,
    **how: Unpack[Judging],
) -> pl.DataFrame:
    """Return what prediction sets learned from past outcomes alone were worth.

    Parameters
    ----------
    predictions, outcomes : pl.DataFrame
        ``PREDICTION_SCHEMA``, calibrated, and ``OUTCOME_SCHEMA``.
    coverage : float
        Declared.
    **how
        ``as_of``, ``seed``, ``block`` and ``draws`` as for :func:`models.scores.brier`.

    Returns
    -------
    pl.DataFrame
        ``SetScore``, by engine.
    """
    known = outcomes.filter(pl.col(Outcome.LABEL_KNOWN_AT) <= how["as_of"])
    sets = conformal_walk_forward(predictions, known, coverage=coverage)
    has = {-1: SetColumn.HAS_SHORT, 0: SetColumn.HAS_NEUTRAL, 1: SetColumn.HAS_LONG}
    single = pl.sum_horizontal(pl.col(c).cast(pl.Int8) for c in has.values()) == 1
    kinds = {"covered": pl.lit(True), "single": single, "directed": pl.col("direction") != 0}
    holds = pl.any_horizontal((pl.col(Outcome.OUTCOME) == k) & pl.col(c) for k, c in has.items())
    keys = (Outcome.SYMBOL, Outcome.BAR_END, Outcome.HORIZON)
    sums = (
        sets.filter(pl.col(SetColumn.EVIDENCE_ROWS) > 0)
        .join(known.drop_nulls(Outcome.OUTCOME).select(*keys, Outcome.OUTCOME), on=keys)
        .group_by(SetColumn.ENGINE, SetColumn.SESSION)
        .agg(
            *(kind.sum().cast(pl.Float64).alias(name) for name, kind in kinds.items()),
            *(
                (kind & holds).sum().cast(pl.Float64).alias(f"{n}_hits")
                for n, kind in kinds.items()
            ),
            pl.len().cast(pl.Float64).alias(SetScore.ROWS),
        )
        .sort(SetColumn.ENGINE, SetColumn.SESSION)
    )
    parts = sums.partition_by(SetColumn.ENGINE, as_dict=True, maintain_order=True)
    rows = [
        {SetScore.ENGINE: name[0], SetScore.DECLARED: coverage}
        | _score_sets(part, list(kinds), how)
        for name, part in parts.items()
    ]
    return pl.DataFrame(rows, schema=SET_SCHEMA)


def _score_sets(part: pl.DataFrame, kinds: list[str], how: Judging) -> dict[str, float]:
    hits = part.select(f"{k}_hits" for k in kinds).to_numpy()
    those = part.with_columns(covered=pl.col(SetScore.ROWS)).select(kinds).to_numpy()
    found = share_intervals(hits, those, seed=how["seed"], block=how["block"], draws=how["draws"])
    rows = float(part[SetScore.ROWS].sum())
    scored: dict[str, float] = {SetScore.ROWS.value: rows}
    for k, kind in enumerate(kinds):
        name = kind if kind == SetScore.COVERED else f"{kind}_covered"
        scored |= {
            name: float(found.share[k]),
            f"{name}_low": max(0.0, float(found.low[k])),
            f"{name}_high": min(1.0, float(found.high[k])),
        }
        if name != kind:
            scored[kind] = float(those[:, k].sum()) / rows
    return scored


_BY_SESSION = pl.Schema(
    {"engine": pl.String(), "session": pl.Date(), "rank_ic": pl.Float64(), "ic": pl.Float64()}
)


def _with_known_outcome(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, as_of: dt.datetime
) -> pl.DataFrame:
    """Return the predictions that can be judged; a horizon may have none yet."""
    joined = join_outcomes(predictions, outcomes)
    known = (pl.col(Outcome.LABEL_KNOWN_AT) <= as_of) & pl.col(Outcome.OUTCOME).is_not_null()
    judged = joined.filter(known & pl.col(Outcome.EXCESS_RETURN).is_finite())
    return judged.select(predictions.columns)


def _concat(parts: list[pl.DataFrame], schema: pl.Schema) -> pl.DataFrame:
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


def _accuracy(
    blended: pl.DataFrame, outcomes: pl.DataFrame, **how: Unpack[Judging]
) -> pl.DataFrame:
    if blended.is_empty():
        return pl.DataFrame()
    return accuracy_against_coverage(blended, outcomes, **how)


def _stages(blended: pl.DataFrame) -> dict[Stage, pl.DataFrame]:
    if set(RAW_COLUMNS.values()) <= set(blended.columns):
        return {Stage.RAW: as_forecast(blended), Stage.CALIBRATED: blended}
    return {Stage.RAW: blended}


def _reliability(
    blended: pl.DataFrame, outcomes: pl.DataFrame, **how: Unpack[Judging]
) -> pl.DataFrame:
    if blended.is_empty():
        return pl.DataFrame()
    return pl.concat(
        reliability_table(made, outcomes, **how).insert_column(0, _name(stage))
        for stage, made in _stages(blended).items()
    )


def _calibration(
    blended: pl.DataFrame, outcomes: pl.DataFrame, **how: Unpack[Judging]
) -> pl.DataFrame:
    if blended.is_empty():
        return pl.DataFrame()
    found = {s: expected_calibration_error(p, outcomes, **how) for s, p in _stages(blended).items()}
    return pl.DataFrame(
        [{"stage": s.value, "ece": e.mean, "low": e.low, "high": e.high} for s, e in found.items()]
    )


def _name(stage: Stage) -> pl.Expr:
    return pl.lit(stage.value).alias("stage")


def _against_members(
    known: pl.DataFrame, outcomes: pl.DataFrame, ensemble: str, **how: Unpack[Judging]
) -> pl.DataFrame:
    engines = set(known[Prediction.ENGINE])
    if ensemble not in engines or len(engines) < 2:
        return pl.DataFrame(schema=CONTRAST_SCHEMA)
    return ensemble_against_members(known, outcomes, ensemble=ensemble, **how)
