"""Rules that hold a minute against its neighbours inside one session.

The same frames and marks as in :mod:`market.quality_series`, made for millions of rows: each rule
first narrows the rows down by a comparison with the row before.
"""

from __future__ import annotations

import polars as pl

from market import calendar
from market.quality_rules import QualityRules, Reason, mark
from market.quality_series import OHLC, mark_moves, reverting
from market.schema import Bar

_KEYS = [Bar.SYMBOL, Bar.SESSION]
_OWN = pl.col(Bar.KNOWN_AT)
_GROUP = "series"


def mark_minute_moves(bars: pl.DataFrame, rules: QualityRules) -> pl.DataFrame:
    """Return marks of spikes and jumps inside a session.

    The usual move is the symbol's median absolute return in that session, so a verdict rests on
    the session as far as it is known; the next session's verdict on its own.
    """
    least = min(rules.minute_spike, rules.minute_jump) * rules.minute_floor
    close = pl.col(Bar.CLOSE)
    leaps = (close / close.shift(1) - 1).abs() >= least * 0.5
    same = pl.col(Bar.SYMBOL) == pl.col(Bar.SYMBOL).shift(1)
    same &= pl.col(Bar.SESSION) == pl.col(Bar.SESSION).shift(1)
    some = bars.filter((leaps & same).fill_null(value=False)).select(_KEYS).unique()
    moves = bars.join(some, on=_KEYS, how="semi", maintain_order="left").with_columns(
        pl.format("{} {}", Bar.SYMBOL, Bar.SESSION).alias(_GROUP)
    )
    apart = pl.col(Bar.BAR_START).diff().over(_GROUP).dt.total_minutes().clip(1).sqrt()
    moves = moves.with_columns(way_in=close.log().diff().over(_GROUP) / apart)
    usual = pl.col("way_in").abs().median().over(_GROUP).clip(rules.minute_floor)
    way_out = pl.col("way_in").shift(-1).over(_GROUP)
    moves = moves.with_columns(
        next_known_at=_OWN.shift(-1).over(_GROUP),
        jump=pl.col("way_in").abs() / usual,
        spike=reverting(pl.col("way_in"), way_out) / usual,
    )
    # The last minute of a session has no next one to wait for.
    return mark_moves(
        moves.with_columns(pl.col("next_known_at").fill_null(_OWN)),
        rules.minute_spike,
        rules.minute_jump,
    )


def mark_minute_repeats(bars: pl.DataFrame, rules: QualityRules) -> pl.DataFrame:
    """Return marks of minutes whose whole OHLCV equals that of the minute before.

    Of two equal ones neither stays.
    """
    columns = (*OHLC, Bar.VOLUME)
    same = pl.col(Bar.SYMBOL) == pl.col(Bar.SYMBOL).shift(1)
    same &= pl.col(Bar.SESSION) == pl.col(Bar.SESSION).shift(1)
    for column in columns:
        same &= pl.col(column) == pl.col(column).shift(1)
    telling = (pl.col(Bar.HIGH) > pl.col(Bar.LOW)) & (pl.col(Bar.VOLUME) >= rules.repeat_volume)
    copy = (same & telling).fill_null(value=False)
    found = bars.select(
        "row",
        *_KEYS,
        copy=copy,
        original=copy.shift(-1, fill_value=False),
        known_at=_OWN,
        later=_OWN.shift(-1),
    ).filter(pl.col("copy") | pl.col("original"))
    return mark(
        found,
        Reason.REPEATED_ROW,
        pl.lit(2),
        pl.lit("equals the minute next to it"),
        pl.when("original").then(pl.col("later")).otherwise(_OWN),
    )


def mark_copied_sessions(bars: pl.DataFrame) -> pl.DataFrame:
    """Return marks of the minutes of sessions whose sums all equal another session's."""
    columns = (*OHLC, Bar.VOLUME)
    sums = bars.group_by(_KEYS).agg(
        pl.len().alias("bars"), *(pl.col(c).sum() for c in columns), _OWN.max()
    )
    copies = sums.filter(
        (pl.col("bars") >= 30) & pl.struct(Bar.SYMBOL, "bars", *columns).is_duplicated()
    ).select(*_KEYS, _OWN.max().over(Bar.SYMBOL, *columns).alias("later"))
    return mark(
        bars.join(copies, on=_KEYS, maintain_order="left"),
        Reason.COPIED_SESSION,
        pl.lit(2),
        pl.lit("the whole session equals another session"),
        pl.col("later"),
    )


def find_minute_holes(bars: pl.DataFrame, rules: QualityRules) -> pl.DataFrame:
    """Return one row per active symbol and session that lacks regular minutes."""
    grid = calendar.schedule().join(bars.select(pl.col(Bar.SESSION).unique()), on=Bar.SESSION)
    start = pl.col(Bar.BAR_START)
    counted = (
        bars.lazy()
        .select(*_KEYS, start)
        .join(grid.lazy(), on=Bar.SESSION)
        .filter((start >= pl.col("session_open")) & (start < pl.col("session_close")))
        .group_by(_KEYS)
        .agg(pl.len().cast(pl.Int64).alias("have"), pl.col("session_minutes").first())
        .collect()
    )
    whole = pl.col("session_minutes")
    return counted.filter(
        (pl.col("have") < whole) & (pl.col("have") >= rules.active_share * whole)
    ).select(
        *_KEYS,
        (whole - pl.col("have")).alias("rows"),
        ((whole - pl.col("have")) / whole).alias("missing"),
    )
