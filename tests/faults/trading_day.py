"""A random trading day at the paper server, through the real adapter, that may die anywhere.

Two batches of signals open, enlarge, shrink, flip and close positions; between them fills are
looked after. Every transaction of the ledger and every request of the adapter is a step at which
the day can be made to end; it is then taken up again, at the same moment of the replay.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from execution import alpaca
from execution.adjustments import read_adjustments
from execution.alpaca import AlpacaBroker
from execution.audit import verify_orders
from execution.holdings import own_quantities
from execution.intents import LastPrice, PlanRules
from execution.journal import JournalState, journal_position
from execution.paper import ReplayClock, create_app
from execution.risk import RiskLimits
from execution.targets import TargetRules
from execution.trade import MarketView, TradeRules, attend, trade
from market import calendar
from market.errors import BrokerError
from market.ledger import Ledger, open_ledger
from market.ledger_tables import orders
from market.schema import BAR_SCHEMA
from market.serving import BackgroundServer
from tests.execution.scenes import content, publish

SESSION = dt.date(2025, 3, 4)
OPEN = calendar.session_open(SESSION)
MINUTE = dt.timedelta(minutes=1)
SYMBOLS = "ABCDEF"
RULES = TradeRules(
    TargetRules(long_only=False, symbol_volatility_target=0.03),
    PlanRules(brackets=True, min_notional_usd=Decimal(0)),
    RiskLimits(allow_short=True, volume_share=None),
)
_MOMENTS = (30, 60, 90)
"""Minutes after the open at which batches are published and traded."""


class Died(BaseException):
    """The process ended here."""


Step = Callable[[str], None]


@dataclass
class Counter:
    """Names every step, and raises at one of them."""

    at: int | None = None
    error: Callable[[], BaseException] = Died
    steps: list[str] = field(default_factory=list[str])

    def __call__(self, step: str) -> None:
        self.steps.append(step)
        if self.at is not None and len(self.steps) - 1 == self.at:
            raise self.error()


def bars_of(seed: int) -> pl.DataFrame:
    """Minutes of a session whose prices wander, apart for each symbol."""
    rng = random.Random(seed)
    rows: list[list[Any]] = []
    for symbol in SYMBOLS:
        price = rng.uniform(20, 200)
        for minute in range(calendar.REGULAR_MINUTES):
            start, opened = OPEN + minute * MINUTE, price
            price *= 1 + rng.gauss(0, 0.0008)
            high, low = max(opened, price) * 1.0004, min(opened, price) * 0.9996
            end = start + MINUTE
            values = [round(v, 4) for v in (opened, high, low, price)]
            rows.append([symbol, SESSION, start, end, end, *values, 1e5, price, 50])
    return pl.DataFrame(rows, schema=BAR_SCHEMA, orient="row")


@dataclass
class Day:
    """One seed's day in one folder."""

    seed: int
    folder: Path
    bars: pl.DataFrame
    clock: ReplayClock
    broker: AlpacaBroker
    url: str = ""

    def prices(self) -> dict[str, LastPrice]:
        now = self.clock.now()
        known = self.bars.filter(pl.col("bar_end") <= now).group_by("symbol").last()
        return {
            s: LastPrice(Decimal(str(c)), at)
            for s, c, at in known.select("symbol", "close", "bar_end").iter_rows()
        }

    def market(self) -> MarketView:
        return MarketView(self.prices(), dict.fromkeys(SYMBOLS, 0.3), {}, {})

    def rows(self, number: int) -> list[dict[str, Any]]:
        """The signals of a batch: random sides, some with target and stop near by."""
        rng = random.Random(f"{self.seed}-{number}")
        prices, rows = self.prices(), list[dict[str, Any]]()
        for symbol in rng.sample(SYMBOLS, rng.randint(3, len(SYMBOLS))):
            direction = rng.choice(["long", "short", "neutral"])
            sign = {"long": 1, "short": -1, "neutral": 0}[direction]
            price = float(prices[symbol].price_usd)
            reach = rng.choice([0.001, 0.004, 0.05])
            levels: dict[str, Any] = {}
            if sign and rng.random() < 0.7:
                levels = {
                    "targets": [round(price * (1 + sign * reach), 2)],
                    "stops": [round(price * (1 - sign * reach), 2)],
                }
            until = self.clock.now() + rng.choice([40, 60 * 30]) * MINUTE
            rows.append(
                content(
                    symbol,
                    direction=direction,
                    confidence=round(rng.uniform(0.3, 0.9), 2),
                    valid_until=until,
                    **levels,
                )
            )
        return rows

    def act(self, number: int, ledger: Ledger) -> None:
        """Trade a batch, and look after it in the minutes that follow."""
        trade(ledger, self.broker, market=self.market(), rules=RULES, now=self.clock.now())

    def care(self, ledger: Ledger) -> None:
        attend(ledger, self.broker, market=self.market(), rules=RULES, now=self.clock.now())


@contextlib.contextmanager
def a_day(
    seed: int,
    folder: Path,
    wrap: Callable[[FastAPI], Any] = lambda app: app,
    timeout_seconds: float = 2.0,
    **options: Any,
) -> Iterator[Day]:
    """Serve a paper broker for a seed's market; ``wrap`` may put something before it."""
    bars = bars_of(seed)
    clock = ReplayClock(OPEN)
    app = create_app(
        bars, api_key="key", secret_key="secret", clock=clock,
        starting_cash_usd=Decimal(200_000), **options,
    )  # fmt: skip
    with BackgroundServer(wrap(app)) as server:
        yield Day(seed, folder, bars, clock, broker_at(server.url, timeout_seconds), server.url)


def broker_at(url: str, timeout_seconds: float = 2.0) -> AlpacaBroker:
    """Connect to the paper server without waiting between attempts."""
    return AlpacaBroker(
        SecretStr("key"), SecretStr("secret"), url, is_paper=True,
        timeout_seconds=timeout_seconds, requests_per_minute=1_000_000,
        sleep=lambda _seconds: None,
    )  # fmt: skip


def trade_once(seed: str, folder: str, url: str, moment: str) -> None:
    """Trade the newest batch, as a process of its own does."""
    clock = ReplayClock(dt.datetime.fromisoformat(moment))
    day = Day(int(seed), Path(folder), bars_of(int(seed)), clock, broker_at(url), url)
    with _ledger(day) as ledger:
        day.act(0, ledger)


def live_through(
    day: Day, step: Step, monkeypatch: pytest.MonkeyPatch, *, attempts: int = 2
) -> None:
    """Go through the day; what dies or fails at a step is taken up again, at the same moment."""
    for number, minutes in enumerate(_MOMENTS):
        day.clock.advance_to(OPEN + minutes * MINUTE)
        with _ledger(day) as ledger:
            at = day.clock.now() - MINUTE
            publish(ledger, day.folder, *day.rows(number), as_of=at, scheduled_for=at, ts_emit=at)
        repeat(day, step, monkeypatch, lambda ledger, n=number: day.act(n, ledger), attempts)
        for later in (2, 5):
            day.clock.advance_to(OPEN + (minutes + later) * MINUTE)
            repeat(day, step, monkeypatch, day.care, attempts)
    day.clock.advance_to(OPEN + 300 * MINUTE)
    repeat(day, step, monkeypatch, day.care, attempts)


def _ledger(day: Day) -> contextlib.AbstractContextManager[Ledger]:
    return open_ledger(f"sqlite:///{day.folder}/ledger.db")


def repeat(
    day: Day,
    step: Step,
    monkeypatch: pytest.MonkeyPatch,
    action: Callable[[Ledger], None],
    attempts: int,
) -> None:
    """Repeat an action until it has nothing more to do at this moment.

    A run that died and is taken up sees fills, and may send second legs, that an undisturbed one
    sees the next time: only where both have come to rest can they be compared.
    """
    still = False
    while not still:
        with _ledger(day) as ledger:
            before = journal_position(ledger)
        try:
            with instrumented(monkeypatch, step), _ledger(day) as ledger:
                action(ledger)
                still = journal_position(ledger) == before
        except (Died, BrokerError):
            attempts -= 1
            if attempts == 0:
                raise


@contextlib.contextmanager
def instrumented(monkeypatch: pytest.MonkeyPatch, step: Step) -> Iterator[None]:
    """Tell ``step`` of both ends of every transaction and of every request, inside the adapter."""
    transaction, send = Ledger.transaction, alpaca._TimeoutAdapter.send

    @contextlib.contextmanager
    def told(self: Ledger) -> Iterator[Any]:
        step("before transaction")
        with transaction(self) as connection:
            yield connection
            step("before commit")
        step("after commit")

    def sent(self: Any, request: Any, *args: Any, **more: Any) -> Any:
        step(f"before {request.method}")
        answer = send(self, request, *args, **more)
        step(f"after {request.method}")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "transaction", told)
        patch.setattr(alpaca._TimeoutAdapter, "send", sent)
        yield


def outcome(day: Day) -> dict[str, Any]:
    """What the day came to, by the broker's own book and by the journal; findings are none."""
    placed = [o for o in day.broker.orders_since(OPEN) if o.client_order_id.startswith("iso-")]
    held = {p.symbol: p.quantity for p in day.broker.positions()}
    with _ledger(day) as ledger:
        rows = ledger.rows(orders.select())
        problems = list(verify_orders(ledger, day.folder / "audit.jsonl"))
        own = own_quantities(ledger)
        adjusted = read_adjustments(ledger)
    journal = {r["client_order_id"]: r for r in rows}
    if adjusted:
        problems.append(f"positions were adjusted: {adjusted}")
    if own != held:
        problems.append(f"journal {own}, account {held}")
    if len({o.client_order_id for o in placed}) != len(placed):
        problems.append("an order is at the broker twice")
    purposes = [(r["plan_id"], r["symbol"], r["side"], r["leg"]) for r in rows if _is_sent(r)]
    problems += [f"sent twice: {p}" for p in set(purposes) if purposes.count(p) > 1]
    for order in placed:
        row = journal.get(order.client_order_id)
        if row is None:
            problems.append(f"no journal knows {order.client_order_id}")
        elif JournalState(row["state"]) != JournalState(order.status.value):
            problems.append(f"{order.client_order_id} is {row['state']}, there {order.status}")
        elif row["filled_quantity"] != order.filled_quantity:
            problems.append(f"{order.client_order_id} filled {row['filled_quantity']}")
    at_broker = {o.client_order_id for o in placed}
    for key, row in journal.items():
        state = JournalState(row["state"])
        if state.is_unresolved or state is JournalState.UNKNOWN:
            problems.append(f"{key} is {state.value}")
        if _is_sent(row) and key not in at_broker:
            problems.append(f"{key} was lost")
    return {
        "problems": problems,
        "held": held,
        "orders": sorted((o.symbol, o.side.value, o.quantity) for o in placed),
    }


def _is_sent(row: dict[str, Any]) -> bool:
    never = (JournalState.DENIED, JournalState.INTENDED, JournalState.LAPSED)
    if row["state"] == JournalState.REJECTED and row["broker_order_id"] is None:
        return False  # refused: it never was an order
    return row["parent_id"] is None and JournalState(row["state"]) not in never
