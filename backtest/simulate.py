"""Out-of-sample forecasts through the live decision code, bar by bar.

One code path: signals are composed, targets computed, orders planned and checked by the functions
that live trading calls. Only what the outside world would do is simulated here: accepted
orders fill at the open of the next bar, splits and dividends arrive on their ex-date.

Two things are stated rules rather than live behaviour. The exits at a session's close are decided
when its last bar begins and fill at its close, as the closing auction does, also where bars are so
short that live orders would miss it. And levels of signals and positions follow a split on its
ex-date.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from backtest.account import SimulatedAccount
from backtest.schedule import (
    Due,
    RegimeHistory,
    as_published,
    checked_predictions,
    clock_at,
    decisions_due,
)
from backtest.simulation import (
    CASH_FLOW_SCHEMA,
    DENIAL_SCHEMA,
    EQUITY_SCHEMA,
    ORDER_SCHEMA,
    FillStatus,
    FlowKind,
    Simulation,
)
from backtest.tape import Moment, Tape, make_tape, mark_table, premarket_of
from execution.broker import Asset, Clock
from execution.closing import target_rule
from execution.day_trading import DayTrading
from execution.intents import LastPrice, OrderIntent, Plan, PlanRules, SkipReason
from execution.plan import plan_orders
from execution.risk import BatchStatus, DenialCode, RiskContext, RiskLimits, check_plan
from execution.state import TradingState
from execution.targets import TargetRules
from market import calendar
from market.costs import CostModel
from market.errors import BacktestError
from market.horizons import ExitRule, Horizon
from market.timeframes import Timeframe
from models.forecast import Prediction
from signals.compose import compose_signals
from signals.schema import SIGNAL_SCHEMA, SignalColumn

Progress = Callable[[int, int], None]
SESSIONS_PER_YEAR = 252
NO_DAY_TRADING = DayTrading(0, {})
_DEFAULT_PLAN_RULES = PlanRules()
_UNEVENTFUL = frozenset({SkipReason.AT_TARGET, SkipReason.KEPT})


def simulate(
    predictions: pl.DataFrame,
    bars: pl.DataFrame,
    *,
    horizon: Horizon,
    regimes: pl.DataFrame,
    rules: TargetRules,
    limits: RiskLimits,
    costs: CostModel,
    band_bps: float,
    starting_cash_usd: float,
    splits: pl.DataFrame,
    dividends: pl.DataFrame,
    plan_rules: PlanRules = _DEFAULT_PLAN_RULES,
    progress: Progress | None = None,
) -> Simulation:
    """Trade one horizon's forecasts as live trading would have, and record everything.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, out of sample, one horizon, engine ``ensemble``.
    bars : pl.DataFrame
        Raw bars (``BAR_SCHEMA``) of the horizon's own timeframe.
    horizon : Horizon
        Its row of the horizons table.
    regimes : pl.DataFrame
        ``as_of``, ``regime``; before the first row the regime is neutral.
    rules, limits, plan_rules
        What live trading is given.
    costs : CostModel
        Paid one way on the notional of every fill.
    band_bps : float
        Forecasts inside plus or minus this band are neutral.
    starting_cash_usd : float
        Cash before the first decision.
    splits, dividends : pl.DataFrame
        ``SPLIT_SCHEMA``, ``DIVIDEND_SCHEMA``.
    progress : callable, optional
        Called with (bars done, bars in all).

    Returns
    -------
    Simulation
        ``as_of`` of an order is the moment of its decision: :func:`backtest.tape.moment_of`. What
        would fill after the last bar is not decided. Without a forecast, positions are still
        held to their exit rules. When equity is gone the record ends: ``is_ruined``.

    Raises
    ------
    BacktestError
        When predictions or bars are unusable, or no prediction can be traded on these bars.
    """
    _check_cash(starting_cash_usd)
    tape = make_tape(bars, splits, dividends)
    setting = _Setting(horizon, rules, limits, plan_rules, costs, band_bps)
    due = decisions_due(checked_predictions(predictions, horizon), tape, horizon)
    loop = _Loop(tape, setting, due, RegimeHistory.of(regimes), float(starting_cash_usd))
    return loop.run(progress)


def _check_cash(starting_cash_usd: float) -> None:
    if not (np.isfinite(starting_cash_usd) and starting_cash_usd > 0):
        raise BacktestError(
            "starting cash is no basis for a simulation",
            got=starting_cash_usd,
            allowed="a positive amount in USD",
            remedy="pass for example 1_000_000",
        )


def annualised_volatility(volatility_bps: float, timeframe: Timeframe) -> float:
    """Return the annual volatility (a share) behind a volatility per bar in basis points.

    Examples
    --------
    >>> round(annualised_volatility(100.0, Timeframe.D1), 4)
    0.1587
    """
    bars_per_session = calendar.REGULAR_MINUTES / timeframe.minutes
    return volatility_bps / 1e4 * float(np.sqrt(SESSIONS_PER_YEAR * bars_per_session))


@dataclass(frozen=True, slots=True)
class _Setting:
    horizon: Horizon
    rules: TargetRules
    limits: RiskLimits
    plan_rules: PlanRules
    costs: CostModel
    band_bps: float


class _Loop:
    """The state of a running simulation."""

    def __init__(
        self,
        tape: Tape,
        setting: _Setting,
        due: Mapping[int, Due],
        regimes: RegimeHistory,
        starting_cash_usd: float,
    ) -> None:
        self.tape, self.setting, self.due, self.regimes = tape, setting, due, regimes
        self.starting_cash_usd = starting_cash_usd
        self.account = SimulatedAccount(starting_cash_usd, starting_cash_usd)
        self.column = {s: i for i, s in enumerate(tape.symbols)}
        self.assets = {s: Asset(s, True, True, False, "active") for s in tape.symbols}
        self.known_count = 0
        self.known_bar = np.full(len(tape.symbols), -1, dtype=np.int64)
        self.signals = pl.DataFrame(schema=SIGNAL_SCHEMA)
        self.volatilities: dict[str, float] = {}
        self.orders: list[tuple[Any, ...]] = []
        self.denials: list[tuple[Any, ...]] = []
        self.flows: list[tuple[Any, ...]] = []
        self.equity: list[tuple[Any, ...]] = []
        self.skips: Counter[str] = Counter()
        self.traded: set[str] = set()
        self.bar_notional = self.bar_cost = 0.0
        self.peak_equity_usd = Decimal(str(starting_cash_usd))

    def run(self, progress: Progress | None) -> Simulation:
        first, last = min(self.due), max(self.due)
        self._first_row(first)
        for bar in range(first, len(self.tape)):
            self.bar_notional = self.bar_cost = 0.0
            self._corporate_actions(bar)
            self._before_bar(bar)
            if self._is_last_of_session(bar):
                self._at_close(bar)
            self._mark(bar)
            self.peak_equity_usd = max(
                self.peak_equity_usd, Decimal(str(round(self.equity[-1][3], 2)))
            )
            if progress is not None:
                progress(bar + 1 - first, len(self.tape) - first)
            if self.equity[-1][3] <= 0.0 or (bar >= last and not self.account.quantities):
                break
        return self._result(first)

    # ------------------------------------------------------------------ decisions

    def _before_bar(self, bar: int) -> None:
        """Decide on what is known, and fill what was accepted at this bar's open."""
        due = self.due.get(bar)
        if due is None and not self.account.quantities:
            return
        moment = due.moment if due is not None else self._quiet_moment(bar)
        self._learn(moment.decided_at)
        batch_id = f"simulated-{self.setting.horizon.name}-{moment.decided_at.isoformat()}"
        if due is not None:
            self._publish(due.predictions, moment.decided_at, batch_id, bar)
        clock = clock_at(moment.decided_at, moment.is_open, self.tape.sessions[bar])
        accepted = self._decide(moment.decided_at, clock, batch_id, bar)
        opens, start = self.tape.opens[bar], self.tape.starts[bar]
        self._fill(accepted, moment.decided_at, bar, opens, start)

    def _at_close(self, bar: int) -> None:
        """Plan the exits of the session's close, and fill them in the closing auction."""
        if self.setting.horizon.exit_rule is not ExitRule.AT_CLOSE or not self.account.quantities:
            return
        now, closed = self.tape.starts[bar], self.tape.ends[bar]
        self._learn(now)
        batch_id = f"simulated-{self.setting.horizon.name}-{closed.isoformat()}-close"
        clock = clock_at(now, True, self.tape.sessions[bar])
        accepted = self._decide(now, clock, batch_id, bar, closes_at=closed)
        self._fill(accepted, now, bar, self.tape.closes[bar], closed)

    def _is_last_of_session(self, bar: int) -> bool:
        return self.tape.ends[bar] == calendar.session_close(self.tape.sessions[bar])

    def _quiet_moment(self, bar: int) -> Moment:
        """Return when exit rules are looked at before a bar that no forecast precedes."""
        start, session = self.tape.starts[bar], self.tape.sessions[bar]
        if start == calendar.session_open(session):
            return premarket_of(session)
        return Moment(start, start, True)

    def _learn(self, moment: dt.datetime) -> None:
        """Take in the bars that became known by a moment."""
        until = self.tape.first_known(moment, after=self.known_count)
        for row, column in self.tape.newly_known(self.known_count, until):
            self.known_bar[column] = max(self.known_bar[column], row)
        self.known_count = until

    def _prices(self, bar: int) -> dict[str, LastPrice]:
        """Return the last known price of every symbol, in the shares of this bar's session."""
        prices: dict[str, LastPrice] = {}
        factors = self.tape.factors
        for symbol, column in self.column.items():
            row = int(self.known_bar[column])
            if row < 0:
                continue
            price = float(self.tape.closes[row, column])
            if factors[row, column] != factors[bar, column]:
                price = round(price * float(factors[row, column] / factors[bar, column]), 6)
            prices[symbol] = LastPrice(Decimal(str(price)), self.tape.ends[row])
        return prices

    def _average_volumes(self, bar: int) -> dict[str, Decimal]:
        row = self.tape.average_volumes[bar]
        return {s: Decimal(str(round(float(row[c]), 3))) for s, c in self.column.items()}

    def _publish(
        self, predictions: pl.DataFrame, now: dt.datetime, batch_id: str, bar: int
    ) -> None:
        """Compose signals as live runs do; a newer signal supersedes the one before it."""
        prices = {s: float(p.price_usd) for s, p in self._prices(bar).items()}
        symbols = predictions[Prediction.SYMBOL].to_list()
        unknown = [s for s in symbols if s not in prices]
        if unknown:
            detail = "forecast for a symbol without a known bar"
            code = DenialCode.MISSING_DATA.value
            self.denials.extend((now, s, None, None, code, detail) for s in unknown)
            predictions = predictions.filter(~pl.col(Prediction.SYMBOL).is_in(unknown))
            if predictions.is_empty():
                return
        composed = compose_signals(
            predictions,
            horizon=self.setting.horizon,
            prices=prices,
            regime=self.regimes.at(now),
            band_bps=self.setting.band_bps,
            as_of=now,
            data_hash="simulated",
            config_hash="simulated",
            contributions={},
        )
        fresh = as_published(composed, now, batch_id)
        older = set(self.signals[SignalColumn.SYMBOL].to_list()) - set(symbols)
        if older:
            c = SignalColumn
            kept = self.signals.filter(pl.col(c.SYMBOL).is_in(older), pl.col(c.VALID_UNTIL) > now)
            fresh = pl.concat([kept, fresh])
        self.signals = fresh
        symbol_volatility = predictions.select(Prediction.SYMBOL, Prediction.VOLATILITY_BPS)
        for symbol, volatility_bps in symbol_volatility.iter_rows():
            self.volatilities[symbol] = annualised_volatility(
                volatility_bps, self.setting.horizon.timeframe
            )

    def _decide(
        self,
        now: dt.datetime,
        clock: Clock,
        batch_id: str,
        bar: int,
        closes_at: dt.datetime | None = None,
    ) -> list[OrderIntent]:
        """Ask the live functions; return the orders that passed every check."""
        prices, account = self._prices(bar), self.account
        balances, positions = account.balances(prices), account.positions(prices)
        if balances.equity_usd <= 0:
            return []  # a dividend on short positions took the last of it
        own = dict(account.quantities)
        targets = target_rule(closes_at)(
            self.signals,
            [account.held[s] for s in sorted(account.held)],
            {s: p.price_usd for s, p in prices.items()},
            self.volatilities,
            balances.equity_usd,
            self.setting.rules,
            now,
            account.exits,
        )
        plan = plan_orders(
            targets,
            positions,
            [],
            own,
            prices,
            self.assets,
            clock,
            self.setting.plan_rules,
            batch_id,
            for_close=closes_at is not None,
        )
        context = RiskContext(
            now=now,
            state=TradingState.ACTIVE,
            batch=BatchStatus(batch_id, now, now, now, late=False, complete=True),
            account=balances,
            clock=clock,
            positions=positions,
            open_orders=[],
            own_quantities=own,
            # Order identities hang on the batch, and no batch comes twice here.
            journalled=frozenset(),
            assets=self.assets,
            prices=prices,
            # A forecast out of sample comes from a model that was trained in time.
            models_known_at={self.setting.horizon.name: now},
            data_problems={},
            peak_equity_usd=self.peak_equity_usd,
            sent_last_hour=0,
            day_trading=NO_DAY_TRADING,
            average_volumes=self._average_volumes(bar),
            limits=self.setting.limits,
        )
        return self._sorted_out(plan, context)

    def _sorted_out(self, plan: Plan, context: RiskContext) -> list[OrderIntent]:
        self.skips.update(s.reason.value for s in plan.skipped if s.reason not in _UNEVENTFUL)
        self.denials.extend(
            (context.now, r.symbol, None, None, r.code.value, r.detail) for r in plan.refused
        )
        accepted: list[OrderIntent] = []
        for verdict in check_plan(plan.intents, context):
            intent = verdict.intent
            if verdict.accepted:
                accepted.append(intent)
            self.denials.extend(
                (
                    context.now,
                    intent.symbol,
                    intent.side.value,
                    float(intent.quantity),
                    denial.code.value,
                    denial.detail,
                )
                for denial in verdict.denials
            )
        return accepted

    # ------------------------------------------------------------------ the outside world

    def _fill(
        self,
        intents: Sequence[OrderIntent],
        as_of: dt.datetime,
        bar: int,
        prices: np.ndarray,
        at: dt.datetime,
    ) -> None:
        rate = self.setting.costs.one_way_bps / 1e4
        end = self.tape.ends[bar]
        for intent in intents:
            price = float(prices[self.column[intent.symbol]])
            what = (intent.symbol, intent.side.value, float(intent.quantity))
            if np.isnan(price):
                expired = FillStatus.EXPIRED.value
                row = (as_of, None, end, *what, None, None, intent.reason.value, expired)
                self.orders.append(row)
                continue
            notional = float(intent.quantity) * price
            cost = notional * rate
            self.account.fill(intent, price, cost, as_of)
            self.traded.add(intent.symbol)
            self.bar_notional += notional
            self.bar_cost += cost
            filled = FillStatus.FILLED.value
            self.orders.append((as_of, at, end, *what, price, cost, intent.reason.value, filled))

    def _corporate_actions(self, bar: int) -> None:
        """Apply what goes ex before this bar: splits first, then dividends per new share."""
        if bar == 0 or self.tape.sessions[bar] == self.tape.sessions[bar - 1]:
            return
        self.account.session_equity_usd = self.equity[-1][3]
        ratios = self.tape.factors[bar] / self.tape.factors[bar - 1]
        at, end = self.tape.starts[bar], self.tape.ends[bar]
        for column in np.flatnonzero(ratios != 1.0):
            symbol, ratio = self.tape.symbols[column], float(ratios[column])
            price = float(self.tape.marks[bar - 1, column]) / ratio
            fraction, paid = self.account.split(symbol, ratio, price)
            if fraction != 0.0:
                kind = FlowKind.CASH_IN_LIEU.value
                self.flows.append((at, end, symbol, kind, fraction, paid))
            self._split_signals(symbol, ratio)
        for column in np.flatnonzero(self.tape.dividends[bar]):
            symbol = self.tape.symbols[column]
            quantity = float(self.account.quantities.get(symbol, 0))
            if quantity != 0.0:
                amount = quantity * float(self.tape.dividends[bar, column])
                self.account.cash_usd += amount
                kind = FlowKind.DIVIDEND.value
                self.flows.append((at, end, symbol, kind, quantity, amount))

    def _split_signals(self, symbol: str, ratio: float) -> None:
        here = pl.col(SignalColumn.SYMBOL) == symbol
        self.signals = self.signals.with_columns(
            pl.when(here).then(pl.col(c).list.eval(pl.element() / ratio)).otherwise(pl.col(c))
            for c in (SignalColumn.TARGETS, SignalColumn.STOPS)
        )

    # ------------------------------------------------------------------ the record

    def _first_row(self, first: int) -> None:
        before = first - 1 if first else 0
        at = self.tape.ends[before] if first else self.tape.starts[0]
        cash = self.starting_cash_usd
        self.equity.append((at, self.tape.sessions[before], cash, cash, 0.0, 0.0, 0.0, 0.0))

    def _mark(self, bar: int) -> None:
        marks = self.tape.marks[bar]
        values = [
            float(q) * float(marks[self.column[s]]) for s, q in self.account.quantities.items()
        ]
        equity, before = self.account.cash_usd + sum(values), self.equity[-1][3]
        self.equity.append(
            (
                self.tape.ends[bar],
                self.tape.sessions[bar],
                self.account.cash_usd,
                equity,
                sum(map(abs, values)) / equity if equity > 0.0 else 0.0,
                sum(values) / equity if equity > 0.0 else 0.0,
                self.bar_notional / before,
                self.bar_cost,
            )
        )

    def _result(self, first: int) -> Simulation:
        def table(rows: list[tuple[Any, ...]], schema: pl.Schema) -> pl.DataFrame:
            return pl.DataFrame(rows, schema=schema, orient="row")

        skips = sorted(self.skips.items())
        return Simulation(
            horizon=self.setting.horizon.name,
            starting_cash_usd=self.starting_cash_usd,
            orders=table(self.orders, ORDER_SCHEMA),
            denials=table(self.denials, DENIAL_SCHEMA),
            equity=table(self.equity, EQUITY_SCHEMA),
            cash_flows=table(self.flows, CASH_FLOW_SCHEMA),
            marks=mark_table(self.tape, sorted(self.traded), first, len(self.equity) - 1),
            skips=pl.DataFrame(
                skips, schema={"reason": pl.String, "count": pl.Int64}, orient="row"
            ),
        )
