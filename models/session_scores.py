"""Every measure of an engine at once: over all, by window, by regime and by year.

The one-measure functions of :mod:`models.scores` and :mod:`models.confidence` join predictions
and outcomes each time; here it is done once per engine, and the sessions are drawn again once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import polars as pl

from market.regimes import RegimeLabel
from models.confidence import directions
from models.evaluation import Vector
from models.forecast import Prediction
from models.judged import Judged, equal_bins, judge
from models.outcomes import CLASSES, Outcome
from models.scores import brier_rows, log_rows
from models.session_bootstrap import share_intervals
from models.spec import Indices
from models.windows import at_window

TOP_SHARE = 0.10
"""Share of the most confident rows whose accuracy is told beside that of all."""

_BINS = 10


class Grouping(StrEnum):
    """By what rows are grouped."""

    ALL = "all"
    WINDOW = "window"
    REGIME = "regime"
    YEAR = "year"


class Score(StrEnum):
    """Columns of the scores; one row per engine, grouping and group.

    ``hit_rate`` is the accuracy of the direction of all rows, ``top_accuracy`` that of the
    tenth with the highest confidence in the group: ``top_share`` of its rows reach
    ``top_confidence``. A ``_low`` and a ``_high`` are a 95 percent interval.
    """

    ENGINE = "engine"
    GROUPING = "grouping"
    GROUP = "group"
    SESSIONS = "sessions"
    ROWS = "rows"
    RANK_IC = "rank_ic"
    RANK_IC_LOW = "rank_ic_low"
    RANK_IC_HIGH = "rank_ic_high"
    IC = "ic"
    BRIER = "brier"
    LOG_LOSS = "log_loss"
    ECE = "ece"
    HIT_RATE = "hit_rate"
    HIT_RATE_LOW = "hit_rate_low"
    HIT_RATE_HIGH = "hit_rate_high"
    TOP_CONFIDENCE = "top_confidence"
    TOP_SHARE = "top_share"
    TOP_ACCURACY = "top_accuracy"
    TOP_ACCURACY_LOW = "top_accuracy_low"
    TOP_ACCURACY_HIGH = "top_accuracy_high"


_TEXT = (Score.ENGINE, Score.GROUPING, Score.GROUP)
_COUNTS = (Score.SESSIONS, Score.ROWS)
MEASURES = tuple(c for c in Score if c not in (*_TEXT, *_COUNTS))
SCORE_SCHEMA = pl.Schema(
    [(c.value, pl.String()) for c in _TEXT]
    + [(c.value, pl.Int64()) for c in _COUNTS]
    + [(c.value, pl.Float64()) for c in MEASURES]
)


@dataclass(frozen=True)
class EngineScores:
    """Scores of one engine (``SCORE_SCHEMA``), and its coefficients by session.

    ``by_session`` has ``engine``, ``session``, ``rank_ic`` and ``ic``, ascending.
    """

    scores: pl.DataFrame
    by_session: pl.DataFrame


def attach_groups(
    predictions: pl.DataFrame, windows: pl.DataFrame, regimes: pl.DataFrame
) -> pl.DataFrame:
    """Return predictions with their ``window``, ``regime`` and ``year``, as text.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``.
    windows : pl.DataFrame
        ``WINDOW_SCHEMA``.
    regimes : pl.DataFrame
        ``as_of``, ``regime``. The newest known at a prediction's ``as_of`` counts; neutral
        before the first.
    """
    known = regimes.select(Prediction.AS_OF, Grouping.REGIME.value).sort(Prediction.AS_OF)
    times = (
        predictions.select(Prediction.AS_OF)
        .unique()
        .sort(Prediction.AS_OF)
        .join_asof(known, on=Prediction.AS_OF, strategy="backward")
        .with_columns(pl.col(Grouping.REGIME.value).fill_null(RegimeLabel.NEUTRAL.value))
    )
    return (
        at_window(predictions, windows)
        .join(times, on=Prediction.AS_OF, how="left")
        .with_columns(
            pl.col(Grouping.WINDOW.value).cast(pl.String),
            pl.col(Prediction.SESSION).dt.year().cast(pl.String).alias(Grouping.YEAR.value),
            pl.lit("all").alias(Grouping.ALL.value),
        )
    )


def score_engine(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    seed: int,
    block: float,
    draws: int = 1000,
) -> EngineScores:
    """Return all scores of one engine.

    Parameters
    ----------
    predictions : pl.DataFrame
        From :func:`attach_groups`, one engine and horizon.
    outcomes : pl.DataFrame
        ``OUTCOME_SCHEMA``, with excess returns.
    as_of, seed, block, draws
        As for :func:`models.scores.brier`.

    Returns
    -------
    EngineScores
        Groups without a known outcome are left out. Intervals are NaN where sessions are too
        few, and those of the rank IC are widened for short samples
        (:func:`models.session_bootstrap.share_intervals`).

    Raises
    ------
    ModelError
        See :func:`models.judged.judge`.
    """
    judged = judge(predictions, outcomes, as_of=as_of, with_returns=True)
    per_bar = bar_coefficients(judged.frame)
    parts: list[dict[str, object]] = []
    columns = _Columns(judged)
    for grouping in Grouping:
        names, group = _codes(judged.frame[grouping.value])
        columns.add(grouping, names, group, _by_group(judged, per_bar, grouping, names))
    rank, right = columns.intervals(seed=seed, block=block, draws=draws)
    for k, row in enumerate(columns.rows):
        row |= {
            Score.RANK_IC: rank[0][k],
            Score.RANK_IC_LOW: rank[1][k],
            Score.RANK_IC_HIGH: rank[2][k],
            Score.HIT_RATE: right[0][2 * k],
            Score.HIT_RATE_LOW: right[1][2 * k],
            Score.HIT_RATE_HIGH: right[2][2 * k],
            Score.TOP_ACCURACY: right[0][2 * k + 1],
            Score.TOP_ACCURACY_LOW: right[1][2 * k + 1],
            Score.TOP_ACCURACY_HIGH: right[2][2 * k + 1],
        }
        parts.append(row)
    engine = judged.frame[Prediction.ENGINE][0]
    scores = pl.DataFrame(parts).with_columns(pl.lit(engine).alias(Score.ENGINE))
    return EngineScores(
        scores.select(SCORE_SCHEMA.names()).cast(SCORE_SCHEMA),
        session_means(per_bar).select(
            pl.lit(engine).alias(Score.ENGINE), Prediction.SESSION, "rank_ic", "ic"
        ),
    )


def bar_coefficients(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the correlations of forecast and excess return across symbols at each time.

    Parameters
    ----------
    frame : pl.DataFrame
        ``session``, ``bar_end``, ``expected_return_bps``, ``excess_return``, one engine.

    Returns
    -------
    pl.DataFrame
        ``session``, ``bar_end``, ``rank_ic``, ``ic``; times are left out as in
        :func:`models.evaluation.rank_ic`.
    """
    forecast, came = Prediction.EXPECTED_RETURN_BPS, Outcome.EXCESS_RETURN
    return (
        frame.filter(pl.col(forecast).is_finite() & pl.col(came).is_finite())
        .group_by(Prediction.BAR_END)
        .agg(
            pl.col(Prediction.SESSION).first(),
            pl.corr(forecast, came, method="spearman").alias("rank_ic"),
            pl.corr(forecast, came).alias("ic"),
            pl.len().alias("_symbols"),
        )
        .filter((pl.col("_symbols") >= 3) & pl.col("rank_ic").is_finite())
        .sort(Prediction.BAR_END)
        .select(Prediction.SESSION, Prediction.BAR_END, "rank_ic", "ic")
    )


def session_means(per_bar: pl.DataFrame) -> pl.DataFrame:
    """Return the mean coefficients of every session, ascending."""
    days = per_bar.select(pl.col(Prediction.SESSION).unique().sort())
    at = per_bar[Prediction.SESSION].rank("dense").to_numpy() - 1
    return days.with_columns(
        pl.Series(name, sums_at(at, days.height, per_bar[name]) / sums_at(at, days.height))
        for name in ("rank_ic", "ic")
    )


def sums_at(at: Indices, of: int, values: pl.Series | None = None) -> Vector:
    """Return the sums of values (or how many rows there are) at each of some places, (of,).

    In the order of the rows. The threads of a ``group_by`` add up in an order of their own,
    and the sum of floats has another last bit each time.

    Examples
    --------
    >>> sums_at(np.array([0, 2, 2]), 3, pl.Series([1.0, 2.0, 3.0]))
    array([1., 0., 5.])
    """
    weights = None if values is None else values.cast(pl.Float64).to_numpy()
    return np.bincount(at, weights, minlength=of).astype(np.float64)


class _Columns:
    """Sums by session of every group, side by side, so that sessions are drawn again once."""

    def __init__(self, judged: Judged) -> None:
        returns = judged.frame[Outcome.EXCESS_RETURN].to_numpy()
        self._judged = judged
        self._confidence, self._hit = directions(judged.probabilities, returns)
        self._brier, self._log = brier_rows(judged), log_rows(judged)
        self._one = np.ones(len(judged.classes))
        self._rank: list[Vector] = []
        self._has: list[Vector] = []
        self._hits: list[Vector] = []
        self._covered: list[Vector] = []
        self.rows: list[dict[str, object]] = []

    def add(
        self,
        grouping: Grouping,
        names: Sequence[str],
        group: Indices,
        coefficients: tuple[Vector, Vector],
    ) -> None:
        of = len(names)
        sums = self._judged.sums
        rows, hits = sums(self._one, group, of), sums(self._hit, group, of)
        brier, log = sums(self._brier, group, of), sums(self._log, group, of)
        rank, linear = coefficients
        threshold = np.array([self._threshold(group == k) for k in range(of)])
        top = (self._confidence >= threshold[group]).astype(np.float64)
        top_rows, top_hits = sums(top, group, of), sums(top * self._hit, group, of)
        total = rows.sum(axis=0)
        for k, name in enumerate(names):
            inside = group == k
            self._rank.append(np.nan_to_num(rank[:, k]))
            self._has.append(np.isfinite(rank[:, k]).astype(np.float64))
            self._hits += [hits[:, k], top_hits[:, k]]
            self._covered += [rows[:, k], top_rows[:, k]]
            self.rows.append(
                {
                    Score.GROUPING: grouping.value,
                    Score.GROUP: name,
                    Score.SESSIONS: int((rows[:, k] > 0.0).sum()),
                    Score.ROWS: int(total[k]),
                    Score.IC: _mean(linear[:, k]),
                    Score.BRIER: float(brier[:, k].sum() / total[k]),
                    Score.LOG_LOSS: float(log[:, k].sum() / total[k]),
                    Score.ECE: calibration_error(
                        self._judged.probabilities[inside], self._judged.classes[inside]
                    ),
                    Score.TOP_CONFIDENCE: float(threshold[k]),
                    Score.TOP_SHARE: float(top_rows[:, k].sum() / total[k]),
                }
            )

    def intervals(
        self, *, seed: int, block: float, draws: int
    ) -> tuple[tuple[Vector, Vector, Vector], tuple[Vector, Vector, Vector]]:
        rank = share_intervals(
            np.stack(self._rank, axis=1),
            np.stack(self._has, axis=1),
            seed=seed,
            block=block,
            draws=draws,
            binary=False,
        )
        right = share_intervals(
            np.stack(self._hits, axis=1),
            np.stack(self._covered, axis=1),
            seed=seed,
            block=block,
            draws=draws,
        )
        return (rank.share, rank.low, rank.high), (
            right.share,
            np.clip(right.low, 0.0, 1.0),
            np.clip(right.high, 0.0, 1.0),
        )

    def _threshold(self, inside: np.ndarray) -> float:
        confidence = self._confidence[inside]
        # A quantile of the confidence alone: it looks at no outcome.
        place = len(confidence) - int(np.ceil(TOP_SHARE * len(confidence)))
        return float(np.partition(confidence, place)[place])


def calibration_error(probabilities: Vector, classes: Indices, bins: int = _BINS) -> float:
    """Return the mean distance of forecast and observed share over bins and classes.

    The estimate of :func:`models.scores.expected_calibration_error`, without its interval.

    Examples
    --------
    >>> calibration_error(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), np.array([2, 0]))
    0.0
    """
    error = 0.0
    for k in range(len(CLASSES)):
        forecast = probabilities[:, k]
        group, _ = equal_bins(forecast, bins)
        error += float(np.abs(np.bincount(group, forecast - (classes == k))).sum())
    return error / len(CLASSES) / max(1, len(classes))


def _codes(column: pl.Series) -> tuple[list[str], Indices]:
    names = column.unique().to_list()
    names.sort(key=lambda name: (len(name), name) if name.isdigit() else (0, name))
    places = {name: k for k, name in enumerate(names)}
    return names, column.replace_strict(places, return_dtype=pl.Int64).to_numpy()


def _by_group(
    judged: Judged, per_bar: pl.DataFrame, grouping: Grouping, names: Sequence[str]
) -> tuple[Vector, Vector]:
    """Return the mean coefficients by session and group, each (sessions, groups); NaN: none."""
    days = judged.frame[Prediction.SESSION].unique().sort()
    groups = judged.frame.group_by(Prediction.BAR_END).agg(pl.col(grouping.value).first())
    bars = per_bar.join(groups, on=Prediction.BAR_END, maintain_order="left")
    column = bars[grouping.value].replace_strict(names, range(len(names)), return_dtype=pl.Int64)
    at = days.search_sorted(bars[Prediction.SESSION]).to_numpy() * len(names) + column.to_numpy()
    cells = len(days) * len(names)
    count = sums_at(at, cells)
    count[count == 0.0] = np.nan
    rank, linear = (sums_at(at, cells, bars[c]) / count for c in ("rank_ic", "ic"))
    return rank.reshape(len(days), -1), linear.reshape(len(days), -1)


def _mean(values: Vector) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
