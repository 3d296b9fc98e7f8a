"""How the neural families learn: windows gathered from one panel, early stopping, repeatable."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from market.errors import ModelError
from models.families.networks import WindowNetwork
from models.families.neural_settings import Settings
from models.families.row_scaling import scale_rows
from models.spec import Indices, Labelled, Matrix, Sample

CHUNK = 64
"""Rows that are forecast at once, always: a product rounds a row differently among more rows."""

_LEAST_BATCH = 64
_STEPS_OF_FEW = 16
_SCALER_ROWS = 100_000
_BLOCK = 16_384
_COLUMNS = 32
# Quantiles, and how many standard deviations of a normal distribution lie between them. The
# outer ones serve features that are mostly one value.
_WIDTHS = ((0.25, 0.75, 1.349), (0.05, 0.95, 3.290), (0.0, 1.0, 2.0))


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute on.

    Attributes
    ----------
    device : str
        As PyTorch names it.
    precision : torch.dtype
        Of the panel and of products while learning; forecasts are made in float32.
    batch_factor, rows_factor : int
        How many times the rows of a step and of an epoch are those of a CPU.
    """

    device: str
    precision: torch.dtype
    batch_factor: int = 1
    rows_factor: int = 1


def find_machine() -> Machine:
    """Return the GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return Machine("cpu", torch.float32)
    precision = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return Machine("cuda", precision, batch_factor=4, rows_factor=8)


@contextmanager
def steady(threads: int, device: str) -> Generator[None]:
    """Make what is computed inside repeat to the bit, and leave PyTorch as it was found.

    On a GPU sums may still differ in their last bits: to rule that out PyTorch wants a variable
    of the environment, which is not ours to set.
    """
    memory: Any = torch.utils.deterministic
    before = torch.get_num_threads(), memory.fill_uninitialized_memory
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.set_num_threads(threads)
        memory.fill_uninitialized_memory = False
        if device == "cpu":
            torch.use_deterministic_algorithms(True)
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        memory.fill_uninitialized_memory = before[1]
        torch.set_num_threads(before[0])


def robust_scale(x: Matrix, rows: Indices) -> tuple[Matrix, Matrix]:
    """Return each feature's median and one over its width; zero where it is always the same.

    The width is the range between the quartiles in standard deviations of a normal distribution,
    or between outer quantiles where the quartiles are equal. Of more than 100,000 rows so many
    are looked at, evenly spaced.

    Parameters
    ----------
    x : (m, k) float32
        NaN where a feature is missing.
    rows : (n,) int64
        Which rows of it are learned from.

    Examples
    --------
    >>> x = np.array([[0, 1], [2, 1], [4, 1], [99, 99]], np.float32)
    >>> center, inverse = robust_scale(x, np.arange(3))
    >>> center.tolist(), (1.349 / inverse[:1]).round(3).tolist(), float(inverse[1])
    ([2.0, 1.0], [2.0], 0.0)
    """
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), _SCALER_ROWS)).astype(np.int64)]
    center, inverse = np.zeros((2, x.shape[1]))
    for begin in range(0, x.shape[1], _COLUMNS):
        part = x[some, begin : begin + _COLUMNS].T.copy()
        part[~np.isfinite(part)] = np.nan
        ordered = np.sort(part, axis=1).astype(np.float64)
        block = slice(begin, begin + _COLUMNS)
        center[block] = middle = _quantile(ordered, 0.5)
        for low, high, deviations in reversed(_WIDTHS):
            width = (_quantile(ordered, high) - _quantile(ordered, low)) / deviations
            real = width > np.maximum(1e-6 * np.abs(middle), 1e-30)
            inverse[block] = np.where(real, 1.0 / np.where(real, width, 1.0), inverse[block])
    return center.astype(np.float32), inverse.astype(np.float32)


def _quantile(ordered: np.ndarray, share: float) -> np.ndarray:
    # Missing values are sorted to the end. A feature without any value counts as one of zeros.
    count = np.isfinite(ordered).sum(axis=1)
    at = share * np.maximum(count - 1, 0)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    line = np.arange(len(ordered))
    below, above = ordered[line, low], ordered[line, high]
    return np.where(count > 0, below + (at - low) * (above - below), 0.0)


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of bars as rows of one scaled panel: no window is copied before its batch.

    Attributes
    ----------
    panel : (r + 1, features + 1) tensor
        Scaled bars; the last row, all zeros, stands for a bar that is not there.
    at : (n, bars) int32 tensor
        Rows of ``panel``.
    """

    panel: Tensor
    at: Tensor

    def __len__(self) -> int:
        return len(self.at)

    @staticmethod
    def of(network: WindowNetwork, sample: Sample, device: str, precision: torch.dtype) -> Windows:
        """Scale the bars that a sample's windows need, each once."""
        at = np.empty((len(sample), network.window), np.int32)
        # One place more than rows: what is marked or read at -1 is a bar that is not there.
        used = np.zeros(len(sample.x) + 1, dtype=bool)
        for begin in range(0, len(sample), _BLOCK):
            places = np.arange(begin, min(len(sample), begin + _BLOCK))
            part = sample.take(places).windows(network.window)
            at[places] = part
            used[part] = True
        rows = np.flatnonzero(used[:-1])
        place = np.full(len(used), len(rows), np.int32)
        place[rows] = np.arange(len(rows))
        shape = len(rows) + 1, network.features + 1
        panel = torch.empty(shape, dtype=precision, device=device)
        panel[-1] = 0.0
        if device == "cpu" and precision is torch.float32:
            center, inverse = network.center.numpy(), network.inverse.numpy()
            scale_rows(sample.x, rows, center, inverse, np.float32(network.clip), panel.numpy())
        else:
            with torch.no_grad():
                for begin in range(0, len(rows), _BLOCK):
                    raw = torch.from_numpy(sample.x[rows[begin : begin + _BLOCK]]).to(device)
                    panel[begin : begin + len(raw)].copy_(network.scale(raw))
        return Windows(panel, torch.from_numpy(place[at]).to(device))

    def gather(self, places: Tensor) -> Tensor:
        """Return scaled windows, (places, bars, features + 1)."""
        at = self.at.index_select(0, places)
        return self.panel.index_select(0, at.flatten()).unflatten(0, at.shape)


@dataclass(frozen=True, slots=True)
class Rows:
    """Windows with what came of them, on one device."""

    windows: Windows
    y: Tensor
    weight: Tensor

    @staticmethod
    def of(network: WindowNetwork, lesson: Labelled, machine: Machine) -> Rows:
        """Bring labelled rows to the machine."""
        return Rows(
            Windows.of(network, lesson.sample, machine.device, machine.precision),
            torch.tensor(lesson.y, dtype=torch.float32, device=machine.device),
            torch.tensor(lesson.weight, dtype=torch.float32, device=machine.device),
        )


def deal(rows: int, per_epoch: int, seed: int) -> Iterator[Tensor]:
    """Yield the rows of one epoch after another; all rows come once before any comes again.

    Examples
    --------
    >>> dealt = deal(5, 3, seed=1)
    >>> sorted(torch.cat([next(dealt), next(dealt)])[:5].tolist())
    [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(seed)
    size, left = min(rows, per_epoch), torch.empty(0, dtype=torch.int64)
    while True:
        if len(left) < size:
            left = torch.cat([left, torch.randperm(rows, generator=generator)])
        yield left[:size]
        left = left[size:]


def batches(rows: Rows, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield bars, outcomes and weights in steps of nearly equal size.

    All that an epoch does beside arithmetic: going through this alone tells what it costs.
    """
    for part in order.tensor_split(max(1, -(-len(order) // size))):
        places = part.to(rows.y.device)
        yield rows.windows.gather(places), rows.y[places], rows.weight[places]


def losses(mean: Tensor, log_spread: Tensor, y: Tensor) -> Tensor:
    """Return each row's negative log-likelihood under a normal distribution, less a constant.

    Outcomes are clipped where labels are made, so that no tail rules it.
    """
    return log_spread + 0.5 * ((y - mean) * torch.exp(-log_spread)) ** 2


def batch_size(rows: int, of: Settings, machine: Machine) -> int:
    """Return the rows of a step: fewer where there are few rows, so that there are some steps."""
    return min(of.batch * machine.batch_factor, max(_LEAST_BATCH, rows // _STEPS_OF_FEW))


class Trainer:
    """The optimiser and the schedule of one network.

    AdamW (Loshchilov and Hutter, 2019) on one cycle of the rate (Smith and Topin, 2018). Only
    matrices decay.
    """

    def __init__(self, network: WindowNetwork, of: Settings, machine: Machine, rows: int) -> None:
        self._network, self._machine = network, machine
        dealt = min(rows, of.rows_per_epoch * machine.rows_factor)
        self.size = batch_size(rows, of, machine)
        parts = list(network.parameters())
        groups = [
            {"params": [p for p in parts if p.ndim > 1], "weight_decay": of.weight_decay},
            {"params": [p for p in parts if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=of.learning_rate, fused=True)
        steps = of.epochs * max(1, -(-dealt // self.size))
        self._schedule = OneCycleLR(self._optimizer, of.learning_rate, total_steps=steps + 1)
        self._parts = parts

    def epoch(self, rows: Rows, order: Tensor) -> None:
        """Go through the rows of one epoch."""
        self._network.train()
        for bars, y, weight in batches(rows, order, self.size):
            self._optimizer.zero_grad(set_to_none=True)
            mean, log_spread = self._read(bars)
            (losses(mean, log_spread, y) * weight).mean().backward()
            nn.utils.clip_grad_norm_(self._parts, 1.0)
            self._optimizer.step()
            self._schedule.step()

    def judge(self, rows: Rows) -> float:
        """Return the weighted loss on rows that nothing is learned from."""
        self._network.eval()
        total = torch.zeros((), dtype=torch.float64, device=rows.y.device)
        with torch.no_grad():
            for bars, y, weight in batches(rows, torch.arange(len(rows.y)), self.size):
                mean, log_spread = self._read(bars)
                total += (losses(mean, log_spread, y) * weight).sum()
        return float(total / rows.weight.sum())

    def _read(self, bars: Tensor) -> tuple[Tensor, Tensor]:
        precision = self._machine.precision
        low = precision is not torch.float32
        with torch.autocast(self._machine.device, dtype=precision, enabled=low):
            return self._network.read(bars)


def learn(
    network: WindowNetwork,
    train: Labelled,
    held: Labelled | None,
    of: Settings,
    machine: Machine,
    seed: int,
) -> tuple[float, ...]:
    """Fit scaler and weights on ``train``; keep the epoch that did best on ``held``.

    Returns
    -------
    tuple of float
        The loss on ``held`` after each epoch; empty without held rows, where every epoch is
        gone through and the last one counts.

    Raises
    ------
    ModelError
        When the loss was finite after no epoch.
    """
    fit_scaler(network, train)
    network.to(machine.device)
    rows = Rows.of(network, train, machine)
    judged = Rows.of(network, held, machine) if held is not None and len(held) else None
    trainer = Trainer(network, of, machine, len(train))
    best, lowest, seen = None, float("inf"), list[float]()
    dealt = deal(len(train), of.rows_per_epoch * machine.rows_factor, seed)
    for _ in range(of.epochs):
        trainer.epoch(rows, next(dealt))
        if judged is None:
            continue
        seen.append(trainer.judge(judged))
        if seen[-1] < lowest:
            lowest = seen[-1]
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if len(seen) - 1 - int(np.argmin(seen)) >= of.patience:
            break
    if judged is not None:
        network.load_state_dict(_require(best, seen))
    return tuple(seen)


def fit_scaler(network: WindowNetwork, train: Labelled) -> None:
    """Set what scales features and outcomes, from the training rows alone."""
    center, inverse = robust_scale(train.sample.x, train.sample.rows)
    mean = float(np.average(train.y, weights=train.weight))
    spread = float(np.sqrt(np.average((train.y - mean) ** 2, weights=train.weight)))
    network.center.copy_(torch.from_numpy(center))
    network.inverse.copy_(torch.from_numpy(inverse))
    network.level.copy_(torch.tensor([mean, np.log(max(spread, 1e-6))]))


def _require(best: dict[str, Tensor] | None, seen: list[float]) -> dict[str, Tensor]:
    if best is None:
        raise ModelError(
            "a neural model did not learn: its loss was finite after no epoch",
            got=str(seen),
            allowed="finite losses",
            remedy="lower learning_rate, and look for labels that are not finite",
        )
    return best
