"""Which comes first: a gain, a loss, or the end of the horizon.

The triple-barrier method of López de Prado (2018, ch. 3): an upper and a lower barrier at
multiples of a volatility known at ``as_of``, and a vertical one at the horizon's end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from features.label_grid import COMPANY, INDEX, LEFT, Floats, Integers, overnight_gaps
from market.errors import FeatureError
from market.horizons import Horizon
from market.schema import Bar

BARRIER_COLUMNS = (
    "barrier_side",
    "barrier_ambiguous",
    "barrier_return",
    "barrier_bar_end",
    "barrier_known_at",
)


def touch_barriers(
    placed: pl.DataFrame,
    horizon: Horizon,
    volatility: pl.Series,
    *,
    upper: float = 1.0,
    lower: float = 1.0,
) -> pl.DataFrame:
    """Return which barrier each row's path touches first, when, and at what return.

    Parameters
    ----------
    placed : pl.DataFrame
        From :func:`features.label_grid.place_on_grid`.
    horizon : Horizon
        The vertical barrier stands ``steps`` scheduled bars ahead.
    volatility : pl.Series
        One standard deviation of the return over the horizon, known at ``as_of`` (fraction).
    upper, lower : float
        Distances of the barriers from the close, in volatilities; ``inf`` takes one away.

    Returns
    -------
    pl.DataFrame
        One row per row of ``placed``: ``barrier_side`` (i8: 1 upper, -1 lower, 0 vertical),
        ``barrier_ambiguous``, ``barrier_return`` (fraction), ``barrier_bar_end`` and
        ``barrier_known_at`` (UTC, of the bar that touched). Null while no barrier is touched,
        where the volatility is unknown or zero, and, for horizons of one hour and less, where
        the vertical barrier would lie beyond the close, even if another is touched before it:
        labels of the last hour would otherwise be those of large moves alone.

    Raises
    ------
    FeatureError
        When a distance is not positive.

    Notes
    -----
    A bar that opens beyond a barrier touches it at its open, and the return is that of the open.
    A bar that reaches a barrier inside touches it at the barrier. Where a bar's high reaches the
    upper barrier and its low the lower one, bars cannot say which came first: the loss is
    assumed (-1) and the row is marked as ambiguous, so that it can be left out, as a study of
    short positions must. The vertical barrier is touched at the close of its bar, when that bar
    touches no other. Horizons of intraday bars see prices net of the moves from a session's last
    close to the next one's first open, as in :func:`features.labels.forward_returns`.
    """
    for name, distance in (("upper", upper), ("lower", lower)):
        if not distance > 0.0:
            raise FeatureError(
                f"{name} barrier in the wrong place",
                got=distance,
                allowed="more than 0 volatilities (inf takes the barrier away)",
                remedy="give the distance from the close as a positive number",
            )
    nets = horizon.timeframe.is_intraday and horizon.crosses_close
    scale = volatility.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    side, ambiguous, result, row = _touch(
        placed[COMPANY].to_numpy(),
        placed[INDEX].to_numpy(),
        placed[LEFT].to_numpy(),
        placed[Bar.OPEN].to_numpy(),
        placed[Bar.HIGH].to_numpy(),
        placed[Bar.LOW].to_numpy(),
        placed[Bar.CLOSE].to_numpy(),
        overnight_gaps(placed) if nets else np.ones(placed.height),
        upper * scale,
        lower * scale,
        horizon.steps,
        horizon.crosses_close,
    )
    touched = pl.Series(row >= 0)
    at = pl.Series(row).set(~touched, None)
    frame = pl.DataFrame(
        {
            "barrier_side": side,
            "barrier_ambiguous": ambiguous,
            "barrier_return": result,
        }
    ).with_columns(pl.when(touched).then(pl.all()).name.keep())
    return frame.with_columns(
        placed[Bar.BAR_END].gather(at).alias("barrier_bar_end"),
        placed["as_of"].gather(at).alias("barrier_known_at"),
    )


@njit(cache=True)
def _touch(
    company: Integers,
    index: Integers,
    left: Integers,
    open_: Floats,
    high: Floats,
    low: Floats,
    close: Floats,
    gaps: Floats,
    upper: Floats,
    lower: Floats,
    steps: int,
    crosses_close: bool,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_], Floats, Integers]:
    n = len(close)
    side = np.zeros(n, dtype=np.int8)
    ambiguous = np.zeros(n, dtype=np.bool_)
    result = np.full(n, np.nan)
    row = np.full(n, -1, dtype=np.int64)
    for i in range(n):
        # A volatility of zero or none draws no barrier.
        known = upper[i] > 0.0 and lower[i] > 0.0
        if not known or (not crosses_close and left[i] < steps):
            continue
        gap = 1.0
        top, bottom = close[i] * (1.0 + upper[i]), close[i] * (1.0 - lower[i])
        j = i + 1
        while j < n and company[j] == company[i] and index[j] <= index[i] + steps:
            gap *= gaps[j]
            opened, highest, lowest = open_[j] / gap, high[j] / gap, low[j] / gap
            if opened >= top or opened <= bottom:
                side[i] = 1 if opened >= top else -1
                result[i] = opened / close[i] - 1.0
            elif lowest <= bottom:
                side[i] = -1
                ambiguous[i] = highest >= top
                result[i] = -lower[i]
            elif highest >= top:
                side[i] = 1
                result[i] = upper[i]
            elif index[j] == index[i] + steps:
                result[i] = close[j] / close[i] / gap - 1.0
            else:
                j += 1
                continue
            row[i] = j
            break
    return side, ambiguous, result, row
