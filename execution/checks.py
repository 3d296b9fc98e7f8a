"""The risk checks: each looks at one thing and says why it speaks against an order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal

from execution.broker import TimeInForce
from execution.day_trading import rule_on
from execution.denials import DenialCode
from execution.exposure import ExposureBook
from execution.intents import OrderIntent
from execution.risk_context import EVERYTHING, Denial, RiskContext, Verdict
from execution.state import TradingState
from market.calendar import NEW_YORK, latest_session, session_close


class Scene:
    """The context with nothing missing, and what the plan has added so far."""

    def __init__(self, context: RiskContext) -> None:
        assert context.batch is not None  # _missing has looked
        assert context.account is not None
        assert context.clock is not None
        assert context.state is not None
        self.now, self.limits, self.state = context.now, context.limits, context.state
        self.batch, self.account, self.clock = context.batch, context.account, context.clock
        self.assets, self.prices = context.assets, context.prices
        self.own = context.own_quantities or {}
        self.account_quantity = {p.symbol: p.quantity for p in context.positions or ()}
        self.book = ExposureBook(
            context.positions or (), context.open_orders or (), self.own, context.prices
        )
        self.unpriced = self.book.unpriced()
        assert context.models_known_at is not None
        assert context.data_problems is not None
        assert context.peak_equity_usd is not None
        assert context.sent_last_hour is not None
        assert context.day_trading is not None
        self.models_known_at, self.data_problems = context.models_known_at, context.data_problems
        self.peak_equity_usd, self.sent_last_hour = (
            context.peak_equity_usd,
            context.sent_last_hour,
        )
        self.day_trading, self.average_volumes = context.day_trading, context.average_volumes
        self.sectors = context.sectors or {}
        self.day_rule = rule_on(context.now.astimezone(NEW_YORK).date())
        self.resting = [(o.symbol, o.side, o.client_order_id) for o in context.open_orders or ()]
        self.known_ids = set(context.journalled or ())
        self.accepted_legs: set[tuple[str, int]] = set()
        self.accepted = 0
        self.day_trades_planned = 0

    def remember(self, verdict: Verdict) -> None:
        """Count an order that was accepted; its identity is taken either way."""
        intent = verdict.intent
        self.known_ids.add(intent.client_order_id)
        if verdict.accepted:
            self.accepted += 1
            opened = self.day_trading.opened_today.get(intent.symbol, Decimal(0))
            self.day_trades_planned += opened * intent.signed_quantity < 0
            self.accepted_legs.add((intent.symbol, intent.leg))
            self.resting.append((intent.symbol, intent.side, intent.client_order_id))
            self.book.add(intent.symbol, intent.side, intent.quantity)


def _check_state(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    if scene.state is TradingState.HALTED:
        yield Denial(DenialCode.TRADING_HALTED)
    if scene.state is TradingState.REDUCING and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.TRADING_REDUCING)


def _check_batch(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    batch, limits = scene.batch, scene.limits
    if not batch.complete:
        yield Denial(DenialCode.BATCH_INCOMPLETE, batch.batch_id)
    delay = (batch.ts_emit - batch.scheduled_for).total_seconds()
    if batch.late or delay > limits.batch_late_seconds:
        yield Denial(DenialCode.BATCH_LATE, f"{delay:.0f} s after it was due")
    if batch.parity_broken:
        yield Denial(DenialCode.PARITY_BROKEN)
    age = (scene.now - batch.as_of).total_seconds()
    if not 0 <= age <= limits.batch_age_seconds:
        yield Denial(DenialCode.BATCH_STALE, f"{age:.0f} s old")
    if intent.valid_until is not None and intent.valid_until <= scene.now:
        yield Denial(DenialCode.SIGNAL_EXPIRED, intent.valid_until.isoformat())
    if intent.valid_until is None and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.MISSING_DATA, "valid_until")


def _check_market(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    if scene.clock.is_open:
        return
    wait = (scene.clock.next_open - scene.now).total_seconds()
    # A second leg leaves when the auction has filled the first.
    auction = intent.time_in_force is TimeInForce.OPG or intent.leg > 1
    longest = scene.limits.opg_wait_seconds if auction else scene.limits.day_wait_seconds
    if not 0 <= wait <= longest:
        yield Denial(DenialCode.MARKET_CLOSED, f"{wait:.0f} s to the open")


def _check_account(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    account = scene.account
    if account.is_blocked:
        yield Denial(DenialCode.ACCOUNT_BLOCKED)
    if account.currency != "USD":
        yield Denial(DenialCode.ACCOUNT_CURRENCY, account.currency)
    lost = (account.last_equity_usd - account.equity_usd) / account.last_equity_usd
    if scene.book.reduces_own(intent):
        return
    if lost > scene.limits.daily_loss_share:
        yield Denial(DenialCode.DAILY_LOSS, f"{lost:.2%} of equity")
    peak = max(scene.peak_equity_usd, account.equity_usd)
    fallen = (peak - account.equity_usd) / peak
    if fallen > scene.limits.drawdown_share:
        yield Denial(DenialCode.DRAWDOWN, f"{fallen:.2%} below the peak of {peak:.2f} USD")


def _check_model(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    """Deny what old models or doubtful bars would open; closing needs neither."""
    if scene.book.reduces_own(intent):
        return
    known_at = scene.models_known_at.get(intent.horizon or "")
    if known_at is None:
        yield Denial(DenialCode.MISSING_DATA, f"age of the models of {intent.horizon}")
    elif (age := (scene.now - known_at) / dt.timedelta(days=1)) > scene.limits.model_age_days:
        yield Denial(DenialCode.MODEL_TOO_OLD, f"{age:.0f} days")
    for what in (intent.symbol, EVERYTHING):
        if what in scene.data_problems:
            yield Denial(DenialCode.DATA_QUALITY, scene.data_problems[what])


def _check_symbol(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    if intent.symbol in scene.limits.restricted:
        yield Denial(DenialCode.RESTRICTED)
    foreign = scene.account_quantity.get(intent.symbol, Decimal(0)) - scene.own.get(
        intent.symbol, Decimal(0)
    )
    if foreign != 0 and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.FOREIGN_POSITION, f"{foreign} shares")
    asset = scene.assets.get(intent.symbol)
    if asset is None:
        yield Denial(DenialCode.MISSING_DATA, "asset")
        return
    if not asset.tradable or asset.status != "active":
        yield Denial(DenialCode.NOT_TRADABLE, asset.status)
    shorting = scene.limits.allow_short and scene.account.shorting_enabled and asset.shortable
    if scene.book.may_be_short(intent) and not shorting:
        yield Denial(DenialCode.NOT_SHORTABLE)


def _check_price(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    last = scene.prices.get(intent.symbol)
    if last is None or not (last.price_usd.is_finite() and last.price_usd > 0):
        yield Denial(DenialCode.MISSING_DATA, "last price")
        return
    basis = scene.now
    if not scene.clock.is_open:
        basis = min(basis, session_close(latest_session(scene.now)))
    age = (basis - last.at).total_seconds()
    if age > scene.limits.price_age_seconds or last.at > scene.now:
        yield Denial(DenialCode.PRICE_TOO_OLD, f"of {last.at.isoformat()}")
    for price in (intent.limit_price_usd, intent.reference_price_usd):
        if price is not None:
            gap = abs(price - last.price_usd) / last.price_usd
            if gap > scene.limits.price_collar_share:
                yield Denial(DenialCode.PRICE_COLLAR, f"{gap:.2%} from the last price")


def _check_size(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    price = scene.book.price(intent.symbol)
    if price is None:
        return  # denied by _check_price
    limits, equity = scene.limits, scene.account.equity_usd
    notional = intent.quantity * price
    if notional > limits.order_notional_usd and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.ORDER_NOTIONAL, f"{notional:.2f} USD")
    if scene.unpriced and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.MISSING_DATA, f"price of {', '.join(scene.unpriced[:5])}")
    before, after = scene.book.now(intent.symbol), scene.book.after(intent)
    for code, was, becomes, share in (
        (
            DenialCode.POSITION_NOTIONAL,
            before.position_usd,
            after.position_usd,
            limits.position_share,
        ),
        (DenialCode.GROSS_LEVERAGE, before.gross_usd, after.gross_usd, limits.gross_share),
        (DenialCode.NET_LEVERAGE, before.net_usd, after.net_usd, limits.net_share),
    ):
        if becomes > share * equity and becomes > was:
            yield Denial(code, f"{becomes / equity:.1%} of equity")
    needs = scene.book.opening_usd(intent.symbol, intent.side, intent.quantity)
    if needs > 0 and scene.book.needed_usd + needs > scene.account.buying_power_usd:
        yield Denial(DenialCode.BUYING_POWER, f"{scene.book.needed_usd + needs:.2f} USD")


def _check_volume(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    if scene.limits.volume_share is None or scene.book.reduces_own(intent):
        return
    volume = scene.average_volumes.get(intent.symbol)
    if volume is None or not (volume.is_finite() and volume > 0):
        yield Denial(DenialCode.MISSING_DATA, "average volume")
    elif intent.quantity > scene.limits.volume_share * volume:
        share = intent.quantity / volume
        yield Denial(DenialCode.VOLUME_SHARE, f"{share:.1%} of an average day")


def _check_sector(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    share, sectors = scene.limits.sector_share, scene.sectors
    if share is None:
        return
    sector = sectors.get(intent.symbol)
    if sector is None:
        if not scene.book.reduces_own(intent):
            yield Denial(DenialCode.MISSING_DATA, "sector")
        return
    before = scene.book.gross_of(lambda symbol: sectors.get(symbol) == sector)
    symbol_before = scene.book.now(intent.symbol).position_usd
    becomes = before - symbol_before + scene.book.after(intent).position_usd
    equity = scene.account.equity_usd
    if becomes > share * equity and becomes > before:
        yield Denial(DenialCode.SECTOR_SHARE, f"{sector}: {becomes / equity:.1%} of equity")


def _check_day_trading(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    rule, account, day = scene.day_rule, scene.account, scene.day_trading
    if rule.day_trades is not None and rule.equity_usd is not None:
        closes_today = day.opened_today.get(intent.symbol, Decimal(0)) * intent.signed_quantity < 0
        if closes_today and account.equity_usd < rule.equity_usd:
            made = day.day_trades + scene.day_trades_planned
            if made >= rule.day_trades:
                yield Denial(DenialCode.DAY_TRADES, f"{made} in five sessions")
    if rule.long_margin is not None and rule.short_margin is not None:
        before, after = scene.book.now(intent.symbol), scene.book.after(intent)
        needed = rule.long_margin * after.long_usd + rule.short_margin * after.short_usd
        was = rule.long_margin * before.long_usd + rule.short_margin * before.short_usd
        if needed > account.equity_usd and needed > was:
            yield Denial(DenialCode.INTRADAY_MARGIN, f"{needed:.2f} USD")


def _check_wash_trade(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    opposing = [
        order_id
        for symbol, side, order_id in scene.resting
        if symbol == intent.symbol and side is not intent.side and order_id not in intent.cancels
    ]
    if opposing:
        yield Denial(DenialCode.WASH_TRADE, opposing[0])


def _check_order(intent: OrderIntent, scene: Scene) -> Iterator[Denial]:
    if intent.client_order_id in scene.known_ids:
        yield Denial(DenialCode.DUPLICATE, intent.client_order_id)
    if scene.accepted >= scene.limits.order_count:
        yield Denial(DenialCode.ORDER_COUNT, f"{scene.accepted} orders")
    sent = scene.sent_last_hour + scene.accepted
    if sent >= scene.limits.orders_per_hour:
        yield Denial(DenialCode.ORDER_RATE, f"{sent} orders in an hour")
    if intent.leg > 1 and (intent.symbol, intent.leg - 1) not in scene.accepted_legs:
        yield Denial(DenialCode.LEG_DENIED)


CHECKS: tuple[Callable[[OrderIntent, Scene], Iterator[Denial]], ...] = (
    _check_state,
    _check_batch,
    _check_market,
    _check_account,
    _check_model,
    _check_symbol,
    _check_price,
    _check_volume,
    _check_size,
    _check_sector,
    _check_day_trading,
    _check_wash_trade,
    _check_order,
)
