"""A month traded by the live code at the paper broker, and the same month simulated.

The live side is the whole of it: signals published in a ledger, plan, checks, journal, dispatch,
reconciliation, and the official client speaking HTTP with the paper server. Its clock is stepped.
Only what is scheduled in production is stood in for here: when runs are due, and what was known of
the market then, read off the bars.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from pydantic import SecretStr

from backtest.published import annualised_volatility
from backtest.simulate import simulate
from backtest.simulation import Simulation
from backtest.tape import VOLUME_SESSIONS
from evidence.live_replay_market import OTHER, ReplayMarket, bar_spans
from execution.adjustments import CorporateActions
from execution.alpaca import AlpacaBroker
from execution.intents import LastPrice, PlanRules
from execution.journal import unfinished_plans
from execution.paper import ReplayClock, create_app
from execution.paper_conditions import PaperConditions
from execution.risk import RiskLimits
from execution.targets import TargetRules
from execution.trade import MarketView, TradeReport, TradeRules, attend, trade, trade_close
from market import calendar
from market.costs import CostModel
from market.horizons import ExitRule, Horizon, Run, find_horizon, scheduled_for
from market.ledger import Ledger, open_ledger
from market.ledger_tables import engines, fills
from market.regimes import RegimeLabel
from market.schema import IDENTITY_SCHEMA, empty
from market.serving import BackgroundServer
from models.forecast import Prediction
from signals.compose import compose_signals
from signals.inputs import BatchInputs, HorizonInputs
from signals.publish import publish_batch

CASH_USD = Decimal(1_000_000)
BAND_BPS = 2.0
RULES = TradeRules(
    targets=TargetRules(long_only=False, symbol_volatility_target=0.04, symbol_cap=0.12),
    plan=PlanRules(brackets=True),
    limits=RiskLimits(
        allow_short=True, order_notional_usd=Decimal(300_000), position_share=Decimal("0.25")
    ),
)
_KEY = "replay"
_MORNING = "1d"
_CENT = 0.005  # floats on one side, decimals on the other
_MODEL = "replay"

FILL = ("symbol", "side", "quantity", "price", "filled_at")
Row = tuple[Any, ...]


@dataclass
class LiveMonth:
    """What the live side did.

    Attributes
    ----------
    fills : list of tuple
        ``FILL`` as the broker tells of them, in order of time and symbol.
    journalled : list of tuple
        The same as the journal has them.
    denials : list of tuple
        Moment, symbol, side, quantity, code.
    equity : dict
        Cash and equity after each session's close.
    positions : dict
        At the end, by symbol.
    counts : Counter
        ``signals``, ``orders``, ``batches``.
    findings : list of str
        Everything that a reconciliation found, but for cash of dividends.
    """

    fills: list[Row] = field(default_factory=list[Row])
    journalled: list[Row] = field(default_factory=list[Row])
    denials: list[Row] = field(default_factory=list[Row])
    equity: dict[dt.date, tuple[Decimal, Decimal]] = field(
        default_factory=dict[dt.date, tuple[Decimal, Decimal]]
    )
    positions: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    counts: Counter[str] = field(default_factory=Counter[str])
    findings: list[str] = field(default_factory=list[str])


def simulated(market: ReplayMarket, participation: float | None, rules: TradeRules) -> Simulation:
    """Return the backtest of a market, before costs."""
    return simulate(
        market.predictions,
        market.bars,
        horizons=[market.horizon],
        regimes=pl.DataFrame(schema={"as_of": market.bars.schema["known_at"], "regime": pl.String}),
        rules=rules.targets,
        limits=rules.limits,
        costs=CostModel(
            half_spread_bps=0.0,
            slippage_bps=0.0,
            regulatory_fees=False,
            estimated_spread=False,
            impact_coefficient=0.0,
            participation=participation,
            borrow_rate=0.0,
            multiplier=0.0,
        ),
        band_bps=BAND_BPS,
        starting_cash_usd=float(CASH_USD),
        splits=market.splits,
        dividends=market.dividends,
        plan_rules=rules.plan,
    )


def traded_live(
    market: ReplayMarket, participation: float | None, rules: TradeRules, folder: Path
) -> LiveMonth:
    """Trade a market with the live code at the paper server; ``folder`` holds the ledger."""
    with _live(market, participation, rules, folder) as live:
        for session in market.sessions:
            if market.horizon.timeframe.is_intraday:
                live.intraday_session(session)
            else:
                live.daily_session(session)
            live.after_close(session)
        return live.told()


def _official_client(url: str) -> Any:
    """Return the service's own client, as it comes: the witness of what was filled.

    What is held against the backtest is not read by :mod:`execution.alpaca`, the code on trial: a
    fill that it lost or misread would be missing on both sides of every comparison with itself.
    """
    with warnings.catch_warnings():  # it imports a module that websockets has deprecated
        warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
        from alpaca.trading.client import TradingClient
    return TradingClient(_KEY, _KEY, paper=True, url_override=url)


@contextmanager
def _live(
    market: ReplayMarket, participation: float | None, rules: TradeRules, folder: Path
) -> Generator[_Live]:
    share = None if participation is None else Decimal(str(participation))
    clock = ReplayClock(calendar.session_open(market.sessions[0]) - dt.timedelta(hours=2))
    app = create_app(
        market.bars,
        api_key=_KEY,
        secret_key=_KEY,
        clock=clock,
        starting_cash_usd=CASH_USD,
        conditions=PaperConditions(participation=share),
        splits=market.splits,
        dividends=market.dividends,
    )
    with BackgroundServer(app) as server, open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        broker = AlpacaBroker(
            SecretStr(_KEY),
            SecretStr(_KEY),
            server.url,
            is_paper=True,
            requests_per_minute=10**9,
        )
        client = _official_client(server.url)
        try:
            yield _Live(market, rules, folder, clock, ledger, broker, client)
        finally:
            client._session.close()  # pyright: ignore[reportPrivateUsage]
            broker._client._session.close()  # pyright: ignore[reportPrivateUsage]


class _Live:
    """The runs of a live installation, each at its moment."""

    def __init__(
        self,
        market: ReplayMarket,
        rules: TradeRules,
        folder: Path,
        clock: ReplayClock,
        ledger: Ledger,
        broker: AlpacaBroker,
        client: Any,
    ) -> None:
        self.market, self.rules, self.folder, self.client = market, rules, folder, client
        self.clock, self.ledger, self.broker = clock, ledger, broker
        self.known = Known(market)
        self.run = (Run.INTRADAY if Run.INTRADAY in market.horizon.runs else Run.MIDDAY).value
        self.month = LiveMonth()
        self.traded_until = calendar.session_close(calendar.previous_session(market.sessions[0]))
        self.traded_until -= dt.timedelta(microseconds=1)
        model = {
            "engine": "linear",
            "horizon": market.horizon.name,
            "model_version": _MODEL,
            "kind": "core",
            "family": "linear",
            "as_of": self.traded_until - dt.timedelta(days=10),
            "recorded_at": self.traded_until,
            "data_hash": "d",
            "config_hash": "c",
            "metrics": {},
        }
        with ledger.transaction() as connection:
            connection.execute(engines.insert(), model)

    def daily_session(self, session: dt.date) -> None:
        """The premarket run, and the sensor when the market opens."""
        now = scheduled_for(Run.PREMARKET, session)
        self.batch(self.forecasts(now), self.market.horizon, now, "premarket")
        self.attend(calendar.session_open(session), always=True)

    def intraday_session(self, session: dt.date) -> None:
        """A run at the end of each bar, and the close's when it is due."""
        self.morning(session)
        closing = scheduled_for(Run.CLOSE, session)
        for _, end in list(bar_spans(self.market.horizon, session))[:-1]:
            self.clock.advance_to(end)
            fresh = self.forecasts(end)
            if not fresh.is_empty():
                self.batch(fresh, self.market.horizon, end, self.run)
            elif self.broker.positions():
                self.batch(self.other(), find_horizon(_MORNING), end, "midday")
            else:
                continue
            self.attend(end)
            if end == closing and self.market.horizon.exit_rule is ExitRule.AT_CLOSE:
                view = self.known.view(end)
                self.judge(
                    trade_close(
                        self.ledger,
                        self.broker,
                        session=session,
                        market=view,
                        rules=self.rules,
                        now=end,
                    )
                )
        self.attend(calendar.session_close(session) - dt.timedelta(minutes=1), always=True)

    def morning(self, session: dt.date) -> None:
        """The premarket run, which publishes other horizons: what was left overnight is closed."""
        now = scheduled_for(Run.PREMARKET, session)
        self.batch(self.other(), find_horizon(_MORNING), now, "premarket")
        self.attend(calendar.session_open(session), always=True)

    def other(self) -> pl.DataFrame:
        """Return a forecast of another horizon for a symbol that is not traded."""
        return self.market.predictions.head(1).with_columns(
            pl.lit(OTHER).alias(Prediction.SYMBOL),
            pl.lit(0.0).alias(Prediction.EXPECTED_RETURN_BPS),
        )

    def batch(self, fresh: pl.DataFrame, horizon: Horizon, now: dt.datetime, run: str) -> None:
        """Publish forecasts, and trade."""
        self.clock.advance_to(now)
        self.publish(fresh, horizon, now, run)
        view = self.known.view(now)
        self.judge(trade(self.ledger, self.broker, market=view, rules=self.rules, now=now))

    def forecasts(self, now: dt.datetime) -> pl.DataFrame:
        """Return the forecasts since the last time, the newest of each symbol."""
        fresh = self.market.predictions.filter(
            pl.col(Prediction.AS_OF) > self.traded_until, pl.col(Prediction.AS_OF) <= now
        ).sort(Prediction.AS_OF, Prediction.SYMBOL)
        fresh = fresh.unique(Prediction.SYMBOL, keep="last", maintain_order=True)
        self.traded_until = now
        self.known.learn(fresh)
        return fresh

    def publish(self, fresh: pl.DataFrame, horizon: Horizon, now: dt.datetime, run: str) -> None:
        """Publish forecasts as signals of this moment."""
        prices = self.known.view(now).prices
        signals = compose_signals(
            fresh,
            horizon=horizon,
            prices={s: float(p.price_usd) for s, p in prices.items()},
            regime=RegimeLabel.NEUTRAL.value,
            band_bps=BAND_BPS,
            as_of=now,
            data_hash="d",
            config_hash="c",
            contributions={},
        )
        made = {horizon.name: HorizonInputs({"linear": _MODEL}, {}, {})}
        publish_batch(
            self.ledger,
            signals,
            run=run,
            as_of=now,
            scheduled_for=now,
            ts_emit=now,
            late=False,
            head_file=self.folder / "heads.jsonl",
            inputs=BatchInputs("c", {}, {}, made).to_json(),
        )
        self.month.counts.update(signals=signals.height, batches=1)

    def attend(self, now: dt.datetime, *, always: bool = False) -> None:
        """Do what the sensor does: settle orders and send second legs, until nothing waits."""
        self.clock.advance_to(now)
        view = self.known.view(now, opened=always)
        if always or unfinished_plans(self.ledger, self.broker.name):
            for _ in range(2):
                attend(self.ledger, self.broker, market=view, rules=self.rules, now=now)

    def after_close(self, session: dt.date) -> None:
        """Reconcile after the close, and note the account."""
        now = scheduled_for(Run.EOD, session)
        self.clock.advance_to(now)
        view = self.known.view(now)
        found = attend(self.ledger, self.broker, market=view, rules=self.rules, now=now)
        self.month.equity[session] = (found.account.cash_usd, found.account.equity_usd)

    def judge(self, report: TradeReport) -> None:
        """Note what a run denied, and what it found."""
        at = report.plan.as_of if report.plan is not None else None
        for verdict in report.verdicts:
            intent = verdict.intent
            for denial in verdict.denials:
                row = (at, intent.symbol, intent.side.value, float(intent.quantity))
                self.month.denials.append((*row, denial.code.value))
        self.month.denials.extend((at, r.symbol, None, None, r.code.value) for r in report.refused)

    def told(self) -> LiveMonth:
        """Return everything, as broker and journal have it at the end."""
        month = self.month
        month.fills = sorted(_broker_fills(self.client))
        month.journalled = sorted(
            (r["symbol"], r["side"], float(r["quantity"]), float(r["price_usd"]), r["filled_at"])
            for r in self.ledger.rows(sa.select(fills))
        )
        month.positions = {p.symbol: p.quantity for p in self.broker.positions()}
        found = self.ledger.read("SELECT findings FROM reconciliations")["findings"]
        month.findings = [str(f) for f in found if "drift" in str(f) or "order" in str(f)]
        orders = self.ledger.read("SELECT state FROM orders WHERE parent_id IS NULL")
        month.counts["orders"] = orders.filter(pl.col("state") != "denied").height
        return month


def _broker_fills(client: Any) -> Iterator[Row]:
    """Return every fill, by the pages of the service."""
    token = None
    while True:
        query: dict[str, Any] = {"direction": "asc", "page_size": 100}
        if token is not None:
            query["page_token"] = token
        page = client.get("/account/activities/FILL", query)
        for row in page:
            at = dt.datetime.fromisoformat(row["transaction_time"])
            yield (row["symbol"], row["side"], float(row["qty"]), float(row["price"]), at)
        if len(page) < 100:
            return
        token = page[-1]["id"]


class Known:
    """What is known of a market at a moment, read off its bars anew each time."""

    def __init__(self, market: ReplayMarket) -> None:
        self.market = market
        self.bars = market.bars.sort("bar_end").to_dicts()
        self.volatilities: dict[str, float] = {}
        self.actions = CorporateActions(market.splits, market.dividends, empty(IDENTITY_SCHEMA))

    def learn(self, predictions: pl.DataFrame) -> None:
        """Take the volatilities of new forecasts."""
        rows = predictions.select(Prediction.SYMBOL, Prediction.VOLATILITY_BPS)
        for symbol, bps in rows.iter_rows():
            timeframe = self.market.horizon.timeframe
            self.volatilities[symbol] = annualised_volatility(bps, timeframe)

    def view(self, now: dt.datetime, *, opened: bool = False) -> MarketView:
        """Return what a run is told at a moment; ``opened``: the opening prints count already."""
        today = now.astimezone(calendar.NEW_YORK).date()
        prices: dict[str, LastPrice] = {}
        daily: dict[str, dict[dt.date, float]] = {}
        splits = self.market.splits.rows(named=True)
        for bar in self.bars:
            symbol, shares = bar["symbol"], _shares(splits, bar["symbol"], bar["session"], today)
            if bar["known_at"] <= now:
                value = bar["close"] if shares == 1.0 else round(bar["close"] / shares, 6)
                prices[symbol] = LastPrice(Decimal(str(value)), bar["bar_end"])
            elif opened and bar["bar_start"] == now:
                prices[symbol] = LastPrice(Decimal(str(bar["open"])), now)
            if bar["session"] < today:
                volumes = daily.setdefault(symbol, {})
                before = volumes.get(bar["session"], 0.0)
                volumes[bar["session"]] = before + bar["volume"] * shares
        return MarketView(
            prices, self.volatilities, self._average(daily, today), {}, None, self.actions
        )

    def _average(
        self, daily: dict[str, dict[dt.date, float]], today: dt.date
    ) -> dict[str, Decimal]:
        before = sorted({day for volumes in daily.values() for day in volumes if day < today})
        last = before[-VOLUME_SESSIONS:]
        return {
            symbol: Decimal(str(round(sum(v.get(day, 0.0) for day in last) / len(last), 3)))
            for symbol, v in daily.items()
        }


def _shares(
    splits: Sequence[Mapping[str, Any]], symbol: str, session: dt.date, today: dt.date
) -> float:
    """Return how many of today's shares one share of a session is."""
    ratio = 1.0
    for row in splits:
        if row["symbol"] == symbol and session < row["ex_date"] <= today:
            ratio *= row["split_ratio"]
    return ratio


def differences(market: ReplayMarket, simulation: Simulation, live: LiveMonth) -> list[str]:
    """Return everything in which a backtest and its month at the paper broker differ."""
    fills = simulation.fills.select(FILL).rows()
    denials = simulation.denials.select("as_of", "symbol", "side", "quantity", "code").rows()
    found = _apart("fill", fills, live.fills)
    found += _apart("journalled fill", fills, live.journalled)
    found += _apart("denial", denials, live.denials)
    held = _positions(market, fills)
    found += _apart(
        "position", list(held.items()), [(s, float(q)) for s, q in live.positions.items()]
    )
    at_close = simulation.equity[1:].group_by("session", maintain_order=True).last()
    accounts = {r["session"]: r for r in at_close.iter_rows(named=True)}
    for session, told in live.equity.items():
        row = accounts.get(session)
        if row is None:  # the record ends when all is sold after the last forecast
            continue
        for name, value in zip(("cash_usd", "equity_usd"), told, strict=True):
            if abs(row[name] - float(value)) >= _CENT:
                found.append(f"{name} of {session}: simulated {row[name]:.2f}, live {value}")
    return found + live.findings


def _positions(market: ReplayMarket, fills: list[Row]) -> dict[str, float]:
    """Return what fills come to, through splits."""
    held: Counter[str] = Counter()
    for symbol, side, quantity, _, at in fills:
        shares = float(quantity)
        for split in market.splits.filter(pl.col("symbol") == symbol).iter_rows(named=True):
            before = at.astimezone(calendar.NEW_YORK).date() < split["ex_date"]
            if before and split["ex_date"] <= market.sessions[-1]:
                shares *= split["split_ratio"]
        held[symbol] += shares if side == "buy" else -shares  # type: ignore[assignment]
    return {s: float(q) for s, q in held.items() if q}


def _apart(what: str, simulated: list[Row], live: list[Row]) -> list[str]:
    """Return rows that one side has more often than the other."""
    ours, theirs = Counter(map(_shown, simulated)), Counter(map(_shown, live))
    only = [f"{what} only simulated: {row}" for row in (ours - theirs).elements()]
    return only + [f"{what} only live: {row}" for row in (theirs - ours).elements()]


def _shown(row: Row) -> str:
    return " ".join(
        v.astimezone(dt.UTC).isoformat() if isinstance(v, dt.datetime) else str(v) for v in row
    )
