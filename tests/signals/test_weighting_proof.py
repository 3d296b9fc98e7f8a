"""What weighting by regime is worth: it beats equal weights where engines differ by regime, and
costs nothing where they do not.

No seed is chosen: 0 to 11. Each seed is a market of its own, so that intervals are over markets.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl
from scipy.stats import t

from market import calendar
from market.regimes import RegimeLabel
from models.evaluation import rank_ic
from models.forecast import PREDICTION_SCHEMA
from signals.weighting import Weight, blend, blend_walk_forward

SEEDS = 12
SYMBOLS, SESSIONS = 40, 504
REGIME_SESSIONS = 40  # how long one lasts on average
WORDS = [r.value for r in RegimeLabel]
DAYS = calendar.sessions_between(dt.date(2020, 1, 2), dt.date(2022, 6, 30))[: SESSIONS + 1]
CLOSES = [calendar.session_close(d) for d in DAYS]
# Rank IC of each engine by regime (bull, bear, neutral).
SPECIALISTS = ((0.08, 0.0, 0.0), (0.0, 0.08, 0.0), (0.0, 0.0, 0.08))
ALIKE = ((0.04, 0.04, 0.04),) * 3
NO_SKILL = ((0.0, 0.0, 0.0),) * 3
ONE_BETTER = ((0.08, 0.08, 0.08), (0.02, 0.02, 0.02))
Skills = tuple[tuple[float, ...], ...]


def simulate(skills: Skills, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Predictions, labels and regimes; a forecast is the outcome with that correlation."""
    rng = np.random.default_rng(seed)
    regime = np.zeros(SESSIONS, dtype=np.int64)
    for day in range(SESSIONS):
        stays = day > 0 and rng.random() > 1 / REGIME_SESSIONS
        regime[day] = regime[day - 1] if stays else rng.integers(3)
    outcome = rng.standard_normal((SESSIONS, SYMBOLS))
    keys = pl.DataFrame(
        {
            "symbol": [f"S{k:02}" for k in range(SYMBOLS)] * SESSIONS,
            "session": [d for d in DAYS[:-1] for _ in range(SYMBOLS)],
            "bar_end": [c for c in CLOSES[:-1] for _ in range(SYMBOLS)],
        }
    ).with_columns(pl.col("bar_end").cast(PREDICTION_SCHEMA["bar_end"]))
    parts = []
    for number, of_engine in enumerate(skills):
        skill = np.array(of_engine)[regime][:, None]
        noise = rng.standard_normal((SESSIONS, SYMBOLS))
        forecast = skill * outcome + np.sqrt(1 - skill**2) * noise
        parts.append(
            keys.with_columns(
                pl.col("bar_end").alias("as_of"),
                pl.lit("1d").alias("horizon"),
                pl.lit(f"engine_{number}").alias("engine"),
                pl.lit("v").alias("model_version"),
                pl.lit(0.3).alias("p_short"),
                pl.lit(0.3).alias("p_neutral"),
                pl.lit(0.4).alias("p_long"),
                pl.Series("expected_return_bps", forecast.ravel() * 10.0),
                pl.lit(100.0).alias("volatility_bps"),
            ).select(PREDICTION_SCHEMA.names())
        )
    labels = keys.select(
        "symbol",
        "bar_end",
        pl.Series("label_known_at", [c for c in CLOSES[1:] for _ in range(SYMBOLS)]).cast(
            PREDICTION_SCHEMA["as_of"]
        ),
        pl.Series("excess_return", outcome.ravel() / 100.0),
    )
    regimes = pl.DataFrame(
        {
            "session": DAYS[:-1],
            "as_of": CLOSES[:-1],
            "regime": [WORDS[k] for k in regime],
        }
    ).with_columns(pl.col("as_of").cast(PREDICTION_SCHEMA["as_of"]))
    return pl.concat(parts), labels, regimes


def equal_weights(engines: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {Weight.ENGINE: e, Weight.REGIME: r, Weight.WEIGHT: 1.0 / len(engines)}
            for e in engines
            for r in WORDS
        ]
    )


def mean_rank_ic(blended: pl.DataFrame, labels: pl.DataFrame) -> float:
    scored = blended.join(labels, on=["symbol", "bar_end"])
    table = rank_ic(scored, "expected_return_bps", "excess_return")
    assert table.height == SESSIONS
    return float(table["rank_ic"].to_numpy().mean())


@lru_cache(maxsize=8)
def advantage(skills: Skills) -> tuple[float, float, float, float]:
    """Mean rank IC that weighting adds per market, its 95 percent interval, and that of equal."""
    gains, plain = [], []
    for seed in range(SEEDS):
        predictions, labels, regimes = simulate(skills, seed)
        weighted = blend_walk_forward(predictions, labels, regimes)
        equal = blend(
            predictions, equal_weights(predictions["engine"].unique().sort().to_list()), regimes
        )
        plain.append(mean_rank_ic(equal, labels))
        gains.append(mean_rank_ic(weighted, labels) - plain[-1])
    mean, error = float(np.mean(gains)), float(np.std(gains, ddof=1)) / SEEDS**0.5
    half = float(t.isf(0.025, SEEDS - 1)) * error
    return mean, mean - half, mean + half, float(np.mean(plain))


NOISE = 1.0 / ((SYMBOLS - 1) * SESSIONS) ** 0.5
"""Standard error of the mean rank IC of one such market."""


def test_it_beats_equal_weights_where_engines_know_different_regimes() -> None:
    mean, low, _, equal = advantage(SPECIALISTS)
    assert low > 0.0
    assert mean > 0.15 * equal


def test_it_beats_equal_weights_where_one_engine_is_better() -> None:
    mean, low, _, _ = advantage(ONE_BETTER)
    assert low > 0.0
    assert mean > 0.0


def test_where_engines_do_not_differ_it_does_no_harm() -> None:
    """Its cost does not show in twelve markets, and is a tenth of what one market could show."""
    for skills in (ALIKE, NO_SKILL):
        mean, low, high, _ = advantage(skills)
        assert low <= 0.0 <= high, skills
        assert abs(mean) < 0.1 * NOISE, skills
