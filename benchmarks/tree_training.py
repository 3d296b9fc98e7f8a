"""Training of trees beside the library's own time on a ready matrix, in the same run.

A model is fitted as the walk-forward fits it: rows of a dataset are chosen and weighted, the
library learns, and how wide its forecasts are is measured. The library's time is what passes
inside its own constructors and training. That the library, called again by itself with the very
same arguments, gives the same forecasts is checked before any ratio is printed.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import lightgbm as lgb
import numpy as np
import polars as pl
import xgboost as xgb
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from benchmarks.scoring import bars
from benchmarks.wanted import Wanted
from market.timeframes import Timeframe
from models.dataset import VOLATILITY, Dataset, assemble
from models.fit import FittedModel, fit_lesson, prepare
from models.registry import FAMILIES

SYMBOLS, SESSIONS, FEATURES, ROUNDS = 300, 500, 150, 3
MOST = 1.1
# What each library is entered by.
ENTRANCES: dict[str, tuple[tuple[Any, str], ...]] = {
    "xgboost": ((xgb, "QuantileDMatrix"), (xgb, "train")),
    "lightgbm": ((lgb, "Dataset"), (lgb, "train")),
    "gradient_boosting": ((HistGradientBoostingRegressor, "fit"),),
    "random_forest": ((RandomForestRegressor, "fit"),),
}


def dataset() -> Dataset:
    """Return features and labels of noise, a label in a hundred missing."""
    grid = bars(Timeframe.D1, SESSIONS)
    rng = np.random.default_rng(1)
    rows = len(grid) * SYMBOLS
    when = pl.DataFrame(
        grid, schema={"session": pl.Date, "bar_end": pl.Datetime("us", "UTC")}, orient="row"
    )
    names = [f"feature_{k:03d}" for k in range(FEATURES)]
    keys = when.join(pl.DataFrame({"symbol": [f"S{k:03d}" for k in range(SYMBOLS)]}), how="cross")
    values = rng.standard_normal((rows, FEATURES), dtype=np.float32)
    returns = np.where(rng.random(rows) < 0.01, np.nan, 0.01 * rng.standard_normal(rows))
    features = keys.with_columns(
        pl.col("bar_end").alias("as_of"), pl.lit(0.01).alias(VOLATILITY)
    ).hstack(pl.DataFrame(values, schema=names))
    labels = keys.with_columns(
        label_known_at=pl.col("bar_end") + dt.timedelta(days=1),
        forward_return=pl.Series(returns).fill_nan(None),
        excess_return=pl.Series(returns).fill_nan(None),
    )
    return assemble(features, labels, names, steps=1)


class Clock:
    """Adds up what passes inside a library, and keeps how it was called."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began
                self.calls.append((work, args, kwargs))

        return call


@contextmanager
def clocked(family: str) -> Iterator[Clock]:
    clock = Clock()
    with ExitStack() as stack:
        for owner, name in ENTRANCES[family]:
            stack.enter_context(patch.object(owner, name, clock.timed(getattr(owner, name))))
        yield clock


def fit(data: Dataset, family: str) -> FittedModel:
    lesson = prepare(data, np.arange(len(data)), horizon="1d", band_bps=5.0)
    return fit_lesson(lesson, FAMILIES[family], seed=1, data_hash="")


def again(family: str, clock: Clock) -> Any:
    """Let the library do by itself what it was asked to do."""
    if family in ("xgboost", "lightgbm"):
        (make, args, kwargs), (learn, (params, _, trees), _) = clock.calls
        return learn(params, make(*args, **kwargs), trees)
    ((learn, (model, *args), kwargs),) = clock.calls
    return learn(type(model)(**model.get_params()), *args, **kwargs)


def measure(data: Dataset, family: str) -> float:
    """Print the ratio of a family; return it."""
    ratios, whole = [], []
    for _ in range(ROUNDS):
        with clocked(family) as clock:
            began = time.perf_counter()
            model = fit(data, family)
            whole.append(time.perf_counter() - began)
        ratios.append(whole[-1] / clock.seconds)
    rows = data.sample(np.arange(0, len(data), 97))
    alone = FAMILIES[family].build(dict(model.params), 1, again(family, clock))
    if not np.array_equal(alone.predict(rows).mean, model.forecaster.predict(rows).mean):
        raise SystemExit(f"{family}: the library by itself forecasts something else")
    ratio = float(np.median(ratios))
    print(f"{family:18} {np.median(whole):6.2f} s, {ratio:5.3f} of the library's own", flush=True)
    return ratio


def main() -> None:
    """Measure every family of trees."""
    data = dataset()
    print(f"{len(data):,} rows of {FEATURES} features; medians of {ROUNDS} rounds")
    worst = max(measure(data, family) for family in ENTRANCES)
    wanted = Wanted()
    print(f"the worst ratio is {worst:.3f}   {wanted.at_most(worst, MOST)}")
    wanted.end()


if __name__ == "__main__":
    main()
