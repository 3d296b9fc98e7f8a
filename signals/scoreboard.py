"""Live signals judged by their outcomes, beside the same measures of the backtest's forecasts.

Both sides are rows of one form and go through one function, so that what was promised and what
came are the same numbers. All is judged by the excess return, which is what models forecast.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import polars as pl

from features.labels import classify_returns
from market import calendar
from market.horizons import HORIZONS, find_horizon
from market.regimes import RegimeLabel
from models.evaluation import Vector
from models.forecast import Prediction
from models.judged import equal_bins
from models.outcomes import Outcome
from models.session_bootstrap import share_intervals
from models.session_scores import bar_coefficients, session_means, sums_at
from models.spec import Indices
from signals.outcomes import SignalOutcome
from signals.schema import Direction, SignalColumn
from signals.weighting import attach_regime

ALL_REGIMES = "all"
PROMISED = "promised_"
_BINS = 10
_SHORTEST_BLOCK = 5


class Judged(StrEnum):
    """Columns of forecasts beside what became of them; one row per symbol, time and engine.

    ``direction`` and ``outcome`` are -1, 0 and 1: 0 where the expected or the excess return does
    not leave the neutral band. ``confidence`` is the probability of the direction.
    """

    HORIZON = "horizon"
    REGIME = "regime"
    ENGINE = "engine"
    SESSION = "session"
    AS_OF = "as_of"
    SYMBOL = "symbol"
    DIRECTION = "direction"
    CONFIDENCE = "confidence"
    EXPECTED_RETURN_BPS = "expected_return_bps"
    EXCESS_RETURN = "excess_return"
    OUTCOME = "outcome"


class Board(StrEnum):
    """Columns of the scoreboard; a ``_low`` and a ``_high`` are a 95 percent interval.

    ``coverage`` is the share of signals with a direction, ``hit_rate`` how often that was the
    sign of the excess return. ``brier`` (0 to 1) and ``ece`` are of the confidence against
    whether the return fell on the stated side of the band (inside it, for neutral).
    """

    HORIZON = "horizon"
    REGIME = "regime"
    ENGINE = "engine"
    SESSIONS = "sessions"
    SIGNALS = "signals"
    COVERAGE = "coverage"
    HIT_RATE = "hit_rate"
    HIT_RATE_LOW = "hit_rate_low"
    HIT_RATE_HIGH = "hit_rate_high"
    BRIER = "brier"
    BRIER_LOW = "brier_low"
    BRIER_HIGH = "brier_high"
    ECE = "ece"
    RANK_IC = "rank_ic"
    RANK_IC_LOW = "rank_ic_low"
    RANK_IC_HIGH = "rank_ic_high"


KEYS = (Board.HORIZON, Board.REGIME, Board.ENGINE)
COUNTS = (Board.SESSIONS, Board.SIGNALS)
MEASURES = tuple(c for c in Board if c not in (*KEYS, *COUNTS))
SIDE_SCHEMA = pl.Schema(
    [(c.value, pl.String()) for c in KEYS]
    + [(c.value, pl.Int64()) for c in COUNTS]
    + [(c.value, pl.Float64()) for c in MEASURES]
)
"""Scores of one side."""

BOARD_SCHEMA = pl.Schema(
    {
        **SIDE_SCHEMA,
        **{PROMISED + c: t for c, t in SIDE_SCHEMA.items() if c not in KEYS},
    }
)
"""The live side under its own names, the backtest's with ``promised_`` before them."""

_JUDGED_SCHEMA = pl.Schema(
    {
        Judged.HORIZON: pl.String(),
        Judged.REGIME: pl.String(),
        Judged.ENGINE: pl.String(),
        Judged.SESSION: pl.Date(),
        Judged.AS_OF: pl.Datetime("us", "UTC"),
        Judged.SYMBOL: pl.String(),
        Judged.DIRECTION: pl.Int8(),
        Judged.CONFIDENCE: pl.Float64(),
        Judged.EXPECTED_RETURN_BPS: pl.Float64(),
        Judged.EXCESS_RETURN: pl.Float64(),
        Judged.OUTCOME: pl.Int8(),
    }
)


def judge_signals(
    signals: pl.DataFrame, outcomes: pl.DataFrame, *, band_bps: float
) -> pl.DataFrame:
    """Return live signals beside what became of them.

    Parameters
    ----------
    signals : pl.DataFrame
        ``SIGNAL_SCHEMA``.
    outcomes : pl.DataFrame
        ``signals.outcomes.SIGNAL_OUTCOME_SCHEMA``; signals without one are left out.
    band_bps : float
        Half-width of the neutral band.

    Returns
    -------
    pl.DataFrame
        ``Judged``. Of signals on one symbol that end at the same moment the first counts: runs
        of one day forecast the same return from the same bar.
    """
    sign = {d.value: d.sign for d in Direction}
    key = [
        SignalColumn.SYMBOL,
        SignalColumn.HORIZON,
        SignalColumn.ENGINE,
        SignalColumn.VALID_UNTIL,
    ]
    day = pl.col(SignalColumn.AS_OF).dt.convert_time_zone(calendar.NEW_YORK.key).dt.date()
    return (
        signals.join(outcomes, left_on=SignalColumn.ID, right_on=SignalOutcome.SIGNAL_ID)
        .sort(SignalColumn.AS_OF, maintain_order=True)
        .unique(key, keep="first", maintain_order=True)
        .with_columns(
            day.alias(Judged.SESSION),
            pl.col(SignalColumn.DIRECTION)
            .replace_strict(sign, return_dtype=pl.Int8)
            .alias(Judged.DIRECTION),
            (pl.col(SignalOutcome.REALISED_RETURN_BPS) / 1e4).alias(Judged.EXCESS_RETURN),
        )
        .pipe(_with_outcome, band_bps)
    )


def judge_predictions(
    predictions: pl.DataFrame, labels: pl.DataFrame, regimes: pl.DataFrame, *, band_bps: float
) -> pl.DataFrame:
    """Return the backtest's forecasts as signals would have been, beside what became of them.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, out of sample and calibrated.
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`; rows without a known label are left out.
    regimes : pl.DataFrame
        ``as_of``, ``regime``; the newest known at a prediction's ``as_of`` counts.
    band_bps : float
        Half-width of the neutral band.

    Returns
    -------
    pl.DataFrame
        ``Judged``.
    """
    outcome = labels.select(Outcome.SYMBOL, Outcome.BAR_END, Outcome.EXCESS_RETURN)
    direction = classify_returns(pl.col(Prediction.EXPECTED_RETURN_BPS), pl.lit(band_bps))
    confidence = (
        pl.when(pl.col(Judged.DIRECTION) > 0)
        .then(Prediction.P_LONG)
        .when(pl.col(Judged.DIRECTION) < 0)
        .then(Prediction.P_SHORT)
        .otherwise(Prediction.P_NEUTRAL)
    )
    return (
        attach_regime(predictions, regimes)
        .join(outcome, on=[Prediction.SYMBOL, Prediction.BAR_END])
        .filter(pl.col(Outcome.EXCESS_RETURN).is_finite())
        .with_columns(direction.alias(Judged.DIRECTION))
        .with_columns(confidence.alias(Judged.CONFIDENCE))
        .pipe(_with_outcome, band_bps)
    )


def _with_outcome(rows: pl.DataFrame, band_bps: float) -> pl.DataFrame:
    outcome = classify_returns(pl.col(Judged.EXCESS_RETURN), pl.lit(band_bps / 1e4))
    return rows.with_columns(outcome.alias(Judged.OUTCOME)).select(
        pl.col(n).cast(t) for n, t in _JUDGED_SCHEMA.items()
    )


def score_judged(rows: pl.DataFrame, *, seed: int, draws: int = 1000) -> pl.DataFrame:
    """Return the scores of one side.

    Parameters
    ----------
    rows : pl.DataFrame
        ``Judged``.
    seed, draws : int
        Of the bootstrap of sessions.

    Returns
    -------
    pl.DataFrame
        ``SIDE_SCHEMA``, one row per horizon, regime (and ``all``) and engine.
    """
    parts = [
        _score_engine(part, seed=seed, draws=draws)
        for part in rows.partition_by(Judged.HORIZON, Judged.ENGINE)
    ]
    return pl.concat([pl.DataFrame(schema=SIDE_SCHEMA), *parts])


def join_sides(live: pl.DataFrame, promised: pl.DataFrame) -> pl.DataFrame:
    """Return live scores beside promised ones.

    Parameters
    ----------
    live, promised : pl.DataFrame
        From :func:`score_judged`.

    Returns
    -------
    pl.DataFrame
        ``BOARD_SCHEMA``, one row per horizon, regime (and ``all``) and engine that has live
        signals or promises, in the order of the horizons table. Measures are null where a side
        has nothing, intervals also where it has fewer than ten sessions, or too few for labels
        that overlap (:mod:`models.session_bootstrap`).
    """
    board = live.join(
        promised.rename({c: PROMISED + c for c in promised.columns if c not in KEYS}),
        on=KEYS,
        how="full",
        coalesce=True,
    )
    places = {h.name: k for k, h in enumerate(HORIZONS)}
    regimes = {r: k for k, r in enumerate((ALL_REGIMES, *(r.value for r in RegimeLabel)))}
    return (
        board.sort(
            pl.col(Board.HORIZON).replace_strict(places),
            pl.col(Board.REGIME).replace_strict(regimes),
            Board.ENGINE,
        )
        .select(BOARD_SCHEMA.names())
        .cast(BOARD_SCHEMA)
        .with_columns(pl.selectors.float().fill_nan(None))
    )


def _score_engine(rows: pl.DataFrame, *, seed: int, draws: int) -> pl.DataFrame:
    """Return the scores of one horizon and engine: over all, and by regime."""
    horizon, engine = rows.select(Judged.HORIZON, Judged.ENGINE).row(0)
    block = float(max(_SHORTEST_BLOCK, 2 * find_horizon(horizon).sessions))
    days = rows[Judged.SESSION].unique().sort().to_list()
    names = [ALL_REGIMES, *rows[Judged.REGIME].unique().sort()]
    parts = [rows, *(rows.filter(pl.col(Judged.REGIME) == name) for name in names[1:])]
    sums = [_sums(part, days) for part in parts]
    # Each (sessions, groups): sessions without a row of a group keep their place in the blocks.
    table = {name: np.stack([s[name] for s in sums], axis=1) for name in sums[0]}
    hit, brier, rank = (
        share_intervals(
            table[top], table[below], seed=seed, block=block, draws=draws, binary=is_binary
        )
        for top, below, is_binary in (
            ("hits", "directed", True),
            ("squares", "rows", False),
            ("rank", "moments", False),
        )
    )
    rows_of, directed = table["rows"].sum(axis=0), table["directed"].sum(axis=0)
    return pl.DataFrame(
        {
            Board.HORIZON: [horizon] * len(names),
            Board.REGIME: names,
            Board.ENGINE: [engine] * len(names),
            Board.SESSIONS: (table["rows"] > 0.0).sum(axis=0),
            Board.SIGNALS: rows_of,
            Board.COVERAGE: directed / rows_of,
            Board.HIT_RATE: hit.share,
            Board.HIT_RATE_LOW: np.clip(hit.low, 0.0, 1.0),
            Board.HIT_RATE_HIGH: np.clip(hit.high, 0.0, 1.0),
            Board.BRIER: brier.share,
            Board.BRIER_LOW: np.clip(brier.low, 0.0, 1.0),
            Board.BRIER_HIGH: np.clip(brier.high, 0.0, 1.0),
            Board.ECE: [_calibration_error(part) for part in parts],
            Board.RANK_IC: rank.share,
            Board.RANK_IC_LOW: rank.low,
            Board.RANK_IC_HIGH: rank.high,
        }
    ).cast(SIDE_SCHEMA)  # pyright: ignore[reportArgumentType]


def _sums(rows: pl.DataFrame, sessions: Sequence[dt.date]) -> dict[str, Vector]:
    """Return by session what the measures are made of, each (sessions,)."""
    direction, excess = pl.col(Judged.DIRECTION), pl.col(Judged.EXCESS_RETURN)
    is_directed = direction != 0
    # As in models.confidence: a return of exactly zero is half a hit.
    hit = pl.when(is_directed).then(0.5 + 0.5 * direction * excess.sign()).otherwise(0.0)
    happened = (pl.col(Judged.OUTCOME) == direction).cast(pl.Float64)
    each = rows.select(
        directed=is_directed,
        hits=hit,
        squares=(pl.col(Judged.CONFIDENCE) - happened) ** 2,
    )
    days = pl.Series(sessions)
    at = days.search_sorted(rows[Judged.SESSION]).to_numpy()
    made = {c: sums_at(at, len(days), each[c]) for c in each.columns}
    per_bar = bar_coefficients(rows.with_columns(pl.col(Judged.AS_OF).alias(Prediction.BAR_END)))
    ranked = session_means(per_bar)
    ranked_at = days.search_sorted(ranked[Judged.SESSION]).to_numpy()
    return made | {
        "rows": sums_at(at, len(days)),
        "rank": sums_at(ranked_at, len(days), ranked["rank_ic"]),
        # The mean of a session's moments counts once.
        "moments": sums_at(ranked_at, len(days)),
    }


def _calibration_error(rows: pl.DataFrame) -> float:
    """Return the mean distance of confidence and observed share over bins of equal size."""
    confidence = rows[Judged.CONFIDENCE].to_numpy()
    happened = (rows[Judged.OUTCOME] == rows[Judged.DIRECTION]).to_numpy()
    group: Indices
    group, _ = equal_bins(confidence, _BINS)
    return float(np.abs(np.bincount(group, confidence - happened)).sum()) / max(1, rows.height)
