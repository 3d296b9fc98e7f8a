"""The acceptance of the pipeline's statistics: what is there is found, what is not is not.

No seed is chosen: 0 with alpha (0 to 2 with ``ISOBAR_RELIABILITY=1``), 0 to 19 without.
``make evidence`` takes many more.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from market.horizons import find_horizon
from market.synthetic import SyntheticMarket
from models.evaluation import Estimate, skill
from models.registry import FAMILIES, families_of
from models.spec import Family
from models.splits import PurgedWalkForward
from models.walk_forward import walk_forward
from signals.weighting import blend_walk_forward
from tests.effort import repeats
from tests.families import quick
from tests.markets import dataset_of, labels_of, market, regimes_of

DAILY = find_horizon("1d")
BLOCK_SESSIONS = 5.0


def ensemble_skill(
    of: SyntheticMarket, families: tuple[Family, ...], splitter: PurgedWalkForward
) -> tuple[Estimate, pl.DataFrame]:
    """Out-of-sample rank IC of the ensemble, blended as it would have been at the time."""
    labels = labels_of(of)
    out = walk_forward(dataset_of(of), families, splitter, seed=1, band_bps=5.0)
    blended = blend_walk_forward(out.predictions, labels, regimes_of(of))
    outcome = labels.select("symbol", "bar_end", "excess_return")
    scored = blended.join(outcome, on=["symbol", "bar_end"], how="left")
    return skill(scored, seed=1, periods_per_block=BLOCK_SESSIONS), scored


@pytest.mark.parametrize("seed", range(repeats(3, 1)))
def test_planted_alpha_is_found(seed: int) -> None:
    of = market(seed=seed, symbols=30, sessions=1008, alpha=(("1d", 0.05),))
    splitter = PurgedWalkForward(DAILY, min_train_sessions=378, test_sessions=63)
    families = quick(families_of(DAILY), trees=150)
    found, scored = ensemble_skill(of, families, splitter)
    assert found.periods > 550
    assert found.mean >= 0.02
    assert found.low > 0.0
    truth = of.truth.select("symbol", "expected_return_bps", bar_end="as_of")
    both = scored.join(truth, on=["symbol", "bar_end"], suffix="_true")
    agreement = both.select(
        pl.corr("expected_return_bps", "expected_return_bps_true", method="spearman")
    ).item()
    assert agreement > 0.1, "the forecasts resemble what was planted"


def test_where_nothing_is_planted_nothing_is_found() -> None:
    """With 95 percent intervals one of 20 excludes zero on average; five or more: 0.3 percent."""
    trees = FAMILIES["lightgbm"]
    cheap = (FAMILIES["linear"], replace(trees, defaults={**trees.defaults, "trees": 40}))
    splitter = PurgedWalkForward(DAILY, min_train_sessions=189, test_sessions=105)
    found = [
        ensemble_skill(market(seed=seed, symbols=12, sessions=420), cheap, splitter)[0]
        for seed in range(20)
    ]
    assert all(e.periods > 180 for e in found)
    assert sum(e.excludes_zero for e in found) <= 4, found
