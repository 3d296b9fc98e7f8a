"""The parts of neural training, each against a naive one."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.families.networks import BODIES, LockedDropout, WindowNetwork
from models.families.neural_settings import Settings, settings_of
from models.families.neural_training import (
    Machine,
    Rows,
    Windows,
    batch_size,
    batches,
    deal,
    fit_scaler,
    losses,
    robust_scale,
)
from models.families.transformer import DEFAULTS
from models.spec import Labelled, Lines, Sample

CPU = Machine("cpu", torch.float32)
VALUES = st.floats(-1e6, 1e6, width=32) | st.just(np.float32(np.nan))


def settings(**instead: float) -> Settings:
    return settings_of({**DEFAULTS, "window": 4, "hidden": 8, **instead})


def network(features: int, **instead: float) -> WindowNetwork:
    return WindowNetwork(features, settings(**instead), BODIES["transformer"])


@given(arrays(np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=VALUES))
def test_the_scaler_is_median_and_range_of_quartiles(x: np.ndarray) -> None:
    center, inverse = robust_scale(x, np.arange(len(x)))
    for k in range(3):
        told = x[~np.isnan(x[:, k]), k].astype(np.float64)
        if not len(told):
            assert (center[k], inverse[k]) == (0.0, 0.0)
            continue
        assert center[k] == pytest.approx(np.median(told), rel=1e-5, abs=1e-30)
        low, high = np.quantile(told, [0.25, 0.75])
        if high - low > 1e-3 * max(1.0, abs(center[k])):
            assert inverse[k] == pytest.approx(1.349 / (high - low), rel=1e-4)
        if (told == told[0]).all():
            assert inverse[k] == 0.0


def test_a_flag_that_is_seldom_set_is_not_taken_for_a_constant() -> None:
    x = np.zeros((1000, 2), np.float32)
    x[:100, 0] = 1.0
    x[:3, 1] = 1.0
    _, inverse = robust_scale(x, np.arange(1000))
    assert inverse == pytest.approx([3.29, 2.0], rel=1e-6)


def test_only_the_rows_that_are_named_are_scaled_by() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((500, 40)).astype(np.float32)
    rows = np.arange(100, 300)
    other = x.copy()
    other[:100], other[300:] = 1e6, np.nan
    for one, two in zip(robust_scale(x, rows), robust_scale(other, rows), strict=True):
        assert one.tobytes() == two.tobytes()


def test_of_many_rows_some_are_looked_at() -> None:
    x = np.random.default_rng(2).standard_normal((250_001, 1)).astype(np.float32)
    center, inverse = robust_scale(x, np.arange(len(x)))
    assert center[0] == pytest.approx(0.0, abs=0.02)
    assert inverse[0] == pytest.approx(1.0, abs=0.02)


def lines(rng: np.random.Generator, rows: int) -> Lines:
    """Symbols of uneven length, interleaved."""
    symbol = rng.integers(0, 5, rows)
    order = np.lexsort((np.arange(rows), symbol))
    place = np.empty(rows, np.int64)
    place[order] = np.arange(rows)
    first = np.searchsorted(symbol[order], symbol)
    return Lines(order, place, first, np.arange(rows) // 3, 12)


@given(st.integers(0, 2**32 - 1))
def test_gathered_windows_are_those_of_a_naive_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((80, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    sample = Sample(x, np.sort(rng.choice(80, 20, replace=False)), lines(rng, 80))
    net = network(3)
    net.center.copy_(torch.tensor([0.5, -1.0, 2.0]))
    net.inverse.copy_(torch.tensor([2.0, 0.0, 0.5]))
    windows = Windows.of(net, sample, "cpu", torch.float32)
    places = rng.integers(0, 20, 7)
    got = windows.gather(torch.from_numpy(places)).numpy()
    for n, place in enumerate(places):
        for b, row in enumerate(sample.windows(4)[place]):
            expected = np.zeros(4)
            if row >= 0:
                raw = (x[row] - [0.5, -1.0, 2.0]) * [2.0, 0.0, 0.5]
                expected[:3] = np.where(np.isnan(raw), 0.0, np.clip(raw, -4.0, 4.0))
                # The second never changed: whether it is there says nothing.
                expected[3] = (~np.isnan(x[row, [0, 2]])).mean()
            assert got[n, b] == pytest.approx(expected, abs=1e-6)
    used = np.unique(sample.windows(4))
    assert len(windows.panel) == (used >= 0).sum() + 1, "each bar once, and one for none"


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 9))
def test_all_rows_are_dealt_before_any_comes_again(rows: int, per_epoch: int, seed: int) -> None:
    size = min(rows, per_epoch)
    dealt = list(islice(deal(rows, per_epoch, seed), 3 * rows))
    assert {len(d) for d in dealt} == {size}
    every = torch.cat(dealt)[: rows * (3 * size)]
    for round_ in every.split(rows):
        if len(round_) == rows:
            assert sorted(round_.tolist()) == list(range(rows))
    again = list(islice(deal(rows, per_epoch, seed), 3 * rows))
    assert all(torch.equal(a, b) for a, b in zip(dealt, again, strict=True))


def labelled(rows: int) -> Labelled:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, 2)).astype(np.float32)
    return Labelled(
        Sample.of(x), np.arange(rows, dtype=float), 1.0 + np.arange(rows), np.ones(rows)
    )


@pytest.mark.parametrize(("rows", "size"), [(1, 8), (8, 8), (9, 8), (100, 8)])
def test_batches_hold_every_row_once_in_steps_of_equal_size(rows: int, size: int) -> None:
    lesson, net = labelled(rows), network(2)
    fit_scaler(net, lesson)
    order = torch.randperm(rows)
    found = list(batches(Rows.of(net, lesson, CPU), order, size))
    sizes = [len(y) for _, y, _ in found]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    y, weight = (torch.cat([f[k] for f in found]) for k in (1, 2))
    assert y.tolist() == order.tolist()
    assert weight.tolist() == (1 + order).tolist()
    bars = torch.cat([f[0] for f in found])
    alone = net.scale(torch.from_numpy(lesson.sample.x))[order]
    assert torch.equal(bars[:, -1], alone)
    assert not bars[:, :-1].any()


def test_the_loss_is_the_likelihood_of_a_normal_distribution() -> None:
    rng = np.random.default_rng(4)
    mean, log_spread, y = torch.from_numpy(rng.standard_normal((3, 50)))
    normal = torch.distributions.Normal(mean, log_spread.exp())
    expected = -normal.log_prob(y) - 0.5 * np.log(2.0 * np.pi)
    assert losses(mean, log_spread, y).numpy() == pytest.approx(expected.numpy(), abs=1e-9)


def test_steps_are_smaller_where_there_are_few_rows_and_larger_on_a_gpu() -> None:
    gpu = Machine("cuda", torch.bfloat16, batch_factor=4, rows_factor=8)
    of = settings(batch=1024)
    assert [batch_size(n, of, CPU) for n in (50, 3200, 10**6)] == [64, 200, 1024]
    assert batch_size(10**6, of, gpu) == 4096


def test_before_it_learns_a_network_says_the_average() -> None:
    lesson = labelled(50)
    net = network(2)
    fit_scaler(net, lesson)
    out = net(torch.from_numpy(lesson.sample.x)[:, None].expand(50, 4, 2))
    mean = np.average(lesson.y, weights=lesson.weight)
    spread = np.average((lesson.y - mean) ** 2, weights=lesson.weight) ** 0.5
    assert out.detach().numpy() == pytest.approx(np.tile([mean, spread], (50, 1)), rel=1e-5)


def test_a_spread_stays_within_four_times_that_of_training() -> None:
    net = network(2)
    fit_scaler(net, labelled(50))
    with torch.no_grad():
        for sign in (-1.0, 1.0):
            net.log_spread.bias.fill_(sign * 1e3)
            got = float(net(torch.zeros(1, 4, 2))[0, 1].detach() / net.level[1].exp())
            assert got == pytest.approx(4.0**sign, rel=1e-5)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("window", [1, 2, 20, 33])
def test_every_bar_of_a_window_reaches_the_forecast(name: str, window: int) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        net = WindowNetwork(2, settings(window=window, kernel=3, layers=2), BODIES[name]).eval()
        bars = torch.randn(16, window, 3).abs().requires_grad_()
        torch.nn.init.normal_(net.mean.weight)
    mean, _ = net.read(bars)
    (slope,) = torch.autograd.grad(mean.sum(), bars)
    assert (slope[..., :2].abs().amax((0, 2)) > 0).all()


def test_bars_that_are_not_there_say_nothing() -> None:
    net = network(2)
    bars = torch.zeros(1, 4, 3)
    bars[:, 2:] = 1.0
    embedded, present = net.embed(bars)
    assert present.tolist() == [[False, False, True, True]]
    assert not embedded[:, :2].any()
    assert embedded[:, 2:].all()


def test_attention_and_convolutions_skip_bars_that_are_not_there() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        x = torch.randn(5, 6, 8)
        there = torch.arange(6).expand(5, 6) >= 3
        attention = BODIES["transformer"](settings(window=6)).eval()
        other = torch.where(there[..., None], x, 9.0)
        assert torch.equal(attention(other, there), attention(other.clamp(max=8.0), there))
        convolutions = BODIES["cnn"](settings(window=6, kernel=2)).eval()
    blank = torch.where(there[..., None], x, 0.0)
    short = convolutions(x[:, 3:], there[:, 3:])
    assert convolutions(blank, there).detach().numpy() == pytest.approx(
        short.detach().numpy(), abs=1e-6
    )


def test_dropout_leaves_out_a_channel_of_all_bars() -> None:
    drop = LockedDropout(0.5)
    x = torch.ones(200, 6, 10)
    got = drop(x)
    assert (got == got[:, :1]).all()
    assert set(got.unique().tolist()) == {0.0, 2.0}
    assert float(got.mean()) == pytest.approx(1.0, abs=0.15)
    assert drop.eval()(x) is x
