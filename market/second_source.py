"""One source of daily bars held against another, whatever their adjustment.

Two sources may differ by a factor that changes slowly (dividends, splits that one of them
applied backwards). The factor is the centred rolling median of the ratio of closes, so that a
few false rows cannot move it; what is left is disagreement.
"""

from __future__ import annotations

import polars as pl

from market import calendar
from market.quality_rules import DEFAULT_RULES, QualityRules, Reason
from market.schema import BAR_SCHEMA, Bar
from market.timeframes import values_of_finer

_KEYS = [Bar.SYMBOL, Bar.SESSION]
_PRICES = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)


def daily_from_minutes(minutes: pl.DataFrame) -> pl.DataFrame:
    """Aggregate intraday bars into one bar per session, from its regular hours.

    Parameters
    ----------
    minutes : pl.DataFrame
        ``BAR_SCHEMA``, intraday, raw prices.

    Returns
    -------
    pl.DataFrame
        ``BAR_SCHEMA``. To be *compared* with official daily bars, not to take their place: the
        auctions and the late corrections are missing.
    """
    grid = calendar.schedule().select("session", "session_open", "session_close")
    return (
        minutes.join(grid, on=Bar.SESSION)
        .filter(
            pl.col(Bar.BAR_START) >= pl.col("session_open"),
            pl.col(Bar.BAR_START) < pl.col("session_close"),
        )
        .sort(Bar.SYMBOL, Bar.BAR_START)
        .group_by(*_KEYS, maintain_order=True)
        .agg(
            pl.col("session_open").first().alias(Bar.BAR_START),
            pl.col("session_close").first().alias(Bar.BAR_END),
            pl.max_horizontal(pl.col(Bar.KNOWN_AT).max(), pl.col("session_close").first()).alias(
                Bar.KNOWN_AT
            ),
            *values_of_finer(),
        )
        .select(BAR_SCHEMA.names())
    )


def compare_sources(
    primary: pl.DataFrame, second: pl.DataFrame, rules: QualityRules = DEFAULT_RULES
) -> pl.DataFrame:
    """Return how far two sources of daily bars are apart.

    Parameters
    ----------
    primary, second : pl.DataFrame
        ``BAR_SCHEMA``, daily, one row per symbol and session. Minutes go through
        :func:`daily_from_minutes` first. Give the sessions around those of interest too: they
        set the scale. Both in the same view (raw with raw): at the newest bar the scale can
        only look back, and takes a split that one of them lacks for a fault.
    rules : QualityRules
        Thresholds and window.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``session``, ``known_at`` (of the later source), ``scale``, the relative
        distances ``off_open``, ``off_high``, ``off_low``, ``off_close``, the largest of them
        ``off``, and ``reason`` (null where the two agree), one row per bar that both have.
    """
    other = second.select(*_KEYS, *(pl.col(c).name.suffix("_2") for c in (Bar.KNOWN_AT, *_PRICES)))
    both = primary.join(other, on=_KEYS).sort(_KEYS)
    ratio = pl.col(Bar.CLOSE) / pl.col(f"{Bar.CLOSE}_2")
    scale = pl.lit(1.0)
    if rules.scale_sessions:
        scale = ratio.rolling_median(
            rules.scale_sessions, center=True, min_samples=rules.scale_overlap
        ).over(Bar.SYMBOL)
    off = [
        (pl.col(c) / (pl.col(f"{c}_2") * pl.col("scale")) - 1).abs().alias(f"off_{c}")
        for c in _PRICES
    ]
    reason = (
        pl.when(
            (pl.col(f"off_{Bar.CLOSE}") > rules.disagreement)
            | (pl.col("off") > rules.range_disagreement)
        )
        .then(pl.lit(Reason.SOURCES_DISAGREE.value))
        .when(pl.col("off") > rules.slight_disagreement)
        .then(pl.lit(Reason.SOURCES_DIFFER.value))
    )
    return (
        both.with_columns(scale=scale.fill_null(1.0))
        .with_columns(off)
        .with_columns(off=pl.max_horizontal(f"off_{c}" for c in _PRICES))
        .select(
            *_KEYS,
            pl.max_horizontal(Bar.KNOWN_AT, f"{Bar.KNOWN_AT}_2").alias(Bar.KNOWN_AT),
            "scale",
            *(f"off_{c}" for c in _PRICES),
            "off",
            reason.alias("reason"),
        )
    )
