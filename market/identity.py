"""One identity through ticker changes, delistings and tickers that are used again.

A company is followed by its spells: it bears a symbol from ``valid_from`` up to, and without,
``valid_to``. Bars and corporate actions lie under the symbol of their time; following a company
means reading each of its symbols for as long as it bore it, and never longer: what another
company did under the same ticker stays out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import polars as pl

from market import calendar
from market.errors import MarketError
from market.schema import IDENTITY_SCHEMA, UTC_MICROSECONDS, Bar, Identity

SPELL_SCHEMA = pl.Schema(
    {
        "name": pl.String(),
        Identity.SYMBOL: pl.String(),
        Identity.VALID_FROM: pl.Date(),
        Identity.VALID_TO: pl.Date(),
    }
)


def known_at(date: dt.date | None) -> dt.datetime:
    """Return when a change of ticker is known: the open of the first session on or after it, UTC.

    Changes are announced before, but the vendor does not say when. Without a date, which means as
    far back as the vendor knows, it is the first open of the calendar.
    """
    if date is None or date <= calendar.FIRST_DATE:
        return calendar.session_open(calendar.FIRST_DATE)
    session = date if calendar.is_session(date) else calendar.next_session(date)
    return calendar.session_open(session)


def as_known(identities: pl.DataFrame, as_of: dt.datetime) -> pl.DataFrame:
    """Return the identities as they were known at a moment.

    Parameters
    ----------
    identities : pl.DataFrame
        ``IDENTITY_SCHEMA``.
    as_of : datetime
        Aware.

    Returns
    -------
    pl.DataFrame
        The spells that had begun; one whose end was not known yet goes on, and is active.
    """
    ends = [None if d is None else known_at(d) for d in identities[Identity.VALID_TO]]
    coming = pl.Series("coming", ends, dtype=UTC_MICROSECONDS) > as_of
    return (
        identities.with_columns(coming.fill_null(value=False))
        .filter(pl.col(Identity.KNOWN_AT) <= as_of)
        .with_columns(
            _unless_coming(Identity.VALID_TO),
            _unless_coming(Identity.DELISTED),
            pl.col(Identity.ACTIVE) | pl.col("coming"),
        )
        .select(IDENTITY_SCHEMA.names())
    )


def resolve(identities: pl.DataFrame, symbol: str, as_of: dt.datetime) -> str | None:
    """Return the identity of the company that a symbol means at a moment.

    Parameters
    ----------
    identities : pl.DataFrame
        ``IDENTITY_SCHEMA``.
    symbol : str
        A ticker.
    as_of : datetime
        Aware.

    Returns
    -------
    str or None
        Whoever bears the symbol then, as far as was known then; else whoever bore it last (a
        delisted company keeps its name until another one takes it). ``None`` before anybody did.
    """
    return _meanings(as_known(identities.filter(pl.col(Identity.SYMBOL) == symbol), as_of)).get(
        symbol
    )


def follow(identities: pl.DataFrame, symbols: Sequence[str], as_of: dt.datetime) -> pl.DataFrame:
    """Return under which symbols, from when to when, the rows of these companies lie.

    Parameters
    ----------
    identities : pl.DataFrame
        ``IDENTITY_SCHEMA``.
    symbols : sequence of str
        Tickers, each standing for the company that it means at ``as_of``.
    as_of : datetime
        Aware.

    Returns
    -------
    pl.DataFrame
        ``name`` (the symbol asked for), ``symbol``, ``valid_from`` and ``valid_to`` (null: without
        bound). A symbol of which no identity is known at all stands for itself.

    Raises
    ------
    MarketError
        When identities know a symbol, and nobody had borne it by ``as_of``.
    """
    known = as_known(identities, as_of)
    meanings, ever = _meanings(known), set(identities[Identity.SYMBOL])
    wanted = list(dict.fromkeys(symbols))
    early = [s for s in wanted if s in ever and s not in meanings]
    if early:
        raise MarketError(
            "a symbol that nobody bore yet",
            got=f"{early[0]} as of {as_of.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC",
            allowed="symbols in use at that moment, or before it",
            remedy="ask for the company's symbol of that time",
        )
    named = [(s, meanings[s]) for s in wanted if s in meanings]
    asked = pl.DataFrame(named, {"name": pl.String, Identity.KEY: pl.String}, orient="row")
    itself = [(s, s, None, None) for s in wanted if s not in meanings]
    return pl.concat(
        [
            asked.join(known, on=Identity.KEY, maintain_order="left_right")
            .sort("name", Identity.VALID_FROM, nulls_last=False, maintain_order=True)
            .select(SPELL_SCHEMA.names()),
            pl.DataFrame(itself, SPELL_SCHEMA, orient="row"),
        ]
    )


def of_companies(rows: pl.LazyFrame, spells: pl.DataFrame, *, date: str) -> pl.LazyFrame:
    """Return the rows of companies through all their symbols, under the names asked for.

    Parameters
    ----------
    rows : pl.LazyFrame
        Bars, splits or dividends, with ``symbol``.
    spells : pl.DataFrame
        From :func:`follow`.
    date : str
        The column that says when a row is about: ``session``, or ``ex_date``.

    Returns
    -------
    pl.LazyFrame
        The same columns, unsorted; ``symbol`` is the name asked for. Filters reach the files.
    """
    begin, end = pl.col(Identity.VALID_FROM), pl.col(Identity.VALID_TO)
    same = (pl.col("name") == pl.col(Identity.SYMBOL)) & begin.is_null() & end.is_null()
    plain, bounded = spells.filter(same), spells.filter(~same)
    # Two scans at most: a filter where no name and no bound is in the way, and a join.
    parts: list[pl.LazyFrame] = []
    if plain.height or bounded.is_empty():
        parts.append(rows.filter(pl.col(Bar.SYMBOL).is_in(plain["name"].to_list())))
    if bounded.height:
        columns = rows.collect_schema().names()
        symbols = bounded[Identity.SYMBOL].unique().to_list()
        inside = (begin.is_null() | (pl.col(date) >= begin)) & (
            end.is_null() | (pl.col(date) < end)
        )
        parts.append(
            rows.filter(pl.col(Bar.SYMBOL).is_in(symbols))
            .join(bounded.lazy(), on=Bar.SYMBOL)
            .filter(inside)
            .with_columns(pl.col("name").alias(Bar.SYMBOL))
            .select(columns)
        )
    return pl.concat(parts)


def as_companies(rows: pl.DataFrame, identities: pl.DataFrame, *, date: str) -> pl.DataFrame:
    """Return rows with the company in the place of the symbol, where the two are not the same.

    Parameters
    ----------
    rows : pl.DataFrame
        Bars, splits or dividends, with ``symbol``.
    identities : pl.DataFrame
        ``IDENTITY_SCHEMA``.
    date : str
        The column that says when a row is about: ``session``, or ``ex_date``.

    Returns
    -------
    pl.DataFrame
        The same rows in the same order. A symbol that only one company ever bore, and that never
        had another one, stays; otherwise the identity stands there. Rows of a shared symbol on a
        date on which nobody is known to have borne it stand for a company of their own.
    """
    spells = _ambiguous(identities)
    if not rows[Bar.SYMBOL].is_in(spells[Identity.SYMBOL].implode()).any():
        return rows
    begin, end, when = pl.col(Identity.VALID_FROM), pl.col(Identity.VALID_TO), pl.col(date)
    inside = (begin.is_null() | (when >= begin)) & (end.is_null() | (when < end))
    numbered = rows.with_row_index("_row")
    borne = (
        numbered.select("_row", Bar.SYMBOL, date)
        .join(spells, on=Bar.SYMBOL)
        .filter(inside)
        .select("_row", Identity.KEY)
    )
    shared = pl.col(Bar.SYMBOL).is_in(spells[Identity.SYMBOL].implode())
    nobody = pl.when(shared).then(pl.format("{} of nobody known", Bar.SYMBOL)).otherwise(Bar.SYMBOL)
    named = numbered.join(borne, on="_row", how="left", maintain_order="left")
    return named.with_columns(pl.coalesce(Identity.KEY, nobody).alias(Bar.SYMBOL)).select(
        rows.columns
    )


def _ambiguous(identities: pl.DataFrame) -> pl.DataFrame:
    """Return the spells of companies that had several symbols, or shared one with another."""
    several = pl.len().over(Identity.KEY) > 1
    shared = pl.col(Identity.KEY).n_unique().over(Identity.SYMBOL) > 1
    return identities.filter(several | shared).select(
        Identity.SYMBOL, Identity.KEY, Identity.VALID_FROM, Identity.VALID_TO
    )


def former_symbols(identities: pl.DataFrame, symbols: Sequence[str]) -> list[str]:
    """Return every symbol that the companies bearing ``symbols`` today ever bore, sorted.

    What must be ingested for their whole history to be there.
    """
    mine = identities.filter(pl.col(Identity.SYMBOL).is_in(list(symbols)) & pl.col("active"))
    theirs = identities.filter(pl.col(Identity.KEY).is_in(mine[Identity.KEY].unique().to_list()))
    return sorted(set(symbols) | set(theirs[Identity.SYMBOL]))


def _meanings(known: pl.DataFrame) -> dict[str, str]:
    """Return the company that each symbol means: of its spells the last one that has begun."""
    # Spells of one symbol do not overlap.
    last = known.sort(Identity.VALID_FROM, nulls_last=False).group_by(Identity.SYMBOL).last()
    return dict(last.select(Identity.SYMBOL, Identity.KEY).iter_rows())


def _unless_coming(name: str) -> pl.Expr:
    return pl.when(~pl.col("coming")).then(pl.col(name)).alias(name)
