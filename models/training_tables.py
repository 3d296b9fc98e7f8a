"""Everything that is known about a training, as tables: what its card and pictures are made of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict, Unpack

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
from models.importances import IMPORTANCE_SCHEMA, importance_table
from models.outcomes import Outcome, join_outcomes
from models.scores import expected_calibration_error
from models.session_scores import (
    SCORE_SCHEMA,
    Grouping,
    Score,
    attach_groups,
    score_engine,
)
from models.spec import Sample
from models.windows import versions_by_window, windows_of

SET_COVERAGE = 0.8
"""Declared coverage of the prediction sets that are told of."""


class SetScore(StrEnum):
    """Columns of what prediction sets are worth; one row per engine.

    ``rows`` had past outcomes to rest on. ``covered`` is the share of sets that hold what
    happened, ``single`` that of sets with one class alone, ``single_covered`` how often that class
    happened; ``directed`` is the share whose one class is long or short.
    """

    ENGINE = "engine"
    DECLARED = "declared"
    ROWS = "rows"
    COVERED = "covered"
    SINGLE = "single"
    SINGLE_COVERED = "single_covered"
    DIRECTED = "directed"
    DIRECTED_COVERED = "directed_covered"


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

    def overall(self, engine: str) -> dict[str, float] | None:
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
    sample: Sample | None,
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
        importances=_importances(models, sample),
        reliability=_reliability(blended, outcomes, **how),
        calibration=_calibration(blended, outcomes, **how),
        accuracy=accuracy,
        reached=coverage_at_accuracy(accuracy) if accuracy.height else pl.DataFrame(),
        sets=score_sets(predictions, outcomes, as_of=as_of, coverage=set_coverage),
        against_members=_against_members(known, outcomes, ensemble, **how),
    )


def score_sets(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, *, as_of: dt.datetime, coverage: float
) -> pl.DataFrame:
    """Return what prediction sets learned from past outcomes alone were worth.

    Parameters
    ----------
    predictions, outcomes : pl.DataFrame
        ``PREDICTION_SCHEMA``, calibrated, and ``OUTCOME_SCHEMA``.
    as_of : datetime
        Aware. Outcomes known later are not looked at.
    coverage : float
        Declared.

    Returns
    -------
    pl.DataFrame
        ``SetScore``, by engine.
    """
    there = pl.col(Outcome.LABEL_KNOWN_AT) <= as_of
    sets = conformal_walk_forward(predictions, outcomes.filter(there), coverage=coverage)
    has = {-1: SetColumn.HAS_SHORT, 0: SetColumn.HAS_NEUTRAL, 1: SetColumn.HAS_LONG}
    holds = pl.any_horizontal((pl.col(Outcome.OUTCOME) == k) & pl.col(c) for k, c in has.items())
    single = pl.sum_horizontal(pl.col(c).cast(pl.Int8) for c in has.values()) == 1
    directed = pl.col(SetColumn.DIRECTION) != 0
    keys = (Outcome.SYMBOL, Outcome.BAR_END, Outcome.HORIZON)
    return (
        sets.filter(pl.col(SetColumn.EVIDENCE_ROWS) > 0)
        .join(outcomes.filter(there).select(*keys, Outcome.OUTCOME), on=keys)
        .with_columns(holds=holds, single=single, directed=directed)
        .group_by(SetScore.ENGINE)
        .agg(
            pl.lit(coverage).alias(SetScore.DECLARED),
            pl.len().cast(pl.Int64).alias(SetScore.ROWS),
            pl.col("holds").mean().alias(SetScore.COVERED),
            pl.col("single").mean().alias(SetScore.SINGLE),
            pl.col("holds").filter("single").mean().alias(SetScore.SINGLE_COVERED),
            pl.col("directed").mean().alias(SetScore.DIRECTED),
            pl.col("holds").filter("directed").mean().alias(SetScore.DIRECTED_COVERED),
        )
        .sort(SetScore.ENGINE)
    )


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


def _importances(models: Sequence[FittedModel], sample: Sample | None) -> pl.DataFrame:
    if sample is None:
        return pl.DataFrame(schema=IMPORTANCE_SCHEMA)
    return importance_table(models, sample)


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
