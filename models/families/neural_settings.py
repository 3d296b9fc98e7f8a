"""The parameters of the neural families, read and checked before any network is built."""

from __future__ import annotations

from dataclasses import dataclass, fields

from market.errors import ModelError
from models.spec import Params

COMMON: Params = {
    "window": 20,
    "hidden": 32,
    "dropout": 0.2,
    "learning_rate": 0.0005,
    "weight_decay": 1.0,
    "batch": 1024,
    "epochs": 10,
    "patience": 3,
    "rows_per_epoch": 50_000,
    "clip": 4.0,
    "threads": 1,
}
"""What the three families share; each adds its own."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Parameters of a neural family.

    Attributes
    ----------
    window : int
        Bars that are read, the current one included.
    hidden : int
        Numbers that a bar is brought down to, and width of the body.
    dropout : float
        Share of channels left out while learning.
    learning_rate, weight_decay : float
        Of AdamW: the highest rate of the cycle, and the decoupled decay of matrices.
    batch : int
        Rows of a step; fewer where there are few rows, four times as many on a GPU.
    epochs, patience : int
        The most epochs, and how many may pass without a better one.
    rows_per_epoch : int
        An epoch deals out so many rows, and goes on with the others in the next; eight times
        as many on a GPU.
    clip : float
        Where scaled features are cut, in (robust) standard deviations.
    threads : int
        Of the CPU. Part of the parameters, because sums round differently on another number.
    layers : int
        Recurrent layers, or blocks of attention (LSTM, transformer).
    heads : int
        Heads of attention (transformer).
    kernel : int
        Bars that one convolution sees (CNN), whose depth follows from the window.
    """

    window: int
    hidden: int
    dropout: float
    learning_rate: float
    weight_decay: float
    batch: int
    epochs: int
    patience: int
    rows_per_epoch: int
    clip: float
    threads: int
    layers: int = 1
    heads: int = 1
    kernel: int = 2


# Lowest and highest value of each.
_ALLOWED: dict[str, tuple[float, float]] = {
    "window": (1, 512),
    "hidden": (1, 1024),
    "dropout": (0.0, 0.9),
    "learning_rate": (1e-6, 1.0),
    "weight_decay": (0.0, 100.0),
    "batch": (1, 1 << 20),
    "epochs": (1, 1000),
    "patience": (1, 1000),
    "rows_per_epoch": (1, 1 << 40),
    "clip": (0.1, 100.0),
    "threads": (1, 1024),
    "layers": (1, 16),
    "kernel": (2, 64),
    "heads": (1, 64),
}


def settings_of(params: Params) -> Settings:
    """Read the parameters of a neural family.

    Raises
    ------
    ModelError
        When one is unknown, missing or out of range.

    Examples
    --------
    >>> settings_of({**COMMON, "layers": 2}).window
    20
    """
    wanted = {f.name: f for f in fields(Settings)}
    unknown = sorted(set(params) - set(wanted))
    missing = sorted(set(COMMON) - set(params))
    if unknown or missing:
        raise ModelError(
            "the parameters of a neural model are not those of its family",
            got=f"unknown: {unknown}, missing: {missing}",
            allowed=", ".join(wanted),
            remedy="start from the family's defaults",
        )
    read: dict[str, float | int] = {}
    for name, value in params.items():
        low, high = _ALLOWED[name]
        whole = wanted[name].type == "int"
        if isinstance(value, str) or not low <= value <= high or (whole and value != int(value)):
            raise _refused(name, value, f"{'a whole number ' * whole}from {low} to {high}")
        read[name] = int(value) if whole else float(value)
    made = Settings(**read)  # pyright: ignore[reportArgumentType]
    if made.hidden % made.heads:
        raise _refused("heads", made.heads, f"a divisor of hidden, {made.hidden}")
    return made


def _refused(name: str, value: object, allowed: str) -> ModelError:
    return ModelError(
        f"the parameter {name} of a neural model is out of range",
        got=str(value),
        allowed=allowed,
        remedy="start from the family's defaults",
    )
