"""How a policy is learned, and how it forecasts."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from market.errors import ModelError
from models.families.neural_training import robust_scale, steady
from models.families.policy_market import ACTIONS, LIMIT, HoldingsEnv, follow_rows
from models.spec import Forecast, Labelled, Matrix, Params, Sample, Vector, not_fitted

_MARKETS = 16
_ROLLOUT = 128
_BATCH = 512
_CHUNK = 256
_NODES = 16
_DEVICE = "cpu"


class PolicyNetwork(nn.Module):
    """What the policy would do, from raw features and the position held.

    Parameters
    ----------
    features : int
        Number of features; the position held is one more input.
    hidden : int
        Width of both layers.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.center: Tensor
        self.inverse: Tensor
        self.slope: Tensor
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("inverse", torch.zeros(features))
        self.register_buffer("slope", torch.zeros(()))
        self.body = nn.Sequential(
            nn.Linear(features + 1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        )
        self.actions = nn.Linear(hidden, ACTIONS)
        self._features = features

    def example(self) -> NDArray[np.float32]:
        """Return two rows of raw features, of no meaning."""
        return np.zeros((2, self._features), np.float32)

    def scale(self, raw: Tensor) -> Tensor:
        """Return features as the layers read them; a missing one is at its median."""
        scaled = (raw - self.center) * self.inverse
        return torch.nan_to_num(scaled, 0.0, LIMIT, -LIMIT).clamp(-LIMIT, LIMIT)

    def choose(self, scaled: Tensor) -> Tensor:
        """Return the probabilities of the actions from no position, (n, 3)."""
        flat = torch.cat([scaled, torch.zeros_like(scaled[:, :1])], dim=1)
        return self.actions(self.body(flat)).softmax(dim=1)

    def forward(self, raw: Tensor) -> Tensor:
        """Return the probabilities of short, nothing and long, (n, 3), from raw features."""
        return self.choose(self.scale(raw))

    def expect(self, scaled: Tensor) -> Tensor:
        """Return the expected standardised return, (n,)."""
        chosen = self.choose(scaled)
        return self.slope * (chosen[:, 2] - chosen[:, 0])


class PolicyForecaster:
    """Action probabilities as class probabilities.

    Parameters
    ----------
    params : mapping
        ``steps`` of experience, ``periods`` of an episode at most, ``hidden`` width,
        ``learning_rate``, ``gamma``, ``ent_coef``, ``weight_decay``, ``epochs`` over each rollout.
    seed : int
        Of the weights, of the episodes and of the actions tried.
    native : torch.nn.Module, optional
        What :meth:`native` returned, also as a program that was stored and loaded again.
    """

    def __init__(self, params: Params, seed: int, native: Any = None) -> None:
        self._params, self._seed = dict(params), seed
        self._network = None if native is None else self._rebuilt(native)

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        """See :class:`models.spec.Forecaster`."""
        x = train.sample.matrix()
        with _undisturbed(self._seed), steady(1, _DEVICE):
            network = PolicyNetwork(x.shape[1], int(self._params["hidden"]))
            center, inverse = robust_scale(x, np.arange(len(x)))
            network.center.copy_(torch.from_numpy(center))
            network.inverse.copy_(torch.from_numpy(inverse))
            with torch.no_grad():
                seen = network.scale(torch.from_numpy(np.ascontiguousarray(x))).numpy()
            _take_over(network, self._learn(seen, train))
            network = _settled(network)
            chosen = _probabilities(network, x)
        network.slope.copy_(torch.tensor(_slope(chosen[:, 2] - chosen[:, 0], train)))
        self._network = network

    def predict(self, sample: Sample) -> Forecast:
        """See :class:`models.spec.Forecaster`."""
        network = self._ready()
        with steady(1, _DEVICE):
            chosen = _probabilities(network, sample.matrix())
        chosen /= chosen.sum(axis=1, keepdims=True)
        return Forecast(float(network.slope) * (chosen[:, 2] - chosen[:, 0]), classes=chosen)

    def contributions(self, sample: Sample) -> Vector:
        """See :class:`models.spec.Forecaster`; integrated gradients.

        Sundararajan, Taly and Yan (2017), from the training median of every feature, with
        Gauss-Legendre nodes; what these leave is dealt out in proportion to the shares.
        """
        network, x = self._ready(), sample.matrix()
        shares = np.empty(x.shape)
        with steady(1, _DEVICE):
            for at, part in _chunks(x):
                with torch.no_grad():
                    scaled = network.scale(part)
                shares[at] = _integrated(network, scaled)[: at.stop - at.start]
            with torch.no_grad():
                constant = float(network.expect(torch.zeros((_CHUNK, x.shape[1])))[0])
        gap = self.predict(sample).mean - constant - shares.sum(axis=1)
        size = np.abs(shares)
        total = size.sum(axis=1, keepdims=True)
        even = np.full_like(shares, 1.0 / x.shape[1])
        return shares + gap[:, None] * np.divide(size, total, out=even, where=total > 0)

    def native(self) -> Any:
        """See :class:`models.spec.Forecaster`; a module that reads raw features."""
        return self._network

    def _learn(self, seen: Matrix, train: Labelled) -> PPO:
        follow, given = follow_rows(train), self._params
        markets = DummyVecEnv(
            [
                lambda: HoldingsEnv(seen, train, follow, periods=int(given["periods"]))
                for _ in range(_MARKETS)
            ]
        )
        learner = PPO(
            "MlpPolicy",
            markets,
            learning_rate=float(given["learning_rate"]),
            n_steps=_ROLLOUT,
            batch_size=_BATCH,
            n_epochs=int(given["epochs"]),
            gamma=float(given["gamma"]),
            ent_coef=float(given["ent_coef"]),
            seed=self._seed,
            device=_DEVICE,
            policy_kwargs={
                "net_arch": {"pi": [int(given["hidden"])] * 2, "vf": [int(given["hidden"])] * 2},
                "activation_fn": nn.Tanh,
                "optimizer_class": torch.optim.AdamW,
                "optimizer_kwargs": {"weight_decay": float(given["weight_decay"])},
            },
        )
        # Its own logger would leave a folder behind for every training.
        learner.set_logger(Logger(folder=None, output_formats=[]))
        return learner.learn(int(given["steps"]))

    def _rebuilt(self, native: Any) -> PolicyNetwork:
        # A stored program forecasts but is tied to its shapes: only its values are taken.
        state: dict[str, Tensor] = native.state_dict()
        try:
            with torch.random.fork_rng([]):
                network = PolicyNetwork(len(state["center"]), int(self._params["hidden"]))
            network.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise ModelError(
                f"what was stored is no policy of these parameters ({error})",
                remedy="load it with the parameters it was trained with, or train again",
            ) from error
        return _settled(network)

    def _ready(self) -> PolicyNetwork:
        if self._network is None:
            raise not_fitted("policy")
        return self._network


@contextmanager
def _undisturbed(seed: int) -> Generator[None]:
    """Give the library its seed, and everybody their random state back: it sets them all."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _settled(network: PolicyNetwork) -> PolicyNetwork:
    return network.requires_grad_(False).eval()


def _take_over(network: PolicyNetwork, learner: PPO) -> None:
    """Copy the learned layers: the library's own object would have to be pickled."""
    learned: Any = learner.policy
    network.body.load_state_dict(learned.mlp_extractor.policy_net.state_dict())
    network.actions.load_state_dict(learned.action_net.state_dict())


def _slope(lean: Vector, train: Labelled) -> float:
    """Return how much return went with leaning long, drawn toward none; never negative."""
    weight = train.weight
    strength = float((weight * lean * lean).sum()) + 1e-9
    # As if half as many rows again had shown nothing: what a policy tried out it also learned.
    return max(0.0, float((weight * lean * train.y).sum()) / (1.5 * strength))


def _chunks(x: Matrix) -> Iterator[tuple[slice, Tensor]]:
    """Yield which rows they are, and their features; the last row again up to a full chunk.

    Products of matrices of one size are rounded alike, whatever the company of a row.
    """
    for begin in range(0, len(x), _CHUNK):
        end = min(begin + _CHUNK, len(x))
        rows = np.minimum(np.arange(begin, begin + _CHUNK), len(x) - 1)
        yield slice(begin, end), torch.from_numpy(np.ascontiguousarray(x[rows]))


def _probabilities(network: PolicyNetwork, x: Matrix) -> Vector:
    chosen = np.empty((len(x), ACTIONS))
    with torch.no_grad():
        for at, part in _chunks(x):
            chosen[at] = network(part)[: at.stop - at.start].numpy()
    return chosen


def _integrated(network: PolicyNetwork, scaled: Tensor) -> Vector:
    slope = torch.zeros_like(scaled)
    for node, weight in zip(*np.polynomial.legendre.leggauss(_NODES), strict=True):
        between = ((0.5 + 0.5 * float(node)) * scaled).requires_grad_()
        expected = network.expect(between).sum()
        slope += 0.5 * float(weight) * torch.autograd.grad(expected, between)[0]
    return (slope * scaled).numpy().astype(np.float64)
