"""The parts' configurations made small enough for a test; the code is the same."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from evidence import (
    backtest_no_alpha_runs,
    backtest_planted_alpha_runs,
    no_alpha_runs,
    planted_alpha_runs,
    real_minute_runs,
)
from evidence.part import Run
from market.synthetic import SyntheticSpec, generate

_NETWORK = {"window": 3, "hidden": 4, "epochs": 1, "rows_per_epoch": 500}
_FEW = {"lstm": _NETWORK, "cnn": _NETWORK, "gradient_boosting": {"max_iter": 5}}

NO_ALPHA = {
    **no_alpha_runs.CONFIG,
    "seeds": 3,
    "symbols": 6,
    "sessions": 200,
    "features": ["core"],
    "min_train_sessions": 80,
    "test_sessions": 60,
    "params": _FEW,
}
PLANTED = {
    **planted_alpha_runs.CONFIG,
    "seeds": 2,
    "symbols": 8,
    "sessions": 200,
    "minute_sessions": 50,
    "features": ["core"],
    "rhythm": {"1d": [100, 80], "1h": [10, 40]},
    "families": ["linear", "lightgbm", "cnn"],
    "params": {**_FEW, "lightgbm": {"trees": 5}},
}
MINUTE = {
    **real_minute_runs.CONFIG,
    "horizons": ["15m"],
    "features": ["core"],
    "train_sessions": 6,
    "test_sessions": 12,
    "train_rows": 1_000,
    "params": {**_FEW, "lightgbm": {"trees": 5}},
}
BACKTEST_NO_ALPHA = {
    **backtest_no_alpha_runs.CONFIG,
    "seeds": 3,
    "symbols": 8,
    "sessions": 170,
    "min_train_sessions": 80,
    "test_sessions": 60,
    "params": _FEW,
}
BACKTEST_PLANTED = {
    **backtest_planted_alpha_runs.CONFIG,
    **{k: BACKTEST_NO_ALPHA[k] for k in ("sessions", "min_train_sessions", "test_sessions")},
    "seeds": 2,
    "symbols": 12,
    "alpha": {"1d": 0.3},
    "params": _FEW,
}


@lru_cache
def result_of(name: str) -> dict[str, Any]:
    """What a part measures with its small configuration, as the page is given it."""
    run = Run(Path(mkdtemp()))
    if name == "no_alpha":
        config, found = NO_ALPHA, no_alpha_runs.measure_with(NO_ALPHA, run)
    elif name == "backtest_no_alpha":
        config = BACKTEST_NO_ALPHA
        found = backtest_no_alpha_runs.measure_with(config, run)
    elif name == "backtest_planted_alpha":
        config = BACKTEST_PLANTED
        found = backtest_planted_alpha_runs.measure_with(config, run)
    elif name == "planted_alpha":
        config, found = PLANTED, planted_alpha_runs.measure_with(PLANTED, run)
    else:
        spec = SyntheticSpec(symbols=6, sessions=20, minute_sessions=18, seed=1)
        minutes = generate(spec).minute
        config, found = MINUTE, real_minute_runs.measure_with(MINUTE, run, minutes)
    return found | {
        "part": name,
        "config": config,
        "code": "0" * 12,
        "command": f"python -m evidence.run --part {name}",
        "machine": "2 cores",
        "date": "2026-01-01",
        "seconds": 100.0,
    }
