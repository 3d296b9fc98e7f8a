"""Many resamples at once are the same bootstrap as one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation import stationary_indices
from models.resampling import stationary_counts, stationary_rows


@given(
    n=st.integers(1, 30),
    length=st.one_of(st.none(), st.integers(1, 70)),
    block=st.floats(0.0, 40.0),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, derandomize=True)
def test_each_resample_has_the_length_asked_for(
    n: int, length: int | None, block: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    counts = stationary_counts(n, block=block, rng=rng, length=length, draws=20)
    assert counts.shape == (20, n)
    assert (counts >= 0.0).all()
    assert (counts.sum(axis=1) == (n if length is None else length)).all()


@pytest.mark.parametrize("block", [1.0, 4.0, 15.0])
def test_it_spreads_as_one_resample_at_a_time(block: float) -> None:
    """The sums of a slow wave vary alike: two times 4,000 agree to 13 percent at 4 errors."""
    wave = np.sin(np.arange(60) / 6.0) + np.arange(60) / 40.0
    together = stationary_counts(60, block=block, rng=np.random.default_rng(1), draws=4000) @ wave
    rng = np.random.default_rng(2)
    alone = [wave[stationary_indices(60, block, rng)].sum() for _ in range(4000)]
    assert together.mean() == pytest.approx(np.mean(alone), abs=6 * np.std(alone) / 4000**0.5)
    assert together.var() == pytest.approx(np.var(alone), rel=0.13)


def test_half_as_long_a_resample_varies_twice_as_much() -> None:
    values = np.random.default_rng(3).standard_normal(200)
    spread = [
        (
            stationary_counts(
                200, block=1.0, rng=np.random.default_rng(4), length=length, draws=4000
            )
            @ values
            / length
        ).var()
        for length in (100, 200)
    ]
    assert spread[0] / spread[1] == pytest.approx(2.0, rel=0.13)


def test_one_block_is_a_run_of_the_series() -> None:
    counts = stationary_counts(10, block=1e9, rng=np.random.default_rng(5), length=4, draws=200)
    runs = {tuple((np.arange(4) + s) % 10) for s in range(10)}
    assert {tuple(sorted(np.flatnonzero(c))) for c in counts} == {tuple(sorted(r)) for r in runs}


def test_rows_are_wrapped_blocks_and_counts_are_their_counts() -> None:
    rows = stationary_rows(9, block=4.0, rng=np.random.default_rng(3), draws=200)
    counts = stationary_counts(9, block=4.0, rng=np.random.default_rng(3), draws=200)
    assert np.array_equal(np.stack([np.bincount(r, minlength=9) for r in rows]), counts)
    # After a session comes the next one in three of four steps, and by chance in one of nine.
    follows = (np.diff(rows, axis=1) % 9 == 1).mean()
    assert follows == pytest.approx(0.75 + 0.25 / 9, abs=0.05)
