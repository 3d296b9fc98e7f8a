"""The policy: its market, what it is paid, and that it leaves the world as it was."""

from __future__ import annotations

import random

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import ModelError
from models.dataset import lines_of
from models.families.policy import FAMILY
from models.families.policy_market import LIMIT, HoldingsEnv, follow_rows
from models.spec import Labelled, Sample
from tests.contracts.test_forecaster import keys_of

QUICK = FAMILY.defaults | {"steps": 8192}


def lesson(rows: int = 600, seed: int = 0, cost: float = 0.2, steps: int = 1) -> Labelled:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 3)).astype(np.float32)
    y = np.clip(x[:, 0] + 0.3 * rng.standard_normal(rows), -4, 4)
    sample = Sample(x, np.arange(rows), lines_of(keys_of(rows)))
    return Labelled(sample, y, np.ones(rows), np.full(rows, cost), steps)


def some(of: Labelled, places: np.ndarray) -> Labelled:
    return Labelled(
        of.sample.take(places), of.y[places], of.weight[places], of.band[places], of.steps
    )


@given(st.integers(1, 7), st.sets(st.integers(0, 119), min_size=1))
@settings(max_examples=40)
def test_the_row_one_horizon_later_is_found(steps: int, chosen: set[int]) -> None:
    """Rows are ten symbols a day, in order of time: the same symbol is ten rows on."""
    places = np.array(sorted(chosen))
    got = follow_rows(some(lesson(120, steps=steps), places))
    where = {row: k for k, row in enumerate(places.tolist())}
    wanted = [where.get(row + 10 * steps, -1) for row in places.tolist()]
    assert got.tolist() == wanted


def test_without_earlier_bars_nothing_follows() -> None:
    of = lesson(30)
    alone = Labelled(Sample.of(of.sample.x), of.y, of.weight, of.band)
    assert follow_rows(alone).tolist() == [-1] * 30


def test_it_is_an_environment_as_gymnasium_wants_one() -> None:
    of = lesson(100)
    seen = np.clip(of.sample.x, -LIMIT, LIMIT)
    market: gymnasium.Env = HoldingsEnv(seen, of, follow_rows(of), periods=5)
    check_env(market, skip_render_check=True)


def test_rewards_are_returns_after_what_changing_costs() -> None:
    of = lesson(100, cost=0.5)
    follow = follow_rows(of)
    market = HoldingsEnv(np.clip(of.sample.x, -LIMIT, LIMIT), of, follow, periods=6)
    rng, ended, cut = np.random.default_rng(4), 0, 0
    for episode in range(40):
        seen, _ = market.reset(seed=episode)
        at = int(np.flatnonzero((of.sample.x == seen[:3]).all(axis=1))[0])
        held, over, steps = 0, False, 0
        assert seen[3] == 0.0
        while not over:
            action = int(rng.integers(3))
            seen, reward, terminated, truncated, _ = market.step(action)
            wanted = (action - 1) * of.y[at] - abs(action - 1 - held) * 0.25
            assert reward == pytest.approx(wanted)
            held, steps = action - 1, steps + 1
            assert seen[3] == held
            over = terminated or truncated
            ended, cut = ended + terminated, cut + truncated
            assert steps <= 6
            if not over:
                at = follow[at]
                assert (of.sample.x[at] == seen[:3]).all()
    assert ended > 0
    assert cut > 0


def test_where_nothing_pays_its_costs_it_does_nothing() -> None:
    dear = FAMILY.build(QUICK | {"ent_coef": 0.0, "learning_rate": 3e-3, "steps": 24_576}, 1, None)
    dear.fit(lesson(cost=12.0))
    cheap = FAMILY.build(QUICK, 1, None)
    cheap.fit(lesson(cost=0.0))
    sample = lesson(seed=5).sample
    idle, busy = (m.predict(sample).classes[:, 1].mean() for m in (dear, cheap))
    assert idle > 0.9
    assert busy < 0.5


def test_its_forecast_is_what_it_would_do() -> None:
    model = FAMILY.build(QUICK, 2, None)
    of = lesson()
    model.fit(of)
    got = model.predict(of.sample)
    assert got.classes.sum(axis=1) == pytest.approx(np.ones(len(of)))
    lean = got.classes[:, 2] - got.classes[:, 0]
    assert np.corrcoef(lean, of.sample.x[:, 0])[0, 1] > 0.8
    assert np.corrcoef(got.mean, lean)[0, 1] == pytest.approx(1.0)
    # Drawn toward nothing: less than what the training rows showed.
    assert 0.0 < np.abs(got.mean).mean() < np.abs(of.y).mean()


def test_it_disturbs_nobodys_randomness() -> None:
    random.seed(3)
    np.random.seed(4)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    FAMILY.build(QUICK, 1, None).fit(lesson(200))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before
    assert torch.get_num_threads() == threads


def test_what_was_stored_with_other_parameters_is_refused() -> None:
    model = FAMILY.build(QUICK, 1, None)
    model.fit(lesson(200))
    with pytest.raises(ModelError, match="no policy of these parameters"):
        FAMILY.build(QUICK | {"hidden": 8}, 1, model.native())
