"""Which signals are in force, sound, and not spent; and where their levels are."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from signals.schema import ENSEMBLE_ENGINE, Direction, SignalColumn

_USED = (
    SignalColumn.ID,
    SignalColumn.AS_OF,
    SignalColumn.VALID_UNTIL,
    SignalColumn.SYMBOL,
    SignalColumn.DIRECTION,
    SignalColumn.CONFIDENCE,
    SignalColumn.HORIZON,
    SignalColumn.TARGETS,
    SignalColumn.STOPS,
)


def fresh_signals(signals: pl.DataFrame, as_of: dt.datetime) -> pl.DataFrame:
    """Return the newest ensemble signal per symbol and horizon that is in force.

    In force means ``valid_until > as_of >= signal as_of``. An older signal is superseded by a
    newer one of the same symbol and horizon. Of its columns those that targets depend on.
    """
    c = SignalColumn
    return (
        signals.filter(
            pl.col(c.ENGINE) == ENSEMBLE_ENGINE,
            pl.col(c.AS_OF) <= as_of,
        )
        .select(*_USED, c.REVISION)
        .sort(c.AS_OF, c.REVISION)
        .unique([c.SYMBOL, c.HORIZON], keep="last", maintain_order=True)
        .filter(pl.col(c.VALID_UNTIL) > as_of)
        .sort(c.SYMBOL, c.HORIZON)
        .drop(c.REVISION)
    )


def is_spent(row: Mapping[str, Any], price: float | None, exited: dt.datetime | None) -> bool:
    """Say whether a signal has had its day: a level of it was touched, or closed the position."""
    if exited is not None and row[SignalColumn.AS_OF] < exited:
        return True
    if price is None:
        return False
    sign = Direction(row[SignalColumn.DIRECTION]).sign
    target, stop = levels_of(row, sign)
    return is_touched(sign, price, target) or is_touched(-sign, price, stop)


def levels_of(row: Mapping[str, Any], sign: int) -> tuple[float | None, float | None]:
    """Return the first target and the tightest stop."""
    targets, stops = row[SignalColumn.TARGETS] or [], row[SignalColumn.STOPS] or []
    if sign > 0:
        return min(targets, default=None), max(stops, default=None)
    return max(targets, default=None), min(stops, default=None)


def is_touched(sign: int, price: float, level: float | None) -> bool:
    """Say whether a price moving in direction ``sign`` has reached the level."""
    return level is not None and sign != 0 and sign * price >= sign * level


def is_sound(row: Mapping[str, Any]) -> bool:
    """Say whether a signal's numbers can be what it says they are."""
    confidence = row[SignalColumn.CONFIDENCE]
    levels = [*(row[SignalColumn.TARGETS] or []), *(row[SignalColumn.STOPS] or [])]
    return (
        confidence is not None
        and 0.0 <= confidence <= 1.0
        and all(level is not None and math.isfinite(level) and level > 0 for level in levels)
    )
