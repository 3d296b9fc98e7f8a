"""The journal held against the account: orders, fills and positions.

What nobody can explain is drift, and drift halts trading: a wrong idea of what one owns turns every
order into a guess. What somebody else bought or ordered is foreign: it is named and left alone, and
so is cash that no fill of ours explains (deposits, fees, dividends, trades of others).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from execution.adjustments import (
    AdjustmentKind,
    CorporateActions,
    accept_difference,
    apply_actions,
    read_adjustments,
    settle_fraction,
)
from execution.broker import Account, Broker, Order, Position, Side
from execution.dispatch import SyncReport, sync_orders
from execution.holdings import own_quantities
from execution.intents import ORDER_ID_PREFIX
from execution.journal import JournalState, journalled_ids, pending_orders
from execution.journal_entries import move_order
from execution.state import append_audit
from market.errors import ExecutionError
from market.ledger import Ledger
from market.ledger_tables import audit_log, fills, reconciliations

LOOK_BACK = dt.timedelta(days=7)
"""How far back the broker is asked for orders that bear our mark and that no journal knows."""

_TRIES = 3
# Average prices of fills are rounded to a ten-thousandth of a cent.
_CASH_TOLERANCE_USD = Decimal(1)
_ACCEPTED = "accepted as foreign"
_ZERO, _ONE = Decimal(0), Decimal(1)


class FindingKind(StrEnum):
    """What a reconciliation can find."""

    POSITION_DRIFT = "position_drift"
    ORDER_MISSING = "order_missing_at_broker"
    ORDER_UNJOURNALLED = "order_not_in_journal"
    FOREIGN_POSITION = "foreign_position"
    FOREIGN_ORDER = "foreign_order"
    FOREIGN_CASH = "foreign_cash"

    @property
    def is_drift(self) -> bool:
        """Whether it says that the journal is wrong, and not only that we are not alone."""
        return not self.value.startswith("foreign")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that differs, in words."""

    kind: FindingKind
    key: str
    detail: str


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was found; ``is_clean`` where nothing of it is drift."""

    at: dt.datetime
    account: Account
    positions: tuple[Position, ...]
    findings: tuple[Finding, ...]
    sync: SyncReport

    @property
    def is_clean(self) -> bool:
        """Whether journal and account agree but for what is foreign."""
        return not any(f.kind.is_drift for f in self.findings)

    @property
    def drift(self) -> tuple[Finding, ...]:
        """What is not foreign."""
        return tuple(f for f in self.findings if f.kind.is_drift)


def reconcile(
    ledger: Ledger,
    broker: Broker,
    now: dt.datetime,
    *,
    actions: CorporateActions | None = None,
    tolerance_shares: Decimal = _ZERO,
) -> Reconciliation:
    """Bring the journal up to date and hold it against the account.

    Parameters
    ----------
    ledger, broker
        The journal and the account.
    now : datetime
        Aware.
    actions : CorporateActions, optional
        Applied to the journal's positions first.
    tolerance_shares : Decimal, default 0
        A position may differ by so much.

    Returns
    -------
    Reconciliation
        It is kept in the table ``reconciliations``. Nothing is halted here:
        :mod:`execution.guard` decides.

    Raises
    ------
    BrokerError
        When the broker is out of reach; nothing is kept.
    """
    sync = sync_orders(ledger, broker, now)
    if actions is not None:
        apply_actions(ledger, actions, now)
    positions, sync = _still(ledger, broker, sync, now)
    account = broker.account()
    own = own_quantities(ledger)
    held = {p.symbol: p.quantity for p in positions}
    if actions is not None:
        own = _settled(ledger, own, held, now)
    known = journalled_ids(ledger) | accepted_orders(ledger)
    flow = own_cash_flow(ledger)
    findings = [
        *_positions(own, held, tolerance_shares),
        *_missing(ledger, sync),
        *_unknown(broker.open_orders(), broker.orders_since(now - LOOK_BACK), known),
        *_cash(ledger, broker.name, account, flow),
    ]
    made = Reconciliation(now, account, tuple(positions), tuple(findings), sync)
    _keep(ledger, broker.name, made, own, flow)
    return made


def accept(ledger: Ledger, found: Reconciliation, key: str, reason: str, now: dt.datetime) -> None:
    """Take over what the account says of a symbol or an order; what a person does.

    Parameters
    ----------
    ledger : Ledger
        The journal.
    found : Reconciliation
        Of now.
    key : str
        The key of one of its findings: a symbol whose position drifts, or an order's id.
    reason : str
        What happened; not empty.
    now : datetime
        When.

    Raises
    ------
    ExecutionError
        When nothing of that key drifts, or no reason is given.
    """
    drift = {f.key: f for f in found.drift}
    if key not in drift or not reason.strip():
        raise ExecutionError(
            "this cannot be accepted",
            got=f"{key!r}, because {reason!r}",
            allowed=f"one of {', '.join(sorted(drift)) or 'nothing: journal and account agree'}, "
            "with a reason",
            remedy="see `isobar reconcile`",
        )
    if drift[key].kind is FindingKind.POSITION_DRIFT:
        there = next((p.quantity for p in found.positions if p.symbol == key), _ZERO)
        ours = own_quantities(ledger).get(key, _ZERO)
        accept_difference(ledger, key, there - ours, reason, now)
        return
    with ledger.transaction() as connection:
        detail = {"reason": reason, "finding": drift[key].detail}
        append_audit(connection, at=now, subject="order", key=key, event=_ACCEPTED, detail=detail)
        if drift[key].kind is FindingKind.ORDER_MISSING:
            for state in (JournalState.ACCEPTED, JournalState.PARTIALLY_FILLED):
                why = {"why": f"unknown at the broker; accepted: {reason}"}
                move_order(connection, key, state, JournalState.CANCELED, now, why)


def accepted_orders(ledger: Ledger) -> set[str]:
    """Return orders with our mark, unknown to the journal, that a person accepted as foreign."""
    query = sa.select(audit_log.c.key).where(
        audit_log.c.subject == "order", audit_log.c.event == _ACCEPTED
    )
    return {r["key"] for r in ledger.rows(query)}


def peak_equity(ledger: Ledger, broker: str) -> Decimal | None:
    """Return the highest equity that was ever reconciled at a broker, USD.

    Money paid in or out moves it as gains and losses do.
    """
    query = sa.select(sa.func.max(sa.cast(reconciliations.c.equity_usd, sa.Numeric(24, 6)))).where(
        reconciliations.c.broker == broker
    )
    with ledger.engine.connect() as connection:
        found = connection.scalar(query)
    return None if found is None else Decimal(str(found))


def newest_reconciliation(ledger: Ledger) -> dict[str, Any] | None:
    """Return the newest row of the table ``reconciliations``, if there is one."""
    query = sa.select(reconciliations).order_by(reconciliations.c.seq.desc()).limit(1)
    rows = ledger.rows(query)
    return rows[0] if rows else None


def _still(
    ledger: Ledger, broker: Broker, sync: SyncReport, now: dt.datetime
) -> tuple[list[Position], SyncReport]:
    """Return positions with no fill between them and the journal: that would look like drift."""
    positions = broker.positions()
    for _ in range(_TRIES):
        again = sync_orders(ledger, broker, now)
        sync = SyncReport(again.polled, sync.fills + again.fills, again.unknown_at_broker)
        if again.fills == 0:
            break
        positions = broker.positions()
    return positions, sync


def _positions(
    own: Mapping[str, Decimal], held: Mapping[str, Decimal], tolerance: Decimal
) -> list[Finding]:
    found: list[Finding] = []
    for symbol in sorted(own.keys() | held.keys()):
        ours, there = own.get(symbol, _ZERO), held.get(symbol, _ZERO)
        foreign = there - ours
        if abs(foreign) <= tolerance:
            continue
        # More of the same side may be somebody else's; less than ours cannot be.
        drifts = ours != 0 and foreign * ours < 0
        kind = FindingKind.POSITION_DRIFT if drifts else FindingKind.FOREIGN_POSITION
        found.append(Finding(kind, symbol, f"journal {ours}, account {there}"))
    return found


def _settled(
    ledger: Ledger, own: Mapping[str, Decimal], held: Mapping[str, Decimal], now: dt.datetime
) -> dict[str, Decimal]:
    """Take the fractions out of the journal that a split left and the broker paid out."""
    split = {a.symbol for a in read_adjustments(ledger) if a.kind is AdjustmentKind.SPLIT}
    for symbol in sorted(split & own.keys()):
        ours, there = own[symbol], held.get(symbol, _ZERO)
        if _ZERO < abs(ours) - abs(there) < _ONE and there == int(ours):
            settle_fraction(ledger, symbol, ours - there, now)
    return own_quantities(ledger)


def _missing(ledger: Ledger, sync: SyncReport) -> list[Finding]:
    """Return orders that the broker confirmed once and knows no more."""
    unknown = set(sync.unknown_at_broker)
    return [
        Finding(FindingKind.ORDER_MISSING, o.intent.client_order_id, f"{o.state.value} in journal")
        for o in pending_orders(ledger)
        if o.intent.client_order_id in unknown
        and o.state in (JournalState.ACCEPTED, JournalState.PARTIALLY_FILLED)
    ]


def _unknown(working: Sequence[Order], recent: Sequence[Order], known: set[str]) -> list[Finding]:
    found: dict[str, Finding] = {}
    for order in (*recent, *working):
        if order.client_order_id in known:
            continue
        what = f"{order.side.value} {order.quantity} {order.symbol}, {order.status.value}"
        if order.client_order_id.startswith(ORDER_ID_PREFIX):
            kind = FindingKind.ORDER_UNJOURNALLED
        elif order.status.is_final:
            continue
        else:
            kind = FindingKind.FOREIGN_ORDER
        found[order.client_order_id] = Finding(kind, order.client_order_id, what)
    return list(found.values())


def own_cash_flow(ledger: Ledger) -> Decimal:
    """Return what Isobar's own fills brought in less what they cost, USD, fees apart."""
    rows = ledger.rows(sa.select(fills.c.side, fills.c.quantity, fills.c.price_usd))
    return sum(
        (r["quantity"] * r["price_usd"] * (1 if r["side"] == Side.SELL else -1) for r in rows),
        _ZERO,
    )


def _cash(ledger: Ledger, broker: str, account: Account, flow: Decimal) -> list[Finding]:
    """Return what cash moved by since the last time that no fill of ours explains."""
    query = sa.select(reconciliations).where(reconciliations.c.broker == broker)
    rows = ledger.rows(query.order_by(reconciliations.c.seq.desc()).limit(1))
    if not rows:
        return []
    before = rows[0]
    other = account.cash_usd - before["cash_usd"] - (flow - before["own_cash_flow_usd"])
    if abs(other) < _CASH_TOLERANCE_USD:
        return []
    detail = f"{other:+.2f} USD since {before['at'].isoformat()}"
    return [Finding(FindingKind.FOREIGN_CASH, "cash", detail)]


def _keep(
    ledger: Ledger,
    broker: str,
    made: Reconciliation,
    own: Mapping[str, Decimal],
    flow: Decimal,
) -> None:
    positions = [
        {
            "symbol": p.symbol,
            "quantity": p.quantity,
            "own": own.get(p.symbol, _ZERO),
            "average_price_usd": p.average_price_usd,
            "price_usd": p.current_price_usd,
            "value_usd": p.market_value_usd,
        }
        for p in made.positions
    ]
    with ledger.transaction() as connection:
        top = connection.scalar(sa.select(sa.func.max(reconciliations.c.seq))) or 0
        row = {
            "seq": top + 1,
            "at": made.at,
            "broker": broker,
            "clean": made.is_clean,
            "equity_usd": made.account.equity_usd,
            "cash_usd": made.account.cash_usd,
            "own_cash_flow_usd": flow,
            "findings": [asdict(f) for f in made.findings],
            "positions": positions,
        }
        connection.execute(reconciliations.insert(), row)
