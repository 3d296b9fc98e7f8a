"""Pictures of a tear sheet and a comparison, of a synthetic market, for the README.

``python -m evidence.backtest_pictures`` draws ``docs/images/tear-sheet.png`` and others with a
headless Chromium. The forecasts know the planted alpha through noise, so nothing here says what
Isobar's models are worth.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from backtest.benchmark import find_benchmark
from backtest.comparison import Run, render_comparison
from backtest.metrics import compute_metrics, session_curve
from backtest.overfitting import Trials, compare_engines, judge_overfitting
from backtest.simulate import simulate
from backtest.simulation import Simulation
from backtest.tearsheet import render_tear_sheet
from evidence.code_version import ROOT
from execution.risk import RiskLimits
from execution.targets import TargetRules
from features.labels import forward_returns
from features.regime import classify_regimes
from market.actions import forward_adjust, session_factors
from market.costs import CostModel
from market.errors import UsageError
from market.horizons import find_horizon
from market.schema import conform
from market.synthetic import SyntheticMarket, SyntheticSpec, generate
from models.forecast import PREDICTION_SCHEMA
from signals.schema import ENSEMBLE_ENGINE

IMAGES = ROOT / "docs" / "images"
DESKTOP, PHONE = (1200, 1500), (390, 1500)
_DAY = find_horizon("1d")
_SEED = 7
_NOISE = {"ensemble": 1.0, "linear": 1.6, "lstm": 2.4}
_SECTORS = ("Energy", "Health", "Technology", "Utilities")


def main(arguments: list[str] | None = None) -> None:
    """Render the pages and photograph them."""
    parser = argparse.ArgumentParser(prog="python -m evidence.backtest_pictures")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    parser.add_argument("--pages", type=Path, help="keep the pages in this folder")
    asked = parser.parse_args(arguments)
    pages = render_pages()
    with tempfile.TemporaryDirectory() as scratch:
        for name, page in pages.items():
            path = (asked.pages or Path(scratch)) / f"{name}.html"
            path.write_text(page, "utf-8")
            photograph(path, asked.folder / f"{name}.png", DESKTOP)
        sheet = (asked.pages or Path(scratch)) / "tear-sheet.html"
        photograph(sheet, asked.folder / "tear-sheet-phone.png", PHONE)


def photograph(page: Path, picture: Path, size: tuple[int, int], *, is_dark: bool = False) -> None:
    """Write a picture of the top of a page, of this width and height in pixels.

    The page stands in a frame of that width: a browser without a screen lays pages out before it
    knows that its window is narrow.

    Raises
    ------
    UsageError
        When there is no Chromium.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise UsageError("no browser to draw with", remedy="install chromium")
    frame = page.with_suffix(".frame.html")
    frame.write_text(
        "<!doctype html><body style='margin:0'>"
        f"<iframe src='{page.name}' style='border:0;width:{size[0]}px;height:{size[1]}px'>"
    )
    theme = ["--blink-settings=preferredColorScheme=0"] if is_dark else []
    subprocess.run(
        [
            browser,
            *theme,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=8000",
            f"--window-size={size[0]},{size[1]}",
            f"--screenshot={picture}",
            frame.resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
    )
    frame.unlink()


def render_pages(spec: SyntheticSpec | None = None) -> dict[str, str]:
    """Return a tear sheet and a comparison of two, on a synthetic market."""
    market = generate(
        spec or SyntheticSpec(symbols=30, sessions=700, minute_sessions=0, seed=_SEED)
    )
    engines = {name: _forecasts(market, name, noise) for name, noise in _NOISE.items()}
    adjusted = forward_adjust(
        market.daily, session_factors(market.daily, market.splits, market.dividends)
    )
    made = {name: _simulate(market, rows) for name, rows in engines.items() if name != "lstm"}
    scored = pl.concat(engines.values()).join(
        forward_returns(adjusted, _DAY).select("symbol", "bar_end", "excess_return"),
        on=["symbol", "bar_end"],
        how="left",
    )
    metrics = {n: _metrics(market, s, scored, adjusted, n) for n, s in made.items()}
    sheet = made["ensemble"]
    return {
        "tear-sheet": render_tear_sheet(
            metrics["ensemble"],
            sheet,
            title="Walk-forward backtest, horizon 1d",
            subtitle=f"{market.spec.symbols} synthetic symbols, forecasts that know the planted "
            "alpha through noise",
            benchmark=_benchmark(adjusted, sheet)[1],
        ),
        "backtest-comparison": render_comparison(
            [Run(n, metrics[n], session_curve(s)) for n, s in made.items()],
            title="Backtests side by side",
            seed=_SEED,
        ),
    }


def _forecasts(market: SyntheticMarket, engine: str, noise: float) -> pl.DataFrame:
    """Return the truth with noise of its own size as an engine's predictions."""
    rng = np.random.default_rng([_SEED, len(engine)])
    truth = market.truth.filter(pl.col("horizon") == "1d").sort("as_of", "symbol")
    spread = float(truth["expected_return_bps"].std())
    expected = 4.0 * (
        truth["expected_return_bps"] + noise * spread * rng.standard_normal(len(truth))
    )
    confidence = 0.36 + 0.3 * (expected.abs() / expected.abs().max()).to_numpy()
    rest = (1.0 - confidence) / 2.0
    long = (expected > 0.0).to_numpy()
    closes = truth["as_of"]
    return conform(
        truth.select(
            "symbol",
            "session",
            closes.alias("bar_end"),
            closes.alias("as_of"),
            "horizon",
            pl.lit(engine if engine != "ensemble" else ENSEMBLE_ENGINE).alias("engine"),
            pl.lit("truth with noise").alias("model_version"),
            pl.Series("p_short", np.where(long, rest, confidence)),
            pl.Series("p_neutral", rest),
            pl.Series("p_long", np.where(long, confidence, rest)),
            expected.alias("expected_return_bps"),
            pl.lit(150.0).alias("volatility_bps"),
        ),
        PREDICTION_SCHEMA,
        "predictions",
    )


def _simulate(market: SyntheticMarket, predictions: pl.DataFrame) -> Simulation:
    return simulate(
        predictions.with_columns(pl.lit(ENSEMBLE_ENGINE).alias("engine")),
        market.daily,
        horizons=[_DAY],
        regimes=classify_regimes(market.daily),
        rules=TargetRules(long_only=False),
        limits=RiskLimits(allow_short=True),
        costs=CostModel(),
        band_bps=6.0,
        starting_cash_usd=1_000_000.0,
        splits=market.splits,
        dividends=market.dividends,
    )


def _benchmark(adjusted: pl.DataFrame, simulation: Simulation) -> tuple[str, pl.DataFrame]:
    return find_benchmark(adjusted, session_curve(simulation)["session"].to_list())


def _metrics(
    market: SyntheticMarket,
    simulation: Simulation,
    scored: pl.DataFrame,
    adjusted: pl.DataFrame,
    engine: str,
) -> Mapping[str, object]:
    name, held = _benchmark(adjusted, simulation)
    symbols = market.daily["symbol"].unique().sort()
    sectors = [_SECTORS[k % len(_SECTORS)] for k in range(len(symbols))]
    metrics = compute_metrics(
        simulation,
        scored.filter(pl.col("engine") == engine),
        horizons=[_DAY],
        seed=_SEED,
        benchmark=held,
        benchmark_name=name,
        regimes=classify_regimes(market.daily),
        sectors=pl.DataFrame({"symbol": symbols, "sector": sectors}),
    )
    returns = session_curve(simulation)["equity_usd"].pct_change().drop_nulls().to_numpy()
    trials = Trials(0, len(_NOISE), 0, 1, (), "this picture: the engines it compares")
    if (stopped := simulation.stopped_from) is not None:
        metrics["stopped_from"] = stopped.isoformat()
    metrics["overfitting"] = judge_overfitting(returns, trials, compare_engines(scored, [_DAY]))
    return metrics


if __name__ == "__main__":
    main()
