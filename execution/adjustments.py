"""What changes a position without a trade: splits, renames and dividends, each written once.

Bars and signals follow a company through them; so must what the journal says Isobar owns, before
it is held against the account.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from typing import Any

import polars as pl
import sqlalchemy as sa

from execution.state import append_audit
from market.calendar import NEW_YORK, midnight
from market.identity import known_at
from market.ledger import Ledger
from market.ledger_tables import adjustments, fills
from market.schema import Dividend, Identity, Split
from signals.schema import SignalColumn

_SHARE = Decimal("0.000000001")
_CENT = Decimal("0.01")
_ZERO = Decimal(0)


class AdjustmentKind(StrEnum):
    """Kinds of adjustments."""

    SPLIT = "split"
    RENAME = "rename"
    DIVIDEND = "dividend"
    CASH_IN_LIEU = "cash_in_lieu"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class CorporateActions:
    """``SPLIT_SCHEMA``, ``DIVIDEND_SCHEMA`` and ``IDENTITY_SCHEMA``, as known now."""

    splits: pl.DataFrame
    dividends: pl.DataFrame
    identities: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One change: shares gained or lost (signed), cash received, and from when on it holds."""

    adjustment_id: str
    kind: AdjustmentKind
    symbol: str
    quantity: Decimal
    cash_usd: Decimal
    effective_at: dt.datetime
    detail: Mapping[str, Any]


def read_adjustments(ledger: Ledger) -> list[Adjustment]:
    """Return every adjustment, in the order in which they took effect."""
    query = sa.select(adjustments).order_by(
        adjustments.c.effective_at, adjustments.c.recorded_at, adjustments.c.adjustment_id
    )
    return [
        Adjustment(
            r["adjustment_id"], AdjustmentKind(r["kind"]), r["symbol"], r["quantity"],
            r["cash_usd"], r["effective_at"], r["detail"],
        )
        for r in ledger.rows(query)
    ]  # fmt: skip


def apply_actions(ledger: Ledger, actions: CorporateActions, now: dt.datetime) -> list[Adjustment]:
    """Write what corporate actions did to Isobar's positions; return what was new.

    Parameters
    ----------
    ledger : Ledger
        The journal.
    actions : CorporateActions
        Those whose day has come by ``now`` count: splits and dividends from when their day begins
        in New York, renames from the open of their session on.
    now : datetime
        Aware.

    Returns
    -------
    list of Adjustment
        In the order of their days. An action is applied to what was owned when it took effect,
        once: whoever calls again changes nothing. A split may leave a fraction of a share.
    """
    today = now.astimezone(NEW_YORK).date()
    made: list[Adjustment] = []
    events = _moves(ledger)
    done = {a.adjustment_id for a in read_adjustments(ledger)}
    for day, kind, row in _due(actions, today):
        effective_at = known_at(day) if kind is AdjustmentKind.RENAME else midnight(day)
        symbol = row["symbol"]
        owned = sum((q for s, at, q in events if s == symbol and at < effective_at), _ZERO)
        if owned == 0 or effective_at > now:
            continue
        for one in _adjusted(kind, row, owned, effective_at):
            if one.adjustment_id not in done:
                made.append(one)
                events.append((one.symbol, one.effective_at - _MOMENT, one.quantity))
    _insert(ledger, made, now)
    return made


def settle_fraction(ledger: Ledger, symbol: str, fraction: Decimal, now: dt.datetime) -> None:
    """Write that the broker paid out a fraction of a share that a split had left."""
    kind = AdjustmentKind.CASH_IN_LIEU
    name = f"{kind.value}:{symbol}:{now.isoformat()}"
    _insert(ledger, [Adjustment(name, kind, symbol, -fraction, _ZERO, now, {})], now)


def accept_difference(
    ledger: Ledger, symbol: str, difference: Decimal, reason: str, now: dt.datetime
) -> None:
    """Write that a person accepts what the account holds, and why.

    Parameters
    ----------
    ledger : Ledger
        The journal.
    symbol : str
        Whose position differs.
    difference : Decimal
        Account less journal, in shares.
    reason : str
        What happened; not empty.
    now : datetime
        When.
    """
    kind = AdjustmentKind.ACCEPTED
    name = f"{kind.value}:{symbol}:{now.isoformat()}"
    made = Adjustment(name, kind, symbol, difference, _ZERO, now, {"reason": reason})
    _insert(ledger, [made], now)


def split_levels(signals: pl.DataFrame, splits: pl.DataFrame, now: dt.datetime) -> pl.DataFrame:
    """Return signals with targets and stops per share of now.

    Parameters
    ----------
    signals : pl.DataFrame
        ``SIGNAL_SCHEMA``.
    splits : pl.DataFrame
        ``SPLIT_SCHEMA``.
    now : datetime
        Aware. Splits whose day has begun in New York count for the signals from before it.
    """
    c = SignalColumn
    for row in splits.iter_rows(named=True):
        at = midnight(row[Split.EX_DATE])
        if at <= now:
            older = (pl.col(c.SYMBOL) == row[Split.SYMBOL]) & (pl.col(c.AS_OF) < at)
            signals = signals.with_columns(
                pl.when(older)
                .then(pl.col(name).list.eval(pl.element() / row[Split.SPLIT_RATIO]))
                .otherwise(pl.col(name))
                for name in (c.TARGETS, c.STOPS)
            )
    return signals


_MOMENT = dt.timedelta(microseconds=1)
_Move = tuple[str, dt.datetime, Decimal]


def _moves(ledger: Ledger) -> list[_Move]:
    """Return symbol, time and signed quantity of every fill and adjustment."""
    moves: list[_Move] = []
    for row in ledger.rows(sa.select(fills)):
        signed = row["quantity"] if row["side"] == "buy" else -row["quantity"]
        moves.append((row["symbol"], row["filled_at"], signed))
    moves += [(a.symbol, a.effective_at - _MOMENT, a.quantity) for a in read_adjustments(ledger)]
    return moves


def _due(
    actions: CorporateActions, today: dt.date
) -> list[tuple[dt.date, AdjustmentKind, dict[str, Any]]]:
    """Return actions whose day has come: of one day renames first, then splits, then dividends."""
    found: list[tuple[dt.date, AdjustmentKind, dict[str, Any]]] = []
    spells = actions.identities.sort(Identity.KEY, Identity.VALID_FROM, nulls_last=False)
    for (_,), company in spells.partition_by(Identity.KEY, as_dict=True).items():
        rows = company.to_dicts()
        for before, after in itertools.pairwise(rows):
            day, new = after[Identity.VALID_FROM], after[Identity.SYMBOL]
            if day is not None and new != before[Identity.SYMBOL]:
                move = {"symbol": before[Identity.SYMBOL], "to": new}
                found.append((day, AdjustmentKind.RENAME, move))
    found += [(r[Split.EX_DATE], AdjustmentKind.SPLIT, r) for r in actions.splits.to_dicts()]
    found += [
        (r[Dividend.EX_DATE], AdjustmentKind.DIVIDEND, r) for r in actions.dividends.to_dicts()
    ]
    due = [f for f in found if f[0] <= today]
    return sorted(due, key=lambda f: (f[0], _ORDER[f[1]], f[2]["symbol"]))


_ORDER = {AdjustmentKind.RENAME: 0, AdjustmentKind.SPLIT: 1, AdjustmentKind.DIVIDEND: 2}


def _adjusted(
    kind: AdjustmentKind, row: Mapping[str, Any], owned: Decimal, at: dt.datetime
) -> list[Adjustment]:
    symbol = row["symbol"]
    name = f"{kind.value}:{symbol}:{at.date().isoformat()}"
    if kind is AdjustmentKind.RENAME:
        new = row["to"]
        return [
            Adjustment(f"{name}:out", kind, symbol, -owned, _ZERO, at, {"to": new}),
            Adjustment(f"{name}:in", kind, new, owned, _ZERO, at, {"from": symbol}),
        ]
    if kind is AdjustmentKind.SPLIT:
        ratio = Decimal(repr(float(row[Split.SPLIT_RATIO])))
        after = (owned * ratio).quantize(_SHARE, rounding=ROUND_DOWN)
        detail = {"split_ratio": str(ratio)}
        return [Adjustment(name, kind, symbol, after - owned, _ZERO, at, detail)]
    amount = Decimal(repr(float(row[Dividend.AMOUNT_USD])))
    cash = (owned * amount).quantize(_CENT)
    return [Adjustment(name, kind, symbol, _ZERO, cash, at, {"amount_usd": str(amount)})]


def _insert(ledger: Ledger, made: list[Adjustment], now: dt.datetime) -> None:
    if not made:
        return
    with ledger.transaction() as connection:
        query = sa.select(adjustments.c.adjustment_id)
        there = set(connection.scalars(query))
        for one in made:
            if one.adjustment_id in there:
                continue
            row = {
                "adjustment_id": one.adjustment_id,
                "kind": one.kind.value,
                "symbol": one.symbol,
                "quantity": one.quantity,
                "cash_usd": one.cash_usd,
                "effective_at": one.effective_at,
                "recorded_at": now,
                "detail": dict(one.detail),
            }
            connection.execute(adjustments.insert(), row)
            append_audit(
                connection, at=now, subject="position", key=one.symbol, event=one.kind.value,
                detail={
                    "adjustment_id": one.adjustment_id,
                    "quantity": one.quantity,
                    "cash_usd": one.cash_usd,
                },
            )  # fmt: skip
