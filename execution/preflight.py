"""Whether an account may trade: the same questions for `isobar doctor` and before live orders."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from execution.broker import Account, Broker
from execution.reconcile import newest_reconciliation
from execution.risk_context import CLOCK_TOLERANCE
from execution.state import TradingState, current_state, newest_reason
from execution.trade import assert_may_trade
from market.errors import BrokerError, ExecutionError
from market.ledger import Ledger

_MODE = "trading mode"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """One question, whether the answer is well, and what it is, with its remedy."""

    name: str
    ok: bool
    says: str


def preflight(
    ledger: Ledger,
    broker: Broker,
    *,
    mode: str,
    allow_live_account: str | None,
    now: dt.datetime | None,
) -> list[PreflightCheck]:
    """Ask everything that must hold before an account trades.

    Parameters
    ----------
    ledger : Ledger
        With the trading state and past reconciliations.
    broker : Broker
        The connected broker.
    mode : str
        ``paper`` or ``live``, from the settings.
    allow_live_account : str or None
        The number of the live account that may trade.
    now : datetime or None
        Aware, by this machine's clock and not by the broker's; ``None`` where the broker replays
        the past, so that the two cannot be compared.

    Returns
    -------
    list of PreflightCheck
        In this order: mode, account, clock, trading state, reconciliation. Where mode, broker and
        account do not fit each other the first alone. What only reduces may be sent while trading
        is ``REDUCING``: that is well, and said. Live, an account that was never reconciled is not
        well.

    Raises
    ------
    BrokerError
        When the broker is out of reach.
    """
    try:
        account = assert_may_trade(mode, broker, allow_live_account)
    except BrokerError:
        raise
    except ExecutionError as error:
        return [PreflightCheck(_MODE, ok=False, says=str(error))]
    questions: tuple[tuple[str, Callable[[], str]], ...] = (
        (_MODE, lambda: f"{mode}, at {broker.name}"),
        ("account", lambda: _account(account)),
        ("broker's clock", lambda: _clock(broker, now)),
        ("trading state", lambda: _state(ledger)),
        ("reconciliation", lambda: _reconciliation(ledger, broker.name, mode)),
    )
    return list(_answers(questions))


def assert_ready_for_live(checks: list[PreflightCheck]) -> None:
    """Refuse live orders unless every check is well.

    Raises
    ------
    ExecutionError
        Naming each that is not.
    """
    failed = [c for c in checks if not c.ok]
    if failed or not checks:
        raise ExecutionError(
            "live trading is not ready",
            got="; ".join(f"{c.name}: {c.says}" for c in failed) or "no check was made",
            allowed="every check of trading in `isobar doctor` well",
            remedy="mend what `isobar doctor` names, then trade again: nothing was sent",
        )


def _answers(
    questions: tuple[tuple[str, Callable[[], str]], ...],
) -> Iterator[PreflightCheck]:
    for name, ask in questions:
        try:
            yield PreflightCheck(name, ok=True, says=ask())
        except BrokerError:
            raise
        except ExecutionError as error:
            yield PreflightCheck(name, ok=False, says=str(error))


def _account(account: Account) -> str:
    if account.is_blocked:
        raise ExecutionError(
            "the broker has blocked the account",
            got=account.account_number,
            remedy="ask the broker why",
        )
    if account.currency != "USD":
        raise ExecutionError(
            "the account is not kept in dollars",
            got=account.currency,
            allowed="USD",
            remedy="use an account in USD",
        )
    return f"{account.account_number}, {account.currency}, equity {account.equity_usd:,.2f}"


def _clock(broker: Broker, now: dt.datetime | None) -> str:
    there = broker.clock().now
    if now is None:
        return f"replayed, {there:%Y-%m-%d %H:%M:%S}Z"
    apart = abs(there - now)
    if apart > CLOCK_TOLERANCE:
        raise ExecutionError(
            "the clocks of this machine and of the broker are apart",
            got=f"{apart.total_seconds():.0f} s",
            allowed=f"{CLOCK_TOLERANCE.total_seconds():.0f} s at most",
            remedy="set this machine's clock, by NTP",
        )
    return f"{apart.total_seconds():.1f} s apart from this machine's"


def _state(ledger: Ledger) -> str:
    state, reason = current_state(ledger), newest_reason(ledger)
    if state is TradingState.HALTED:
        raise ExecutionError(
            "trading is halted",
            got=reason,
            remedy="look into it, then `isobar resume --reason ...`",
        )
    if state is TradingState.REDUCING:
        return f"{state.value}, only what reduces is sent: {reason}"
    return state.value


def _reconciliation(ledger: Ledger, broker: str, mode: str) -> str:
    newest = newest_reconciliation(ledger)
    if newest is None or newest["broker"] != broker:
        if mode == "live":
            raise ExecutionError(
                "journal and account were not held against each other",
                got=None if newest is None else f"the newest is of {newest['broker']}",
                allowed=f"a clean reconciliation with {broker}",
                remedy="run `isobar reconcile`",
            )
        return "never made with this broker; `isobar reconcile` makes one"
    at = f"{newest['at']:%Y-%m-%d %H:%M:%S}Z"
    if not newest["clean"]:
        raise ExecutionError(
            "journal and account do not agree",
            got=_first_of([f"{f['kind']} {f['key']}" for f in newest["findings"]]),
            remedy="see `isobar reconcile`",
        )
    return f"journal and account agreed, {at}"


def _first_of(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
