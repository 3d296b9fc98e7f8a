"""What a batch of signals must satisfy before a single row of it is written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import polars as pl

from market.errors import MarketError, SignalError
from market.horizons import HORIZONS, Run
from market.regimes import RegimeLabel
from market.schema import conform
from signals.schema import CONTENT_SCHEMA, Direction, SignalColumn

_NULLABLE = (
    SignalColumn.TARGETS,
    SignalColumn.STOPS,
    SignalColumn.EXPLAIN,
    SignalColumn.FEATURES,
)
_KEY = (SignalColumn.SYMBOL, SignalColumn.HORIZON, SignalColumn.ENGINE)


def validate_batch(
    signals: pl.DataFrame,
    *,
    run: str,
    as_of: dt.datetime,
    universe: Collection[str] | None = None,
) -> pl.DataFrame:
    """Return the batch in its canonical form, or refuse all of it.

    Parameters
    ----------
    signals : pl.DataFrame
        ``CONTENT_SCHEMA``; an ``as_of`` column is allowed where it equals ``as_of``.
    run : str
        The scheduled run that publishes.
    as_of : datetime
        What the batch knew; aware.
    universe : collection of str, optional
        The symbols that may have signals at ``as_of``; any, where absent.

    Returns
    -------
    pl.DataFrame
        ``CONTENT_SCHEMA``, sorted by symbol, horizon and engine; absent lists are empty lists.

    Raises
    ------
    SignalError
        Naming the first rows that break a rule.
    """
    allowed_horizons = _horizons_of(run)
    _refuse_naive_columns(signals)
    frame = _canonical(signals)
    if frame.is_empty():
        raise SignalError(
            "an empty batch",
            allowed="at least one signal",
            remedy="publish nothing when a run has nothing to say",
        )
    if SignalColumn.AS_OF in signals.columns and not (signals[SignalColumn.AS_OF] == as_of).all():
        raise SignalError(
            "a batch mixes moments",
            got=[str(v) for v in signals[SignalColumn.AS_OF].unique().to_list()[:3]],
            allowed=as_of.isoformat(),
            remedy="publish one as_of at a time",
        )
    for problem, bad, allowed in _rules(as_of):
        _refuse(frame, problem, bad, allowed)
    _refuse(
        frame,
        f"a horizon that the {run} run does not publish",
        ~pl.col(SignalColumn.HORIZON).is_in(allowed_horizons),
        ", ".join(allowed_horizons),
    )
    if universe is not None:
        _refuse(
            frame,
            "a symbol outside the universe",
            ~pl.col(SignalColumn.SYMBOL).is_in(list(universe)),
            f"the {len(universe)} symbols of the universe at {as_of.isoformat()}",
        )
    _refuse(
        frame,
        "the same signal twice",
        pl.struct(_KEY).is_duplicated(),
        "one row per symbol, horizon and engine",
    )
    return frame.sort(_KEY)


def _horizons_of(run: str) -> list[str]:
    if run not in {r.value for r in Run}:
        raise SignalError(
            "unknown run",
            got=run,
            allowed=", ".join(r.value for r in Run),
            remedy="name a scheduled run",
        )
    return [h.name for h in HORIZONS if Run(run) in h.runs]


def _refuse_naive_columns(signals: pl.DataFrame) -> None:
    for name, kind in signals.schema.items():
        if isinstance(kind, pl.Datetime) and kind.time_zone is None:
            raise SignalError(
                f"column {name!r} has times without a time zone",
                got=str(kind),
                allowed="UTC",
                remedy="attach the zone with .dt.replace_time_zone('UTC')",
            )


def _canonical(signals: pl.DataFrame) -> pl.DataFrame:
    try:
        frame = conform(signals, CONTENT_SCHEMA, "signals")
    except MarketError as error:
        raise SignalError(error.problem, got=error.got, remedy=error.remedy) from error
    return frame.with_columns(
        _unsigned_zero(SignalColumn.CONFIDENCE),
        _unsigned_zero(SignalColumn.EXPECTED_RETURN_BPS),
        pl.col(SignalColumn.TARGETS).fill_null([]),
        pl.col(SignalColumn.STOPS).fill_null([]),
        pl.col(SignalColumn.EXPLAIN).fill_null(""),
        pl.col(SignalColumn.FEATURES).fill_null(
            pl.lit([], dtype=frame[SignalColumn.FEATURES].dtype)
        ),
    )


def _unsigned_zero(name: str) -> pl.Expr:
    # SQLite turns -0.0 into 0.0, behind the hash's back. Adding 0.0 does not: Polars leaves such
    # an addition out on columns of two rows and more.
    return pl.when(pl.col(name) == 0.0).then(0.0).otherwise(pl.col(name)).alias(name)


def _rules(as_of: dt.datetime) -> list[tuple[str, pl.Expr, str]]:
    required = [n for n in CONTENT_SCHEMA.names() if n not in _NULLABLE]
    confidence = pl.col(SignalColumn.CONFIDENCE)
    bad_level = (pl.element() <= 0) | ~pl.element().is_finite() | pl.element().is_null()
    levels = [
        pl.col(c).list.eval(bad_level).list.any()
        for c in (SignalColumn.TARGETS, SignalColumn.STOPS)
    ]
    contribution = pl.element().struct.field("contribution")
    bad_contribution = contribution.is_null() | ~contribution.is_finite()
    return [
        *((f"{n} is missing", pl.col(n).is_null(), "a value") for n in required),
        ("an empty symbol", pl.col(SignalColumn.SYMBOL).str.strip_chars() == "", "a symbol"),
        (
            "an expected return that is no number",
            ~pl.col(SignalColumn.EXPECTED_RETURN_BPS).is_finite(),
            "a finite number of basis points",
        ),
        ("a confidence out of range", ~confidence.is_between(0.0, 1.0), "0 to 1"),
        (
            "an unknown direction",
            ~pl.col(SignalColumn.DIRECTION).is_in([d.value for d in Direction]),
            ", ".join(Direction),
        ),
        (
            "an unknown regime",
            ~pl.col(SignalColumn.REGIME).is_in([r.value for r in RegimeLabel]),
            ", ".join(RegimeLabel),
        ),
        ("a signal that is never valid", pl.col(SignalColumn.VALID_UNTIL) <= as_of, "after as_of"),
        ("a target or stop that is no price", pl.any_horizontal(levels), "positive prices"),
        (
            "a contribution that is no number",
            pl.col(SignalColumn.FEATURES).list.eval(bad_contribution).list.any(),
            "finite numbers",
        ),
    ]


def _refuse(frame: pl.DataFrame, problem: str, bad: pl.Expr, allowed: str) -> None:
    found = frame.filter(bad.fill_null(value=False))
    if found.is_empty():
        return
    shown = found.head(3).select(
        *_KEY,
        SignalColumn.DIRECTION,
        SignalColumn.CONFIDENCE,
        SignalColumn.EXPECTED_RETURN_BPS,
        SignalColumn.REGIME,
    )
    raise SignalError(
        f"{problem} in {found.height} of {frame.height} signals",
        got=shown.rows(),
        allowed=allowed,
        remedy="correct the rows; nothing of the batch was published",
    )
