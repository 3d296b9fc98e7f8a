"""From fresh signals to one target weight per symbol; shared by live trading and simulation.

A missing signal is not a target of zero: what Isobar holds is closed by the exit rule of the
horizon that opened it (validity, target, stop, opposite signal), never because a batch lacks
a row. Everything here is pure.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

import polars as pl

from execution.fresh_signals import fresh_signals, is_sound, is_spent, is_touched, levels_of
from market.errors import ExecutionError
from signals.schema import Direction, SignalColumn

Number = Decimal | float


class TargetReason(StrEnum):
    """Why a symbol has the target that it has."""

    SIGNAL = "signal"
    NEUTRAL = "neutral"
    LONG_ONLY = "long_only"
    KEPT = "kept_no_fresh_signal"
    KEPT_NO_DATA = "kept_no_price_or_volatility"
    EXIT_EXPIRED = "exit_validity_expired"
    EXIT_TARGET = "exit_target_touched"
    EXIT_STOP = "exit_stop_touched"
    EXIT_OPPOSITE = "exit_opposite_signal"
    SPENT = "signal_spent"
    NO_DATA = "no_price_or_volatility"
    FLATTEN = "closed_by_hand"
    BAD_SIGNAL = "signal_is_no_signal"
    KEPT_BAD_SIGNAL = "kept_signal_is_no_signal"

    @property
    def is_exit(self) -> bool:
        """Whether an exit rule closed the position."""
        return self.name.startswith("EXIT_")


_POSITIVE_RULES = (
    "gross_limit",
    "net_limit",
    "symbol_cap",
    "symbol_volatility_target",
    "sector_cap",
    "turnover_limit",
)


@dataclass(frozen=True, slots=True)
class TargetRules:
    """How signals become weights (all weights are shares of equity).

    Attributes
    ----------
    gross_limit : float
        Largest sum of absolute weights.
    net_limit : float
        Largest absolute sum of weights; together with ``cash_buffer`` it bounds the net.
    symbol_cap : float
        Largest absolute weight of one symbol.
    cash_buffer : float
        Share of equity that stays in cash: the net never exceeds one minus this.
    symbol_volatility_target : float
        Annualised volatility that one position of confidence 1 adds, before caps.
    sector_cap : float
        Largest sum of absolute weights of one sector, where sectors are known; symbols without
        one are together a sector of their own.
    turnover_limit : float
        Largest sum of what weights grow by at once. Exits and reductions are never held back.
    long_only : bool
        Whether a net short view is a target of zero.
    """

    gross_limit: float = 1.0
    net_limit: float = 1.0
    symbol_cap: float = 0.10
    cash_buffer: float = 0.05
    symbol_volatility_target: float = 0.02
    sector_cap: float = 0.35
    turnover_limit: float = 1.0
    long_only: bool = True

    def __post_init__(self) -> None:
        """Refuse rules that cannot be met."""
        for name in _POSITIVE_RULES:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ExecutionError(
                    f"rule {name!r} is out of range",
                    got=value,
                    allowed="a finite number above 0",
                    remedy="correct the trading settings",
                )
        if not 0 <= self.cash_buffer < 1:
            raise ExecutionError(
                "rule 'cash_buffer' is out of range",
                got=self.cash_buffer,
                allowed="0 to below 1",
                remedy="correct the trading settings",
            )


@dataclass(frozen=True, slots=True)
class HeldPosition:
    """A position that Isobar opened, with the exit rule it was opened under.

    ``quantity`` is negative for a short position. ``valid_until``, ``target_price`` and
    ``stop_price`` are absent where the opening signal had none.
    """

    symbol: str
    quantity: Decimal
    opened_by_horizon: str | None = None
    valid_until: dt.datetime | None = None
    target_price: Decimal | None = None
    stop_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class TargetDecision:
    """What one symbol is to become, and why.

    Attributes
    ----------
    symbol : str
        The symbol.
    weight : float
        Target share of equity, signed. Of a kept position: its present share.
    reason : TargetReason
        Why.
    keep_quantity : Decimal or None
        Set when the present quantity is to stay exactly as it is.
    horizon, valid_until, target_price, stop_price
        The exit rule of the position, from the signal that weighs most.
    signal_ids : tuple of str
        The signals that were netted.
    """

    symbol: str
    weight: float
    reason: TargetReason
    keep_quantity: Decimal | None = None
    horizon: str | None = None
    valid_until: dt.datetime | None = None
    target_price: Decimal | None = None
    stop_price: Decimal | None = None
    signal_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Targets:
    """All decisions of one moment, by symbol. A symbol without one is left alone."""

    as_of: dt.datetime
    equity_usd: float
    decisions: tuple[TargetDecision, ...]


def compute_targets(
    signals: pl.DataFrame,
    held: Sequence[HeldPosition],
    prices: Mapping[str, Number],
    volatilities: Mapping[str, float],
    equity_usd: Number,
    rules: TargetRules,
    as_of: dt.datetime,
    exits: Mapping[str, dt.datetime] | None = None,
    sectors: Mapping[str, str] | None = None,
) -> Targets:
    """Return one target weight per symbol that has a fresh signal or is held.

    Parameters
    ----------
    signals : pl.DataFrame
        Rows of ``SIGNAL_SCHEMA``; those that are not fresh ensemble rows are ignored.
    held : Sequence of HeldPosition
        What Isobar itself opened. Foreign positions do not belong here.
    prices : Mapping
        Last price by symbol, USD.
    volatilities : Mapping
        Annualised volatility by symbol, as a share (0.3 is 30%).
    equity_usd : Decimal or float
    rules : TargetRules
    as_of : datetime
        Now.
    exits : Mapping, optional
        When a target or stop last closed each symbol: signals from before are spent, so that
        a stopped position is not opened again by the signal that opened it.
    sectors : Mapping, optional
        Symbol to the name of its sector; without it sectors are not capped.

    Returns
    -------
    Targets
        Per symbol: the mean over its fresh horizons of direction × confidence × volatility
        target / volatility (a neutral horizon adds zero), capped. Then these are scaled down,
        those of a sector until its cap holds and all together until gross, net and turnover
        limits hold; kept positions are not scaled.

    Raises
    ------
    ExecutionError
        When equity is not a positive number or ``as_of`` has no time zone.
    """
    equity = _equity(equity_usd)
    _refuse_naive(as_of)
    by_symbol: dict[str, list[dict[str, Any]]] = {}
    for row in fresh_signals(signals, as_of).iter_rows(named=True):
        by_symbol.setdefault(row[SignalColumn.SYMBOL], []).append(row)
    holdings = {h.symbol: h for h in held if h.quantity != 0}
    decisions: list[TargetDecision] = []
    for symbol in sorted(by_symbol.keys() | holdings.keys()):
        price, exited = _positive(prices.get(symbol)), (exits or {}).get(symbol)
        fresh = [r for r in by_symbol.get(symbol, []) if not is_spent(r, price, exited)]
        view = _net_view(symbol, fresh, price, volatilities.get(symbol), rules)
        holding = holdings.get(symbol)
        if holding is None:
            decisions.append(view or TargetDecision(symbol, 0.0, TargetReason.SPENT))
        else:
            horizons = {row[SignalColumn.HORIZON] for row in fresh}
            decisions.append(_decide_held(holding, view, horizons, price, equity, as_of))
    present = {
        h.symbol: float(h.quantity) * price / equity
        for h in holdings.values()
        if (price := _positive(prices.get(h.symbol))) is not None
    }
    return Targets(as_of, equity, tuple(_fit(decisions, rules, present, sectors)))


def _equity(value: Number) -> float:
    equity = float(value)
    if not (math.isfinite(equity) and equity > 0):
        raise ExecutionError(
            "account equity is no basis for targets",
            got=str(value),
            allowed="a positive amount in USD",
            remedy="check the account at the broker",
        )
    return equity


def _refuse_naive(as_of: dt.datetime) -> None:
    if as_of.tzinfo is None:
        raise ExecutionError(
            "as_of has no time zone", got=as_of.isoformat(), remedy="pass an aware datetime"
        )


def _positive(value: Number | None) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) and number > 0 else None


def _net_view(
    symbol: str,
    fresh: Sequence[Mapping[str, Any]],
    price: float | None,
    volatility: float | None,
    rules: TargetRules,
) -> TargetDecision | None:
    if not fresh:
        return None
    ids = tuple(row[SignalColumn.ID] for row in fresh)
    if not all(map(is_sound, fresh)):
        return TargetDecision(symbol, 0.0, TargetReason.BAD_SIGNAL, signal_ids=ids)
    risk = _positive(volatility)
    signs = [Direction(row[SignalColumn.DIRECTION]).sign for row in fresh]
    if price is None or (risk is None and any(signs)):
        return TargetDecision(symbol, 0.0, TargetReason.NO_DATA, signal_ids=ids)
    parts = [s * row[SignalColumn.CONFIDENCE] for s, row in zip(signs, fresh, strict=True)]
    scale = 0.0 if risk is None else rules.symbol_volatility_target / risk
    weight = scale * sum(parts) / len(parts)
    weight = max(-rules.symbol_cap, min(rules.symbol_cap, weight))
    if weight == 0:
        return TargetDecision(symbol, 0.0, TargetReason.NEUTRAL, signal_ids=ids)
    if weight < 0 and rules.long_only:
        return TargetDecision(symbol, 0.0, TargetReason.LONG_ONLY, signal_ids=ids)
    sign = 1 if weight > 0 else -1
    lead = max(range(len(parts)), key=lambda i: sign * parts[i])
    target, stop = levels_of(fresh[lead], sign)
    return TargetDecision(
        symbol,
        weight,
        TargetReason.SIGNAL,
        horizon=fresh[lead][SignalColumn.HORIZON],
        valid_until=fresh[lead][SignalColumn.VALID_UNTIL],
        target_price=None if target is None else Decimal(str(target)),
        stop_price=None if stop is None else Decimal(str(stop)),
        signal_ids=ids,
    )


_UNUSABLE = {
    TargetReason.NO_DATA: TargetReason.KEPT_NO_DATA,
    TargetReason.BAD_SIGNAL: TargetReason.KEPT_BAD_SIGNAL,
}
"""What cannot be acted on leaves a position as it is."""


def _decide_held(
    held: HeldPosition,
    view: TargetDecision | None,
    fresh_horizons: set[str],
    price: float | None,
    equity: float,
    as_of: dt.datetime,
) -> TargetDecision:
    exit_reason = _level_exit(held, price)
    if exit_reason is not None:
        return TargetDecision(held.symbol, 0.0, exit_reason, horizon=held.opened_by_horizon)
    kept = keep(held, price, equity)
    if view is not None and view.reason in _UNUSABLE:
        return replace(kept, reason=_UNUSABLE[view.reason], signal_ids=view.signal_ids)
    expired = held.valid_until is not None and held.valid_until <= as_of
    if view is None:
        return (
            TargetDecision(
                held.symbol, 0.0, TargetReason.EXIT_EXPIRED, horizon=held.opened_by_horizon
            )
            if expired
            else kept
        )
    if view.reason is TargetReason.LONG_ONLY or view.weight * float(held.quantity) < 0:
        return replace(view, reason=TargetReason.EXIT_OPPOSITE)
    if held.opened_by_horizon in fresh_horizons or expired:
        return view
    # The opening horizon is still in force but has no fresh row: other horizons may add to the
    # position, and close it by pointing the other way, but their silence does not shrink it.
    return view if abs(view.weight) > abs(kept.weight) else kept


def keep(held: HeldPosition, price: Number | None, equity_usd: float) -> TargetDecision:
    """Return the decision that leaves a position exactly as it is."""
    known = _positive(price)
    return TargetDecision(
        held.symbol,
        0.0 if known is None else float(held.quantity) * known / equity_usd,
        TargetReason.KEPT,
        keep_quantity=held.quantity,
        horizon=held.opened_by_horizon,
        valid_until=held.valid_until,
        target_price=held.target_price,
        stop_price=held.stop_price,
    )


def _level_exit(held: HeldPosition, price: float | None) -> TargetReason | None:
    if price is None:
        return None
    sign = 1 if held.quantity > 0 else -1
    stop = None if held.stop_price is None else float(held.stop_price)
    target = None if held.target_price is None else float(held.target_price)
    if is_touched(-sign, price, stop):
        return TargetReason.EXIT_STOP
    return TargetReason.EXIT_TARGET if is_touched(sign, price, target) else None


_Weights = list[float]


def _fit(
    decisions: Sequence[TargetDecision],
    rules: TargetRules,
    present: Mapping[str, float],
    sectors: Mapping[str, str] | None,
) -> list[TargetDecision]:
    """Scale what signals asked for until every limit holds beside what is kept.

    Each step only brings weights nearer to zero, so that what an earlier one reached holds; net
    alone can grow by that, and is fitted once more at the end.
    """
    free = [d for d in decisions if d.keep_quantity is None]
    kept = [d for d in decisions if d.keep_quantity is not None]
    fixed = [d.weight for d in kept]
    weights = [d.weight for d in free]
    if sectors is not None:
        weights = _fit_sectors(free, kept, rules.sector_cap, sectors)
    weights = _fit_gross(weights, fixed, rules.gross_limit)
    weights = _fit_net(weights, fixed, rules)
    weights = _fit_turnover(weights, [present.get(d.symbol, 0.0) for d in free], rules)
    weights = _fit_net(weights, fixed, rules)
    fitted = (
        d if d.weight == w else replace(d, weight=w) for d, w in zip(free, weights, strict=True)
    )
    return sorted((*fitted, *kept), key=lambda d: d.symbol)


def _fit_sectors(
    free: Sequence[TargetDecision],
    kept: Sequence[TargetDecision],
    cap: float,
    sectors: Mapping[str, str],
) -> _Weights:
    fixed: dict[str | None, _Weights] = {}
    for decision in kept:
        fixed.setdefault(sectors.get(decision.symbol), []).append(decision.weight)
    members: dict[str | None, list[int]] = {}
    for place, decision in enumerate(free):
        members.setdefault(sectors.get(decision.symbol), []).append(place)
    weights = [d.weight for d in free]
    for sector, places in members.items():
        fitted = _fit_gross([weights[i] for i in places], fixed.get(sector, []), cap)
        for place, weight in zip(places, fitted, strict=True):
            weights[place] = weight
    return weights


def _fit_gross(weights: _Weights, fixed: _Weights, limit: float) -> _Weights:
    gross = sum(map(abs, weights))
    return _scaled(weights, 1.0 if gross == 0 else (limit - sum(map(abs, fixed))) / gross)


def _fit_net(weights: _Weights, fixed: _Weights, rules: TargetRules) -> _Weights:
    net, factor = sum(weights), 1.0
    if net > 0:
        top = min(rules.net_limit, 1.0 - rules.cash_buffer)
        factor = (top - sum(fixed)) / net
    elif net < 0:
        factor = (rules.net_limit + sum(fixed)) / -net
    return _scaled(weights, factor)


def _fit_turnover(weights: _Weights, present: _Weights, rules: TargetRules) -> _Weights:
    # A weight grows from what is held on its side, or from nothing.
    starts = [h if h * w > 0 else 0.0 for w, h in zip(weights, present, strict=True)]
    growths = [w - s if abs(w) > abs(s) else 0.0 for w, s in zip(weights, starts, strict=True)]
    grown = sum(map(abs, growths))
    if grown <= rules.turnover_limit:
        return weights
    share = rules.turnover_limit / grown
    return [s + share * g if g else w for w, s, g in zip(weights, starts, growths, strict=True)]


def _scaled(weights: _Weights, factor: float) -> _Weights:
    return weights if factor >= 1.0 else [w * max(0.0, factor) for w in weights]
