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
                articles=pl.lit(1.0),
                tone=(label == "positive").fill_null(value=False).cast(pl.Float64)
                - (label == "negative").fill_null(value=False).cast(pl.Float64),
                labelled=label.is_not_null().cast(pl.Float64),
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


def _in_window(
    articles: pl.DataFrame, coverage: pl.DataFrame, mark: str, days: int
) -> pl.DataFrame:
    """Return the sum of a mark over the last days: ``symbol`` (null: all others), steps in time."""
    window = dt.timedelta(days=days)
    begin = pl.lit(coverage[Bar.KNOWN_AT][0])
    names = pl.concat([articles.select(Bar.SYMBOL).unique(), pl.select(_EVERYBODY)])
    moments = pl.concat(
        [coverage.select(Bar.KNOWN_AT), coverage.head(1).select(pl.col(Bar.KNOWN_AT) + window)]
    ).unique()
    rise = articles.select(Bar.SYMBOL, Bar.KNOWN_AT, pl.col(mark).alias(VALUE))
    fall = rise.with_columns(pl.col(Bar.KNOWN_AT) + window, -pl.col(VALUE))
    still = names.join(moments, how="cross").with_columns(pl.lit(0.0).alias(VALUE))
    return (
        pl.concat([rise, fall, still.select(rise.columns)])
        .group_by(Bar.SYMBOL, Bar.KNOWN_AT)
        .agg(pl.col(VALUE).sum())
        .sort(Bar.SYMBOL, Bar.KNOWN_AT)
        .with_columns(pl.col(VALUE).cum_sum().over(Bar.SYMBOL))
        .sort(Bar.KNOWN_AT, maintain_order=True)
        .join_asof(coverage, on=Bar.KNOWN_AT, strategy="backward")
        .with_columns(
            pl.when(pl.col(_COVERED) & (pl.col(Bar.KNOWN_AT) >= begin + window)).then(VALUE)
        )
        .drop(_COVERED)
    )


def _sums(side: SideTables, mark: str, days: int) -> pl.DataFrame | None:
    articles = _articles(side)
    if articles is None:
        return None
    coverage = side.shared("coverage", lambda: _coverage(articles))
    return side.shared((mark, days), lambda: _in_window(articles, coverage, mark, days))


def _together(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Return two sets of steps as one, ``value`` and ``other``, at every step of either."""
    return (
        pl.concat(
            [
                a.with_columns(pl.lit(value=True).alias("own")),
                b.with_columns(pl.lit(value=False).alias("own")),
            ]
        )
        .sort(Bar.KNOWN_AT, "own", maintain_order=True)
        .select(
            Bar.SYMBOL,
            Bar.KNOWN_AT,
            *(
                # A step to nothing is a step too, so it is carried on by its place, not its value.
                pl.when(mine)
                .then(pl.struct(VALUE))
                .forward_fill()
                .over(Bar.SYMBOL)
                .struct.field(VALUE)
                .alias(name)
                for name, mine in (("value", pl.col("own")), ("other", ~pl.col("own")))
            ),
        )
        .unique([Bar.SYMBOL, Bar.KNOWN_AT], keep="last", maintain_order=True)
    )


def _count(side: SideTables, days: int) -> pl.DataFrame | None:
    return _sums(side, "articles", days)


def _over_usual(now: pl.DataFrame, usual: pl.DataFrame, days: int) -> pl.DataFrame:
    mean = pl.col("other") * (days / BASE_DAYS)
    return _together(now, usual).with_columns(
        pl.when(pl.col("other") > 0).then(pl.col(VALUE) / mean).alias(VALUE)
    )


def _relative_count(side: SideTables, days: int) -> pl.DataFrame | None:
    now, usual = _sums(side, "articles", days), _sums(side, "articles", BASE_DAYS)
    return None if now is None or usual is None else _over_usual(now, usual, days)


def _balance(side: SideTables, days: int) -> pl.DataFrame | None:
    tone, labelled = _sums(side, "tone", days), _sums(side, "labelled", days)
    if tone is None or labelled is None:
        return None
    return _together(tone, labelled).with_columns(
        pl.when(pl.col("other") > 0).then(pl.col(VALUE) / pl.col("other")).alias(VALUE)
    )


def _of_market(side: SideTables, days: int) -> pl.DataFrame | None:
    articles = _articles(side)
    if articles is None:
        return None
    coverage = side.shared("coverage", lambda: _coverage(articles))
    once = articles.unique(News.ARTICLE_ID, keep="first", maintain_order=True).with_columns(
        pl.lit("*").alias(Bar.SYMBOL)
    )

    def sums(days: int) -> pl.DataFrame:
        made = side.shared(("market", days), lambda: _in_window(once, coverage, "articles", days))
        return made.filter(pl.col(Bar.SYMBOL).is_not_null())

    return _over_usual(sums(days), sums(BASE_DAYS), days).select(Bar.KNOWN_AT, VALUE)


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
            partial(_relative_count, days=n),
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
            partial(_of_market, days=n),
            f"Articles about anybody in the last {n} days over their mean of {BASE_DAYS} days",
            _ATTENTION,
        ),
    )
)
