"""Named sets of settings to begin from; whatever a file or the environment says comes before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from market.errors import SettingsError
from market.horizons import find_horizon
from market.near_names import did_you_mean

DEMO_HORIZONS = ("5m", "15m", "1h", "4h", "1d", "14d", "1M")
"""One of each group, in the order of their length."""

SMALL: dict[str, dict[str, float]] = {
    "lstm": {"window": 10, "hidden": 24, "epochs": 3, "rows_per_epoch": 10_000},
    "cnn": {"window": 10, "hidden": 24, "epochs": 3, "rows_per_epoch": 10_000},
    "transformer": {"window": 10, "hidden": 24, "layers": 1, "epochs": 3, "rows_per_epoch": 10_000},
    "gradient_boosting": {"max_iter": 50, "learning_rate": 0.06},
    "policy": {"steps": 8_192},
    "random_forest": {"n_estimators": 40},
    "xgboost": {"trees": 75, "eta": 0.06},
    "lightgbm": {"trees": 75, "learning_rate": 0.06},
}
"""Parameters by family with which everything is trained within minutes on two cores."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings that belong together.

    Attributes
    ----------
    name : str
        As ``profile`` names it.
    meaning : str
        Whom it is for, in a sentence.
    values : mapping
        As ``isobar.toml`` would say them.
    """

    name: str
    meaning: str
    values: Mapping[str, Any]


def _demo() -> dict[str, Any]:
    return {
        # Features of so many of the newest sessions are enough to train on.
        "features": {"newest_sessions": {"1m": 45, "5m": 50}},
        "models": {
            "horizons": list(DEMO_HORIZONS),
            # Trained seldom, and on a part of the rows of the shortest bars.
            "matrix_gb": 0.1,
            "daily_test_sessions": 304,
            "intraday_test_sessions": 60,
            "tuned": {
                name: {f: {"params": SMALL[f]} for f in find_horizon(name).families if f in SMALL}
                for name in DEMO_HORIZONS
            },
        },
        "trading": {"enabled": True},
        # A day's signals may all be to sell: the demo is to show what becomes of them, too.
        "targets": {"long_only": False},
        "risk": {"allow_short": True},
    }


PROFILES: Mapping[str, Profile] = {
    p.name: p
    for p in (
        Profile(
            "demo",
            "A few symbols, small models: everything within minutes on two cores. Not to trade on.",
            _demo(),
        ),
        Profile(
            "paper",
            "Scheduled runs send their orders to the paper account.",
            {"trading": {"enabled": True, "mode": "paper"}},
        ),
        Profile(
            "live",
            "Scheduled runs send their orders to the live account that ISOBAR_ALLOW_LIVE names, "
            "within closer limits.",
            {
                "trading": {"enabled": True, "mode": "live", "late_after_minutes": 15},
                "risk": {
                    "order_notional_usd": 25_000,
                    "position_share": "0.10",
                    "gross_share": "1.0",
                    "net_share": "1.0",
                    "daily_loss_share": "0.02",
                    "drawdown_share": "0.10",
                    "batch_late_seconds": 900.0,
                },
            },
        ),
        Profile(
            "cluster",
            "Several machines: lake in a bucket, ledger on PostgreSQL, trainings and backfills on"
            " Ray. Name lake_url, s3, ledger_url, mlflow_url and cluster.ray_address besides.",
            {
                "cluster": {"training_cpus": 8.0, "training_memory_gb": 32.0, "bulk_cpus": 2.0},
                "models": {"memory_gb": 32.0},
                "logs": {"stdout": True},
            },
        ),
    )
}


def find_profile(name: str) -> Profile:
    """Return the profile of a name.

    Raises
    ------
    SettingsError
        When there is none; with near names.

    Examples
    --------
    >>> find_profile("paper").values["trading"]["mode"]
    'paper'
    """
    if name in PROFILES:
        return PROFILES[name]
    raise SettingsError(
        "unknown profile",
        got=name,
        allowed=", ".join(PROFILES),
        remedy=did_you_mean(name, PROFILES, "name one of these, or none"),
    )
