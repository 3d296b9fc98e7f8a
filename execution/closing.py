"""Exits at a session's close: what horizons that stay inside a session may not take overnight.

No signals are behind them, so there is nothing that could be stale, late or incomplete: they are
decided now, on what is held, by the exit rule of the horizon that opened it. All else is kept.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import polars as pl

from execution.broker import Clock
from execution.risk_context import CLOCK_TOLERANCE, BatchStatus
from execution.targets import (
    HeldPosition,
    Number,
    TargetDecision,
    TargetReason,
    TargetRules,
    Targets,
    compute_targets,
    keep,
)
from market.calendar import NEW_YORK
from market.errors import ExecutionError
from market.horizons import HORIZONS, ExitRule, Run, scheduled_for

FLAT_AT_CLOSE = frozenset(h.name for h in HORIZONS if h.exit_rule is ExitRule.AT_CLOSE)
"""Horizons whose positions are closed with the session."""


def closing_targets(
    signals: pl.DataFrame,
    held: Sequence[HeldPosition],
    prices: Mapping[str, Number],
    volatilities: Mapping[str, float],
    equity_usd: Number,
    rules: TargetRules,
    as_of: dt.datetime,
    exits: Mapping[str, dt.datetime] | None = None,
    sectors: Mapping[str, str] | None = None,
    *,
    closes_at: dt.datetime,
) -> Targets:
    """Return what closes by the session's close; no other position is touched, none is opened.

    Parameters
    ----------
    signals, held, prices, volatilities, equity_usd, rules, exits, sectors
        See :func:`execution.targets.compute_targets`, which decides for the moment of the close.
    as_of : datetime
        Now.
    closes_at : datetime
        When the session closes.

    Returns
    -------
    Targets
        One decision per position: zero, valid until the close, for those that a horizon of
        :data:`FLAT_AT_CLOSE` opened and that no fresh signal of a longer one holds on that side.

    Raises
    ------
    ExecutionError
        See :func:`execution.targets.compute_targets`.
    """
    found = compute_targets(
        signals, held, prices, volatilities, equity_usd, rules, closes_at, exits, sectors
    )
    holdings = {h.symbol: h for h in held if h.quantity != 0}

    def decide(holding: HeldPosition, decision: TargetDecision) -> TargetDecision:
        reason = decision.reason
        goes = reason.is_exit or reason is TargetReason.NEUTRAL
        if goes and holding.opened_by_horizon in FLAT_AT_CLOSE:
            return TargetDecision(
                holding.symbol,
                0.0,
                reason,
                horizon=holding.opened_by_horizon,
                valid_until=closes_at,
                signal_ids=decision.signal_ids,
            )
        if decision.keep_quantity is not None:
            return decision
        return keep(holding, prices.get(holding.symbol), found.equity_usd)

    made = [decide(holdings[d.symbol], d) for d in found.decisions if d.symbol in holdings]
    return Targets(as_of, found.equity_usd, tuple(made))


def target_rule(closes_at: dt.datetime | None) -> Callable[..., Targets]:
    """Return what decides targets: signals and exits, or the exits of a session's close alone."""
    return compute_targets if closes_at is None else partial(closing_targets, closes_at=closes_at)


def closing_batch(session: dt.date, now: dt.datetime) -> BatchStatus:
    """Return what the risk checks are told of a session's exits: decided now, and whole.

    Examples
    --------
    >>> closing_batch(dt.date(2025, 3, 4), dt.datetime(2025, 3, 4, 20, 45, tzinfo=dt.UTC)).batch_id
    'close-2025-03-04'
    """
    return BatchStatus(f"close-{session}", now, now, now, late=False, complete=True)


def assert_closing_time(session: dt.date, clock: Clock) -> None:
    """Refuse to close a session that is over, is not on, or still goes on for a while.

    Exits are planned once: too early a plan would miss what opens after it.

    Raises
    ------
    ExecutionError
        When the broker's clock is not within the last minutes of this session.
    """
    closing = clock.next_close.astimezone(NEW_YORK).date() if clock.is_open else None
    due = scheduled_for(Run.CLOSE, session)
    if closing == session and clock.now >= due - CLOCK_TOLERANCE:
        return
    local = due.astimezone(NEW_YORK)
    raise ExecutionError(
        f"the session of {session} cannot be closed now",
        got=f"{clock.now.astimezone(NEW_YORK):%Y-%m-%d %H:%M} New York time",
        allowed=f"from {local:%H:%M} of that day until its close",
        remedy="positions that stay are closed by the next batch, or by hand: "
        "isobar halt --flatten",
    )
