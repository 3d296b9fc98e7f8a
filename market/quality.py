"""What is wrong with bars, counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import polars as pl

from market.schema import Bar
from market.timeframes import Timeframe


@dataclass(frozen=True, slots=True)
class BarQuality:
    """Counts of rows that break a rule."""

    rows: int
    not_positive: int
    out_of_order: int
    negative_volume: int
    known_too_early: int
    odd_length: int

    @property
    def faults(self) -> int:
        """Rows that break a rule, counted once per rule."""
        return (
            self.not_positive
            + self.out_of_order
            + self.negative_volume
            + self.known_too_early
            + self.odd_length
        )

    def as_metadata(self) -> dict[str, int]:
        """Return the counts by name."""
        return {k.replace("_", " "): int(v) for k, v in asdict(self).items()}


def describe_bars(bars: pl.LazyFrame, timeframe: Timeframe) -> BarQuality:
    """Count the rows that cannot be true bars.

    Parameters
    ----------
    bars : pl.LazyFrame
        ``BAR_SCHEMA``.
    timeframe : Timeframe
        Their declared length.

    Returns
    -------
    BarQuality
        All zero but ``rows`` for sound bars.
    """
    prices = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)
    sound = pl.all_horizontal(
        (pl.col(p).is_finite() & (pl.col(p) > 0)).fill_null(value=False) for p in prices
    )
    volume = pl.col(Bar.VOLUME)
    body_high = pl.max_horizontal(Bar.OPEN, Bar.CLOSE)
    body_low = pl.min_horizontal(Bar.OPEN, Bar.CLOSE)
    length = (pl.col(Bar.BAR_END) - pl.col(Bar.BAR_START)).dt.total_minutes()
    odd = length != 1 if timeframe is Timeframe.M1 else ~length.is_between(180, 390)
    row = (
        bars.select(
            rows=pl.len(),
            not_positive=(~sound).sum(),
            out_of_order=((pl.col(Bar.HIGH) < body_high) | (pl.col(Bar.LOW) > body_low)).sum(),
            negative_volume=(~(volume.is_finite() & (volume >= 0)).fill_null(value=False)).sum(),
            known_too_early=(pl.col(Bar.KNOWN_AT) < pl.col(Bar.BAR_END))
            .fill_null(value=True)
            .sum(),
            odd_length=odd.sum(),
        )
        .collect()
        .row(0, named=True)
    )
    return BarQuality(**row)
