"""Small tables of macro data, news and identities that several test files share."""

from __future__ import annotations

import datetime as dt

import polars as pl

from market import calendar
from market.identity import known_at
from market.macro import index_known_at, is_yield_date, news_known_at, yields_known_at
from market.reference_source import ReferenceTables
from market.schema import (
    IDENTITY_SCHEMA,
    INDEX_SCHEMA,
    MATURITIES,
    NEWS_SCHEMA,
    TREASURY_YIELD_SCHEMA,
    Yield,
)

START, END = dt.date(2024, 6, 24), dt.date(2024, 7, 12)
SESSIONS = calendar.sessions_between(START, END)
RENAMED_ON = dt.date(2024, 7, 2)
GONE_ON = dt.date(2024, 6, 28)
REUSED_ON = dt.date(2024, 7, 8)

Spell = tuple[str, str | None, str, dt.date | None, dt.date | None, bool, dt.date | None]


def identities(*spells: Spell) -> pl.DataFrame:
    """Spells (key, figi, symbol, valid_from, valid_to, active, delisted) as a table."""
    rows = [(*spell, known_at(spell[3])) for spell in spells]
    frame = pl.DataFrame(rows, schema=IDENTITY_SCHEMA, orient="row")
    return frame.sort("identity", "symbol", "valid_from")


# OLD became NEW; GONE was delisted, and its ticker was taken by another company; BARE has no FIGI.
IDENTITIES = identities(
    ("BBG000NEW001", "BBG000NEW001", "OLD", None, RENAMED_ON, False, None),
    ("BBG000NEW001", "BBG000NEW001", "NEW", RENAMED_ON, None, True, None),
    ("BBG000GONE01", "BBG000GONE01", "GONE", None, GONE_ON + dt.timedelta(1), False, GONE_ON),
    ("BBG000GONE02", "BBG000GONE02", "GONE", REUSED_ON, None, True, None),
    ("BARE", None, "BARE", None, None, True, None),
    (f"PAST@{GONE_ON}", None, "PAST", None, GONE_ON + dt.timedelta(1), False, GONE_ON),
)


def yields(start: dt.date = START, end: dt.date = END) -> pl.DataFrame:
    span = (start + dt.timedelta(n) for n in range((end - start).days + 1))
    days = [d for d in span if is_yield_date(d)]
    data = {Yield.DATE: days, Yield.KNOWN_AT: [yields_known_at(d) for d in days]}
    columns = {
        m: [3.0 + k / 4 + n / 100 for n in range(len(days))] for k, m in enumerate(MATURITIES)
    }
    columns[Yield.MONTH_1] = [None if n == 2 else v for n, v in enumerate(columns[Yield.MONTH_1])]
    return pl.DataFrame({**data, **columns}, schema=TREASURY_YIELD_SCHEMA)


def vix(sessions: list[dt.date] | None = None) -> pl.DataFrame:
    days = SESSIONS if sessions is None else sessions
    return pl.DataFrame(
        {
            "symbol": ["VIX"] * len(days),
            "session": days,
            "known_at": [index_known_at(d) for d in days],
            "open": [12.0 + n / 8 for n in range(len(days))],
            "high": [13.0 + n / 8 for n in range(len(days))],
            "low": [11.5 + n / 8 for n in range(len(days))],
            "close": [12.5 + n / 8 for n in range(len(days))],
        },
        schema=INDEX_SCHEMA,
    )


def article(name: str, published: dt.datetime, **labels: str | None) -> list[tuple[object, ...]]:
    """One article about some symbols, each with its label or none."""
    return [
        (
            name,
            symbol,
            published.date().replace(day=1),
            published,
            news_known_at(published),
            f"About {name}",
            "A Wire",
            label,
            label and f"It sounds {label}.",
            f"https://example.invalid/{name}",
        )
        for symbol, label in labels.items()
    ]


def news(*articles: list[tuple[object, ...]]) -> pl.DataFrame:
    rows = [row for rows in articles for row in rows]
    return pl.DataFrame(rows, schema=NEWS_SCHEMA, orient="row").sort("article_id", "symbol")


_AT = dt.datetime(2024, 6, 30, 22, tzinfo=dt.UTC)
NEWS = news(
    article("a1", _AT, NEW="positive", GONE=None),
    article("a2", _AT + dt.timedelta(hours=5), NEW="negative"),
    article("a3", _AT + dt.timedelta(days=3, seconds=1), GONE="neutral", NEW="neutral", BARE=None),
)


def tables() -> ReferenceTables:
    return ReferenceTables(yields(), vix(), NEWS, IDENTITIES)
