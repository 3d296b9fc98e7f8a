"""What a feature declares about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import polars as pl

from features.labels import LABEL_COLUMNS
from features.panel import Panel
from market.errors import FeatureError
from market.schema import Bar
from market.timeframes import Timeframe

PANEL_KEYS = (Bar.SYMBOL.value, Bar.SESSION.value, Bar.BAR_END.value, "as_of")
"""Key columns of every feature frame; ``as_of`` is the ``known_at`` of the bar."""


class Stage(StrEnum):
    """When a feature is computed: through time, across symbols, or from a table beside the bars."""

    TIME_SERIES = "time_series"
    CROSS_SECTION = "cross_section"
    AS_OF = "as_of"


class Memory(StrEnum):
    """How far back a value reaches.

    ``window``: its lookback and no further. ``session``: to the open of its session as well.
    ``decaying``: to the start of history, with weights that fade, so that it settles.
    ``cumulative``: to the start of history, for ever.
    """

    WINDOW = "window"
    SESSION = "session"
    DECAYING = "decaying"
    CUMULATIVE = "cumulative"

    @property
    def is_recursive(self) -> bool:
        """Whether a value needs the state that the bar before it left."""
        return self in (Memory.DECAYING, Memory.CUMULATIVE)


class Scope(StrEnum):
    """On which bars a feature makes sense."""

    ANY = "any"
    INTRADAY = "intraday"
    DAILY = "daily"

    def covers(self, timeframe: Timeframe) -> bool:
        """Return whether a feature of this scope is computed on bars of this length."""
        if self is Scope.ANY:
            return True
        return timeframe.is_intraday == (self is Scope.INTRADAY)


@dataclass(frozen=True)
class Feature:
    """A declared feature.

    Attributes
    ----------
    name : str
        Column name.
    compute : callable
        From a :class:`features.panel.Panel` to one float per row. In the first two stages the
        engine gives it whole symbols (or whole moments), so it cannot reach across by mistake.
        In the third it gets :class:`features.side.SideTables` and returns a frame of
        ``known_at``, ``value`` and, where it differs by symbol, ``symbol`` (null: all that have no
        rows of their own), or ``None`` where its table is not there; the engine takes for each
        bar the newest row known by then.
    inputs : tuple of str
        Columns of bars (time series), time-series features or ``sector`` (cross-section), or
        names of side tables (as-of) that it reads.
    lookback : int
        Rows needed, the current one included, for a first value; null before. Where the memory
        is a window, more history changes nothing; where it is a session, they are counted back
        from the session's first row.
    stage : Stage
        See :class:`Stage`.
    meaning : str
        One line for the catalogue.
    source : str
        Paper or book.
    family : str
        The registry it belongs to.
    memory : Memory
        See :class:`Memory`.
    scope : Scope
        See :class:`Scope`.
    lookback_sessions : int
        Sessions of the symbol needed, the current one included, for a first value.
    session_minutes : int
        Minutes after the open of a session from which it has a value.
    resumable : bool
        Whether an incremental run can go on from a checkpoint.

    Examples
    --------
    >>> Feature("body", lambda p: p["close"] / p["open"] - 1, ("close", "open"), 1,
    ...         Stage.TIME_SERIES, "Return from open to close", "candlestick body").lookback
    1
    """

    name: str
    compute: Callable[[Any], Any] = field(compare=False, repr=False)
    inputs: tuple[str, ...]
    lookback: int
    stage: Stage
    meaning: str
    source: str
    family: str = "own"
    memory: Memory = Memory.WINDOW
    scope: Scope = Scope.ANY
    lookback_sessions: int = 1
    session_minutes: int = 0
    resumable: bool = True

    def __post_init__(self) -> None:
        for column in self.inputs:
            if column in LABEL_COLUMNS:
                raise FeatureError(
                    f"feature {self.name!r} reads a label",
                    got=column,
                    allowed="columns of bars, other features, tables of what was known",
                    remedy="labels look ahead: learn from them, never predict with them",
                )
        if self.lookback < 1 or self.lookback_sessions < 1 or self.session_minutes < 0:
            raise FeatureError(
                f"feature {self.name!r} has no lookback",
                got=f"{self.lookback} bars, {self.lookback_sessions} sessions, "
                f"{self.session_minutes} minutes",
                allowed="1 or more bars and sessions, 0 or more minutes",
                remedy="count the current bar and session as 1",
            )


def from_expression(expression: pl.Expr) -> Callable[[Panel], Any]:
    """Make a feature's function of a Polars expression over the columns of bars.

    Parameters
    ----------
    expression : pl.Expr
        Without any ``over``: it is applied to each group by itself.

    Returns
    -------
    callable
        For :attr:`Feature.compute`. Slower than the panel's own methods.

    Examples
    --------
    >>> import numpy as np
    >>> body = from_expression(pl.col("close") / pl.col("open") - 1)
    >>> body(Panel({"open": np.array([2.0]), "close": np.array([3.0])}, np.array([0, 1]))).tolist()
    [0.5]
    """
    names = sorted(set(expression.meta.root_names()))

    def compute(panel: Panel) -> Any:
        frame = pl.DataFrame(
            {n: pl.Series(panel[n]).fill_nan(None) for n in names}
            | {"_group": pl.Series(panel.spread(panel.group_numbers()))}
        )
        value = expression.cast(pl.Float64).over("_group")
        return frame.select(value.alias("_value"))["_value"].to_numpy()

    # Two expressions are two features, also where their code is the same.
    compute.__dict__["definition"] = str(expression)
    return compute
