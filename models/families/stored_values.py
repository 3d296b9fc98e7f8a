"""The values of a network beside its stored program: what a forecaster is made of again.

The program is for whoever reads the registry without this package. To read one takes most of a
second, and two more for what reads it; the values alone take a few milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FILE = "values.npz"


class StoredValues:
    """The values of a network that was stored.

    Parameters
    ----------
    path : Path
        What :func:`save_values` wrote.

    Raises
    ------
    OSError, ValueError, BadZipFile
        When the file is not there or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as stored:
            self._values = {name: torch.from_numpy(stored[name]) for name in stored.files}

    def state_dict(self) -> dict[str, Tensor]:
        """Return names and values, as the network's own method does."""
        return self._values


def save_values(network: nn.Module, path: Path) -> None:
    """Write every parameter and buffer; nothing is pickled."""
    state: dict[str, Tensor] = network.state_dict()
    values: dict[str, Any] = {name: value.numpy() for name, value in state.items()}
    np.savez(path, **values)
