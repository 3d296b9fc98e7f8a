"""Rules that hold a bar against its neighbours, on daily bars.

Frames here are ``BAR_SCHEMA`` with a ``row`` number, sorted by symbol and time, one row per bar;
what comes out are marks (:func:`market.quality_rules.mark`). A mark says from when its fault is
evident: a spike is one only once the next bar is known.
"""

from __future__ import annotations

import polars as pl

from market import calendar
from market.actions import forward_adjust, session_factors
from market.quality_rules import FINDING_SCHEMA, QualityRules, Reason, mark
from market.schema import Bar

OHLC = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)
_OWN = pl.col(Bar.KNOWN_AT)
_INDEX = calendar.schedule().select(pl.col("session").alias(Bar.SESSION), "session_index")


def daily_moves(
    bars: pl.DataFrame, splits: pl.DataFrame, dividends: pl.DataFrame, rules: QualityRules
) -> pl.DataFrame:
    """Return every bar's move in multiples of its symbol's usual one.

    Parameters
    ----------
    bars : pl.DataFrame
        Sorted daily bars with ``row``.
    splits, dividends : pl.DataFrame
        Actions; a move that they explain is none.
    rules : QualityRules
        Windows and floors.

    Returns
    -------
    pl.DataFrame
        The rows with ``jump`` (absolute close-to-close score), ``spike`` (the smaller of the
        ways out and back, of the closes or of the whole bar by its opening gaps; 0 where it did
        not come back, null where the next bar is not known) and ``next_known_at``. Scores are
        null until the usual move is known. The market's move is the session's median over
        symbols, and a move over several sessions counts by their square root.
    """
    adjusted = forward_adjust(bars, session_factors(bars, splits, dividends))
    close, opened = pl.col(Bar.CLOSE).log(), pl.col(Bar.OPEN).log()
    moves = adjusted.join(_INDEX, on=Bar.SESSION, how="left", maintain_order="left").with_columns(
        close_in=close.diff().over(Bar.SYMBOL),
        open_in=opened - close.shift(1).over(Bar.SYMBOL),
        apart=pl.col("session_index").diff().over(Bar.SYMBOL).clip(1).sqrt(),
    )
    moves = moves.with_columns(_beyond_market(c, rules) / pl.col("apart") for c in _IN)
    # By sessions, not by rows: a halted symbol's verdict rests on the same days whoever asks.
    usual = (
        pl.col("close_in")
        .abs()
        .rolling_median_by(
            "session_index",
            f"{rules.usual_sessions}i",
            min_samples=rules.usual_overlap,
            closed="left",
        )
        .over(Bar.SYMBOL)
        .clip(rules.usual_floor)
    )
    moves = moves.with_columns(usual=usual).with_columns(
        pl.col("close_in").shift(-1).over(Bar.SYMBOL).alias("close_out"),
        pl.col("open_in").shift(-1).over(Bar.SYMBOL).alias("open_out"),
        _OWN.shift(-1).over(Bar.SYMBOL).alias("next_known_at"),
    )
    there_and_back = pl.max_horizontal(
        reverting(pl.col("close_in"), pl.col("close_out")),
        reverting(pl.col("open_in"), pl.col("open_out")),
    )
    return moves.select(
        "row",
        Bar.SYMBOL,
        Bar.SESSION,
        Bar.KNOWN_AT,
        "next_known_at",
        (pl.col("close_in").abs() / pl.col("usual")).alias("jump"),
        pl.when(pl.col("next_known_at").is_not_null())
        .then(there_and_back / pl.col("usual"))
        .alias("spike"),
    )


_IN = ("close_in", "open_in")


def _beyond_market(column: str, rules: QualityRules) -> pl.Expr:
    move = pl.col(column)
    enough = move.count().over(Bar.SESSION) >= rules.excess_symbols
    market = pl.when(enough).then(move.median().over(Bar.SESSION)).otherwise(0.0)
    return (move - market).alias(column)


def reverting(way_in: pl.Expr, way_out: pl.Expr) -> pl.Expr:
    """Return the size of a move that went back: the smaller way, less half of what remained."""
    back = way_in.sign() == -way_out.sign()
    smaller = pl.min_horizontal(way_in.abs(), way_out.abs())
    remained = (way_in + way_out).abs() / 2
    return pl.when(back).then((smaller - remained).clip(0.0)).otherwise(0.0)


def mark_moves(moves: pl.DataFrame, spike: float, jump: float) -> pl.DataFrame:
    """Return marks of spikes, of jumps that stayed, and of jumps in the newest bar."""
    after_spike = (pl.col("spike").shift(1).over(Bar.SYMBOL) >= spike).fill_null(value=False)
    is_spike = (pl.col("spike") >= spike).fill_null(value=False)
    moves = moves.with_columns(after_spike=after_spike, is_spike=is_spike)
    jumps = moves.filter((pl.col("jump") >= jump) & ~pl.col("is_spike") & ~pl.col("after_spike"))
    newest = pl.col("next_known_at").is_null()
    text = "usual moves"
    return pl.concat(
        [
            mark(
                moves.filter(pl.col("is_spike")),
                Reason.SPIKE,
                pl.col("spike"),
                pl.format("{} {} out and back", pl.col("spike").round(1), pl.lit(text)),
                pl.col("next_known_at"),
            ),
            mark(
                jumps.filter(newest),
                Reason.JUMP_UNCONFIRMED,
                pl.col("jump"),
                pl.format("{} {}", pl.col("jump").round(1), pl.lit(text)),
                _OWN,
            ),
            mark(
                jumps.filter(~newest),
                Reason.JUMP,
                pl.col("jump"),
                pl.format("{} {}", pl.col("jump").round(1), pl.lit(text)),
                _OWN,
            ),
        ]
    )


def mark_repeats(bars: pl.DataFrame, rules: QualityRules) -> pl.DataFrame:
    """Return marks of rows whose whole OHLCV equals that of the same symbol on a day nearby.

    Of equal rows the one that fits its neighbours clearly better stays (mean absolute return
    from the bar before and to the bar after). Rows next to each other cannot be told apart by
    prices, so none of them stays.
    """
    keys: list[str] = [Bar.SYMBOL, *OHLC, Bar.VOLUME]
    telling = (pl.col(Bar.HIGH) > pl.col(Bar.LOW)) & (pl.col(Bar.VOLUME) >= rules.repeat_volume)
    move = pl.col(Bar.CLOSE).log().diff().over(Bar.SYMBOL).abs()
    apart = pl.col("session_index").diff().over(keys)
    equal = (
        bars.with_columns(
            move=move,
            move_next=move.shift(-1).over(Bar.SYMBOL),
            place=pl.int_range(pl.len()).over(Bar.SYMBOL),
            suspect=telling & pl.struct(keys).is_duplicated(),
        )
        .filter("suspect")
        .with_columns(fit=pl.mean_horizontal("move", "move_next").fill_null(0.0))
        .join(_INDEX, on=Bar.SESSION, how="left", maintain_order="left")
        .sort(Bar.SYMBOL, Bar.BAR_START)
        .with_columns(far=(apart > rules.repeat_sessions).fill_null(value=False))
        .with_columns(cluster=pl.col("far").cum_sum().over(keys))
    )
    keys = [*keys, "cluster"]
    equal = equal.filter(pl.len().over(keys) > 1)
    if equal.is_empty():
        return mark(equal, Reason.REPEATED_ROW, pl.lit(0), pl.lit(""), _OWN)
    adjacent = (pl.col("place").diff().over(keys) == 1).fill_null(value=False)
    best = pl.col("fit").rank("ordinal").over(keys) == 1
    equal = equal.with_columns(
        adjacent=adjacent.any().over(keys),
        best=best,
        runner_up=pl.col("fit").sort().slice(1, 1).first().over(keys),
        later=_OWN.max().over(keys),
        sessions=pl.col(Bar.SESSION).cast(pl.String).str.join(" and ").over(keys),
    )
    clear = pl.col("runner_up") > rules.repeat_margin * pl.col("fit")
    return mark(
        equal.filter(~(pl.col("best") & clear & ~pl.col("adjacent"))),
        Reason.REPEATED_ROW,
        pl.len().over(keys).cast(pl.Float64),
        pl.format("equal rows on {}", pl.col("sessions")),
        pl.col("later"),
    )


def mark_stale(bars: pl.DataFrame, after: int) -> pl.DataFrame:
    """Return marks of bars that end a run of ``after`` or more identical ones with volume."""
    same = pl.col(Bar.SYMBOL) == pl.col(Bar.SYMBOL).shift(1)
    for column in OHLC:
        same &= pl.col(column) == pl.col(column).shift(1)
    same &= (pl.col(Bar.VOLUME) > 0) & (pl.col(Bar.VOLUME).shift(1) > 0)
    run = same.fill_null(value=False).cast(pl.UInt32).rolling_sum(after - 1)
    found = bars.filter((run == after - 1).fill_null(value=False)) if after > 1 else bars
    return mark(
        found,
        Reason.STALE,
        pl.lit(after),
        pl.lit(f"at least {after} identical bars in a row"),
        _OWN,
    )


def find_daily_holes(bars: pl.DataFrame) -> pl.DataFrame:
    """Return one row per symbol and session without a bar between the symbol's bars."""
    index = pl.col("session_index")
    gaps = (
        bars.select(Bar.SYMBOL, Bar.SESSION)
        .join(_INDEX, on=Bar.SESSION, maintain_order="left")
        .with_columns(before=index.shift(1).over(Bar.SYMBOL))
        .filter(index - pl.col("before") > 1)
    )
    return (
        gaps.select(Bar.SYMBOL, pl.int_ranges(pl.col("before") + 1, index).alias("session_index"))
        .explode("session_index")
        .join(_INDEX, on="session_index")
        .select(Bar.SYMBOL, Bar.SESSION, rows=pl.lit(1, pl.Int64), missing=pl.lit(1.0))
    )


def find_excess(moves: pl.DataFrame, odd_rows: pl.Series, rules: QualityRules) -> pl.DataFrame:
    """Return the sessions on which more symbols are odd than chance explains.

    A session's share of odd symbols is held against that of all other sessions, by the
    binomial's standard deviation. Odd is a bar with a mark of its own (``odd_rows``), or a
    smaller move that came back; in the newest session, where that is not known yet, a move.

    Returns
    -------
    pl.DataFrame
        ``FINDING_SCHEMA``.
    """
    marked = pl.col("row").is_in(odd_rows.implode())
    daily = (
        moves.group_by(Bar.SESSION)
        .agg(
            n=pl.len().cast(pl.Float64),
            settled=pl.col("next_known_at").is_not_null().mean() >= 0.5,
            reverting=((pl.col("spike") >= rules.odd_revert).fill_null(value=False) | marked).sum(),
            jumping=((pl.col("jump") >= rules.odd_jump).fill_null(value=False) | marked).sum(),
        )
        .filter(pl.col("n") >= rules.excess_symbols)
    )
    found = [
        _excess(daily, "reverting", pl.col("settled"), rules),
        _excess(daily, "jumping", ~pl.col("settled"), rules),
    ]
    return pl.concat(found).sort(Bar.SESSION)


def _excess(daily: pl.DataFrame, kind: str, applies: pl.Expr, rules: QualityRules) -> pl.DataFrame:
    odd, n = pl.col(kind).cast(pl.Float64), pl.col("n")
    # One odd symbol in a thousand is expected anywhere; with few sessions that is all we know.
    usual = ((odd.sum() - odd + 1.0) / (n.sum() - n + 1000.0)).alias("usual")
    z = (odd - n * pl.col("usual")) / (n * pl.col("usual") * (1 - pl.col("usual"))).sqrt()
    return (
        daily.with_columns(usual)
        .with_columns(z=z)
        .filter(applies & (pl.col("z") >= rules.excess) & (odd >= 3))
        .select(
            rule=pl.lit(Reason.EXCESS.value),
            severity=pl.lit(rules.severity(Reason.EXCESS).value),
            session=pl.col(Bar.SESSION),
            symbols=odd.cast(pl.Int64),
            rows=odd.cast(pl.Int64),
            share=odd / n,
            worst=pl.col("z"),
            detail=pl.format(
                "{} of {} symbols {}, usual share {}",
                odd.cast(pl.Int64),
                n.cast(pl.Int64),
                pl.lit(kind),
                pl.col("usual").round(5),
            ),
        )
        .select(pl.col(n).cast(t) for n, t in FINDING_SCHEMA.items())
    )
