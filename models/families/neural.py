"""Forecasters that read windows of bars with a neural network (PyTorch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from market.errors import ModelError
from models.families.networks import BODIES, WindowNetwork
from models.families.neural_settings import settings_of
from models.families.neural_training import CHUNK, Windows, find_machine, learn, steady
from models.spec import Forecast, Labelled, Params, Sample, Vector, not_fitted

# Bars that are brought down at once.
_BARS = 64
_NODES = 8


class NeuralForecaster:
    """Mean and spread of the standardised excess return, from the bars up to a row.

    Parameters
    ----------
    family : str
        A key of :data:`models.families.networks.BODIES`.
    params : mapping
        See :class:`models.families.neural_settings.Settings`.
    seed : int
        Of the weights, of dropout and of the order of rows.
    native : torch.nn.Module, optional
        What :meth:`native` returned, also as a program that was stored and loaded again.

    Attributes
    ----------
    held_losses : tuple of float
        Loss on the held rows after each epoch of the last fit.

    Raises
    ------
    ModelError
        When a parameter is out of range, or ``native`` does not fit the parameters.
    """

    def __init__(self, family: str, params: Params, seed: int, native: Any = None) -> None:
        self._family, self._seed = family, seed
        self._settings = settings_of(params)
        self._network = None if native is None else self._rebuilt(native)
        self.held_losses: tuple[float, ...] = ()

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        """See :class:`models.spec.Forecaster`."""
        machine = find_machine()
        every = list(range(torch.cuda.device_count()))
        with steady(self._settings.threads, machine.device), torch.random.fork_rng(every):
            torch.manual_seed(self._seed)
            network = self._new(train.sample.x.shape[1])
            self.held_losses = learn(network, train, held, self._settings, machine, self._seed)
        self._network = _settled(network)

    def predict(self, sample: Sample) -> Forecast:
        """See :class:`models.spec.Forecaster`."""
        network = self._ready()
        mean, spread = np.empty((2, len(sample)))
        with steady(self._settings.threads, "cpu"), torch.no_grad():
            windows = Windows.of(network, sample, "cpu", torch.float32)
            embedded, present = _embedded(network, windows.panel)
            for at, places in _chunks(windows):
                bars = windows.at.index_select(0, places)
                found, log_spread = network.outcome(
                    embedded[bars], present[bars], windows.panel[bars[:, -1]]
                )
                mean[at] = _floats(found, at)
                spread[at] = np.exp(_floats(log_spread, at))
        return Forecast(mean, spread)

    def contributions(self, sample: Sample) -> Vector:
        """See :class:`models.spec.Forecaster`; integrated gradients.

        Sundararajan, Taly and Yan (2017), over all bars of a window, from the training median of
        every feature, with Gauss-Legendre nodes. The constant is the forecast where every bar is
        there and every feature is at its median. What the nodes leave, and what bars and features
        that are missing do by being missing, is dealt to the features in proportion to their
        shares without sign, or evenly where all are zero.
        """
        network = self._ready()
        mean = self.predict(sample).mean
        shares = np.empty((len(sample), network.features))
        with steady(self._settings.threads, "cpu"):
            windows = Windows.of(network, sample, "cpu", torch.float32)
            for at, places in _chunks(windows):
                shares[at] = _floats(_integrated(network, windows.gather(places)), at)
            gap = mean - _constant(network) - shares.sum(axis=1)
        size = np.abs(shares)
        total = size.sum(axis=1, keepdims=True)
        even = np.full_like(shares, 1.0 / network.features)
        return shares + gap[:, None] * np.divide(size, total, out=even, where=total > 0)

    def native(self) -> Any:
        """See :class:`models.spec.Forecaster`; a module that reads raw windows."""
        return self._network

    def _new(self, features: int) -> WindowNetwork:
        return WindowNetwork(features, self._settings, BODIES[self._family])

    def _rebuilt(self, native: Any) -> WindowNetwork:
        # A stored program forecasts but is tied to its shapes: only its values are taken.
        state: dict[str, Tensor] = native.state_dict()
        try:
            with torch.random.fork_rng([]):
                network = self._new(len(state["center"]))
            network.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise ModelError(
                f"what was stored is no {self._family} model of these parameters ({error})",
                remedy="load it with the parameters it was trained with, or train again",
            ) from error
        return _settled(network)

    def _ready(self) -> WindowNetwork:
        if self._network is None:
            raise not_fitted(self._family)
        return self._network


def _settled(network: WindowNetwork) -> WindowNetwork:
    # A network forecasts on the CPU, wherever it was trained: the same number on every machine,
    # and no slower, since so few rows are forecast at once.
    return network.to("cpu").requires_grad_(False).eval()


def _chunks(windows: Windows) -> Iterator[tuple[slice, Tensor]]:
    """Yield which rows they are, and their places; the last row again up to a full chunk."""
    for begin in range(0, len(windows), CHUNK):
        places = torch.arange(begin, begin + CHUNK).clamp(max=len(windows) - 1)
        end = min(begin + CHUNK, len(windows))
        yield slice(begin, end), places


def _embedded(network: WindowNetwork, panel: Tensor) -> tuple[Tensor, Tensor]:
    """Return each bar of a panel brought down, and whether it is there.

    Once per bar, however many windows hold it, and so many at once whatever the panel's length:
    a bar alone comes out as among others, to the bit.
    """
    *full, rest = panel.split(_BARS)
    last = panel.new_zeros((_BARS, panel.shape[1]))
    last[: len(rest)] = rest
    parts = [network.embed(bars.unsqueeze(1)) for bars in (*full, last)]
    embedded, present = (torch.cat(p)[: len(panel), 0] for p in zip(*parts, strict=True))
    return embedded, present


def _floats(values: Tensor, at: slice) -> Vector:
    return values[: at.stop - at.start].numpy().astype(np.float64)


def _constant(network: WindowNetwork) -> float:
    bars = torch.zeros((CHUNK, network.window, network.features + 1))
    bars[..., -1] = 1.0
    with torch.no_grad():
        return float(network.read(bars)[0][0])


def _integrated(network: WindowNetwork, bars: Tensor) -> Tensor:
    """Return the shares of features, (n, features), as far as the nodes see them.

    A bar is brought down linearly: gradients are taken behind that, where there are few numbers.
    """
    start = bars.clone()
    start[..., :-1] = 0.0
    with torch.no_grad():
        begin, present = network.embed(start)
        way = network.embed(bars)[0] - begin
    slope = torch.zeros_like(way)
    for node, weight in zip(*np.polynomial.legendre.leggauss(_NODES), strict=True):
        between = (begin + (0.5 + 0.5 * float(node)) * way).requires_grad_()
        mean, _ = network.outcome(between, present, start[:, -1])
        slope += 0.5 * float(weight) * torch.autograd.grad(mean.sum(), between)[0]
    with torch.no_grad():
        slope = (slope * present.unsqueeze(-1)) @ network.project.weight[:, :-1]
        inner = (slope * bars[..., :-1]).sum(1)
        return inner + bars[:, -1, :-1] * network.skip.weight
