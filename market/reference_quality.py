"""Judge macro data, news and identities: range, holes against the calendar, freshness."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, fields

import polars as pl

from market.macro import index_sessions, yield_dates
from market.schema import MATURITIES, Identity, IndexBar, News, Yield

# Older holes are the vendor's for good, and no reason to look up every day.
RECENT = 252
_GRACE = dt.timedelta(days=1)
_NEWS_GRACE = dt.timedelta(days=7)
_YIELD_RANGE = (-2.0, 25.0)
_VIX_RANGE = (5.0, 200.0)
_LABELS = ("positive", "neutral", "negative")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class SeriesFindings:
    """What is wrong with a daily series.

    Attributes
    ----------
    rows : int
        Rows in all.
    implausible : tuple of date
        Dates with a value that cannot be, or with a high and low that do not enclose the close.
    holes : tuple of date
        Dates without a row among the last 252 expected ones, up to the newest row.
    overdue : tuple of date
        Dates after the newest row that were known for more than a day.
    """

    rows: int
    implausible: tuple[dt.date, ...]
    holes: tuple[dt.date, ...]
    overdue: tuple[dt.date, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found in a series that has rows."""
        return self.rows > 0 and not (self.implausible or self.holes or self.overdue)

    def as_metadata(self) -> dict[str, int | list[str]]:
        """Return counts, and the first dates of each kind."""
        found: dict[str, int | list[str]] = {"rows": self.rows}
        for slot in fields(self)[1:]:
            days: tuple[dt.date, ...] = getattr(self, slot.name)
            found[slot.name] = len(days)
            found[f"{slot.name}, first"] = [d.isoformat() for d in days[:_SHOWN]]
        return found


def inspect_yields(yields: pl.DataFrame, now: dt.datetime) -> SeriesFindings:
    """Judge Treasury yields as of ``now`` (aware); bond-market holidays are no holes."""
    values = pl.concat_list(MATURITIES).list.drop_nulls()
    inside = pl.element().is_between(*_YIELD_RANGE).all()
    sound = (values.list.len() > 0) & values.list.eval(inside).list.first()
    first = yields[Yield.DATE].min()
    expected = yield_dates(first, now - _GRACE) if isinstance(first, dt.date) else []
    return _inspect(yields, Yield.DATE, sound, expected)


def inspect_index(values: pl.DataFrame, now: dt.datetime) -> SeriesFindings:
    """Judge the daily values of one index as of ``now`` (aware), against trading sessions."""
    low, high, close = (pl.col(c) for c in (IndexBar.LOW, IndexBar.HIGH, IndexBar.CLOSE))
    sound = close.is_between(*_VIX_RANGE) & (low <= close) & (close <= high)
    first = values[IndexBar.SESSION].min()
    expected = index_sessions(first, now - _GRACE) if isinstance(first, dt.date) else []
    return _inspect(values, IndexBar.SESSION, sound, expected)


@dataclass(frozen=True, slots=True)
class NewsFindings:
    """What is wrong with the news.

    Attributes
    ----------
    rows, articles : int
        Rows (one per article and symbol) and articles in all.
    labelled : int
        Rows with a sentiment label.
    unknown_labels : tuple of str
        Labels that are none of positive, neutral, negative.
    known_before_published : int
        Rows that claim to have been known before they were published.
    newest : datetime or None
        When the newest article was published.
    is_fresh : bool
        Whether that was in the week before ``now``.
    """

    rows: int
    articles: int
    labelled: int
    unknown_labels: tuple[str, ...]
    known_before_published: int
    newest: dt.datetime | None
    is_fresh: bool

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return self.is_fresh and not (self.unknown_labels or self.known_before_published)

    def as_metadata(self) -> dict[str, int | str | list[str]]:
        """Return the numbers."""
        return {
            "rows": self.rows,
            "articles": self.articles,
            "labelled": self.labelled,
            "unknown labels": list(self.unknown_labels[:_SHOWN]),
            "known before published": self.known_before_published,
            "newest": "none" if self.newest is None else self.newest.isoformat(),
        }


def inspect_news(news: pl.DataFrame, now: dt.datetime) -> NewsFindings:
    """Judge the news table as of ``now`` (aware)."""
    labels = news[News.SENTIMENT].drop_nulls()
    newest = news[News.PUBLISHED_AT].max()
    latest = newest if isinstance(newest, dt.datetime) else None
    return NewsFindings(
        rows=news.height,
        articles=news[News.ARTICLE_ID].n_unique(),
        labelled=labels.len(),
        unknown_labels=tuple(sorted(set(labels) - set(_LABELS))),
        known_before_published=news.filter(
            pl.col(News.KNOWN_AT) < pl.col(News.PUBLISHED_AT)
        ).height,
        newest=latest,
        is_fresh=latest is not None and now - latest <= _NEWS_GRACE,
    )


@dataclass(frozen=True, slots=True)
class IdentityFindings:
    """What is wrong with the identities.

    Attributes
    ----------
    rows, companies : int
        Spells and identities in all.
    without_figi : int
        Identities for which the vendor gives no composite FIGI.
    renamed, delisted : int
        Identities with several symbols, and with a last day of trading.
    shared : tuple of str
        Symbols that two spells claim for one day.
    missing : tuple of str
        Symbols of the universe that nobody bears.
    """

    rows: int
    companies: int
    without_figi: int
    renamed: int
    delisted: int
    shared: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no symbol is shared or missing."""
        return not (self.shared or self.missing)

    def as_metadata(self) -> dict[str, int | list[str]]:
        """Return the numbers, and the first symbols of each kind."""
        found: dict[str, int | list[str]] = {}
        for slot in fields(self):
            value: int | tuple[str, ...] = getattr(self, slot.name)
            found[slot.name.replace("_", " ")] = (
                value if isinstance(value, int) else list(value[:_SHOWN])
            )
        return found


def inspect_identities(identities: pl.DataFrame, symbols: Sequence[str]) -> IdentityFindings:
    """Judge the identities table against the symbols of the universe."""
    first = pl.col(Identity.VALID_FROM).fill_null(dt.date.min)
    last = pl.col(Identity.VALID_TO).fill_null(dt.date.max)
    spells = identities.with_columns(first.alias("first"), last.alias("last")).sort("first")
    taken = pl.col("last").shift().over(Identity.SYMBOL, order_by="first")
    wrong = spells.filter((pl.col("first") < taken) | (pl.col("first") >= pl.col("last")))
    by_company = identities.group_by(Identity.KEY).agg(
        pl.col(Identity.SYMBOL).n_unique().alias("symbols"),
        pl.col(Identity.FIGI).is_null().all().alias("bare"),
        pl.col(Identity.DELISTED).is_not_null().any().alias("gone"),
    )
    return IdentityFindings(
        rows=identities.height,
        companies=by_company.height,
        without_figi=by_company.filter("bare").height,
        renamed=by_company.filter(pl.col("symbols") > 1).height,
        delisted=by_company.filter("gone").height,
        shared=tuple(sorted(wrong[Identity.SYMBOL].unique())),
        missing=tuple(sorted(set(symbols) - set(identities[Identity.SYMBOL]))),
    )


def _inspect(
    rows: pl.DataFrame, date: str, sound: pl.Expr, expected: list[dt.date]
) -> SeriesFindings:
    have = set(rows[date])
    newest = max(have, default=dt.date.min)
    absent = [d for d in expected[-RECENT:] if d not in have]
    return SeriesFindings(
        rows=rows.height,
        implausible=tuple(rows.filter(~sound.fill_null(value=False)).sort(date)[date]),
        holes=tuple(d for d in absent if d < newest),
        overdue=tuple(d for d in absent if d > newest),
    )
