"""Tables beside the bars that features may look at, each row with the time it became known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import polars as pl

from market.timeframes import Timeframe

R = TypeVar("R")


@dataclass(frozen=True)
class SideTables:
    """What is known besides the bars of one timeframe; ``None`` where there is no such table.

    Attributes
    ----------
    longer : mapping
        Forward-adjusted bars (``BAR_SCHEMA``) of longer timeframes.
    indices : pl.DataFrame, optional
        ``INDEX_SCHEMA``: daily values of the VIX and its like.
    yields : pl.DataFrame, optional
        ``TREASURY_YIELD_SCHEMA``.
    news : pl.DataFrame, optional
        ``NEWS_SCHEMA``.
    events : pl.DataFrame, optional
        ``symbol``, ``date``, ``known_at``: days of earnings or the like, and when each date was
        announced.
    premarket : pl.DataFrame, optional
        ``BAR_SCHEMA``, forward-adjusted 1-minute bars before the open.
    sectors : pl.DataFrame, optional
        ``symbol``, ``sector``: names of sectors.
    """

    longer: Mapping[Timeframe, pl.DataFrame] = field(default_factory=dict[Timeframe, pl.DataFrame])
    indices: pl.DataFrame | None = None
    yields: pl.DataFrame | None = None
    news: pl.DataFrame | None = None
    events: pl.DataFrame | None = None
    premarket: pl.DataFrame | None = None
    sectors: pl.DataFrame | None = None
    _made: dict[Hashable, Any] = field(
        default_factory=dict[Hashable, Any], init=False, repr=False, compare=False
    )
    # Features of this stage are computed in threads of their own.
    _lock: threading.RLock = field(
        default_factory=threading.RLock, init=False, repr=False, compare=False
    )

    def shared(self, key: Hashable, make: Callable[[], R]) -> R:
        """Return what ``make`` returns, made once for this key and these tables."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]
