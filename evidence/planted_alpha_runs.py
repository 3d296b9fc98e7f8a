"""Markets with planted alpha, and what each family and ensemble finds of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from evidence.ensemble_gaps import EnsembleReport, MemberGap, ensemble_report
from evidence.part import Run
from evidence.seeds import over_seeds
from evidence.training import (
    Prepared,
    ensemble_of,
    predict_out_of_sample,
    prepare_synthetic,
    with_params,
)
from market.horizons import HORIZONS, Horizon, find_horizon
from market.synthetic import SyntheticMarket, SyntheticSpec, generate
from models.ensemble import META_ENGINE
from models.train import Rhythm
from signals.weighting import session_skill

NAME = "planted_alpha"
CONFIG: dict[str, Any] = {
    "seeds": 10,
    "symbols": 60,
    "sessions": 1008,
    "minute_sessions": 120,
    "alpha": {"1h": 0.05, "1d": 0.05},
    "features": ["core"],
    # First training window and sessions between trainings, by horizon.
    "rhythm": {"1d": [504, 252], "1h": [80, 40]},
    "families": [
        "linear",
        "xgboost",
        "lightgbm",
        "gradient_boosting",
        "random_forest",
        "lstm",
        "cnn",
        "transformer",
        "policy",
    ],
    "params": {
        "gradient_boosting": {"max_iter": 100},
        "lstm": {"window": 10, "hidden": 24, "epochs": 4, "rows_per_epoch": 12_000},
        "cnn": {"window": 10, "hidden": 24, "epochs": 4, "rows_per_epoch": 12_000},
        "transformer": {
            "window": 10,
            "hidden": 24,
            "layers": 1,
            "epochs": 4,
            "rows_per_epoch": 12_000,
        },
        "policy": {"steps": 8_192},
        "random_forest": {"n_estimators": 60},
    },
    "block_sessions": 5.0,
    "model_seed": 7,
}
TREES = ("xgboost", "lightgbm", "gradient_boosting", "random_forest")
ATTAINABLE = "attainable"


def measure(run: Run) -> dict[str, Any]:
    """Return what every seed and horizon gave, and what that is together."""
    return measure_with(CONFIG, run)


def measure_with(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """Return the result of another configuration: a smaller one is for tests."""
    found = {
        name: run.each_seed(
            config["seeds"], partial(one_seed, config, name), f"{NAME}, {name}", key=f"{name}-seed"
        )
        for name in config["rhythm"]
    }
    return {
        "horizons": {
            name: {"seeds": rows, **together(rows)} for name, rows in found.items() if rows
        }
    }


def groups() -> dict[str, tuple[tuple[str, ...], bool]]:
    """Return the families of each group of the horizons table, and whether it is stacked."""
    return {h.group: (h.families, h.stacked) for h in HORIZONS}


def one_seed(config: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """Return what families and ensembles find at one horizon of one market."""
    horizon = find_horizon(name)
    intraday = horizon.timeframe.is_intraday
    market = generate(
        SyntheticSpec(
            symbols=config["symbols"],
            sessions=config["sessions"],
            minute_sessions=config["minute_sessions"] if intraday else 0,
            seed=seed,
            alpha=config["alpha"],
        )
    )
    prepared = prepare_synthetic(market, horizon, config["features"])
    first, every = config["rhythm"][name]
    engines = predict_out_of_sample(
        prepared,
        horizon,
        with_params(config["families"], config["params"]),
        Rhythm(first, every),
        seed=config["model_seed"],
    )
    made = {
        group: (members, stacked)
        for group, (members, stacked) in groups().items()
        if set(members) <= set(config["families"])
    }
    blends = [
        ensemble_of(engines, prepared, members, stacked=stacked, name=group)
        for group, (members, stacked) in made.items()
    ]
    daily = session_rank_ics(pl.concat([engines, *blends]), prepared, market, horizon)
    means = dict(daily.group_by("engine").agg(pl.col("rank_ic").mean()).sort("engine").iter_rows())
    block = config["block_sessions"]
    return {
        "seed": seed,
        "rows": prepared.features.height,
        "features": len(prepared.names),
        "sessions": int(daily["session"].n_unique()),
        "forecasts": engines.height // len(config["families"]),
        "rank_ic": means,
        "reports": {
            name: _plain(ensemble_report(daily, name, members, seed=1, block=block))
            for group, (members, stacked) in made.items()
            for name in ([group, f"{group}.{META_ENGINE}"] if stacked else [group])
        },
    }


def session_rank_ics(
    predictions: pl.DataFrame, prepared: Prepared, market: SyntheticMarket, horizon: Horizon
) -> pl.DataFrame:
    """Return each engine's rank IC per session, and that of the truth on the same rows.

    As :func:`signals.weighting.session_skill` gives them; the truth's engine is ``attainable``.
    """
    truth = market.truth.filter(pl.col("horizon") == horizon.name).select(
        "symbol", pl.col("as_of").alias("bar_end"), "expected_return_bps"
    )
    keys = predictions.unique(["symbol", "bar_end"], maintain_order=True)
    known = keys.drop("expected_return_bps", "engine").join(truth, on=["symbol", "bar_end"])
    perfect = known.with_columns(pl.lit(ATTAINABLE).alias("engine")).select(predictions.columns)
    # The same rows for all: those whose true expectation is known.
    same = predictions.join(truth.select("symbol", "bar_end"), on=["symbol", "bar_end"], how="semi")
    outcome = prepared.labels.select("symbol", "bar_end", "label_known_at", "excess_return")
    return session_skill(pl.concat([same, perfect]).join(outcome, on=["symbol", "bar_end"]))


def _plain(report: EnsembleReport) -> dict[str, Any]:
    return {"hindsight": _gap(report.hindsight), "foresight": _gap(report.foresight)}


def _gap(gap: MemberGap) -> dict[str, Any]:
    e = gap.difference
    return {
        "member": gap.member,
        "mean": e.mean,
        "low": e.low if np.isfinite(e.low) else None,
        "high": e.high if np.isfinite(e.high) else None,
        "verdict": gap.verdict.value,
    }


def together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds: rank ICs, fractions of the attainable one, ensembles' gaps."""
    names = [n for n in found[0]["rank_ic"] if n != ATTAINABLE]
    perfect = [f["rank_ic"][ATTAINABLE] for f in found]
    engines = {}
    for name in names:
        values = [f["rank_ic"][name] for f in found]
        engines[name] = {
            "rank_ic": over_seeds(values),
            "fraction": over_seeds([v / p for v, p in zip(values, perfect, strict=True)]),
        }
    return {
        ATTAINABLE: over_seeds(perfect),
        "engines": engines,
        "reports": {
            name: {kind: _gaps([f["reports"][name][kind] for f in found]) for kind in kinds}
            for name, kinds in found[0]["reports"].items()
        },
    }


def _gaps(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    verdicts = [f["verdict"] for f in found]
    return {
        "difference": over_seeds([f["mean"] for f in found]),
        "verdicts": {v: verdicts.count(v) for v in ("better", "within noise", "worse", "unknown")},
    }
