"""A policy learned by reinforcement: short, nothing or long, rewarded after costs.

Proximal policy optimisation (Schulman et al., 2017) as stable-baselines3 has it. The forecast is
what the policy would do from no position: its action probabilities are those of the classes, and
the expected return grows with how much more it would rather be long than short.
"""

from __future__ import annotations

from typing import Any

from models.spec import Family, Forecaster, Params

DEFAULTS: Params = {
    "steps": 24_576,
    "periods": 12,
    "hidden": 32,
    "learning_rate": 3e-4,
    "gamma": 0.9,
    "ent_coef": 0.01,
    "weight_decay": 1e-2,
    "epochs": 4,
}


def build(params: Params, seed: int, native: Any = None) -> Forecaster:
    """Return a forecaster; PyTorch and stable-baselines3 are only loaded for one."""
    from models.families.policy_learning import PolicyForecaster

    return PolicyForecaster(params, seed, native)


FAMILY = Family("policy", "pytorch", build, DEFAULTS)
