"""A small panel with one planted relation, a family whose single parameter finds it, a search."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from market import calendar
from market.horizons import find_horizon
from models.dataset import Dataset, lines_of
from models.inner_windows import InnerWindows
from models.spec import Family, Forecast, Labelled, Sample
from models.tuned import Tuned
from models.tuning import Budget, tune

DAILY = find_horizon("1d")
NAMES = ("signal", "noise", "other", "row")
FIRST = dt.date(2023, 1, 3)
WINDOWS = InnerWindows(windows=5, test_sessions=10)
BAND = 5.0


def sessions_from(first: dt.date, count: int) -> list[dt.date]:
    days = [first]
    while len(days) < count:
        days.append(calendar.next_session(days[-1]))
    return days


def planted(
    *, strength: float = 0.5, symbols: int = 6, sessions: int = 120, seed: int = 0
) -> Dataset:
    """Outcome = strength * signal + noise; ``row`` is the number of the row."""
    rng = np.random.default_rng(seed)
    n = symbols * sessions
    days = sessions_from(FIRST, sessions + 1)
    ends = [calendar.session_close(day) for day in days]
    keys = pl.DataFrame(
        {
            "symbol": [f"S{k % symbols}" for k in range(n)],
            "session": [days[k // symbols] for k in range(n)],
            "bar_end": [ends[k // symbols] for k in range(n)],
            "as_of": [ends[k // symbols] for k in range(n)],
            # The last session's labels are not known.
            "label_known_at": [
                ends[k // symbols + 1] if k // symbols < sessions - 1 else None for k in range(n)
            ],
        },
        schema_overrides={
            name: pl.Datetime("us", "UTC") for name in ("bar_end", "as_of", "label_known_at")
        },
    )
    x = rng.standard_normal((n, len(NAMES))).astype(np.float32)
    x[:, 3] = np.arange(n)
    y = strength * x[:, 0].astype(np.float64) + rng.standard_normal(n)
    y[keys["label_known_at"].is_null().to_numpy()] = np.nan
    unit = np.full(n, 0.01)
    outcome = y * unit
    return Dataset(keys, x, NAMES, y, unit, unit, outcome, outcome, lines_of(keys), steps=1)


@dataclass
class Blend:
    """Forecasts ``mix`` of the first feature and the rest of the second; learns nothing."""

    mix: float
    fits: list[np.ndarray] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        self.fits.append(train.sample.matrix()[:, -1].astype(int))

    def predict(self, sample: Sample) -> Forecast:
        x = sample.matrix()
        self.predicted.append(x[:, -1].astype(int))
        second = x[:, 1] if x.shape[1] > 2 else np.zeros(len(x))
        return Forecast((self.mix * x[:, 0] + (1.0 - self.mix) * second).astype(np.float64))

    def contributions(self, sample: Sample) -> np.ndarray:
        raise NotImplementedError

    def native(self) -> Any:
        return None


def blend_family(made: list[Blend] | None = None, mix: float = 0.2, wrap: Any = Blend) -> Family:
    """The family of :class:`Blend`; every model that is built is put into ``made``."""

    def build(params: Any, seed: int, native: Any) -> Blend:
        model = wrap(float(params["mix"]))
        if made is not None:
            made.append(model)
        return model

    return Family("blend", "sklearn", build, {"mix": mix})


def mix_space(trial: Any) -> dict[str, float]:
    return {"mix": trial.suggest_float("mix", 0.0, 1.0)}


class Clock:
    """Seconds that pass only when a model is fitted."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def family(self, seconds: float) -> Any:
        clock = self

        class Slow(Blend):
            def fit(self, train: Any, held: Any = None) -> None:
                clock.now += seconds
                super().fit(train, held)

        return blend_family(wrap=Slow)


def moment(data: Any, session: int = -1) -> Any:
    return data.keys["as_of"].unique().sort()[session]


def search(data: Any = None, family: Any = None, **changed: Any) -> Tuned:
    """Search the family's parameter on the panel, unless told otherwise."""
    data = planted() if data is None else data
    options: dict[str, Any] = {
        "horizon": DAILY,
        "as_of": moment(data),
        "budget": Budget(trials=8),
        "study": "s",
        "storage": None,
        "seed": 1,
        "band_bps": BAND,
        "space": mix_space,
        "windows": WINDOWS,
    } | changed
    return tune(data, blend_family() if family is None else family, **options)
