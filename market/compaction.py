"""Settled months of minutes a second time, sorted by symbol, for readers of few symbols."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from market.lake import Lake
from market.layouts import BARS_TABLE, BUILT_FROM, BY_SYMBOL_TABLE, files_by_session, name_months
from market.schema import BAR_SCHEMA, Bar

# So many rows of a month are held in memory, sorted and written at once.
_BLOCK_ROWS = 500_000


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did, by month (``2024-07``).

    Attributes
    ----------
    written : tuple of str
        Written, for the first time or because bars were revised.
    current : tuple of str
        There already.
    unsettled : tuple of str
        Not over, or with sessions that are not settled: left.
    """

    written: tuple[str, ...] = ()
    current: tuple[str, ...] = ()
    unsettled: tuple[str, ...] = ()


def compact(lake: Lake, settled: Collection[dt.date], today: dt.date) -> Compaction:
    """Write the copy by symbol of each settled month that lacks one.

    Parameters
    ----------
    lake : Lake
        Minutes by session.
    settled : collection of date
        Sessions that will hardly change. Where one does, its month is read by session until it
        is compacted again.
    today : date
        In New York; its month is left.

    Raises
    ------
    LakeError
        When a month cannot be written; those before it are.
    """
    if not lake.exists(BARS_TABLE):
        return Compaction()
    known = frozenset(settled)
    found: dict[str, list[str]] = {"written": [], "current": [], "unsettled": []}
    for month in sorted({f"{s:%Y-%m}" for s in lake.sessions(BARS_TABLE)}):
        # Month by month, so that an ingest waits for one of them at most.
        with lake.locked():
            found[_compact_month(lake, month, known, f"{today:%Y-%m}")].append(month)
    if found["written"]:
        lake.discard_replaced(BY_SYMBOL_TABLE)
    return Compaction(**{outcome: tuple(months) for outcome, months in found.items()})


def _compact_month(lake: Lake, month: str, settled: frozenset[dt.date], this_month: str) -> str:
    # The name and the rows are of one version, whatever is written meanwhile.
    bars = lake.open(BARS_TABLE)
    named = name_months(files_by_session(bars.file_uris()))
    name = next((n for n in named if n.startswith(f"{month}.")), None)
    if name is None or month >= this_month or not settled.issuperset(named[name]):
        return "unsettled"
    there: list[str] = []
    if lake.exists(BY_SYMBOL_TABLE):
        there = [str(p[BUILT_FROM]) for p in lake.open(BY_SYMBOL_TABLE).partitions()]
    outdated = [copy for copy in there if copy.startswith(f"{month}.")]
    if any(copy.startswith(f"{name}.") for copy in outdated):
        return "current"
    rows = pl.scan_delta(bars).filter(pl.col(Bar.SESSION).is_in(named[name]))
    # The writer keeps the order of one batch only, so each block is a partition of its own.
    blocks = {f"{name}.{k:04}": symbols for k, symbols in enumerate(_blocks(rows))}
    lake.replace_streamed(BY_SYMBOL_TABLE, _sorted(rows, blocks), [*outdated, *blocks])
    return "written"


def _blocks(rows: pl.LazyFrame) -> list[tuple[str, str]]:
    """Return the first and last symbol of blocks of about as many rows."""
    sizes = rows.group_by(Bar.SYMBOL).len().sort(Bar.SYMBOL).collect()
    block = ((pl.col("len").cum_sum() - 1) // _BLOCK_ROWS).alias("block")
    first, last = pl.col(Bar.SYMBOL).first(), pl.col(Bar.SYMBOL).last().alias("last")
    ends = sizes.group_by(block, maintain_order=True).agg(first, last)
    return ends.select(Bar.SYMBOL, "last").rows()


def _sorted(rows: pl.LazyFrame, blocks: Mapping[str, tuple[str, str]]) -> Iterator[pl.DataFrame]:
    for name, (first, last) in blocks.items():
        block = rows.filter(pl.col(Bar.SYMBOL).is_between(pl.lit(first), pl.lit(last)))
        block = block.select(BAR_SCHEMA.names()).sort(Bar.SYMBOL, Bar.BAR_START).collect()
        yield block.with_columns(pl.lit(name).alias(BUILT_FROM))
