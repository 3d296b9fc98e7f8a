"""Digests of macro values and news by the session whose bars may first see them."""

from __future__ import annotations

import datetime as dt
import hashlib
from bisect import bisect_left, bisect_right

import polars as pl

from market import calendar
from market.lake import Lake
from market.schema import Bar, IndexBar, News, Yield

REACH = dt.timedelta(days=400)
"""How far back a value may rest on such rows: a year's percentile of the VIX, and some more."""

# The last bar of a session is known so long after the close on the slowest data plan.
_SLOWEST_PLAN = dt.timedelta(minutes=15)
# Of news, what features read: the wording of a title changes nothing.
_TABLES: dict[str, tuple[str, ...]] = {
    "treasury_yields": (Yield.DATE,),
    "indices": (IndexBar.SYMBOL, IndexBar.SESSION),
    "news": (News.ARTICLE_ID, News.SYMBOL, News.SENTIMENT),
}


def reference_digests(lake: Lake) -> dict[dt.date, str]:
    """Return a digest of the rows that became known in each session, or since the one before.

    Parameters
    ----------
    lake : Lake
        With Treasury yields, indices and news, or without.

    Returns
    -------
    dict
        Session to digest, ascending; those in which nothing became known are left out.
    """
    sessions = calendar.schedule().select(
        Bar.SESSION, known_by=pl.col("session_close") + _SLOWEST_PLAN
    )
    out: dict[dt.date, str] = {}
    for table, keys in _TABLES.items():
        if not lake.exists(table):
            continue
        rows = lake.scan(table)
        read = rows.collect_schema().names() if table != "news" else [*keys, Bar.KNOWN_AT.value]
        texts = (
            rows.select(Bar.KNOWN_AT, *keys, text=pl.concat_str(*_as_text(rows, read)))
            .collect()
            .sort(Bar.KNOWN_AT, *keys)
            .join_asof(
                sessions,
                left_on=Bar.KNOWN_AT,
                right_on="known_by",
                strategy="forward",
                suffix="_seen",
            )
        )
        seen = f"{Bar.SESSION}_seen" if f"{Bar.SESSION}_seen" in texts.columns else Bar.SESSION
        whole = texts.group_by(seen, maintain_order=True).agg(pl.col("text").str.join("\n"))
        for session, text in whole.iter_rows():
            if session is not None:
                out[session] = _digest(out.get(session, "") + table + text)
    return dict(sorted(out.items()))


def _as_text(rows: pl.LazyFrame, columns: list[str]) -> list[pl.Expr]:
    # Numbers as their bits: how a library writes a fraction may change.
    schema = rows.collect_schema()
    return [
        (pl.col(c).reinterpret(signed=True) if schema[c].is_float() else pl.col(c).to_physical())
        .cast(pl.String)
        .fill_null("-")
        + "|"
        for c in columns
    ]


def in_reach(digests: dict[dt.date, str], session: dt.date) -> str:
    """Return what of :func:`reference_digests` features of a session may rest on."""
    days = list(digests)
    begin, end = bisect_left(days, session - REACH), bisect_right(days, session)
    return "".join(digests[d] for d in days[begin:end])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
