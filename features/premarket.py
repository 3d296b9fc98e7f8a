"""Trading before the open, known when its last minute is."""

from __future__ import annotations

import datetime as dt
from functools import partial

import polars as pl

from features.side import SideTables
from features.spec import Feature, Scope, Stage
from market import calendar
from market.schema import Bar
from market.timeframes import Timeframe

FAMILY = "microstructure"
USUAL_SESSIONS = 20

_STANDS = dt.timedelta(hours=4)
_KEYS = (Bar.SYMBOL.value, Bar.SESSION.value)


def _sessions(side: SideTables) -> pl.DataFrame | None:
    """Return what was traded before the open, one row per symbol and session with such trades."""
    minutes, daily = side.premarket, side.longer.get(Timeframe.D1)
    if minutes is None or daily is None:
        return None
    return side.shared("premarket", lambda: _summarise(minutes, daily))


def _summarise(minutes: pl.DataFrame, daily: pl.DataFrame) -> pl.DataFrame:
    times = calendar.schedule().select("session", "session_open", "session_close")
    traded = (
        minutes.join(times, on=Bar.SESSION)
        .filter(pl.col(Bar.BAR_END) <= pl.col("session_open"))
        .sort(*_KEYS, Bar.BAR_START)
        .group_by(*_KEYS, maintain_order=True)
        .agg(
            pl.col(Bar.KNOWN_AT).max(),
            pl.col(Bar.CLOSE).last().alias("price"),
            pl.col(Bar.VOLUME).sum(),
            (pl.col("session_close").first() + _STANDS).alias("until"),
        )
    )
    days = daily.sort(*_KEYS).select(*_KEYS, pl.col(Bar.CLOSE).alias("before"))
    # Of a session that the table covers, a symbol that traded that day and not before the open
    # had no volume before it.
    covered = traded.select(Bar.SESSION).unique()
    usual = (
        days.join(covered, on=Bar.SESSION, how="semi")
        .join(traded.select(*_KEYS, Bar.VOLUME), on=list(_KEYS), how="left")
        .sort(*_KEYS)
        .select(
            *_KEYS,
            _mean_of_last(pl.col(Bar.VOLUME).fill_null(0.0)).over(Bar.SYMBOL).alias("usual"),
        )
    )
    out = traded.sort(Bar.SESSION)
    for past in (days, usual):
        out = out.join_asof(
            past.sort(Bar.SESSION),
            on=Bar.SESSION,
            by=Bar.SYMBOL,
            allow_exact_matches=False,
            check_sortedness=False,
        )
    return out


def _mean_of_last(volume: pl.Expr) -> pl.Expr:
    # Lag by lag and not as a running sum, of which rounding would stay behind.
    parts = [volume.shift(k) for k in range(USUAL_SESSIONS)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / USUAL_SESSIONS


def _premarket(side: SideTables, what: str) -> pl.DataFrame | None:
    sessions = _sessions(side)
    if sessions is None:
        return None
    move = pl.when(pl.col("before") > 0).then(pl.col("price") / pl.col("before") - 1.0)
    share = pl.when(pl.col("usual") > 0).then(pl.col(Bar.VOLUME) / pl.col("usual"))
    value = (move if what == "return" else share).cast(pl.Float64).alias("value")
    rows = sessions.select(Bar.SYMBOL, Bar.KNOWN_AT, value)
    # The next session may have nothing: then it has no value, not this one's.
    over = sessions.select(
        Bar.SYMBOL, pl.col("until").alias(Bar.KNOWN_AT), pl.lit(None, pl.Float64).alias("value")
    )
    return pl.concat([rows, over]).sort(Bar.KNOWN_AT, maintain_order=True)


def _feature(name: str, what: str, meaning: str, source: str) -> Feature:
    return Feature(
        name,
        partial(_premarket, what=what),
        ("premarket", "longer"),
        1,
        Stage.AS_OF,
        meaning,
        source,
        family=FAMILY,
        scope=Scope.INTRADAY,
    )


FEATURES: tuple[Feature, ...] = (
    _feature(
        "premarket_return",
        "return",
        "Return from the last close to the last trade before the open",
        "Barclay and Hendershott (2003), price discovery before the open",
    ),
    _feature(
        "premarket_volume_ratio",
        "volume",
        f"Volume before the open over its mean of {USUAL_SESSIONS} sessions before",
        "Barclay and Hendershott (2003); Gervais, Kaniel and Mingelgrin (2001)",
    ),
)
