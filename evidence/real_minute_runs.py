"""Real minute bars: intraday horizons walked forward over the last sessions of the file."""

from __future__ import annotations

import datetime as dt
import math
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from evidence.ensemble_gaps import mean_interval
from evidence.part import Run
from evidence.training import (
    BAND_BPS,
    Prepared,
    chosen_features,
    ensemble_of,
    predict_out_of_sample,
    with_params,
)
from features.compute import compute_features
from features.labels import forward_returns
from market.errors import UsageError
from market.horizons import Horizon, find_horizon
from market.replay_data import load_bars_file
from market.schema import UTC_MICROSECONDS
from market.timeframes import Timeframe, regular_hours, resample
from models.comparison import newey_west_t
from models.confidence import accuracy_against_coverage, coverage_at_accuracy
from models.evaluation import Vector
from models.judged import judge
from models.outcomes import outcomes_of
from models.session_bootstrap import share_intervals
from models.train import Rhythm
from signals.schema import ENSEMBLE_ENGINE

NAME = "real_minute"
CONFIG: dict[str, Any] = {
    "file": "minute_142_2018_02_04.parquet",
    "horizons": ["1h", "15m", "5m"],
    "train_sessions": 30,
    "test_sessions": 7,
    "reference": "lightgbm",
    "features": ["core", "microstructure"],
    "train_rows": 200_000,
    "block_sessions": 2.0,
    "confidences": [0.60, 0.65, 0.70],
    "model_seed": 7,
    "params": {
        "lstm": {"window": 10, "hidden": 24, "epochs": 4, "rows_per_epoch": 25_000},
        "cnn": {"window": 10, "hidden": 24, "epochs": 4, "rows_per_epoch": 25_000},
        "transformer": {
            "window": 10,
            "hidden": 24,
            "layers": 1,
            "epochs": 4,
            "rows_per_epoch": 25_000,
        },
    },
}
BASELINE = "reversal"
_READ_AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def measure(run: Run) -> dict[str, Any]:
    """Return what each horizon gave.

    Raises
    ------
    UsageError
        Where there are no real bars.
    """
    if run.bars is None:
        raise UsageError(
            "the real bars are not there",
            got="no folder",
            allowed="a folder with " + CONFIG["file"],
            remedy="set ISOBAR_SAMPLE_BARS",
        )
    loaded = load_bars_file(run.bars / CONFIG["file"], as_of=_READ_AT)
    assert loaded.minute is not None
    return measure_with(CONFIG, run, loaded.minute)


def measure_with(config: dict[str, Any], run: Run, minutes: pl.DataFrame) -> dict[str, Any]:
    """Return the result of another configuration, or of other minutes."""
    found: dict[str, Any] = {}
    for name in config["horizons"]:
        found[name] = run.once(name, partial(one_horizon, config, name, minutes))
        run.progress(f"{NAME}: {name}")
    return {
        "symbols": minutes["symbol"].n_unique(),
        "sessions": minutes["session"].n_unique(),
        "horizons": found,
    }


def one_horizon(config: dict[str, Any], name: str, minutes: pl.DataFrame) -> dict[str, Any]:
    """Return what engines, ensemble and baseline are worth at one horizon."""
    horizon = find_horizon(name)
    prepared = prepare(minutes, horizon, config["features"])
    every, sampled = sample_times(prepared.labels, config["train_sessions"], config["train_rows"])
    own = horizon.families
    wanted = tuple(dict.fromkeys((*own, config["reference"])))
    engines = predict_out_of_sample(
        Prepared(prepared.features, sampled, prepared.regimes, prepared.names),
        horizon,
        with_params(wanted, config["params"]),
        Rhythm(config["train_sessions"], config["test_sessions"]),
        seed=config["model_seed"],
    )
    blended = ensemble_of(engines, prepared, own, stacked=horizon.stacked)
    # Judged with all labels, whichever were sampled to train on.
    forecasts = pl.concat([engines, blended, _reversal(engines, prepared)])
    block = config["block_sessions"]
    skills = _skills(forecasts, prepared.labels, block)
    late = _skills(forecasts, one_bar_later(prepared.labels), block)
    outcomes = outcomes_of(prepared.labels, horizon=name, band_bps=BAND_BPS)
    judged = (ENSEMBLE_ENGINE, *wanted)
    both = pl.concat([engines, blended])
    return {
        "families": list(own),
        "bars": prepared.features.height,
        "features": len(prepared.names),
        "every": every,
        "forecasts": engines.filter(pl.col("engine") == wanted[0]).height,
        "first_session": str(engines["session"].min()),
        "last_session": str(engines["session"].max()),
        "skill": skills,
        "one_bar_later": {engine: s["rank_ic"] for engine, s in late.items()},
        "confidence": {
            engine: confidence_of(both.filter(pl.col("engine") == engine), outcomes, config)
            for engine in judged
        },
    }


def prepare(minutes: pl.DataFrame, horizon: Horizon, families: list[str]) -> Prepared:
    """Return features and labels of a horizon's bars, resampled from minutes.

    Forty sessions are fewer than the regime looks back: every one of them counts as neutral.
    """
    timeframe = horizon.timeframe
    inside = regular_hours(minutes)
    bars = inside if timeframe is Timeframe.M1 else resample(inside, timeframe)
    chosen = chosen_features(timeframe, families)
    regimes = pl.DataFrame(
        schema={"session": pl.Date(), "as_of": UTC_MICROSECONDS, "regime": pl.String()}
    )
    return Prepared(
        compute_features(bars, chosen),
        forward_returns(bars, horizon),
        regimes,
        tuple(f.name for f in chosen),
    )


def sample_times(
    labels: pl.DataFrame, train_sessions: int, most_rows: int
) -> tuple[int, pl.DataFrame]:
    """Return every k-th time and the labels with those at all other times taken away.

    ``k`` is the smallest that leaves no more than ``most_rows`` in the training sessions. Times
    are counted within the session, from a start that moves on by one each session, so that every
    time of day is there equally often; all symbols have the same times. Nothing of outcomes or
    features decides.
    """
    known = labels.filter(pl.col("excess_return").is_not_null())
    first = known["session"].unique().sort().head(train_sessions)
    rows = known.filter(pl.col("session").is_in(first.implode())).height
    every = max(1, -(-rows // most_rows))
    number = pl.col("bar_end").rank("dense").over("session")
    turn = pl.col("session").rank("dense")
    taken = (number.cast(pl.Int64) + turn.cast(pl.Int64)) % every == 0
    wiped = ("label_known_at", "forward_return", "excess_return")
    return every, labels.with_columns(pl.when(taken).then(pl.col(c)).alias(c) for c in wiped)


def one_bar_later(labels: pl.DataFrame) -> pl.DataFrame:
    """Return labels with the excess return of the symbol's next bar of the session.

    Who acts one bar after the forecast gets it. The last trade of the forecast's own bar, and with
    it the bounce between bid and ask, is then no longer a part of the outcome.
    """
    later = pl.col("excess_return").shift(-1).over("symbol", "session", order_by="bar_end")
    return labels.with_columns(later.alias("excess_return"))


def _skills(forecasts: pl.DataFrame, labels: pl.DataFrame, block: float) -> dict[str, Any]:
    outcome = labels.select("symbol", "bar_end", "excess_return")
    scored = forecasts.join(outcome, on=["symbol", "bar_end"])
    return {
        str(key[0]): skill_of(part, block)
        for key, part in scored.partition_by("engine", as_dict=True).items()
    }


def _reversal(engines: pl.DataFrame, prepared: Prepared) -> pl.DataFrame:
    """Return the forecast that the last bar's return is taken back."""
    last = prepared.features.select(
        "symbol", "bar_end", (-pl.col("return_1").cast(pl.Float64) * 1e4).alias("_back")
    )
    return (
        engines.unique(["symbol", "bar_end"], maintain_order=True)
        .join(last, on=["symbol", "bar_end"], maintain_order="left")
        .with_columns(
            pl.col("_back").alias("expected_return_bps"), pl.lit(BASELINE).alias("engine")
        )
        .select(engines.columns)
    )


def skill_of(scored: pl.DataFrame, block: float) -> dict[str, Any]:
    """Return IC, rank IC, its information ratio per session, and its Newey-West t."""
    pair = ("expected_return_bps", "excess_return")
    known = scored.filter(pl.all_horizontal(pl.col(c).is_finite() for c in pair))
    per_bar = known.group_by("session", "bar_end").agg(
        pl.corr(*pair).alias("ic"), pl.corr(*pair, method="spearman").alias("rank_ic")
    )
    days = (
        per_bar.group_by("session")
        .agg(pl.col(c).filter(pl.col(c).is_finite()).mean() for c in ("ic", "rank_ic"))
        .sort("session")
    )
    ranks = days["rank_ic"].to_numpy()
    test = newey_west_t(ranks)
    return {
        "ic": _estimate(days["ic"].to_numpy(), block),
        "rank_ic": _estimate(ranks, block),
        "information_ratio": _finite(float(ranks.mean() / ranks.std(ddof=1))),
        "t": _finite(test.statistic),
        "p_value": test.p_value,
        "lags": test.lags,
        "sessions": len(ranks),
        "bars": per_bar.height,
    }


def confidence_of(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, config: dict[str, Any]
) -> dict[str, Any]:
    """Return accuracy against coverage, and hit rates from some confidences on."""
    newest = outcomes["label_known_at"].max()
    assert isinstance(newest, dt.datetime)
    block = config["block_sessions"]
    curve = accuracy_against_coverage(predictions, outcomes, as_of=newest, seed=1, block=block)
    return {
        "curve": [_no_nan(row) for row in curve.iter_rows(named=True)],
        "reached": [_no_nan(row) for row in coverage_at_accuracy(curve).iter_rows(named=True)],
        "from": hit_rates(predictions, outcomes, newest, config["confidences"], block),
    }


def hit_rates(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    as_of: dt.datetime,
    confidences: list[float],
    block: float,
) -> list[dict[str, Any]]:
    """Return how often the direction is right where at least so much confidence is stated.

    Confidence and hits are those of :func:`models.confidence.accuracy_against_coverage`.
    """
    judged = judge(predictions, outcomes, as_of=as_of, with_returns=True)
    short, long = judged.probabilities[:, 0], judged.probabilities[:, 2]
    either = np.where(short + long > 0.0, short + long, 1.0)
    confidence = np.where(short + long > 0.0, np.maximum(short, long) / either, 0.5)
    came = np.sign(judged.frame["excess_return"].to_numpy())
    hit = 0.5 + 0.5 * np.sign(long - short) * came
    every = judged.sums(np.ones(len(hit)))
    out: list[dict[str, Any]] = []
    for least in confidences:
        sure = (confidence >= least).astype(np.float64)
        rows = judged.sums(sure)
        right = share_intervals(judged.sums(hit * sure), rows, seed=1, block=block)
        often = share_intervals(rows, every, seed=1, block=block, binary=False)
        out.append(
            {
                "confidence": least,
                "rows": int(rows.sum()),
                "sessions": int((rows > 0.0).sum()),
                "coverage": _share(often.share, often.low, often.high),
                "accuracy": _share(right.share, right.low, right.high),
            }
        )
    return out


def _share(share: Vector, low: Vector, high: Vector) -> dict[str, float | None]:
    clipped = (share[0], np.clip(low[0], 0.0, 1.0), np.clip(high[0], 0.0, 1.0))
    return {k: _finite(float(v)) for k, v in zip(("mean", "low", "high"), clipped, strict=True)}


def _estimate(values: Vector, block: float) -> dict[str, float | None]:
    e = mean_interval(values, seed=1, block=block)
    return {"mean": _finite(e.mean), "low": _finite(e.low), "high": _finite(e.high)}


def _no_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {k: _finite(v) if isinstance(v, float) else v for k, v in row.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
