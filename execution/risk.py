"""Risk checks: every order passes all of them, or is denied with codes.

Pure, and closed when in doubt: a check that lacks its data denies. Exposure is judged by the
worst order of fills: of everything that is open or accepted, any part may fill and the rest
not. So a sale never makes room for a purchase, and no accepted plan can break a limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from execution.checks import CHECKS, Scene
from execution.denials import DENIALS, DenialCode, denial_table
from execution.intents import OrderIntent
from execution.risk_context import BatchStatus, Denial, RiskContext, RiskLimits, Verdict

__all__ = [
    "DENIALS",
    "BatchStatus",
    "Denial",
    "DenialCode",
    "RiskContext",
    "RiskLimits",
    "Verdict",
    "check_plan",
    "denial_table",
]


def check_plan(intents: Sequence[OrderIntent], context: RiskContext) -> list[Verdict]:
    """Judge every intent, in order, beside those accepted before it.

    Parameters
    ----------
    intents : Sequence of OrderIntent
        In the order in which they would be sent.
    context : RiskContext
        What is known.

    Returns
    -------
    list of Verdict
        One per intent, in the same order. An order that makes no figure worse passes the
        limits on exposure; one that only reduces a position of Isobar's own passes those on
        order notional, daily loss and foreign holdings too. Every other check is for all.
    """
    missing = _missing(context)
    if missing:
        denial = Denial(DenialCode.MISSING_DATA, ", ".join(missing))
        return [Verdict(intent, (denial,)) for intent in intents]
    scene = Scene(context)
    verdicts: list[Verdict] = []
    for intent in intents:
        if _is_malformed(intent):
            denials = (Denial(DenialCode.BAD_QUANTITY),)
        else:
            denials = tuple(d for check in CHECKS for d in check(intent, scene))
        verdicts.append(Verdict(intent, denials))
        scene.remember(verdicts[-1])
    return verdicts


def _missing(context: RiskContext) -> list[str]:
    names = (
        "state",
        "batch",
        "account",
        "clock",
        "positions",
        "open_orders",
        "own_quantities",
        "journalled",
        "models_known_at",
        "data_problems",
        "peak_equity_usd",
        "sent_last_hour",
        "day_trading",
    )
    found = [n for n in names if getattr(context, n) is None]
    account = context.account
    if account is not None:
        amounts = ("equity_usd", "last_equity_usd", "buying_power_usd")
        found.extend(n for n in amounts if not getattr(account, n).is_finite())
        found.extend(n for n in amounts[:2] if n not in found and getattr(account, n) <= 0)
    return found


def _is_malformed(intent: OrderIntent) -> bool:
    stated = (intent.quantity, intent.limit_price_usd, intent.reference_price_usd)
    return any(v is not None and not (v.is_finite() and v > 0) for v in stated)
