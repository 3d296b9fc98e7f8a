"""What became of each signal: its excess return, and which of its levels was touched first.

The models forecast an excess return, so that is what their signals are judged by: the return
from the last price known at ``as_of`` to the last price at ``valid_until``, less the mean of all
symbols over the same span; not signed by the signal's direction. As in the labels
(:mod:`features.labels`), daily horizons earn nights and dividends, and intraday ones only what
happens inside sessions.

A symbol that stopped trading is settled at its last price, which is what it was worth as far as
anyone could see; it is left out of the mean. What a delisting is worth afterwards is in no bar:
such losses are understated (Shumway 1997).
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import polars as pl

from market import calendar
from market.errors import SignalError
from market.horizons import HORIZONS
from market.schema import UTC_MICROSECONDS, Bar
from signals.schema import Direction, SignalColumn


class SignalOutcome(StrEnum):
    """Columns of the outcomes of signals."""

    SIGNAL_ID = "signal_id"
    KNOWN_AT = "known_at"
    REALISED_RETURN_BPS = "realised_return_bps"
    TARGET_TOUCHED_AT = "target_touched_at"
    STOP_TOUCHED_AT = "stop_touched_at"


SIGNAL_OUTCOME_SCHEMA = pl.Schema(
    {
        SignalOutcome.SIGNAL_ID: pl.String(),
        SignalOutcome.KNOWN_AT: UTC_MICROSECONDS,
        SignalOutcome.REALISED_RETURN_BPS: pl.Float64(),
        SignalOutcome.TARGET_TOUCHED_AT: UTC_MICROSECONDS,
        SignalOutcome.STOP_TOUCHED_AT: UTC_MICROSECONDS,
    }
)

_INTRADAY = [h.name for h in HORIZONS if h.timeframe.is_intraday]
SPAN = (SignalColumn.AS_OF, SignalColumn.VALID_UNTIL)
"""From when to when a signal holds."""

_VALUE = "_value"
_ROUNDING = 1e-9


def settle_signals(
    signals: pl.DataFrame,
    daily: pl.DataFrame,
    minutes: pl.DataFrame,
    factors: pl.DataFrame,
    *,
    as_of: dt.datetime,
) -> pl.DataFrame:
    """Return the outcome of every signal whose end is known.

    Parameters
    ----------
    signals : pl.DataFrame
        ``SIGNAL_SCHEMA`` at least in ``id``, ``symbol``, ``horizon``, ``direction``, ``as_of``,
        ``valid_until``, ``targets`` and ``stops``.
    daily, minutes : pl.DataFrame
        Raw bars (``BAR_SCHEMA``) of all symbols, from the session before the first ``as_of`` on;
        minutes of regular hours, as far as there are any. A company that changed its ticker must
        stand under one name, here and in the signals.
    factors : pl.DataFrame
        From :func:`market.actions.session_factors`.
    as_of : datetime
        Aware. Bars known later are not looked at.

    Returns
    -------
    pl.DataFrame
        ``SIGNAL_OUTCOME_SCHEMA``, by the order of the signals. One whose span the bars do not
        cover yet, or whose symbol has no price before it, is left out.

        A level is touched at the end of the first bar that began at ``as_of`` or later, ended by
        ``valid_until`` and whose high or low reaches it: a minute where the symbol's session has
        minutes, else a day. Levels are prices of ``as_of``; a split scales them, a dividend does
        not. Where a bar touches both, both have its time, and the stop counts
        (:func:`reached_first`): what came first inside the bar is not known.

    Raises
    ------
    SignalError
        When ``as_of`` has no time zone.
    """
    if as_of.tzinfo is None:
        raise SignalError(
            "as_of has no time zone",
            got=as_of.isoformat(),
            allowed="aware datetimes",
            remedy="attach the zone, for example tzinfo=datetime.UTC",
        )
    days, inside = (_known(bars, factors, as_of) for bars in (daily, minutes))
    # What one share of the beginning is worth with all it paid; and what sessions alone made of it.
    held = days.with_columns((pl.col(Bar.CLOSE) * pl.col("total_factor")).alias(_VALUE))
    traded = _inside_sessions(inside)
    spans = signals.with_columns(is_intraday().alias("_intraday"))
    parts = [
        _settle(part, traded if part["_intraday"][0] else held, days, inside)
        for part in spans.partition_by(*SPAN, "_intraday")
    ]
    settled = pl.concat([pl.DataFrame(schema=SIGNAL_OUTCOME_SCHEMA), *parts])
    order = signals.select(pl.col(SignalColumn.ID).alias(SignalOutcome.SIGNAL_ID))
    return order.join(settled, on=SignalOutcome.SIGNAL_ID, maintain_order="left")


def is_intraday() -> pl.Expr:
    """Return whether a signal's horizon counts minutes of trading, and not sessions."""
    return pl.col(SignalColumn.HORIZON).is_in(_INTRADAY)


def reached_first(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return outcomes with ``reached``: ``target``, ``stop``, or null where neither was touched.

    Parameters
    ----------
    outcomes : pl.DataFrame
        ``SIGNAL_OUTCOME_SCHEMA``. Where both were touched in the same bar the stop counts.
    """
    target, stop = (
        pl.col(c) for c in (SignalOutcome.TARGET_TOUCHED_AT, SignalOutcome.STOP_TOUCHED_AT)
    )
    first = (
        pl.when(target.is_not_null() & (stop.is_null() | (target < stop)))
        .then(pl.lit("target"))
        .when(stop.is_not_null())
        .then(pl.lit("stop"))
    )
    return outcomes.with_columns(first.alias("reached"))


def _known(bars: pl.DataFrame, factors: pl.DataFrame, as_of: dt.datetime) -> pl.DataFrame:
    """Return the bars known by now with the factors of their session."""
    known = bars.filter(pl.col(Bar.KNOWN_AT) <= as_of).sort(Bar.SYMBOL, Bar.SESSION, Bar.BAR_END)
    return known.join_asof(
        factors.sort(Bar.SYMBOL, Bar.SESSION),
        on=Bar.SESSION,
        by=Bar.SYMBOL,
        strategy="backward",
        check_sortedness=False,
    ).with_columns(pl.col("split_factor", "total_factor").fill_null(1.0))


def _inside_sessions(minutes: pl.DataFrame) -> pl.DataFrame:
    """Return minutes with the value of one unit that was held during sessions alone."""
    of_session = minutes.group_by(Bar.SYMBOL, Bar.SESSION, maintain_order=True).agg(
        pl.col(Bar.OPEN).first().alias("_open"), pl.col(Bar.CLOSE).last().alias("_close")
    )
    growth = pl.col("_close") / pl.col("_open")
    before = (growth.cum_prod() / growth).over(Bar.SYMBOL).alias("_before")
    return minutes.join(
        of_session.with_columns(before), on=[Bar.SYMBOL, Bar.SESSION], maintain_order="left"
    ).with_columns((pl.col("_before") * pl.col(Bar.CLOSE) / pl.col("_open")).alias(_VALUE))


def _settle(
    signals: pl.DataFrame, bars: pl.DataFrame, days: pl.DataFrame, minutes: pl.DataFrame
) -> pl.DataFrame:
    """Return the outcomes of signals that share their span."""
    begin, end = signals.select(SPAN).row(0)
    settled = signals.join(_excess_returns(bars, begin, end), on=Bar.SYMBOL)
    symbols = settled[Bar.SYMBOL].unique().implode()
    inside = pl.col(Bar.SYMBOL).is_in(symbols) & (pl.col(Bar.BAR_START) >= begin)
    fine, coarse = (b.filter(inside, pl.col(Bar.BAR_END) <= end) for b in (minutes, days))
    coarse = coarse.join(fine, on=[Bar.SYMBOL, Bar.SESSION], how="anti")
    columns = [Bar.SYMBOL, Bar.SESSION, Bar.BAR_END, Bar.HIGH, Bar.LOW, "split_factor"]
    path = pl.concat([fine.select(columns), coarse.select(columns)])
    long = pl.col(SignalColumn.DIRECTION) == Direction.LONG.value
    target, stop = (pl.col(c).list.first() for c in (SignalColumn.TARGETS, SignalColumn.STOPS))
    above, below = (pl.when(long).then(a).otherwise(b) for a, b in ((target, stop), (stop, target)))
    up = _first_touch(settled, above, path, pl.col(Bar.HIGH), "_up")
    down = _first_touch(settled, -below, path, -pl.col(Bar.LOW), "_down")
    return (
        settled.join(up, on=SignalColumn.ID, how="left")
        .join(down, on=SignalColumn.ID, how="left")
        .select(
            pl.col(SignalColumn.ID).alias(SignalOutcome.SIGNAL_ID),
            pl.col("_known_at").alias(SignalOutcome.KNOWN_AT),
            (pl.col("_excess") * 1e4).alias(SignalOutcome.REALISED_RETURN_BPS),
            pl.when(long).then("_up").otherwise("_down").alias(SignalOutcome.TARGET_TOUCHED_AT),
            pl.when(long).then("_down").otherwise("_up").alias(SignalOutcome.STOP_TOUCHED_AT),
        )
        .cast(SIGNAL_OUTCOME_SCHEMA)
    )


def _excess_returns(bars: pl.DataFrame, begin: dt.datetime, end: dt.datetime) -> pl.DataFrame:
    """Return each symbol's excess return and split factor at the beginning; none before the end."""
    past = bars.filter(pl.col(Bar.BAR_END) <= end)
    # The market says whether the end has come: a halted symbol has no bar that would.
    day = end.astimezone(calendar.NEW_YORK).date()
    covered = past.filter(pl.col(Bar.SESSION) == day)
    if covered.is_empty() or bars.filter(pl.col(Bar.BAR_END) >= end).is_empty():
        past = past.clear()
    base = (
        past.filter(pl.col(Bar.KNOWN_AT) <= begin)
        .group_by(Bar.SYMBOL)
        .agg(
            pl.col(_VALUE).last().alias("_base"),
            pl.col(Bar.BAR_END).last().alias("_base_end"),
            pl.col(Bar.SESSION).last().alias("_base_session"),
            pl.col("split_factor").last().alias("_base_split"),
        )
    )
    last = past.group_by(Bar.SYMBOL).agg(
        pl.col(_VALUE).last(), pl.col(Bar.BAR_END).last(), pl.col(Bar.KNOWN_AT).last()
    )
    fresh = pl.col("_base_session") == pl.col("_base_session").max()
    trades = fresh & (pl.col(Bar.BAR_END) > pl.col("_base_end"))
    gain = pl.col(_VALUE) / pl.col("_base") - 1.0
    return (
        base.join(last, on=Bar.SYMBOL)
        .sort(Bar.SYMBOL)
        .select(
            Bar.SYMBOL,
            "_base_split",
            (gain - gain.filter(trades).mean()).alias("_excess"),
            pl.max_horizontal(pl.col(Bar.KNOWN_AT).max(), pl.lit(end)).alias("_known_at"),
        )
        .drop_nulls("_excess")
    )


def _first_touch(
    signals: pl.DataFrame, level: pl.Expr, path: pl.DataFrame, extreme: pl.Expr, name: str
) -> pl.DataFrame:
    """Return by signal the end of the first bar whose extreme is at the level or above it."""
    # In shares of the beginning of history, in which a split moves neither.
    reached = pl.col("_extreme") >= pl.col("_level") - pl.col("_level").abs() * _ROUNDING
    bars = path.with_columns((extreme * pl.col("split_factor")).alias("_extreme"))
    wanted = signals.select(
        SignalColumn.ID, Bar.SYMBOL, (level * pl.col("_base_split")).alias("_level")
    ).drop_nulls()
    highest = bars.group_by(Bar.SYMBOL, Bar.SESSION).agg(pl.col("_extreme").max())
    # First the session, then the bar in it: a month of minutes beside every signal is too much.
    first = (
        wanted.join(highest, on=Bar.SYMBOL)
        .filter(reached)
        .group_by(SignalColumn.ID, Bar.SYMBOL, "_level")
        .agg(pl.col(Bar.SESSION).min())
    )
    return (
        first.join(bars, on=[Bar.SYMBOL, Bar.SESSION])
        .filter(reached)
        .group_by(SignalColumn.ID)
        .agg(pl.col(Bar.BAR_END).min().alias(name))
    )
