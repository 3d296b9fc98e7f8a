"""Corporate actions and the adjustment of prices.

Two views, one table of factors:

*Forward-adjusted* prices multiply the price of session *t* by the product of all actions with
``ex_date <= t``. The factor of a bar never changes when a later action becomes known, so
features and labels, which are invariant to a symbol's price scale, are computed on these and
cannot see a split early, to the bit.

*Back-adjusted* prices, which people read on charts, are the forward-adjusted ones divided by the
factor at ``as_of``: a moment before a split shows prices before that split.

Source of the dividend factor: CRSP's total-return convention, reinvestment at the close before
the ex-date.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import polars as pl

from market import calendar
from market.schema import BAR_SCHEMA, PRICE_COLUMNS, Bar, Dividend, Split


class Adjustment(StrEnum):
    """Which actions a price view takes into account."""

    RAW = "raw"
    SPLIT = "split"
    TOTAL = "total"


def session_factors(
    daily: pl.DataFrame, splits: pl.DataFrame, dividends: pl.DataFrame
) -> pl.DataFrame:
    """Return the cumulative adjustment factors of every symbol and session.

    Parameters
    ----------
    daily : pl.DataFrame
        Raw daily bars (``BAR_SCHEMA``); the close before an ex-date values its dividend.
    splits, dividends : pl.DataFrame
        ``SPLIT_SCHEMA`` and ``DIVIDEND_SCHEMA``.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``session``, ``split_factor`` (shares now per share at the start) and
        ``total_factor`` (the same with dividends reinvested), ascending; one row per daily bar,
        and one per ex-date without a bar (a halt, or today, whose daily bar comes at the close).
        Each row depends only on that session's actions, earlier ones and earlier closes.
    """
    keys = [Bar.SYMBOL, Bar.SESSION]
    split = splits.group_by(pl.col(Split.SYMBOL), pl.col(Split.EX_DATE).alias(Bar.SESSION)).agg(
        pl.col(Split.SPLIT_RATIO).product().alias("split")
    )
    paid = dividends.group_by(
        pl.col(Dividend.SYMBOL), pl.col(Dividend.EX_DATE).alias(Bar.SESSION)
    ).agg(pl.col(Dividend.AMOUNT_USD).sum().alias("dividend"))
    days = pl.concat([f.select(keys) for f in (daily, split, paid)]).unique()
    frame = (
        days.join(daily.select(*keys, Bar.CLOSE), on=keys, how="left")
        .join(split, on=keys, how="left")
        .join(paid, on=keys, how="left")
        .sort(keys)
        .with_columns(pl.col("split").fill_null(1.0), pl.col("dividend").fill_null(0.0))
        .with_columns(pl.col("split").cum_prod().over(Bar.SYMBOL).alias("split_factor"))
    )
    # The last close per share of this session: a dividend is per new share on a split's ex-date.
    per_old_share = pl.col(Bar.CLOSE) * pl.col("split_factor")
    before = per_old_share.forward_fill().shift(1).over(Bar.SYMBOL) / pl.col("split_factor")
    growth = pl.when(before > pl.col("dividend")).then(1.0 / (1.0 - pl.col("dividend") / before))
    return frame.with_columns(growth=growth.otherwise(1.0)).select(
        *keys,
        "split_factor",
        (pl.col("split") * pl.col("growth")).cum_prod().over(Bar.SYMBOL).alias("total_factor"),
    )


def forward_adjust(bars: pl.DataFrame, factors: pl.DataFrame) -> pl.DataFrame:
    """Return bars in total-return prices scaled from the start of history.

    Parameters
    ----------
    bars : pl.DataFrame
        Raw bars of any timeframe.
    factors : pl.DataFrame
        From :func:`session_factors`. A session without a daily bar uses the last factor before it.

    Returns
    -------
    pl.DataFrame
        The same rows; prices times the total factor, volumes divided by nothing but splits:
        a share of today counts as the old shares that it came from.
    """
    joined = _with_factors(bars.lazy(), factors)
    scaled = _scale(joined, pl.col("total_factor"), 1.0 / pl.col("split_factor"))
    return scaled.select(bars.columns).collect()


def adjust(
    bars: pl.DataFrame,
    factors: pl.DataFrame,
    view: Adjustment,
    as_of: dt.datetime,
) -> pl.DataFrame:
    """Return bars as a person at ``as_of`` would see them on a chart.

    Parameters
    ----------
    bars : pl.DataFrame
        Raw bars of any timeframe.
    factors : pl.DataFrame
        From :func:`session_factors`.
    view : Adjustment
        Raw, split-adjusted or total-return.
    as_of : datetime
        Aware. Actions count whose ex-date's session has opened by then.

    Returns
    -------
    pl.DataFrame
        The rows with ``known_at <= as_of``; the newest price is a raw price.
    """
    return adjust_lazily(bars.lazy(), factors, view, as_of).collect()


def adjust_lazily(
    bars: pl.LazyFrame,
    factors: pl.DataFrame,
    view: Adjustment,
    as_of: dt.datetime,
) -> pl.LazyFrame:
    """Return the same as :func:`adjust` as a query that has not run yet.

    Filters on symbol and session, and the choice of columns, reach the files.
    """
    visible = bars.filter(pl.col(Bar.KNOWN_AT) <= as_of)
    if view is Adjustment.RAW:
        return visible
    day = as_of.astimezone(calendar.NEW_YORK).date()
    if calendar.is_session(day) and as_of < calendar.session_open(day):
        day -= dt.timedelta(days=1)
    seen = factors.filter(pl.col(Bar.SESSION) <= day)
    last = seen.group_by(Bar.SYMBOL).agg(
        pl.col("split_factor").last().alias("split_last"),
        pl.col("total_factor").last().alias("total_last"),
    )
    joined = _with_factors(visible, seen).join(last.lazy(), on=Bar.SYMBOL, how="left")
    price = "split" if view is Adjustment.SPLIT else "total"
    return _scale(
        joined,
        (pl.col(f"{price}_factor") / pl.col(f"{price}_last")).fill_null(1.0),
        (pl.col("split_last") / pl.col("split_factor")).fill_null(1.0),
    ).select(BAR_SCHEMA.names())


def per_share_of(bars: pl.DataFrame, splits: pl.DataFrame) -> pl.DataFrame:
    """Return raw closes and volumes in shares of after all of the splits.

    Parameters
    ----------
    bars : pl.DataFrame
        ``symbol``, ``session``, ``close`` and others.
    splits : pl.DataFrame
        ``SPLIT_SCHEMA``: those that are in force.

    Returns
    -------
    pl.DataFrame
        The same rows and order; ``close`` divided by the ratios of the splits after the row's
        session, ``volume`` multiplied by them where it is there.

    Examples
    --------
    >>> from market.schema import SPLIT_SCHEMA
    >>> day = dt.date(2024, 6, 7)
    >>> bars = pl.DataFrame({"symbol": ["A"], "session": [day], "close": [120.0]})
    >>> known = dt.datetime(2024, 6, 10, 4, tzinfo=dt.UTC)
    >>> made = pl.DataFrame(
    ...     [("A", dt.date(2024, 6, 10), known, 10.0)], schema=SPLIT_SCHEMA, orient="row"
    ... )
    >>> per_share_of(bars, made)["close"].to_list()
    [12.0]
    """
    ratio = pl.lit(1.0)
    within = splits.filter(pl.col(Split.EX_DATE) > bars[Bar.SESSION].min())
    for split in within.iter_rows(named=True):
        before = (pl.col(Bar.SYMBOL) == split[Split.SYMBOL]) & (
            pl.col(Bar.SESSION) < split[Split.EX_DATE]
        )
        ratio = pl.when(before).then(ratio * split[Split.SPLIT_RATIO]).otherwise(ratio)
    made = [pl.col(Bar.CLOSE) / ratio]
    if Bar.VOLUME in bars.columns:
        made.append(pl.col(Bar.VOLUME) * ratio)
    return bars.with_columns(made)


def _with_factors(bars: pl.LazyFrame, factors: pl.DataFrame) -> pl.LazyFrame:
    keys = [Bar.SYMBOL, Bar.SESSION]
    joined = bars.sort(Bar.SYMBOL, Bar.BAR_START).join_asof(
        factors.lazy().sort(keys),
        on=Bar.SESSION,
        by=Bar.SYMBOL,
        strategy="backward",
        check_sortedness=False,
    )
    return joined.with_columns(
        pl.col("split_factor").fill_null(1.0), pl.col("total_factor").fill_null(1.0)
    )


def _scale(frame: pl.LazyFrame, price: pl.Expr, volume: pl.Expr) -> pl.LazyFrame:
    return frame.with_columns(
        *(pl.col(c) * price for c in PRICE_COLUMNS), pl.col(Bar.VOLUME) * volume
    )
