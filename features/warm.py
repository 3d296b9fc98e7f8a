"""Compile every kernel once and keep the machine code: the last step of an installation.

Without it, whoever computes features first waits for the kernels that they use.
"""

from __future__ import annotations

from features.compute import compute_features
from features.labels import label_frame
from features.registry import REGISTRY
from features.spec import Stage
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate


def warm() -> None:
    """Compute every registered feature and label on a few generated bars."""
    bars = generate(SyntheticSpec(symbols=2, sessions=80, minute_sessions=0)).daily
    compute_features(bars, [f for f in REGISTRY if f.stage is not Stage.AS_OF])
    label_frame(bars, find_horizon("1d"), band_bps=1.0)


if __name__ == "__main__":
    warm()
