"""Scoring the newest bar: one symbol and 500 at all twelve horizons, models loaded, features made.

Models have their families' own parameters and 400 features. That one symbol's forecasts are those
of the batch is checked before anything is timed. Reasons (contributions of features) are a row of
their own: scoring does without them.
"""

import datetime as dt
import time
from dataclasses import replace

import numpy as np
import polars as pl

from benchmarks.wanted import Wanted
from market import calendar
from market.horizons import HORIZONS, Horizon, last_complete_bar
from market.regimes import RegimeLabel
from market.timeframes import Timeframe
from models.calibration import Calibrator, Method
from models.dataset import VOLATILITY, assemble, reach_of
from models.ensemble import META_ENGINE
from models.fit import FittedModel, fit_model
from models.registry import FAMILIES, families_of
from models.spec import window_of
from signals.reasons import strongest_reasons
from signals.score import Ensemble, Scores, score_horizons

SYMBOLS, FEATURES, ROUNDS = 500, 400, 200
TRAINED_ON = 60
AS_OF = calendar.session_close(dt.date(2025, 6, 26))
NAMES = (VOLATILITY, *(f"feature_{k:03d}" for k in range(FEATURES - 1)))
ONE = ["S123"]
NO_DELAY = dt.timedelta(0)
PLATT = Calibrator(Method.PLATT, coefficients=(0.0, 0.0, 1.0, 0.0))
MOST_OF_ONE_MS, MOST_OF_ALL, AGREED = 100, 1, 1e-6


def bars(timeframe: Timeframe, count: int) -> list[tuple[dt.date, dt.datetime]]:
    """Return the newest complete bars, ascending, with their sessions."""
    newest = last_complete_bar(timeframe, AS_OF, NO_DELAY)
    day = newest.astimezone(calendar.NEW_YORK).date()
    found: list[tuple[dt.date, dt.datetime]] = []
    while len(found) < count:
        close, step = calendar.session_close(day), dt.timedelta(minutes=timeframe.minutes)
        inside = calendar.REGULAR_MINUTES // timeframe.minutes if timeframe.is_intraday else 1
        found += [(day, close - k * step) for k in range(inside)]
        day = calendar.previous_session(day)
    return found[:count][::-1]


def table(timeframe: Timeframe, symbols: int, count: int, seed: int) -> pl.DataFrame:
    grid = bars(timeframe, count)
    rows = len(grid) * symbols
    values = np.random.default_rng(seed).standard_normal((rows, FEATURES), dtype=np.float32)
    values[:, 0] = 0.01 * np.exp(0.2 * values[:, 0])
    when = pl.DataFrame(
        grid, schema={"session": pl.Date, "bar_end": pl.Datetime("us", "UTC")}, orient="row"
    )
    keys = when.join(pl.DataFrame({"symbol": [f"S{k:03d}" for k in range(symbols)]}), how="cross")
    keys = keys.with_columns(as_of=pl.col("bar_end"))
    return pl.concat([keys, pl.from_numpy(values, schema=list(NAMES))], how="horizontal")


def train(families: set[str]) -> dict[str, FittedModel]:
    """Fit each family once, on daily bars: what is timed is the same for any others."""
    made = table(Timeframe.D1, TRAINED_ON, 400, seed=1).filter(pl.col("as_of") < AS_OF)
    returns = 0.01 * np.random.default_rng(2).standard_normal(made.height)
    known = pl.col("bar_end") + dt.timedelta(minutes=1)
    labels = made.select("symbol", "bar_end", label_known_at=known).with_columns(
        forward_return=pl.Series(returns), excess_return=pl.Series(returns)
    )
    data = assemble(made, labels, NAMES, steps=1, reach_sessions=reach_of(Timeframe.D1))
    rows = np.arange(len(data))
    small = {"epochs": 1, "steps": 2_048}
    found: dict[str, FittedModel] = {}
    for name in sorted(families):
        defaults = FAMILIES[name].defaults
        params = {k: small.get(k, v) for k, v in defaults.items()}
        found[name] = fit_model(
            data, rows, FAMILIES[name], horizon="1d", seed=1, data_hash="", params=params
        )
    return found


def ensemble(horizon: Horizon, models: dict[str, FittedModel]) -> Ensemble:
    champions = tuple(replace(models[f.name], horizon=horizon.name) for f in families_of(horizon))
    engines = [m.family.name for m in champions]
    core = len(engines)
    stacked = None
    if horizon.stacked:
        stacked = pl.DataFrame({"engine": engines, "weight": [0.3] * core, "sessions": [99] * core})
        engines.append(META_ENGINE)
    weights = pl.DataFrame(
        [(e, r.value, 1.0 / len(engines)) for e in engines for r in RegimeLabel],
        schema=["engine", "regime", "weight"], orient="row",
    )  # fmt: skip
    regimes = pl.DataFrame(
        {"as_of": [AS_OF - dt.timedelta(days=1)], "regime": [RegimeLabel.BULL.value]},
        schema={"as_of": pl.Datetime("us", "UTC"), "regime": pl.String},
    )
    calibrators = dict.fromkeys((*engines, "ensemble"), PLATT)
    return Ensemble(horizon, champions, weights, regimes, stacked=stacked, calibrators=calibrators)


def score(
    features: dict[Timeframe, pl.DataFrame], ensembles: list[Ensemble], symbols: list[str] | None
) -> dict[str, Scores]:
    return score_horizons(
        features, ensembles, as_of=AS_OF, delay=NO_DELAY, band_bps=5.0, symbols=symbols
    )


def worst_difference(single: dict[str, Scores], batch: dict[str, Scores], symbol: str) -> float:
    worst = 0.0
    for name, scores in single.items():
        rows = batch[name].predictions.filter(pl.col("symbol") == symbol)
        a, b = (
            f.sort("engine").select(pl.col(pl.Float64)).to_numpy()
            for f in (scores.predictions, rows)
        )
        worst = max(worst, float(np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b)))))
    return worst


def main() -> None:
    """Train, check, time."""
    models = train({name for h in HORIZONS for name in h.families})
    ensembles = [ensemble(h, models) for h in HORIZONS]
    reach = max(window_of(m.params) for m in models.values())
    many = {t: table(t, SYMBOLS, reach, seed=3) for t in {h.timeframe for h in HORIZONS}}
    batch = score(many, ensembles, None)
    worst = worst_difference(score(many, ensembles, ONE), batch, ONE[0])
    if worst > AGREED:
        raise SystemExit(f"one symbol differs from the batch by {worst:.2e}, {AGREED} is allowed")
    single = [timed(many, ensembles, ONE) for _ in range(ROUNDS)]
    whole = [timed(many, ensembles, None) for _ in range(5)]
    began = time.perf_counter()
    for scores in batch.values():
        strongest_reasons(scores)
    reasons = time.perf_counter() - began
    p99, all_of_them = 1e3 * float(np.quantile(single, 0.99)), float(np.median(whole))
    wanted = Wanted()
    count = sum(len(e.champions) for e in ensembles)
    print(f"{len(HORIZONS)} horizons, {count} models, {FEATURES} features")
    print(f"one symbol differs from the batch by {worst:9.1e}   {wanted.at_most(worst, AGREED)}")
    print(f"one symbol, median              {np.median(single) * 1e3:9.1f} ms")
    told = wanted.at_most(p99, MOST_OF_ONE_MS)
    print(f"one symbol, 99th percentile     {p99:9.1f} ms   {told}")
    told = wanted.at_most(all_of_them, MOST_OF_ALL)
    print(f"{SYMBOLS} symbols                     {all_of_them:9.3f} s    {told}")
    print(f"their reasons, beside           {reasons:9.3f} s")
    wanted.end()


def timed(
    features: dict[Timeframe, pl.DataFrame], ensembles: list[Ensemble], symbols: list[str] | None
) -> float:
    began = time.perf_counter()
    score(features, ensembles, symbols)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
