"""Whether signals that were made again are those that were published."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import polars as pl

from models.recipe import is_challenger
from models.registry import FAMILIES
from signals.schema import CONTENT_SCHEMA, SignalColumn

NEARLY = 1e-6
"""How far networks may be off, as a share of the larger of 1 and the number."""

_KEY = [SignalColumn.SYMBOL, SignalColumn.HORIZON, SignalColumn.ENGINE]
_NUMBERS = (SignalColumn.CONFIDENCE, SignalColumn.EXPECTED_RETURN_BPS)
_LISTS = (SignalColumn.TARGETS, SignalColumn.STOPS)
# Reasons are given of the strongest, or of those that were asked for.
_REASONS = (SignalColumn.EXPLAIN, SignalColumn.FEATURES)


def compare_signals(published: pl.DataFrame, again: pl.DataFrame) -> list[str]:
    """Return how signals made again differ from those published; nothing where they agree.

    Parameters
    ----------
    published, again : pl.DataFrame
        ``CONTENT_SCHEMA`` at least; those made again may be of fewer horizons.

    Returns
    -------
    list of str
        One line per kind of difference, with an example. Numbers of horizons that networks
        forecast may differ by :data:`NEARLY`, of others by no bit. Reasons are not compared.

    Examples
    --------
    >>> compare_signals(pl.DataFrame(schema=CONTENT_SCHEMA), pl.DataFrame(schema=CONTENT_SCHEMA))
    []
    """
    horizons = again[SignalColumn.HORIZON].unique().to_list()
    there = published.filter(pl.col(SignalColumn.HORIZON).is_in(horizons))
    return [*_lost_and_found(there, again), *_changed(there, again)]


def _lost_and_found(published: pl.DataFrame, again: pl.DataFrame) -> Iterator[str]:
    for some, others, what in (
        (published, again, "were published and are not made again"),
        (again, published, "are made now and were not published"),
    ):
        rows = some.join(others, on=_KEY, how="anti")
        if rows.height:
            yield f"{rows.height} signals {what}, {_name(rows)} among them"


def _changed(published: pl.DataFrame, again: pl.DataFrame) -> Iterator[str]:
    both = published.join(again, on=_KEY, how="inner", suffix="_again")
    networks = _with_networks(both)
    tolerance = pl.col(SignalColumn.HORIZON).is_in(networks).cast(pl.Float64) * NEARLY
    for name in CONTENT_SCHEMA.names():
        if name in _KEY or name in _REASONS:
            continue
        old, new = pl.col(name), pl.col(f"{name}_again")
        if name in _NUMBERS:
            off = (old - new).abs() > tolerance * pl.max_horizontal(old.abs(), 1.0)
        elif name in _LISTS:
            # Prices are rounded to the tick: what is nearly the same may be one tick away.
            off = old.ne_missing(new) & (tolerance == 0.0)
        else:
            off = old.ne_missing(new)
        rows = both.filter(off.fill_null(value=True))
        if rows.height:
            first = rows.row(0, named=True)
            yield (
                f"{name} of {rows.height} signals, {_name(rows)}: "
                f"{first[name]} was published, {first[f'{name}_again']} is made now"
            )


def _with_networks(rows: pl.DataFrame) -> Collection[str]:
    """Return the horizons that a network forecasts, alone or as a part of the blend."""
    engines = rows.select(SignalColumn.HORIZON, SignalColumn.ENGINE).unique()
    return sorted({h for h, e in engines.iter_rows() if _is_network(e)})


def _is_network(engine: str) -> bool:
    family = engine.split("@")[0] if is_challenger(engine) else engine
    return family in FAMILIES and FAMILIES[family].flavour == "pytorch"


def _name(rows: pl.DataFrame) -> str:
    return " ".join(rows.select(_KEY).row(0))
