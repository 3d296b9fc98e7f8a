"""News by symbol: how many articles, and how they sound; each from when it was known."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial

import polars as pl

from features.as_of import VALUE
from features.side import SideTables
from features.spec import Feature, Stage
from market.schema import Bar, News

FAMILY = "sentiment"
WINDOWS_DAYS = (1, 5, 20)
BASE_DAYS = 60

SILENCE = dt.timedelta(days=7)
"""A table in which nobody is named for so long is taken not to cover the time until it goes on."""

_EVERYBODY = pl.lit(None, dtype=pl.String).alias(Bar.SYMBOL)
_COVERED = "covered"
_ARTICLES, _TONE, _LABELLED = _MARKS = ("articles", "tone", "labelled")


def _articles(side: SideTables) -> pl.DataFrame | None:
    """Return ``symbol``, ``known_at`` and marks of each article, ascending."""
    table = side.news
    if table is None or table.is_empty():
        return None
    label = pl.col(News.SENTIMENT)
    return side.shared(
        "articles",
        lambda: (
            table.sort(News.KNOWN_AT, News.ARTICLE_ID)
            .unique([News.ARTICLE_ID, News.SYMBOL], keep="first", maintain_order=True)
            .select(
                News.ARTICLE_ID,
                News.SYMBOL,
                News.KNOWN_AT,
                pl.lit(1.0).alias(_ARTICLES),
                (
                    (label == "positive").fill_null(value=False).cast(pl.Float64)
                    - (label == "negative").fill_null(value=False).cast(pl.Float64)
                ).alias(_TONE),
                label.is_not_null().cast(pl.Float64).alias(_LABELLED),
            )
        ),
    )


def _coverage(articles: pl.DataFrame) -> pl.DataFrame:
    """Return from when on, and until when, the table covers the time: ``known_at``, ``covered``."""
    times = articles.select(Bar.KNOWN_AT).unique().sort(Bar.KNOWN_AT)
    last, following = (pl.col(Bar.KNOWN_AT).shift(n) for n in (1, -1))
    silent = pl.col(Bar.KNOWN_AT) + SILENCE
    begins = times.filter((last + SILENCE < pl.col(Bar.KNOWN_AT)).fill_null(value=True))
    ends = times.filter((following > silent).fill_null(value=True)).with_columns(
        silent.alias(Bar.KNOWN_AT)
    )
    return pl.concat(
        [
            begins.with_columns(pl.lit(value=True).alias(_COVERED)),
            ends.with_columns(pl.lit(value=False).alias(_COVERED)),
        ]
    ).sort(Bar.KNOWN_AT)


def _in_window(articles: pl.DataFrame, coverage: pl.DataFrame, days: int) -> pl.DataFrame:
    """Return sums of the marks over the last days: ``symbol`` (null: all others), steps in time."""
    window, marks = dt.timedelta(days=days), pl.col(_MARKS)
    begin = pl.lit(coverage[Bar.KNOWN_AT][0])
    names = pl.concat([articles.select(Bar.SYMBOL).unique(), pl.select(_EVERYBODY)])
    # Where the answer changes without an article.
    moments = pl.concat(
        [coverage.select(Bar.KNOWN_AT), coverage.head(1).select(pl.col(Bar.KNOWN_AT) + window)]
    ).unique()
    rise = articles.select(Bar.SYMBOL, Bar.KNOWN_AT, *_MARKS)
    fall = rise.with_columns(pl.col(Bar.KNOWN_AT) + window, -marks)
    still = names.join(moments, how="cross").with_columns(pl.lit(0.0).alias(m) for m in _MARKS)
    return (
        pl.concat([rise, fall, still])
        .group_by(Bar.SYMBOL, Bar.KNOWN_AT)
        .agg(marks.sum())
        .sort(Bar.SYMBOL, Bar.KNOWN_AT)
        .with_columns(marks.cum_sum().over(Bar.SYMBOL))
        .sort(Bar.KNOWN_AT, maintain_order=True)
        .join_asof(coverage, on=Bar.KNOWN_AT, strategy="backward")
        .with_columns(
            pl.when(pl.col(_COVERED) & (pl.col(Bar.KNOWN_AT) >= begin + window)).then(marks)
        )
        .drop(_COVERED)
    )


def _sums(side: SideTables, days: int, *, market: bool = False) -> pl.DataFrame | None:
    articles = _articles(side)
    if articles is None:
        return None
    coverage = side.shared("coverage", lambda: _coverage(articles))
    if not market:
        return side.shared(("news", days), lambda: _in_window(articles, coverage, days))
    once = articles.unique(News.ARTICLE_ID, keep="first", maintain_order=True)
    once = once.with_columns(pl.lit("*").alias(Bar.SYMBOL))
    made = side.shared(("market news", days), lambda: _in_window(once, coverage, days))
    return made.filter(pl.col(Bar.SYMBOL).is_not_null())


def _count(side: SideTables, days: int) -> pl.DataFrame | None:
    sums = _sums(side, days)
    return None if sums is None else sums.rename({_ARTICLES: VALUE})


def _balance(side: SideTables, days: int) -> pl.DataFrame | None:
    sums = _sums(side, days)
    if sums is None:
        return None
    labelled = pl.col(_LABELLED)
    return sums.with_columns(pl.when(labelled > 0).then(pl.col(_TONE) / labelled).alias(VALUE))


def _attention(side: SideTables, days: int, *, market: bool = False) -> pl.DataFrame | None:
    now, base = (_sums(side, n, market=market) for n in (days, BASE_DAYS))
    if now is None or base is None:
        return None
    usual = pl.col("usual") * (days / BASE_DAYS)
    out = _together(now, base).with_columns(
        pl.when(usual > 0).then(pl.col(VALUE) / usual).alias(VALUE)
    )
    return out.drop(Bar.SYMBOL) if market else out


def _together(now: pl.DataFrame, base: pl.DataFrame) -> pl.DataFrame:
    """Return ``value`` and ``usual``, articles of two windows, at every step of either."""
    steps = pl.concat(
        frame.select(Bar.SYMBOL, Bar.KNOWN_AT, _ARTICLES, own=pl.lit(own))
        for frame, own in ((now, True), (base, False))
    )
    own = pl.col("own")
    return (
        steps.sort(Bar.KNOWN_AT, "own", maintain_order=True)
        .select(
            Bar.SYMBOL,
            Bar.KNOWN_AT,
            *(
                # A step to nothing is a step too, so it is carried on by its place, not its value.
                pl.when(mine)
                .then(pl.struct(_ARTICLES))
                .forward_fill()
                .over(Bar.SYMBOL)
                .struct.field(_ARTICLES)
                .alias(name)
                for name, mine in ((VALUE, own), ("usual", ~own))
            ),
        )
        .unique([Bar.SYMBOL, Bar.KNOWN_AT], keep="last", maintain_order=True)
    )


def _news(
    name: str, compute: Callable[[SideTables], pl.DataFrame | None], meaning: str, source: str
) -> Feature:
    return Feature(name, compute, ("news",), 1, Stage.AS_OF, meaning, source, family=FAMILY)


_ATTENTION = "Barber and Odean (2008)"

FEATURES: tuple[Feature, ...] = tuple(
    feature
    for n in WINDOWS_DAYS
    for feature in (
        _news(
            f"news_count_{n}d",
            partial(_count, days=n),
            f"Articles about the symbol in the last {n} days",
            _ATTENTION,
        ),
        _news(
            f"news_attention_{n}d",
            partial(_attention, days=n),
            f"The same over its mean of {BASE_DAYS} days",
            _ATTENTION,
        ),
        _news(
            f"news_sentiment_{n}d",
            partial(_balance, days=n),
            f"Positive less negative labels over all labels in the last {n} days, -1 to 1",
            "Tetlock, Saar-Tsechansky and Macskassy (2008)",
        ),
        _news(
            f"market_news_{n}d",
            partial(_attention, days=n, market=True),
            f"Articles about anybody in the last {n} days over their mean of {BASE_DAYS} days",
            _ATTENTION,
        ),
    )
)
