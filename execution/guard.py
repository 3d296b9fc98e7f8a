"""Trading that stops itself: what latches the state without a person.

Only a person resumes. A cause that is still there when trading is resumed latches it again.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa

from execution.journal import JournalState
from execution.reconcile import Reconciliation, peak_equity
from execution.risk_context import RiskLimits
from execution.state import TradingState, current_state, halt, reduce_only
from market.calendar import NEW_YORK, midnight
from market.errors import ExecutionError
from market.ledger import Ledger
from market.ledger_tables import orders

_SEVERITY = {TradingState.ACTIVE: 0, TradingState.REDUCING: 1, TradingState.HALTED: 2}


@dataclass(frozen=True, slots=True)
class GuardRules:
    """What stops trading beside drift, daily loss and drawdown.

    Attributes
    ----------
    rejected_share : Decimal
        Share of today's orders that, refused by the broker, halts trading.
    rejected_least : int
        From how many refused orders on that counts.
    blind_share : Decimal
        Share of what is held, by value, that without a fresh price allows only what reduces.
    """

    rejected_share: Decimal = Decimal("0.5")
    rejected_least: int = 4
    blind_share: Decimal = Decimal("0.5")

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name in ("rejected_share", "blind_share"):
            value = getattr(self, name)
            if not (value.is_finite() and 0 < value <= 1):
                raise ExecutionError(
                    f"rule {name!r} is out of range",
                    got=str(value),
                    allowed="above 0, to 1",
                    remedy="correct the trading settings",
                )


@dataclass(frozen=True, slots=True)
class Stop:
    """A cause, and the state that it calls for."""

    state: TradingState
    reason: str


def causes_to_stop(
    ledger: Ledger,
    found: Reconciliation,
    limits: RiskLimits,
    rules: GuardRules,
    *,
    broker: str,
    fresh: frozenset[str] | None,
) -> list[Stop]:
    """Return everything that speaks for stopping.

    Parameters
    ----------
    ledger : Ledger
        The journal.
    found : Reconciliation
        Of now.
    limits : RiskLimits
        Daily loss and drawdown are theirs.
    rules : GuardRules
    broker : str
        Whose peak of equity counts.
    fresh : frozenset of str or None
        Symbols with a fresh price; ``None`` outside the session, when none is expected.
    """
    account, stops = found.account, list[Stop]()
    if found.drift:
        first = found.drift[0]
        more = f" and {len(found.drift) - 1} more" if len(found.drift) > 1 else ""
        reason = f"reconciliation: {first.kind.value} {first.key} ({first.detail}){more}"
        stops.append(Stop(TradingState.HALTED, reason))
    peak = max(peak_equity(ledger, broker) or account.equity_usd, account.equity_usd)
    fallen = (peak - account.equity_usd) / peak if peak > 0 else Decimal(1)
    if fallen > limits.drawdown_share:
        reason = f"drawdown: equity {account.equity_usd} is {fallen:.2%} below its peak {peak}"
        stops.append(Stop(TradingState.HALTED, reason))
    before = account.last_equity_usd
    lost = (before - account.equity_usd) / before if before > 0 else Decimal(1)
    if lost > limits.daily_loss_share:
        stops.append(Stop(TradingState.REDUCING, f"daily loss: {lost:.2%} of {before} USD"))
    stops += _rejects(ledger, found.at, rules)
    stops += _blindness(found, rules, fresh)
    return stops


def stop_trading(ledger: Ledger, stops: list[Stop], now: dt.datetime) -> TradingState:
    """Latch what the causes call for, if trading is not that far stopped already."""
    present = current_state(ledger)
    for stop in sorted(stops, key=lambda s: -_SEVERITY[s.state]):
        if _SEVERITY[stop.state] > _SEVERITY[present]:
            latch = halt if stop.state is TradingState.HALTED else reduce_only
            present = latch(ledger, stop.reason, now)
    return present


def _rejects(ledger: Ledger, now: dt.datetime, rules: GuardRules) -> list[Stop]:
    today = midnight(now.astimezone(NEW_YORK).date())
    answered = (JournalState.ACCEPTED, JournalState.PARTIALLY_FILLED, JournalState.FILLED)
    counted = [s.value for s in (*answered, JournalState.REJECTED)]
    query = (
        sa.select(orders.c.state, sa.func.count().label("count"))
        .where(
            orders.c.updated_at >= today,
            orders.c.state.in_(counted),
            orders.c.parent_id.is_(None),
        )
        .group_by(orders.c.state)
    )
    counts = {r["state"]: int(r["count"]) for r in ledger.rows(query)}
    total, refused = sum(counts.values()), counts.get(JournalState.REJECTED.value, 0)
    if total < rules.rejected_least or refused < rules.rejected_share * total:
        return []
    return [Stop(TradingState.HALTED, f"rejects: {refused} of today's {total} orders")]


def _blindness(
    found: Reconciliation, rules: GuardRules, fresh: frozenset[str] | None
) -> list[Stop]:
    if fresh is None or not found.positions:
        return []
    values = {p.symbol: abs(p.market_value_usd) for p in found.positions}
    blind = sum((v for s, v in values.items() if s not in fresh), Decimal(0))
    total = sum(values.values(), Decimal(0))
    if total == 0 or blind < rules.blind_share * total:
        return []
    reason = f"data loss: no fresh price for {blind / total:.0%} of holdings"
    return [Stop(TradingState.REDUCING, reason)]
