"""Out-of-sample forecasts of one horizon or several through the live decision code, bar by bar.

One code path: signals are composed, targets computed, orders planned and checked by the functions
that live trading calls. Only what the outside world would do is simulated here: accepted
orders fill at the open of the next bar as far as its volume allows (``venue``), targets and stops
that rest at the broker fill inside bars (``legs``), and borrow, splits, dividends and delistings
come between sessions (``overnight``). ``docs/backtest.md`` states every rule.

At the same fills a replay of the live path at the paper broker makes the same trades, to the
share (``evidence.live_replay``). Several horizons trade one account, on the shortest bars among
theirs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import polars as pl

from backtest.account import SimulatedAccount
from backtest.legs import RestingExits
from backtest.overnight import Overnight, sessions_between
from backtest.published import Published
from backtest.record import Record
from backtest.schedule import (
    Due,
    RegimeHistory,
    as_published,
    checked_predictions,
    clock_at,
    decisions_due,
    in_order,
)
from backtest.simulation import Simulation
from backtest.tape import Moment, Tape, make_tape, premarket_of
from backtest.venue import Venue
from backtest.working import WorkingOrders
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
from market.horizons import ExitRule, Horizon, Run, combined_name, scheduled_for
from models.forecast import Prediction
from signals.compose import compose_signals

Progress = Callable[[int, int], None]
NO_DAY_TRADING = DayTrading(0, {})
_DEFAULT_PLAN_RULES = PlanRules()
_UNEVENTFUL = frozenset({SkipReason.AT_TARGET, SkipReason.KEPT})


def simulate(
    predictions: pl.DataFrame,
    bars: pl.DataFrame,
    *,
    horizons: Sequence[Horizon],
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
    """Trade the forecasts of horizons in one account as live trading would have; record it all.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, out of sample, of these horizons, engine ``ensemble``.
    bars : pl.DataFrame
        Raw bars (``BAR_SCHEMA``) of the shortest timeframe among the horizons.
    horizons : Sequence of Horizon
        Rows of the horizons table, one or more, each once.
    regimes : pl.DataFrame
        ``as_of``, ``regime``; before the first row the regime is neutral.
    rules, limits, plan_rules
        What live trading is given.
    costs : CostModel
        What fills and short positions pay, how much of a bar an order may take, and what cannot
        be borrowed.
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
        When predictions or bars are unusable, or none of a horizon can be traded on these bars.
    """
    _check_cash(starting_cash_usd)
    tape = make_tape(bars, splits, dividends)
    traded = in_order(horizons)
    setting = _Setting(traded, rules, limits, plan_rules, costs, band_bps)
    due = decisions_due(checked_predictions(predictions, traded), tape, traded)
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


@dataclass(frozen=True, slots=True)
class _Setting:
    horizons: tuple[Horizon, ...]
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
        self.starting_cash_usd, costs = starting_cash_usd, setting.costs
        self.account = SimulatedAccount(starting_cash_usd, starting_cash_usd)
        self.record, self.exits = Record(tape), RestingExits(tape)
        self.venue = Venue(tape, costs)
        self.working = WorkingOrders(tape, self.venue, self.account, self.exits, self.record)
        self.overnight = Overnight(tape, costs, self.account, self.exits, self.record)
        self.column = {s: i for i, s in enumerate(tape.symbols)}
        hard = set(costs.unborrowable)
        self.assets = {s: Asset(s, True, s not in hard, False, "active") for s in tape.symbols}
        self.known_count = 0
        self.known_bar = np.full(len(tape.symbols), -1, dtype=np.int64)
        self.name, self.published = combined_name(setting.horizons), Published()
        self.closes_flat = any(h.exit_rule is ExitRule.AT_CLOSE for h in setting.horizons)
        self.peak_equity_usd = Decimal(str(starting_cash_usd))

    def run(self, progress: Progress | None) -> Simulation:
        first, last = min(self.due), max(self.due)
        self.record.first_row(first, self.starting_cash_usd)
        for bar in range(first, len(self.tape)):
            self.record.begin_bar()
            self.overnight.pass_to(bar, self.published.split)
            self._before_bar(bar)
            if self._is_closing_time(bar):
                self._plan_close(bar)
            self.working.work(bar)
            self._inside_bar(bar)
            if self._ends_session(bar):
                self.working.end_session(bar)
            self._mark(bar)
            if progress is not None:
                progress(bar + 1 - first, len(self.tape) - first)
            gone = self.record.last_equity_usd <= 0.0
            if gone or (bar >= last and not self.account.quantities and not self.working):
                break
        return self.record.simulation(
            self.name,
            self.starting_cash_usd,
            first,
            sessions_between(self.tape, set(self.due)),
        )

    # ------------------------------------------------------------------ decisions

    def _before_bar(self, bar: int) -> None:
        """Decide on what is known, and fill what was accepted at this bar's open."""
        due = self.due.get(bar)
        if due is None and not self.account.quantities:
            return
        moment = due.moment if due is not None else self._quiet_moment(bar)
        self._learn(moment.decided_at)
        if due is not None:
            self._publish(due, bar)
        batch_id = _batch_id(self.name, moment.decided_at)
        clock = clock_at(moment.decided_at, moment.is_open, self.tape.sessions[bar])
        accepted = self._decide(moment.decided_at, clock, batch_id, bar)
        self.working.send(accepted, moment.decided_at, bar)

    def _plan_close(self, bar: int) -> None:
        """Send the exits of the session's close, as the close's run does when this bar begins."""
        if not (self.closes_flat and self.account.quantities):
            return
        now, session = self.tape.starts[bar], self.tape.sessions[bar]
        self._learn(now)
        closed = calendar.session_close(session)
        batch_id = f"{_batch_id(self.name, closed)}-close"
        clock = clock_at(now, True, session)
        accepted = self._decide(now, clock, batch_id, bar, closes_at=closed)
        self.working.send(accepted, now, bar)

    def _is_closing_time(self, bar: int) -> bool:
        """Say whether the close's run is due as this bar begins, or was since the one before."""
        due = scheduled_for(Run.CLOSE, self.tape.sessions[bar])
        same = bar > 0 and self.tape.days[bar - 1] == self.tape.days[bar]
        return self.tape.starts[bar] >= due and not (same and self.tape.starts[bar - 1] >= due)

    def _ends_session(self, bar: int) -> bool:
        return bar + 1 == len(self.tape) or self.tape.days[bar + 1] != self.tape.days[bar]

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

    def _publish(self, due: Due, bar: int) -> None:
        """Compose each horizon's signals as live runs do; newer ones supersede those before."""
        prices = {s: float(p.price_usd) for s, p in self._prices(bar).items()}
        now = due.moment.decided_at
        for horizon, predictions in due.forecasts:
            symbols = predictions[Prediction.SYMBOL].to_list()
            unknown = [s for s in symbols if s not in prices]
            if unknown:
                detail = "forecast for a symbol without a known bar"
                code = DenialCode.MISSING_DATA.value
                self.record.denials.extend((now, s, None, None, code, detail) for s in unknown)
                predictions = predictions.filter(~pl.col(Prediction.SYMBOL).is_in(unknown))
            if predictions.is_empty():
                continue
            composed = compose_signals(
                predictions,
                horizon=horizon,
                prices=prices,
                regime=self.regimes.at(now),
                band_bps=self.setting.band_bps,
                as_of=now,
                data_hash="simulated",
                config_hash="simulated",
                contributions={},
            )
            fresh = as_published(composed, now, _batch_id(horizon.name, now))
            self.published.supersede(horizon, fresh, now)
            self.published.learn_volatilities(horizon, predictions)

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
        own, resting = dict(account.quantities), self.exits.open_orders(account.quantities)
        resting += self.working.open_orders()
        targets = target_rule(closes_at)(
            self.published.signals,
            [account.held[s] for s in sorted(account.held)],
            {s: p.price_usd for s, p in prices.items()},
            self.published.volatilities,
            balances.equity_usd,
            self.setting.rules,
            now,
            account.exits,
        )
        plan = plan_orders(
            targets,
            positions,
            resting,
            own,
            prices,
            self.assets,
            clock,
            self.setting.plan_rules,
            batch_id,
            own_order_ids={o.client_order_id for o in resting},
            for_close=closes_at is not None,
        )
        context = RiskContext(
            now=now,
            state=TradingState.ACTIVE,
            batch=BatchStatus(batch_id, now, now, now, late=False, complete=True),
            account=balances,
            clock=clock,
            positions=positions,
            open_orders=resting,
            own_quantities=own,
            # Order identities hang on the batch, and no batch comes twice here.
            journalled=frozenset(),
            assets=self.assets,
            prices=prices,
            # A forecast out of sample comes from a model that was trained in time.
            models_known_at={h.name: now for h in self.setting.horizons},
            data_problems={},
            peak_equity_usd=self.peak_equity_usd,
            sent_last_hour=0,
            day_trading=NO_DAY_TRADING,
            average_volumes=self._average_volumes(bar),
            limits=self.setting.limits,
        )
        return self._sorted_out(plan, context)

    def _sorted_out(self, plan: Plan, context: RiskContext) -> list[OrderIntent]:
        skipped = (s.reason for s in plan.skipped if s.reason not in _UNEVENTFUL)
        self.record.skips.update(reason.value for reason in skipped)
        self.record.denials.extend(
            (context.now, r.symbol, None, None, r.code.value, r.detail) for r in plan.refused
        )
        accepted: list[OrderIntent] = []
        for verdict in check_plan(plan.intents, context):
            if verdict.accepted:
                accepted.append(verdict.intent)
            self.record.denied(verdict, context.now)
        return accepted

    # ------------------------------------------------------------------ the outside world

    def _inside_bar(self, bar: int) -> None:
        """Let the bar reach the targets and stops that rest at the broker."""
        for touch in self.exits.touched(bar):
            symbol, column, price = touch.symbol, touch.column, touch.price
            held = abs(self.account.quantities[symbol])
            intent, as_of = self.exits.intent_of(touch, held)
            filled, rest = self.venue.part_of(intent, bar, column, price)
            if filled > 0:
                part = replace(intent, quantity=filled)
                takes = touch.is_stop
                cost = self.venue.cost_of(intent.side, filled, bar, column, price, takes=takes)
                # Signals of before the fill are spent; inside a bar that is its end.
                self.account.fill(part, price, cost.total_usd, touch.at)
                self.record.filled(
                    intent,
                    filled,
                    price,
                    cost,
                    as_of=as_of,
                    at=touch.at,
                    bar=bar,
                    is_bracket_exit=True,
                )
            if rest is None:
                self.exits.cancel(symbol)

    def _mark(self, bar: int) -> None:
        marks = self.tape.marks[bar]
        held = self.account.quantities.items()
        values = [float(q) * float(marks[self.column[s]]) for s, q in held]
        self.record.mark(bar, self.account.cash_usd, values)
        equity = Decimal(str(round(self.record.last_equity_usd, 2)))
        self.peak_equity_usd = max(self.peak_equity_usd, equity)


def _batch_id(name: str, moment: dt.datetime) -> str:
    return f"simulated-{name}-{moment.isoformat()}"
