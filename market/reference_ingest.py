"""Macro data, news and identities from a source into the lake: fetched whole, then merged.

Nothing that is in the lake is lost because a source tells less than before: rows are replaced by
newer ones of the same key, or added. What is fetched is complete before the lake is touched.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from market.lake import Lake
from market.lake_tables import spec_of
from market.macro import index_sessions, yield_dates
from market.reference_source import ReferenceSource
from market.schema import (
    IDENTITY_SCHEMA,
    NEWS_SCHEMA,
    Identity,
    IndexBar,
    News,
    conform,
)

YIELDS_TABLE = "treasury_yields"
INDICES_TABLE = "indices"
NEWS_TABLE = "news"
IDENTITIES_TABLE = "identities"
# Articles may appear late, and a run may have been missed: so many days are asked for again.
_NEWS_OVERLAP = dt.timedelta(days=7)
_FIRST_NEWS = dt.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class ReferenceResult:
    """What a fetch did: rows that the source told, rows that are new, whether a commit was made."""

    rows: int
    added: int
    changed: bool


def ingest_treasury_yields(
    lake: Lake, source: ReferenceSource, start: dt.date, *, now: dt.datetime
) -> ReferenceResult:
    """Fetch the yields from ``start`` on that are known by ``now`` (aware).

    Nothing is asked for when the first and the newest of them are there; otherwise all are, in one
    request, and take the place of those that are there: corrections come along.
    """
    return _ingest_series(
        lake,
        YIELDS_TABLE,
        yield_dates(start, now),
        lambda first, last: source.treasury_yields(first, last),
        now,
    )


def ingest_index(
    lake: Lake, source: ReferenceSource, symbol: str, start: dt.date, *, now: dt.datetime
) -> ReferenceResult:
    """Fetch the daily values of an index from ``start`` on that are known by ``now`` (aware).

    As :func:`ingest_treasury_yields`; the value of a session that is not over is left for later.
    """
    return _ingest_series(
        lake,
        INDICES_TABLE,
        index_sessions(start, now),
        lambda first, last: source.index_bars([symbol], first, last),
        now,
        of=pl.col(IndexBar.SYMBOL) == symbol,
    )


def ingest_news(
    lake: Lake, source: ReferenceSource, symbols: Sequence[str], start: dt.date, end: dt.date
) -> ReferenceResult:
    """Fetch articles and add those that are new by article and symbol; the others stay as told.

    An article keeps the label that was seen first: a later one was not known at ``known_at``.
    """
    fresh = conform(source.news(symbols, start, end), NEWS_SCHEMA, NEWS_TABLE)
    keys = [News.ARTICLE_ID, News.SYMBOL]
    with lake.locked():
        if lake.exists(NEWS_TABLE):
            held = lake.scan(NEWS_TABLE).select(keys).collect()
            new = fresh.join(held, on=keys, how="anti")
        else:
            new = fresh
        months = sorted(new[News.MONTH].unique())
        if not months:
            return ReferenceResult(fresh.height, 0, changed=False)
        rows = new
        if lake.exists(NEWS_TABLE):
            inside = pl.col(News.MONTH).is_in(months)
            kept = lake.scan(NEWS_TABLE).filter(inside).select(NEWS_SCHEMA.names()).collect()
            rows = pl.concat([kept, new])
        changed = lake.replace(NEWS_TABLE, rows, months)
    return ReferenceResult(fresh.height, new.height, changed)


def news_start(lake: Lake, now: dt.datetime) -> dt.date:
    """Return the date from which news is asked for: a month back, or a week before what is there.

    A longer history is fetched by naming its start; a symbol that is new to a lake with news gets
    no more than the others.
    """
    today = now.date()
    if not lake.exists(NEWS_TABLE):
        return today - _FIRST_NEWS
    newest = lake.scan(NEWS_TABLE).select(pl.col(News.PUBLISHED_AT).max()).collect().item()
    last = newest.date() if isinstance(newest, dt.datetime) else today - _FIRST_NEWS
    return min(last, today) - _NEWS_OVERLAP


def ingest_identities(
    lake: Lake, source: ReferenceSource, symbols: Sequence[str]
) -> ReferenceResult:
    """Fetch the companies behind symbols; what the source tells of them replaces what is there."""
    fresh = conform(source.identities(symbols), IDENTITY_SCHEMA, IDENTITIES_TABLE)
    with lake.locked():
        kept = _stored(lake, IDENTITIES_TABLE)
        told = fresh[Identity.KEY].unique().to_list()
        names = fresh[Identity.SYMBOL].unique().to_list()
        # A company without FIGI may have got one, and so another key.
        stale = pl.col(Identity.KEY).is_in(told) | (
            pl.col(Identity.SYMBOL).is_in(names) & pl.col(Identity.FIGI).is_null()
        )
        rows = pl.concat([kept.filter(~stale), fresh])
        changed = lake.replace(IDENTITIES_TABLE, rows, None)
    return ReferenceResult(fresh.height, rows.height - kept.height, changed)


def _ingest_series(
    lake: Lake,
    table: str,
    expected: Sequence[dt.date],
    ask: Callable[[dt.date, dt.date], pl.DataFrame],
    now: dt.datetime,
    of: pl.Expr | None = None,
) -> ReferenceResult:
    spec = spec_of(table)
    date = spec.keys[-1]
    mine = _stored(lake, table).filter(pl.lit(value=True) if of is None else of)
    if not expected or {expected[0], expected[-1]} <= set(mine[date]):
        return ReferenceResult(0, 0, changed=False)
    assert spec.schema is not None
    fresh = conform(ask(expected[0], expected[-1]), spec.schema, table)
    fresh = fresh.filter(pl.col("known_at") <= now)
    with lake.locked():
        stored = _stored(lake, table)
        kept = stored.join(fresh, on=list(spec.keys), how="anti")
        rows = pl.concat([kept, fresh])
        changed = lake.replace(table, rows, None)
    return ReferenceResult(fresh.height, rows.height - stored.height, changed)


def _stored(lake: Lake, table: str) -> pl.DataFrame:
    schema = spec_of(table).schema
    assert schema is not None
    if not lake.exists(table):
        return pl.DataFrame(schema=schema)
    return lake.scan(table).select(schema.names()).collect()
