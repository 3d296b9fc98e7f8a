"""Neural families: seconds of an epoch and what of it is arithmetic, a fit, 500 forecasts."""

import time
from collections.abc import Callable

import numpy as np
import polars as pl
import torch

from benchmarks.wanted import Wanted
from models.dataset import lines_of
from models.families.networks import BODIES, WindowNetwork
from models.families.neural import NeuralForecaster
from models.families.neural_settings import settings_of
from models.families.neural_training import (
    Rows,
    Trainer,
    batches,
    find_machine,
    fit_scaler,
    steady,
)
from models.registry import FAMILIES
from models.spec import Labelled, Sample

LEAST_ARITHMETIC, MOST_FIT_SECONDS, MOST_FORECAST_MS = 80, 40, 50
ROWS, HELD, FEATURES, SYMBOLS = 100_000, 20_000, 150, 200


def lessons() -> tuple[Labelled, Labelled]:
    rng = np.random.default_rng(1)
    total = ROWS + HELD
    x = rng.standard_normal((total, FEATURES), dtype=np.float32)
    y = np.clip(0.05 * x[:, 0] + rng.standard_normal(total), -4.0, 4.0)
    x[rng.random(x.shape) < 0.02] = np.nan
    day, symbol = np.divmod(np.arange(total), SYMBOLS)
    sessions = np.datetime64("2020-01-01") + day
    keys = pl.DataFrame({"symbol": symbol, "session": sessions, "bar_end": sessions})
    sample = Sample(x, np.arange(total), lines_of(keys))

    def part(rows: np.ndarray) -> Labelled:
        ones = np.ones(len(rows))
        return Labelled(sample.take(rows), y[rows], ones, 0.1 * ones)

    return part(np.arange(ROWS)), part(np.arange(ROWS, total))


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    found: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return float(np.median(found))


def measure(name: str, train: Labelled, held: Labelled, wanted: Wanted) -> str:
    params, machine = FAMILIES[name].defaults, find_machine()
    of = settings_of(params)
    with steady(of.threads, machine.device):
        network = WindowNetwork(FEATURES, of, BODIES[name])
        fit_scaler(network, train)
        network.to(machine.device)
        rows = Rows.of(network, train, machine)
        trainer = Trainer(network, of, machine, len(train))
        order = torch.randperm(len(train))[: of.rows_per_epoch * machine.rows_factor]

        def gather() -> None:
            for _ in batches(rows, order, trainer.size):
                pass

        gather()
        gathering = seconds(gather)
        whole = seconds(lambda: trainer.epoch(rows, order))
    model = NeuralForecaster(name, params, 1)
    began = time.perf_counter()
    model.fit(train, held)
    fit = time.perf_counter() - began
    newest = held.sample.take(np.arange(500))
    forecast = seconds(lambda: model.predict(newest), 7)
    shares = seconds(lambda: model.contributions(newest))
    arithmetic, ms = 100 * (1 - gathering / whole), 1e3 * forecast
    return (
        f"{name:12} epoch of {len(order):,} rows {whole:5.2f} s, {arithmetic:.0f} % of it"
        f" arithmetic {wanted.at_least(arithmetic, LEAST_ARITHMETIC)}\n"
        f"             fit {fit:5.1f} s, {len(model.held_losses)} epochs"
        f" {wanted.at_most(fit, MOST_FIT_SECONDS)}\n"
        f"             500 forecasts {ms:4.0f} ms {wanted.at_most(ms, MOST_FORECAST_MS)},"
        f" their contributions {1e3 * shares:4.0f} ms"
    )


if __name__ == "__main__":
    wanted = Wanted()
    train, held = lessons()
    print(f"{ROWS:,} rows of {FEATURES} features, on {find_machine().device}")
    for family in BODIES:
        print(measure(family, train, held, wanted), flush=True)
    wanted.end()
