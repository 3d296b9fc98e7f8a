"""The words in which an order is denied, and the table that explains them."""

from __future__ import annotations

from enum import StrEnum


class DenialCode(StrEnum):
    """Why a risk check denied an order."""

    MISSING_DATA = "missing_data"
    BAD_SIGNAL = "bad_signal"
    BAD_PRICE = "bad_price"
    BATCH_INCOMPLETE = "batch_incomplete"
    BATCH_LATE = "batch_late"
    BATCH_STALE = "batch_stale"
    PARITY_BROKEN = "parity_broken"
    MODEL_TOO_OLD = "model_too_old"
    DATA_QUALITY = "data_quality"
    SIGNAL_EXPIRED = "signal_expired"
    TRADING_HALTED = "trading_halted"
    TRADING_REDUCING = "trading_reducing"
    MARKET_CLOSED = "market_closed"
    ACCOUNT_BLOCKED = "account_blocked"
    ACCOUNT_CURRENCY = "account_currency"
    NOT_TRADABLE = "not_tradable"
    NOT_SHORTABLE = "not_shortable"
    RESTRICTED = "restricted"
    FOREIGN_POSITION = "foreign_position"
    BAD_QUANTITY = "bad_quantity"
    PRICE_TOO_OLD = "price_too_old"
    PRICE_COLLAR = "price_collar"
    ORDER_NOTIONAL = "order_notional"
    POSITION_NOTIONAL = "position_notional"
    GROSS_LEVERAGE = "gross_leverage"
    NET_LEVERAGE = "net_leverage"
    BUYING_POWER = "buying_power"
    SECTOR_SHARE = "sector_share"
    VOLUME_SHARE = "volume_share"
    DAILY_LOSS = "daily_loss"
    DRAWDOWN = "drawdown"
    DAY_TRADES = "day_trades"
    INTRADAY_MARGIN = "intraday_margin"
    WASH_TRADE = "wash_trade"
    DUPLICATE = "duplicate"
    ORDER_COUNT = "order_count"
    ORDER_RATE = "order_rate"
    LEG_DENIED = "leg_denied"


DENIALS: dict[DenialCode, str] = {
    DenialCode.MISSING_DATA: "A check lacks what it needs to decide; the detail names it.",
    DenialCode.BAD_SIGNAL: "A number of the symbol's signals cannot be what it says it is: a "
    "confidence outside 0 to 1, a level that is no positive number.",
    DenialCode.BAD_PRICE: "The last price is not a positive number.",
    DenialCode.BATCH_INCOMPLETE: "The batch of signals is not marked whole.",
    DenialCode.BATCH_LATE: "The batch was published past its run's limit.",
    DenialCode.BATCH_STALE: "The batch knows too little of the present: its `as_of` is too old, "
    "or lies in the future.",
    DenialCode.PARITY_BROKEN: "An earlier batch, made again from the same inputs, was not what had "
    "been published; `isobar parity` says what changed.",
    DenialCode.MODEL_TOO_OLD: "The oldest model of the horizon learned its last too long ago.",
    DenialCode.DATA_QUALITY: "Bars of the symbol, or of all, failed their checks; the detail says "
    "which.",
    DenialCode.SIGNAL_EXPIRED: "The signal behind the order is past `valid_until`.",
    DenialCode.TRADING_HALTED: "Trading is halted; a person resumes it.",
    DenialCode.TRADING_REDUCING: "Only orders that reduce a position are allowed.",
    DenialCode.MARKET_CLOSED: "The market is shut and the order could not fill soon.",
    DenialCode.ACCOUNT_BLOCKED: "The broker forbids the account to trade.",
    DenialCode.ACCOUNT_CURRENCY: "The account is not in USD.",
    DenialCode.NOT_TRADABLE: "The broker does not trade the symbol.",
    DenialCode.NOT_SHORTABLE: "The order would be short and the symbol, the account or the "
    "limits do not allow it.",
    DenialCode.RESTRICTED: "The symbol is on the restricted list.",
    DenialCode.FOREIGN_POSITION: "The order would trade a position that Isobar did not open.",
    DenialCode.BAD_QUANTITY: "The quantity or a price of the order is not a positive number.",
    DenialCode.PRICE_TOO_OLD: "The last price is too old, or lies in the future.",
    DenialCode.PRICE_COLLAR: "The order's price is too far from the last price.",
    DenialCode.ORDER_NOTIONAL: "The order is larger than one order may be.",
    DenialCode.POSITION_NOTIONAL: "The position could become a larger share of equity than "
    "allowed.",
    DenialCode.GROSS_LEVERAGE: "Gross exposure, foreign positions counted, could pass its limit.",
    DenialCode.NET_LEVERAGE: "Net exposure, foreign positions counted, could pass its limit.",
    DenialCode.BUYING_POWER: "Open orders and this plan would need more than the buying power.",
    DenialCode.SECTOR_SHARE: "The sector could become a larger share of equity than allowed.",
    DenialCode.VOLUME_SHARE: "The order is too large a share of an average day's volume.",
    DenialCode.DAILY_LOSS: "Today's loss is past its limit; only orders that reduce pass.",
    DenialCode.DRAWDOWN: "Equity is too far below its peak; only orders that reduce pass.",
    DenialCode.DAY_TRADES: "The order would be a day trade too many for an account of this size "
    "(the rule until 2026-06-03).",
    DenialCode.INTRADAY_MARGIN: "Equity would not cover the maintenance margin in the course of "
    "the day (the rule from 2026-06-04).",
    DenialCode.WASH_TRADE: "An order on the other side of the same symbol is open.",
    DenialCode.DUPLICATE: "An order with this identity is already in the journal or the plan.",
    DenialCode.ORDER_COUNT: "The run has reached its number of orders.",
    DenialCode.ORDER_RATE: "More orders left in the last hour than may.",
    DenialCode.LEG_DENIED: "The leg that must fill first was denied.",
}


def denial_table() -> str:
    """Return ``docs/denials.md``: every code and its meaning, in the order of the checks."""
    lines = [
        "# Why an order is denied",
        "",
        "A denial is a row of the ledger, not an error: the run goes on. Of an order it stands in",
        "`orders.denials`. A symbol that is refused before there is an order, and of which what is",
        "held stays, has a row of `audit_log` (subject `denial`) and stands in `plans.skipped`.",
        "A check that lacks its data denies. Made by `execution.denials.denial_table`.",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| `{code.value}` | {meaning} |" for code, meaning in DENIALS.items()),
    ]
    return "\n".join(lines) + "\n"
