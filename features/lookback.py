"""On which rows a feature's declared lookback is met."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from features.spec import Feature
from market import calendar
from market.schema import Bar


@dataclass(frozen=True)
class Ages:
    """How much history each row of a frame has.

    Attributes
    ----------
    bars : array of int, (rows,)
        Bars of the symbol up to this one, which counts as 1.
    sessions : array of int, (rows,)
        Sessions of the symbol up to this one, which counts as 1.
    minutes : array of float, (rows,)
        Minutes from the open of the session to the end of the bar.
    """

    bars: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.int64]
    minutes: npt.NDArray[np.float64]

    def meet(self, feature: Feature) -> npt.NDArray[np.bool_]:
        """Return for each row whether what the feature declares is met there."""
        return (
            (self.bars >= feature.lookback)
            & (self.sessions >= feature.lookback_sessions)
            & (self.minutes >= feature.session_minutes)
        )


def ages(frame: pl.DataFrame) -> Ages:
    """Count what history each row has.

    Parameters
    ----------
    frame : pl.DataFrame
        ``symbol``, ``session``, ``bar_end`` (UTC), sorted by symbol and time.

    Examples
    --------
    >>> from market.synthetic import SyntheticSpec, generate
    >>> daily = generate(SyntheticSpec(symbols=1, sessions=3, minute_sessions=0)).daily
    >>> ages(daily).bars.tolist()
    [1, 2, 3]
    """
    opens = calendar.schedule().select(Bar.SESSION, "session_open")
    counted = frame.join(opens, on=Bar.SESSION, how="left", maintain_order="left").select(
        bars=pl.int_range(1, pl.len() + 1).over(Bar.SYMBOL),
        sessions=pl.col(Bar.SESSION).rle_id().over(Bar.SYMBOL).cast(pl.Int64) + 1,
        minutes=(pl.col(Bar.BAR_END) - pl.col("session_open")).dt.total_microseconds() / 60e6,
    )
    return Ages(*(counted[c].to_numpy() for c in counted.columns))
