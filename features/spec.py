"""What a feature declares about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import polars as pl

from market.errors import FeatureError
from market.schema import Bar

PANEL_KEYS = (Bar.SYMBOL.value, Bar.SESSION.value, Bar.BAR_END.value, "as_of")
"""Key columns of every feature frame; ``as_of`` is the ``known_at`` of the bar."""


class Stage(StrEnum):
    """When a feature is computed: per symbol through time, or per time across symbols."""

    TIME_SERIES = "time_series"
    CROSS_SECTION = "cross_section"


@dataclass(frozen=True)
class Feature:
    """A declared feature.

    Attributes
    ----------
    name : str
        Column name.
    expression : pl.Expr
        Without any ``over``: the engine applies it per symbol (time series) or per bar
        (cross-section), so a feature cannot reach across by mistake.
    inputs : tuple of str
        Bar columns (time series) or time-series features (cross-section) that it reads.
    lookback : int
        Bars needed, the current one included, for a value that more history does not change.
    stage : Stage
        See :class:`Stage`.
    meaning : str
        One line for the catalogue.
    source : str
        Paper or book.

    Examples
    --------
    >>> Feature("body", pl.col("close") / pl.col("open") - 1, ("open", "close"), 1,
    ...         Stage.TIME_SERIES, "Return from open to close", "candlestick body").lookback
    1
    """

    name: str
    expression: pl.Expr = field(compare=False)
    inputs: tuple[str, ...]
    lookback: int
    stage: Stage
    meaning: str
    source: str

    def __post_init__(self) -> None:
        used = set(self.expression.meta.root_names())
        if used != set(self.inputs):
            raise FeatureError(
                f"feature {self.name!r} declares inputs that differ from those it reads",
                got=sorted(self.inputs),
                allowed=str(sorted(used)),
                remedy="declare exactly the columns in its expression",
            )
        if self.lookback < 1:
            raise FeatureError(
                f"feature {self.name!r} has no lookback",
                got=self.lookback,
                allowed="1 or more bars",
                remedy="count the current bar as 1",
            )
