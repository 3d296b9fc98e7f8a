"""What horizons say of each symbol, side by side: disagreement is shown, not averaged away."""

from __future__ import annotations

import polars as pl

from market.horizons import HORIZONS
from signals.schema import ENSEMBLE_ENGINE, Direction, SignalColumn

DISAGREES = "disagrees"


def compare_horizons(signals: pl.DataFrame, *, engine: str = ENSEMBLE_ENGINE) -> pl.DataFrame:
    """Return the directions of the newest batch by symbol and horizon.

    Parameters
    ----------
    signals : pl.DataFrame
        ``SIGNAL_SCHEMA``, current ones, in the order of their publication.
    engine : str
        Whose signals.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``disagrees`` (one horizon says long and another short; neutral sides with
        nobody) and a column of directions per horizon of the batch, in the order of the horizons
        table; null where a horizon has no signal of the symbol. Those that disagree come first.
        Without signals of this engine there are the first two columns and no rows.

    Examples
    --------
    >>> rows = [("b1", "A", "1d", "ensemble", "long"), ("b1", "A", "14d", "ensemble", "short")]
    >>> names = ["batch_id", "symbol", "horizon", "engine", "direction"]
    >>> compare_horizons(pl.DataFrame(rows, schema=names, orient="row")).row(0)
    ('A', True, 'long', 'short')
    """
    mine = signals.filter(pl.col(SignalColumn.ENGINE) == engine)
    newest = mine.filter(pl.col(SignalColumn.BATCH_ID) == pl.col(SignalColumn.BATCH_ID).last())
    said = pl.col(SignalColumn.DIRECTION)
    both = (said == Direction.LONG.value).any() & (said == Direction.SHORT.value).any()
    symbols = newest.group_by(SignalColumn.SYMBOL).agg(both.alias(DISAGREES))
    there = set(newest[SignalColumn.HORIZON])
    for name in (h.name for h in HORIZONS if h.name in there):
        of_horizon = newest.filter(pl.col(SignalColumn.HORIZON) == name).select(
            SignalColumn.SYMBOL, said.alias(name)
        )
        symbols = symbols.join(of_horizon, on=SignalColumn.SYMBOL, how="left")
    return symbols.sort(DISAGREES, SignalColumn.SYMBOL, descending=[True, False])
