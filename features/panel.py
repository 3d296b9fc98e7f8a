"""What a feature is computed from: whole groups of rows as arrays, with shared intermediates.

In the first pass a group is a symbol and its rows are bars in time; in the second a group is a
moment and its rows are symbols. Every method keeps to its group, and what two features ask for
alike is computed once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from features import group_kernels, kernels
from features.kernels import Offsets, Values
from market.errors import FeatureError
from market.schema import Bar

Integers = npt.NDArray[np.int64]
State = npt.NDArray[np.float64]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Recursion:
    """Where recursions of a panel begin, from what, and what they leave behind.

    Attributes
    ----------
    start : (groups,) int64
        First row of each group that is not already in the state before.
    snapshot : (groups,) int64
        Last row whose state is kept; before ``start`` to keep the state before.
    before : mapping
        Name of a recursion to its state, (groups, width); absent for a group's first row.
    after : dict
        The same as of ``snapshot``; filled by what is computed.
    """

    start: Offsets
    snapshot: Offsets
    before: Mapping[str, State] = field(default_factory=dict[str, State])
    after: dict[str, State] = field(default_factory=dict[str, State])


class Panel:
    """Rows of whole groups, one group after the other.

    Parameters
    ----------
    columns : mapping
        Name to values, (rows,): float64 where missing is NaN, or int64 for times (microseconds
        since 1970, UTC) and sessions (days since 1970).
    offsets : (groups + 1,) int64
        Where each group begins; the last is the number of rows.
    recursion : Recursion, optional
        State of an earlier computation to go on from.

    Examples
    --------
    >>> panel = Panel({"close": np.array([1.0, 2.0, 4.0])}, np.array([0, 3]))
    >>> panel.mean(panel["close"], 2).tolist()
    [nan, 1.5, 3.0]
    """

    def __init__(
        self,
        columns: Mapping[str, npt.NDArray[Any]],
        offsets: Offsets,
        recursion: Recursion | None = None,
    ) -> None:
        self.columns = columns
        self.declared: frozenset[str] | None = None
        """What the feature now being computed may read; everything where ``None``."""
        self.offsets = offsets
        self.rows = int(offsets[-1])
        self.recursion = recursion or Recursion(offsets[:-1], offsets[1:] - 1)
        self._made: dict[Hashable, tuple[Any, Any]] = {}

    def __getitem__(self, name: str) -> Values:
        """Return a column as float64; missing is NaN."""
        if name not in self.columns or (self.declared is not None and name not in self.declared):
            raise FeatureError(
                "a feature reads a column that it does not declare",
                got=name,
                allowed=", ".join(sorted(self.declared or self.columns)),
                remedy="add it to the feature's inputs",
            )
        return self.columns[name]

    def shared(self, key: Hashable, make: Callable[[], R], *, keep: Any = None) -> R:
        """Return what ``make`` returns, made once for this key."""
        if key not in self._made:
            self._made[key] = (make(), keep)
        return self._made[key][0]

    # ------------------------------------------------------------------ through a group's rows

    def lag(self, x: Values, bars: int) -> Values:
        """Return the value ``bars`` rows earlier; NaN before there is one. Never negative."""
        if bars < 0:
            raise FeatureError(
                "a feature may not look ahead",
                got=f"lag of {bars} bars",
                allowed="0 or more",
                remedy="look back instead",
            )
        return self._kernel(kernels.lag, (x,), bars)[0]

    def change(self, x: Values, bars: int = 1) -> Values:
        """Return the difference to the value ``bars`` rows earlier."""
        return self.shared(("change", id(x), bars), lambda: x - self.lag(x, bars), keep=x)

    def growth(self, x: Values, bars: int = 1) -> Values:
        """Return the relative change over ``bars`` rows, a fraction."""
        return self.shared(
            ("growth", id(x), bars), lambda: ratio(x, self.lag(x, bars)) - 1.0, keep=x
        )

    def sum(self, x: Values, window: int) -> Values:
        """Return the sum over the last ``window`` rows, the current one included."""
        return self._kernel(kernels.window_sum, (x,), window)[0]

    def mean(self, x: Values, window: int) -> Values:
        """Return the mean over the last ``window`` rows."""
        return self._moments(x, window, 1)[0]

    def std(self, x: Values, window: int, ddof: int = 1) -> Values:
        """Return the standard deviation over the last ``window`` rows."""
        return self._moments(x, window, ddof)[1]

    def _moments(self, x: Values, window: int, ddof: int) -> tuple[Values, ...]:
        return self._kernel(kernels.window_moments, (x,), window, ddof, outputs=2)

    def trend(self, x: Values, window: int) -> tuple[Values, Values, Values]:
        """Return slope per row, R squared, and the last value's residual of a straight line."""
        _, slope, explained, residual = self._line(x, window)
        return slope, explained, residual

    def weighted_mean(self, x: Values, window: int) -> Values:
        """Return the mean with weights 1 to ``window``, the newest the heaviest."""

        def make() -> Values:
            mean, slope, _, _ = self._line(x, window)
            return mean + slope * ((window - 1) / 6.0)

        return self.shared(("weighted_mean", id(x), window), make, keep=x)

    def _line(self, x: Values, window: int) -> tuple[Values, ...]:
        return self._kernel(kernels.window_trend, (x,), window, outputs=4)

    def covariance(self, x: Values, y: Values, window: int) -> Values:
        """Return the covariance (ddof 1) over the last ``window`` rows."""
        return self._kernel(kernels.window_products, (x, y), window, outputs=3)[0]

    def correlation(self, x: Values, y: Values, window: int) -> Values:
        """Return the correlation over the last ``window`` rows; NaN where one does not vary."""
        return self._kernel(kernels.window_products, (x, y), window, outputs=3)[1]

    def slope_on(self, y: Values, x: Values, window: int) -> Values:
        """Return the least-squares slope of y on x (a beta)."""
        return self._kernel(kernels.window_products, (x, y), window, outputs=3)[2]

    def max(self, x: Values, window: int) -> Values:
        """Return the maximum over the last ``window`` rows."""
        return self._kernel(kernels.window_extremes, (x,), window, 1.0, outputs=2)[0]

    def min(self, x: Values, window: int) -> Values:
        """Return the minimum over the last ``window`` rows."""
        return self._kernel(kernels.window_extremes, (x,), window, -1.0, outputs=2)[0]

    def bars_since_max(self, x: Values, window: int) -> Values:
        """Return how many rows ago the (first) maximum of the last ``window`` rows was."""
        return self._kernel(kernels.window_extremes, (x,), window, 1.0, outputs=2)[1]

    def bars_since_min(self, x: Values, window: int) -> Values:
        """Return how many rows ago the (first) minimum of the last ``window`` rows was."""
        return self._kernel(kernels.window_extremes, (x,), window, -1.0, outputs=2)[1]

    def order(
        self, x: Values, window: int, low: float = 0.2, high: float = 0.8
    ) -> tuple[Values, Values, Values]:
        """Return two quantiles of the last ``window`` rows and the last one's average rank."""
        a, b, rank = self._kernel(kernels.window_sorted, (x,), window, low, high, outputs=3)
        return a, b, rank

    def absolute_deviation(self, x: Values, window: int) -> Values:
        """Return the mean absolute deviation from the mean of the last ``window`` rows."""
        return self._kernel(kernels.window_absolute_deviation, (x,), window)[0]

    # ------------------------------------------------------------------ recursions

    def exponential(self, name: str, x: Values, alpha: float, seed_bars: int = 1) -> Values:
        """Return the exponential mean, seeded with the plain mean of its first values.

        Parameters
        ----------
        name : str
            Of this recursion, unique among all features: its state is kept under it.
        x : (rows,) float64
            Missing values are left out.
        alpha : float
            Weight of the newest value: 2 / (span + 1), or 1 / n for Wilder's smoothing.
        seed_bars : int
            How many values make the seed; there is no result before.
        """
        return self.recursive(name, 2, kernels.exponential, x, arguments=(alpha, seed_bars))

    def ema(self, name: str, x: Values, span: int) -> Values:
        """Return the exponential mean of a span, seeded with the mean of the first ``span``."""
        return self.exponential(name, x, 2.0 / (span + 1.0), span)

    def wilder(self, name: str, x: Values, bars: int) -> Values:
        """Return Wilder's smoothing, seeded with the mean of the first ``bars`` values."""
        return self.exponential(name, x, 1.0 / bars, bars)

    def running_sum(self, name: str, x: Values) -> Values:
        """Return the sum since the group's first row."""
        return self.recursive(name, 1, kernels.running_sum, x)

    def recursive(
        self,
        name: str,
        width: int,
        kernel: Callable[..., None],
        *inputs: Values,
        arguments: tuple[float, ...] = (),
        outputs: int = 1,
    ) -> Any:
        """Run a kernel that carries a state from row to row.

        Parameters
        ----------
        name : str
            Of this recursion, unique among all features.
        width : int
            Numbers in the state of a group; all zero before its first row.
        kernel : callable
            ``kernel(*inputs, offsets, start, *arguments, before, snapshot, after, *outs)``, as
            :func:`features.kernels.exponential`.
        inputs : arrays
            (rows,) each.
        arguments : tuple
            Constants.
        outputs : int
            How many arrays it writes.

        Returns
        -------
        array, or tuple of arrays when ``outputs`` is more than one
        """

        def make() -> Any:
            own = self.recursion
            groups = len(self.offsets) - 1
            before = own.before.get(name)
            if before is None:
                before = np.zeros((groups, width))
            after = np.zeros((groups, width))
            outs = tuple(empty(self.rows) for _ in range(outputs))
            kernel(*inputs, self.offsets, own.start, *arguments, before, own.snapshot, after, *outs)
            own.after[name] = after
            return outs[0] if outputs == 1 else outs

        return self.shared(("recursive", name), make, keep=inputs)

    # ------------------------------------------------------------------ sessions

    @property
    def session_offsets(self) -> Offsets:
        """Where each session of each symbol begins, (sessions + 1,)."""

        def make() -> Offsets:
            days = self.columns[Bar.SESSION]
            starts = np.zeros(self.rows, dtype=np.bool_)
            starts[1:] = days[1:] != days[:-1]
            starts[self.offsets[:-1][self.offsets[:-1] < self.rows]] = True
            return np.append(np.flatnonzero(starts), self.rows).astype(np.int64)

        return self.shared("session_offsets", make)

    # ------------------------------------------------------------------ across a group's rows

    def group_moments(self, x: Values) -> tuple[Values, Values]:
        """Return the mean and the standard deviation of each row's group, one per row."""

        def make() -> tuple[Values, Values]:
            groups = len(self.offsets) - 1
            mean, deviation = np.empty(groups), np.empty(groups)
            group_kernels.group_moments(x, self.offsets, mean, deviation)
            return self.spread(mean), self.spread(deviation)

        return self.shared(("group_moments", id(x)), make, keep=x)

    def group_zscore(self, x: Values) -> Values:
        """Return the distance from the group's mean in its standard deviations."""
        mean, deviation = self.group_moments(x)
        return ratio(x - mean, deviation)

    def group_rank(self, x: Values) -> Values:
        """Return the average rank in the group, 0 to 1."""

        def make() -> Values:
            out = empty(self.rows)
            group_kernels.group_ranks(x, self.offsets, out)
            return out

        return self.shared(("group_rank", id(x)), make, keep=x)

    def sector_moments(self, x: Values, sector: Values) -> tuple[Values, Values]:
        """Return mean and standard deviation of each row's sector within its group.

        NaN where a row has no sector (a negative code), or is alone in it.
        """

        def make() -> tuple[Values, Values]:
            mean, deviation = empty(self.rows), empty(self.rows)
            codes = sector.astype(np.int64)
            group_kernels.sector_moments(x, codes, self.offsets, mean, deviation)
            return mean, deviation

        return self.shared(("sector_moments", id(x), id(sector)), make, keep=(x, sector))

    def group_sizes(self) -> Integers:
        """Return the number of rows of each group."""
        return np.diff(self.offsets)

    def group_numbers(self) -> Integers:
        """Return 0, 1, ... for the groups."""
        return np.arange(len(self.offsets) - 1)

    def spread(self, per_group: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return one value per row from one per group."""
        return np.repeat(per_group, self.group_sizes())

    def _kernel(
        self,
        kernel: Callable[..., None],
        inputs: tuple[Values, ...],
        window: int,
        *arguments: float,
        outputs: int = 1,
    ) -> tuple[Values, ...]:
        if window < 0 or (window == 0 and kernel is not kernels.lag):
            raise FeatureError(
                "a window has no rows", got=window, allowed="1 or more", remedy="widen it"
            )

        def make() -> tuple[Values, ...]:
            outs = tuple(empty(self.rows) for _ in range(outputs))
            kernel(*inputs, self.offsets, window, *arguments, *outs)
            return outs

        key = (kernel, *map(id, inputs), window, *arguments)
        return self.shared(key, make, keep=inputs)


class _Scratch(threading.local):
    """Arrays of one thread that are used again for the next part of a panel.

    New memory costs more to touch first than the arithmetic that fills it.
    """

    def __init__(self) -> None:
        self.blocks: list[Values] = []
        self.used = -1

    def take(self, rows: int) -> Values:
        if self.used < 0:
            return np.empty(rows)
        if self.used == len(self.blocks):
            self.blocks.append(np.empty(rows))
        if len(self.blocks[self.used]) < rows:
            self.blocks[self.used] = np.empty(rows)
        self.used += 1
        return self.blocks[self.used - 1][:rows]


_SCRATCH = _Scratch()


@contextmanager
def scratch() -> Generator[None]:
    """Reuse this thread's arrays: what a panel makes within is overwritten by the next one."""
    outer, _SCRATCH.used = _SCRATCH.used, 0
    if outer >= 0:
        raise FeatureError(
            "panels with shared memory do not nest", remedy="compute one after the other"
        )
    try:
        yield
    finally:
        _SCRATCH.used = -1


def empty(rows: int) -> Values:
    """Return an array to be filled."""
    return _SCRATCH.take(rows)


def ratio(numerator: Values | float, denominator: Values) -> Values:
    """Divide; NaN where the denominator is not positive (never a made-up zero)."""
    out = empty(len(denominator))
    if not isinstance(numerator, np.ndarray):
        numerator = np.full(len(denominator), numerator)
    kernels.divide(numerator, denominator, out)
    return out


def shared(
    function: Callable[Concatenate[Panel, P], R],
) -> Callable[Concatenate[Panel, P], R]:
    """Decorate a function of a panel and constants: computed once per panel and constants."""

    @wraps(function)
    def once(panel: Panel, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (function, args, tuple(sorted(kwargs.items())))
        return panel.shared(key, lambda: function(panel, *args, **kwargs))

    return once
