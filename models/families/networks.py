"""Networks over windows of bars: what they share, and the three bodies.

All read ``(rows, bars, features)``, bring every bar down to a few numbers, let a body say what the
window amounts to at its last bar, and end in two heads: the mean of the outcome and its spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from models.families.neural_settings import Settings
from models.spec import Matrix

_WIDEST = math.log(4.0)
"""A spread stays within a factor of four of the training's: one bar says little about it."""


class LockedDropout(nn.Module):
    """Dropout of whole channels of a window: one mask for all its bars (Gal and Ghahramani, 2016).

    A tenth of the random numbers, and no bar gives away what another one hides.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, bars, channels) with channels left out."""
        if not self.training or self.rate == 0.0:
            return x
        return x * F.dropout(torch.ones_like(x[:, :1]), self.rate)


class LstmBody(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997); its state after the last bar."""

    def __init__(self, of: Settings) -> None:
        super().__init__()
        width = of.hidden
        self.layers = nn.ModuleList(
            nn.LSTM(width, width, batch_first=True) for _ in range(of.layers)
        )
        self.dropout = LockedDropout(of.dropout)

    def train(self, mode: bool = True) -> LstmBody:
        """Leave the recurrent layers ready for gradients, which cuDNN gives in no other state."""
        super().train(mode)
        self.layers.train()
        return self

    def forward(self, bars: Tensor, present: Tensor) -> Tensor:
        """Return the state after the last bar, (n, hidden)."""
        for number, layer in enumerate(self.layers):
            bars = _recur(layer, self.dropout(bars) if number else bars)
        return bars[:, -1]


def _recur(layer: nn.Module, bars: Tensor) -> Tensor:
    if not torch.compiler.is_exporting():
        return layer(bars)[0]
    # The same operation by itself: an exporter takes the list of weights that the module keeps
    # for cuDNN for tensors that somebody assigned on the way.
    weights: list[Tensor] = list(layer.parameters())
    none = bars.new_zeros(1, bars.shape[0], weights[1].shape[1])
    return torch.lstm(bars, (none, none), weights, True, 1, 0.0, True, False, True)[0]


class _CausalBlock(nn.Module):
    def __init__(self, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.second = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.before = (kernel - 1) * dilation
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        # A bar that is not there is as blank as what lies before the window.
        inner = F.relu(self.first(F.pad(x, (self.before, 0)))) * present
        inner = F.relu(self.second(F.pad(self.dropout(inner), (self.before, 0)))) * present
        return x + self.dropout(inner)


class CnnBody(nn.Module):
    """Temporal convolutions: causal, dilated, residual (Bai, Kolter and Koltun, 2018).

    The dilation doubles from block to block, and there are as many blocks as reach back over the
    window. Without the paper's weight normalisation.
    """

    def __init__(self, of: Settings) -> None:
        super().__init__()
        # Two convolutions of a block reach twice (kernel - 1) dilations further back.
        levels, reach = 0, 1
        while reach < of.window:
            reach += 2 * (of.kernel - 1) * 2**levels
            levels += 1
        self.blocks = nn.ModuleList(
            _CausalBlock(of.hidden, of.kernel, 2**level, of.dropout) for level in range(levels)
        )

    def forward(self, bars: Tensor, present: Tensor) -> Tensor:
        """Return what the blocks make of the last bar, (n, hidden)."""
        x, there = bars.transpose(1, 2), present.unsqueeze(1).to(bars.dtype)
        for block in self.blocks:
            x = block(x, there)
        return x[:, :, -1]


class _AttentionBlock(nn.Module):
    def __init__(self, of: Settings) -> None:
        super().__init__()
        width = of.hidden
        self.heads = of.heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.dropout = LockedDropout(of.dropout)

    def forward(self, x: Tensor, mask: Tensor, last: bool) -> Tensor:
        """Return the bars after one block; the last alone where nothing else is read."""
        asking = x[:, -1:] if last else x
        normed = self.norm(x)
        key, value = self.key_value(normed).chunk(2, -1)
        query = self.query(normed[:, -1:] if last else normed)
        found = F.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), attn_mask=mask
        )
        joined = found.transpose(1, 2).flatten(2)
        asking = asking + self.dropout(self.mix(joined))
        return asking + self.dropout(self.feed(asking))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TransformerBody(nn.Module):
    """Encoder with learned positions and norms before each part (Vaswani et al., 2017).

    Norms come first as in Xiong et al. (2020). The last block asks for the last bar alone.
    """

    def __init__(self, of: Settings) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(of.window, of.hidden).normal_(std=0.02))
        self.blocks = nn.ModuleList(_AttentionBlock(of) for _ in range(of.layers))
        self.norm = nn.LayerNorm(of.hidden)

    def forward(self, bars: Tensor, present: Tensor) -> Tensor:
        """Return what the last bar found in its window, (n, hidden)."""
        x = bars + self.position
        # The last bar sees itself even where nothing is known: attention to nothing is not defined.
        own = torch.arange(bars.shape[1], device=bars.device) == bars.shape[1] - 1
        mask = (present | own)[:, None, None, :]
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask, number == len(self.blocks))
        return self.norm(x[:, -1])


BODIES: dict[str, Callable[[Settings], nn.Module]] = {
    "lstm": LstmBody,
    "cnn": CnnBody,
    "transformer": TransformerBody,
}


class WindowNetwork(nn.Module):
    """Raw windows in, mean and spread out, with the scaler inside.

    A bar carries its features, scaled, with zero (the training median) for a missing one, and the
    share of its features that are known, those aside that never changed in training. A bar of
    which nothing is known is no bar.

    Parameters
    ----------
    features : int
        Number of features of a bar.
    of : Settings
        Sizes.
    body : callable
        Makes the part that reads the window.
    """

    center: Tensor
    inverse: Tensor
    level: Tensor

    def __init__(self, features: int, of: Settings, body: Callable[[Settings], nn.Module]) -> None:
        super().__init__()
        self.features, self.window, self.clip = features, of.window, of.clip
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("inverse", torch.zeros(features))
        self.register_buffer("level", torch.zeros(2))
        self.project = nn.Linear(features + 1, of.hidden)
        self.thin = LockedDropout(of.dropout)
        self.body = body(of)
        self.dropout = nn.Dropout(of.dropout)
        self.mean = nn.Linear(of.hidden, 1)
        self.skip = nn.Linear(features, 1, bias=False)
        self.log_spread = nn.Linear(of.hidden, 1)
        for head in (self.mean, self.skip, self.log_spread):
            for values in head.parameters():
                nn.init.zeros_(values)

    def scale(self, raw: Tensor) -> Tensor:
        """Return (..., features + 1): scaled, clipped, and the share that is known."""
        told = self.inverse > 0
        # A product counts faster than a sum of truth values, and as exactly.
        there = (~raw.isnan()).to(raw.dtype) @ told.to(raw.dtype)
        known = there.unsqueeze(-1) / told.sum().clamp(min=1)
        scaled = ((raw - self.center) * self.inverse).clamp(-self.clip, self.clip)
        return torch.cat([scaled.nan_to_num(0.0), known], -1)

    def embed(self, bars: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled bars brought down to (n, bars, hidden), and which of them are there."""
        present = bars[..., -1] > 0
        return self.project(bars) * present.unsqueeze(-1), present

    def outcome(self, embedded: Tensor, present: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log of the spread, (n,) each, from embedded bars and the last one."""
        state = self.dropout(self.body(self.thin(embedded), present))
        mean = self.level[0] + (self.mean(state) + self.skip(last[:, :-1])).squeeze(-1).float()
        wide = self.log_spread(state).squeeze(-1).float()
        return mean, self.level[1] + _WIDEST * torch.tanh(wide / _WIDEST)

    def read(self, bars: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log of the spread, (n,) each, from scaled bars."""
        embedded, present = self.embed(bars)
        return self.outcome(embedded, present, bars[:, -1])

    def example(self) -> Matrix:
        """Return raw windows as :meth:`forward` takes them; more than one, or one is a rule."""
        return np.zeros((2, self.window, self.features), np.float32)

    def forward(self, raw: Tensor) -> Tensor:
        """Return (n, 2), mean and spread, from raw windows (n, bars, features).

        Missing features are NaN; so is all of a bar that is not there.
        """
        mean, log_spread = self.read(self.scale(raw))
        return torch.stack([mean, log_spread.exp()], -1)
