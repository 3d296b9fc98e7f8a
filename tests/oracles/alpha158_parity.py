"""Whether Alpha158 values agree with pyqlib's, and where the two may differ.

Both sides compute from bars that a float32 holds exactly, which is what qlib stores, so what is
left is arithmetic. qlib keeps float32 in element-wise steps: ``close / previous close`` is off by
6e-8, which is much of a day's move under a correlation (CORD) or of its size (WVMA),
``log(volume + 1)`` is off by 1e-6 (CORR), and so is a change between volumes of other magnitudes,
relatively by 6e-8 (VSUM). Everything else is rounded once, at the end. Largest differences of a
float64 calculation over 800 symbols and 3,393 sessions: CORR 1.6e-5, CORD 5.2e-5, WVMA 8.1e-5
relatively, and 6e-8 relatively for the rest.

Rules that differ by intention:

- qlib fills partial windows from a symbol's first row on; ours are null until the window is full.
  Rows before ``FULL_ROW`` are not compared.
- Where a denominator is truly zero, qlib's added 1e-12 makes 0 (or 1e18) of it; ours is null.
- For CORD, qlib leaves a session out of the window when its volume is not a positive multiple of
  the one before (after a session without volume); ours may leave the window out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

FULL_ROW = 60
"""First row of a symbol (from zero) at which every window of qlib's is full."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Tolerance(NamedTuple):
    """Allowed: ``absolute + relative * |pyqlib's value|``."""

    relative: float
    absolute: float


DEFAULT = Tolerance(relative=1e-6, absolute=1e-8)
TOLERANCES = {
    "CORR": Tolerance(relative=1e-5, absolute=5e-5),
    "CORD": Tolerance(relative=1e-5, absolute=2e-4),
    "WVMA": Tolerance(relative=2e-4, absolute=1e-6),
    "VSUMP": Tolerance(relative=1e-6, absolute=1e-6),
    "VSUMN": Tolerance(relative=1e-6, absolute=1e-6),
    "VSUMD": Tolerance(relative=1e-6, absolute=1e-6),
}


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far one feature of ours is from pyqlib's.

    Attributes
    ----------
    feature : str
        Its name.
    cells : int
        Compared: finite on both sides.
    missing : int
        Null in ours, finite in pyqlib's.
    extra : int
        The other way round.
    worst_absolute, worst_relative : float
        Largest differences, of any cell.
    of_tolerance : float
        Largest difference as a share of what is allowed there.
    """

    feature: str
    cells: int
    missing: int
    extra: int
    worst_absolute: float
    worst_relative: float
    of_tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the same cells are there and each is within its tolerance."""
        return self.cells > 0 and not self.missing and not self.extra and self.of_tolerance <= 1.0

    def __str__(self) -> str:
        """Return one line for a report."""
        return (
            f"{self.feature:8} {self.cells:10,} cells  worst {self.worst_absolute:8.1e} absolute "
            f"{self.worst_relative:8.1e} relative, {self.of_tolerance:8.2%} of tolerance"
            f"  missing {self.missing:,}  extra {self.extra:,}"
        )


def family_of(name: str) -> str:
    """Return the family of a feature: ``ROC5`` is of ``ROC``; ``KMID2`` stands alone.

    Examples
    --------
    >>> family_of("VSUMP60"), family_of("KMID2")
    ('VSUMP', 'KMID2')
    """
    return name if name.startswith("K") else name.rstrip("0123456789")


def window_of(name: str) -> int:
    """Return the window of a feature's name, 0 where it has none."""
    digits = name[len(family_of(name)) :]
    return int(digits or 0)


def deviation(name: str, ours: Floats, theirs: Floats, where: Flags | None = None) -> Deviation:
    """Compare one feature's values, row by row (NaN is missing), where ``where`` holds."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if where is not None:
        ours, theirs = ours[where], theirs[where]
    have, had = np.isfinite(ours), np.isfinite(theirs)
    both = have & had
    size = np.abs(theirs[both])
    off = np.abs(ours[both] - theirs[both])
    relative, absolute = TOLERANCES.get(family_of(name), DEFAULT)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(off > 0, off / size, 0.0)
    return Deviation(
        feature=name,
        cells=int(both.sum()),
        missing=int((had & ~have).sum()),
        extra=int((have & ~had).sum()),
        worst_absolute=float(off.max(initial=0.0)),
        worst_relative=float(share.max(initial=0.0)),
        of_tolerance=float((off / (absolute + relative * size)).max(initial=0.0)),
    )


def row_numbers(symbols: pl.Series) -> npt.NDArray[np.int64]:
    """Return each row's number within its symbol, from zero; rows are sorted by symbol."""
    frame = symbols.to_frame("symbol")
    return frame.select(pl.int_range(pl.len()).over("symbol")).to_series().to_numpy()


def zero_denominator(name: str) -> pl.Expr:
    """Return where a feature's denominator is truly zero: an expression over a symbol's bars."""
    family, window = family_of(name), window_of(name)
    close, volume = pl.col("close"), pl.col("volume")
    high, low = pl.col("high"), pl.col("low")
    # A maximum of sizes is exactly zero where all of them are; a rolling sum may keep a residue.
    if family in {"KMID2", "KUP2", "KLOW2", "KSFT2"}:
        return high == low
    if family == "RSV":
        return high.rolling_max(window) == low.rolling_min(window)
    if family in {"SUMP", "SUMN", "SUMD"}:
        return close.diff().abs().rolling_max(window) == 0
    if family in {"VSUMP", "VSUMN", "VSUMD"}:
        return volume.diff().abs().rolling_max(window) == 0
    if family in {"VMA", "VSTD"}:
        return volume == 0
    if family == "WVMA":
        moved = (close - close.shift(1)).abs() * volume
        return moved.rolling_max(window) == 0
    return pl.lit(value=False)


def left_out_pairs(name: str) -> pl.Expr:
    """Return where a window has sessions that pyqlib leaves out and ours need not."""
    if family_of(name) != "CORD":
        return pl.lit(value=False)
    after_none = pl.col("volume").shift(1) == 0
    return after_none.cast(pl.Int8).rolling_max(window_of(name)) == 1


def flags(bars: pl.DataFrame, rule: pl.Expr) -> Flags:
    """Evaluate a rule per symbol; rows that it says nothing about are False."""
    found = bars.select(
        (rule & pl.col("close").is_not_null()).over("symbol").fill_null(value=False)
    )
    return found.to_series().to_numpy()
