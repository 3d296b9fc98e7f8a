"""The neural families: what they can learn, what they must not see, and that it repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from market.errors import ModelError
from models.families import cnn, linear, lstm, neural, transformer
from models.families.neural import NeuralForecaster
from models.families.neural_training import Machine
from models.families.row_scaling import scale_rows
from models.spec import Family, Labelled, Lines, Sample

FAMILIES = (lstm.FAMILY, cnn.FAMILY, transformer.FAMILY)
SYMBOLS = 10
SMALL = {"window": 8, "hidden": 16, "dropout": 0.1, "learning_rate": 0.01, "epochs": 8}


@dataclass(frozen=True)
class World:
    """Symbols side by side, a row of each per day."""

    x: np.ndarray
    y: np.ndarray

    @property
    def lines(self) -> Lines:
        rows = np.arange(len(self.x))
        day, symbol = np.divmod(rows, SYMBOLS)
        order = np.lexsort((day, symbol))
        place = np.empty_like(rows)
        place[order] = rows
        return Lines(order, place, symbol * (len(rows) // SYMBOLS), day, 100)

    def sample(self, rows=None) -> Sample:
        return Sample(self.x, np.arange(len(self.x)) if rows is None else rows, self.lines)

    def rows(self, begin: int, end: int) -> Labelled:
        rows = np.arange(begin, end)
        return Labelled(
            self.sample(rows), self.y[rows], np.ones(len(rows)), np.full(len(rows), 0.2)
        )

    def of(self, symbol: int) -> np.ndarray:
        return np.arange(symbol, len(self.x), SYMBOLS)


def world(seed: int = 0, rows: int = 2000, features: int = 4, relation=None) -> World:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features)).astype(np.float32)
    truth = 0.8 * x[:, 0] if relation is None else relation(x)
    return World(x, truth + 0.3 * rng.standard_normal(rows))


def three_bars_ago(x: np.ndarray) -> np.ndarray:
    """Rows of a symbol are as far apart as there are symbols."""
    return np.roll(x[:, 0], 3 * SYMBOLS)


def mean_of_window(x: np.ndarray) -> np.ndarray:
    return 2.0 * np.mean([np.roll(x[:, 1], k * SYMBOLS) for k in range(1, 8)], axis=0)


def build(family: Family, seed: int = 1, **params: float) -> NeuralForecaster:
    made = family.build({**family.defaults, **SMALL, **params}, seed, None)
    assert isinstance(made, NeuralForecaster)
    return made


def taught(family: Family, of: World, seed: int = 1, **params: float) -> NeuralForecaster:
    model = build(family, seed, **params)
    cut = len(of.x) * 4 // 5
    model.fit(of.rows(0, cut), of.rows(cut + SYMBOLS, len(of.x)))
    return model


@pytest.fixture(params=FAMILIES, ids=lambda f: f.name)
def family(request) -> Family:
    return request.param


@pytest.mark.parametrize("relation", [three_bars_ago, mean_of_window])
def test_what_only_a_sequence_shows_is_learned(family: Family, relation) -> None:
    of, other = world(rows=4000, relation=relation), world(seed=9, relation=relation)
    later = np.arange(8 * SYMBOLS, len(other.x))
    rows = linear.FAMILY.build(linear.FAMILY.defaults, 1, None)
    rows.fit(of.rows(0, len(of.x)))
    blind = rows.predict(other.sample(later)).mean
    seen = taught(family, of, epochs=12).predict(other.sample(later)).mean
    truth = relation(other.x)[later]
    assert abs(np.corrcoef(blind, truth)[0, 1]) < 0.2
    assert np.corrcoef(seen, truth)[0, 1] > 0.8


def test_a_forecast_reads_its_window_and_nothing_else(family: Family) -> None:
    of = world(relation=three_bars_ago)
    model = taught(family, of, epochs=1)
    at = 1500
    window = at - np.arange(8) * SYMBOLS
    before = model.predict(of.sample(np.array([at])))
    elsewhere = of.x.copy()
    elsewhere[np.setdiff1d(np.arange(len(of.x)), window)] = 7.0
    other = World(elsewhere, of.y)
    after = model.predict(other.sample(np.array([at])))
    assert after.mean.tobytes() == before.mean.tobytes()
    assert after.spread.tobytes() == before.spread.tobytes()
    for row in window[[0, -1]]:
        inside = of.x.copy()
        inside[row] += 1.0
        moved = model.predict(World(inside, of.y).sample(np.array([at]))).mean
        assert moved != before.mean


def test_nothing_after_the_rows_of_training_is_learned_from(family: Family) -> None:
    of = world()
    changed = of.x.copy()
    changed[1600:] = -5.0
    models = [build(family, epochs=2), build(family, epochs=2)]
    for model, x in zip(models, (of.x, changed), strict=True):
        model.fit(World(x, of.y).rows(0, 1600))
    first, second = (m.predict(of.sample()).mean for m in models)
    assert first.tobytes() == second.tobytes()


def test_held_rows_decide_when_to_stop_and_nothing_else(family: Family) -> None:
    """After one epoch there is nothing to decide."""
    of = world()
    other = World(of.x * np.float32(100.0), -of.y)
    models = [build(family, epochs=1) for _ in range(3)]
    models[0].fit(of.rows(0, 1600), of.rows(1600, 2000))
    models[1].fit(of.rows(0, 1600), other.rows(1600, 2000))
    models[2].fit(of.rows(0, 1600))
    assert models[0].held_losses != models[1].held_losses
    assert models[2].held_losses == ()
    states = [m.native().state_dict() for m in models]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
        assert torch.equal(value, states[2][name]), name
    own = np.quantile(of.x[:1600], 0.5, axis=0)
    assert states[0]["center"].numpy() == pytest.approx(own, abs=1e-6)


def test_the_best_epoch_is_the_one_that_stays(family: Family) -> None:
    """Nothing but noise, learned by heart: the held loss rises."""
    rng = np.random.default_rng(3)
    of = World(rng.standard_normal((800, 30)).astype(np.float32), rng.standard_normal(800))
    model = build(family, epochs=20, patience=3, learning_rate=0.02, dropout=0.0, weight_decay=0.0)
    held = of.rows(600, 800)
    weight = rng.uniform(0.5, 1.5, 200)
    held = replace(held, weight=weight)
    model.fit(of.rows(0, 590), held)
    best = int(np.argmin(model.held_losses))
    assert len(model.held_losses) == best + 1 + 3 < 20
    got = model.predict(held.sample)
    loss = np.log(got.spread) + 0.5 * ((held.y - got.mean) / got.spread) ** 2
    assert np.average(loss, weights=weight) == pytest.approx(model.held_losses[best], abs=1e-5)
    assert model.held_losses[-1] > model.held_losses[best] + 1e-3


def test_where_there_is_nothing_to_learn_forecasts_stay_small() -> None:
    rng = np.random.default_rng(4)
    of = World(rng.standard_normal((6000, 40)).astype(np.float32), rng.standard_normal(6000))
    for each in FAMILIES:
        params = {**each.defaults, "window": 8, "hidden": 16}
        model = each.build(params, 1, None)
        model.fit(of.rows(0, 4800), of.rows(4810, 6000))
        got = model.predict(of.sample(np.arange(4810, 6000)))
        assert np.std(got.mean) < 0.1
        assert np.abs(got.spread - 1.0).max() < 0.3


def test_the_spread_widens_where_outcomes_do(family: Family) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4000, 3)).astype(np.float32)
    wide = np.where(x[:, 1] > 0, 1.5, 0.5)
    of = World(x, wide * rng.standard_normal(4000))
    got = taught(family, of, epochs=12).predict(of.sample())
    assert got.spread[wide > 1].mean() == pytest.approx(1.5, rel=0.25)
    assert got.spread[wide < 1].mean() == pytest.approx(0.5, rel=0.4)


def test_one_seed_gives_one_model_whatever_else_torch_is_set_to(family: Family) -> None:
    of = world()
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.random.fork_rng([]):
                torch.manual_seed(threads)
                made.append(taught(family, of, epochs=2, dropout=0.3).predict(of.sample()))
    finally:
        torch.set_num_threads(before)
    assert made[0].mean.tobytes() == made[1].mean.tobytes()
    other = taught(family, of, seed=2, epochs=2, dropout=0.3).predict(of.sample())
    assert other.mean.tobytes() != made[0].mean.tobytes()


def state_of_torch() -> tuple[object, ...]:
    return (
        torch.random.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_grad_enabled(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


def test_torch_is_left_as_it_was_found(family: Family, monkeypatch) -> None:
    of = world()
    before = state_of_torch()
    model = taught(family, of, epochs=1, threads=torch.get_num_threads() + 1)
    model.predict(of.sample())
    model.contributions(of.sample(np.arange(5)))
    family.build({**family.defaults, **SMALL}, 1, model.native())
    assert state_of_torch() == before

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("models.families.neural.learn", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        taught(family, of)
    assert state_of_torch() == before


def test_a_bar_of_which_nothing_is_known_is_no_bar(family: Family) -> None:
    of = world(relation=three_bars_ago)
    model = taught(family, of, epochs=1)
    blank = of.x.copy()
    blank[:1500] = np.nan
    rows = np.arange(1500, 1500 + SYMBOLS)
    alone = model.predict(Sample(of.x, rows)).mean
    assert model.predict(World(blank, of.y).sample(rows)).mean.tobytes() == alone.tobytes()
    nothing = model.predict(World(np.full_like(of.x, np.nan), of.y).sample(np.arange(20)))
    assert np.isfinite(nothing.mean).all()
    assert np.isfinite(nothing.spread).all()
    assert (nothing.mean == nothing.mean[0]).all()


def test_a_window_longer_than_all_history_is_read_as_far_as_it_goes(family: Family) -> None:
    of = world(rows=400)
    model = taught(family, of, window=100, epochs=1)
    assert np.isfinite(model.predict(of.sample()).mean).all()


def test_awkward_features_are_survived_and_do_not_count(family: Family) -> None:
    of = world(features=6)
    of.x[:, 3] = np.nan
    of.x[:, 4] = 1e9
    of.x[::7, 5] = np.inf
    model = taught(family, of, epochs=2)
    rows = np.arange(100, 130)
    got = model.predict(of.sample(rows))
    assert np.isfinite(got.mean).all()
    shares = model.contributions(of.sample(rows))
    assert np.isfinite(shares).all()
    assert (shares[:, 3:5] == 0.0).all()
    other = of.x.copy()
    other[:, 3] = 5.0
    other[:, 4] = -1.0
    assert model.predict(World(other, of.y).sample(rows)).mean.tobytes() == got.mean.tobytes()


def test_few_rows_one_row_and_none(family: Family) -> None:
    of = world(rows=60)
    model = build(family, epochs=2)
    model.fit(of.rows(0, 50), of.rows(50, 60))
    one = of.sample(np.array([55]))
    got = model.predict(one)
    assert got.mean.shape == got.spread.shape == (1,)
    assert got.mean.dtype == got.spread.dtype == np.float64
    assert model.contributions(one).shape == (1, 4)
    none = of.sample(np.array([], dtype=np.int64))
    assert model.predict(none).mean.shape == (0,)
    assert model.contributions(none).shape == (0, 4)


def test_labels_that_are_not_finite_are_an_error(family: Family) -> None:
    of = world(rows=400)
    of.y[:] = np.nan
    with pytest.raises(ModelError, match="its loss was finite after no epoch"):
        taught(family, of)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"window": 0}, "window"),
        ({"dropout": 1.0}, "dropout"),
        ({"threads": 0}, "threads"),
        ({"trees": 5}, "trees"),
        ({"hidden": float("nan")}, "hidden"),
        ({"hidden": 7.5}, "hidden"),
        ({"batch": "many"}, "batch"),
    ],
)
def test_other_parameters_are_refused(params, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build(lstm.FAMILY, **params)


def test_parameters_must_fit_together_and_be_whole() -> None:
    with pytest.raises(ModelError, match="a divisor of hidden"):
        build(transformer.FAMILY, hidden=16, heads=3)
    with pytest.raises(ModelError, match=r"missing: \['clip'\]"):
        lstm.build({k: v for k, v in lstm.DEFAULTS.items() if k != "clip"}, 1)


def test_a_model_of_other_parameters_is_not_taken(family: Family) -> None:
    model = taught(family, world(rows=400), epochs=1)
    with pytest.raises(ModelError, match=r"no .* model of these parameters"):
        family.build({**family.defaults, **SMALL, "hidden": 8}, 1, model.native())


def test_the_module_reads_raw_windows_as_the_forecaster_reads_rows(family: Family) -> None:
    of = world()
    of.x[::5, 1] = np.nan
    model = taught(family, of, epochs=1)
    rows = np.arange(1000, 1040)
    at = of.sample(rows).windows(8)
    raw = np.where((at >= 0)[..., None], of.x[at], np.nan)
    out = model.native()(torch.from_numpy(raw.astype(np.float32))).numpy()
    got = model.predict(of.sample(rows))
    assert out[:, 0] == pytest.approx(got.mean, abs=1e-6)
    assert out[:, 1] == pytest.approx(got.spread, abs=1e-6)


def test_contributions_of_what_is_linear_are_the_products(family: Family) -> None:
    """With a silent body, the skip is all: weight times scaled feature."""
    of = world()
    model = taught(family, of, epochs=1)
    state = model.native().state_dict()
    state["mean.weight"] = torch.zeros_like(state["mean.weight"])
    module = model.native()
    module.load_state_dict(state)
    plain = family.build({**family.defaults, **SMALL}, 1, module)
    scaled = np.clip((of.x - state["center"].numpy()) * state["inverse"].numpy(), -4, 4)
    expected = scaled * state["skip.weight"].numpy()
    assert plain.contributions(of.sample()) == pytest.approx(expected, abs=1e-6)


def test_contributions_see_the_bar_that_matters(family: Family) -> None:
    of = world(rows=4000, relation=three_bars_ago)
    model = taught(family, of, epochs=12)
    rows = np.arange(2000, 2400)
    shares = np.abs(model.contributions(of.sample(rows))).mean(axis=0)
    assert shares[0] > 3.0 * shares[1:].max()
    signed = model.contributions(of.sample(rows))[:, 0]
    assert np.corrcoef(signed, three_bars_ago(of.x)[rows])[0, 1] > 0.8


def test_half_precision_learns_the_same(family: Family, monkeypatch) -> None:
    """What a GPU would do, on the CPU: products of 16 bits, larger steps."""
    of = world()
    rough = Machine("cpu", torch.bfloat16, batch_factor=4, rows_factor=8)
    exact = taught(family, of).predict(of.sample()).mean
    monkeypatch.setattr(neural, "find_machine", lambda: rough)
    model = taught(family, of)
    assert all(p.dtype is torch.float32 for p in model.native().parameters())
    got = model.predict(of.sample()).mean
    assert got.tobytes() != exact.tobytes()
    assert np.corrcoef(got, exact)[0, 1] > 0.98


def test_a_day_is_not_needed_to_forecast(family: Family) -> None:
    """Rows without earlier bars are windows of one bar."""
    of = world()
    model = taught(family, of, epochs=1)
    first = of.sample(np.arange(SYMBOLS))
    assert (
        model.predict(Sample.of(of.x[:SYMBOLS])).mean.tobytes()
        == model.predict(first).mean.tobytes()
    )


def test_rows_are_scaled_in_one_pass_as_elsewhere() -> None:
    """What a forecast reads is, to the bit, what the stored program makes of raw bars."""
    generator = torch.Generator().manual_seed(1)
    network = NeuralForecaster("lstm", lstm.FAMILY.defaults, 1)._new(50)
    network.center = torch.randn(50, generator=generator)
    network.inverse = torch.rand(50, generator=generator)
    network.inverse[3] = 0.0
    raw = 5.0 * torch.randn((700, 50), generator=generator)
    raw[torch.rand((700, 50), generator=generator) < 0.1] = float("nan")
    raw[7], raw[8] = float("nan"), float("inf")
    panel = torch.full((501, 51), 9.0)
    rows = torch.randperm(700, generator=generator)[:500]
    center, inverse = network.center.numpy(), network.inverse.numpy()
    scale_rows(raw.numpy(), rows.numpy(), center, inverse, np.float32(network.clip), panel.numpy())
    assert torch.equal(panel[:500], network.scale(raw[rows]))
    assert (panel[500] == 9.0).all()
