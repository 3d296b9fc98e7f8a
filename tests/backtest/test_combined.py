"""One account over several horizons: netted, superseded and closed by each horizon's own rule."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtest.published import Published, annualised_volatility
from backtest.simulation import Simulation
from execution.intents import PlanRules
from execution.targets import TargetRules
from market import calendar
from market.errors import BacktestError
from market.horizons import find_horizon
from market.timeframes import Timeframe
from tests.backtest import scenes

CASH = 100_000.0
# A tenth of equity each, and so coarse a threshold that no drift of weights is traded back.
TENTHS = TargetRules(symbol_cap=0.1, symbol_volatility_target=1000.0, long_only=False)
COARSE = PlanRules(min_notional_usd=Decimal(9_000))
# What a forecast of 2,000 bps a day is sure of is half of its weight.
HALF_OF_CONFIDENCE = TargetRules(
    symbol_cap=1.0, symbol_volatility_target=0.5 * annualised_volatility(2000.0, Timeframe.D1)
)
DAILY = ("1d", "7d", "14d")


def daily_forecasts(*rows: tuple[str, str, int, float]) -> pl.DataFrame:
    """(horizon, symbol, session number, expected return in bps)."""
    names = dict.fromkeys(h for h, *_ in rows)
    return pl.concat(
        scenes.forecasts([(s, n, bps) for h, s, n, bps in rows if h == name], name)
        for name in names
    )


def gains(simulation: Simulation, sessions: list[dt.date]) -> list[float]:
    """What the account has gained at the end of each session; at rest once the record ends."""
    found = dict(simulation.equity.select("session", "equity_usd").iter_rows())
    gained, last = [], 0.0
    for day in sessions:
        last = found[day] - simulation.starting_cash_usd if day in found else last
        gained.append(last)
    return gained


cents = st.integers(8_000, 12_000).map(lambda n: n / 100)
quotes = st.one_of(st.tuples(cents, cents), st.tuples(cents, cents), st.none())
# The session of the entry has a bar: what does not fill is asked for again as long as anything is
# held, so there one horizon's positions give another's orders a second chance.
path = st.tuples(st.tuples(cents, cents), st.lists(quotes, min_size=13, max_size=13)).map(
    lambda found: [(100.0, 100.0), found[0], *found[1]]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    paths=st.tuples(*[path] * 4),
    horizons=st.lists(st.sampled_from(DAILY), min_size=4, max_size=4),
    signs=st.tuples(*[st.sampled_from([-300.0, 0.0, 300.0])] * 4),
    dividends=st.lists(
        st.tuples(st.sampled_from("ABCD"), st.integers(1, 13)), max_size=3, unique=True
    ),
)
def test_horizons_that_share_no_symbol_add_up(paths, horizons, signs, dividends):
    market = dict(zip("ABCD", paths, strict=True)) | {"GRID": [(10.0, 10.0)] * 15}
    rows = [(h, s, 0, bps) for h, s, bps in zip(horizons, "ABCD", signs, strict=True)]
    bars = scenes.daily_bars(market)
    given = {
        "rules": TENTHS,
        "plan_rules": COARSE,
        "dividends": scenes.dividends_of(*((s, n, 0.5) for s, n in dividends)),
    }
    together = scenes.run(daily_forecasts(*rows), bars, **given)
    names = [n for n in DAILY if n in horizons]
    assert together.horizon == "+".join(names)
    days = scenes.sessions(15)
    alone = [
        gains(scenes.run(daily_forecasts(*(r for r in rows if r[0] == n)), bars, **given), days)
        for n in names
    ]
    assert gains(together, days) == pytest.approx([sum(g) for g in zip(*alone, strict=True)])
    ours = together.orders.select("symbol", "horizon").unique()
    assert set(ours.rows()) <= {(s, h) for h, s, *_ in rows}


def minutes(prices: dict[str, list[list[float]]]) -> pl.DataFrame:
    """15-minute bars that open and close at the same price."""
    return scenes.candles(
        {
            s: [[(p, p, p, p, 1e6) for p in day + [day[-1]] * (26 - len(day))] for day in days]
            for s, days in prices.items()
        },
        Timeframe.M15,
    )


class TestDaysAmongMinutes:
    PRICES = {
        "AAA": [[100.0], [100.0, 100.0, 101.0, 104.0], [106.0, 107.0], [108.0]],
        "BBB": [[50.0], [50.0, 50.0, 51.0, 52.0, 52.0, 55.0], [60.0], [60.0]],
    }

    def forecasts(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        daily = scenes.forecasts([("AAA", 0, 100.0)], "1d")
        return daily, scenes.intraday_forecasts([("BBB", 1, 0, 100.0)], "1h", 2000.0)

    def run(self, predictions: pl.DataFrame) -> Simulation:
        changes = {"rules": TENTHS, "plan_rules": COARSE, "costs": scenes.FREE}
        return scenes.run(predictions, minutes(self.PRICES), **changes)

    def test_days_fill_at_the_open_and_leave_at_an_open(self):
        simulation = self.run(pl.concat(self.forecasts()))
        days = scenes.sessions(4)
        opens = [calendar.session_open(d) for d in days]
        quarter = dt.timedelta(minutes=15)
        columns = ["symbol", "horizon", "side", "price", "filled_at"]
        assert simulation.fills.select(columns).rows() == [
            ("AAA", "1d", "buy", 100.0, opens[1]),
            ("BBB", "1h", "buy", 50.0, opens[1] + quarter),
            # An hour later: at the open of the bar after the next three.
            ("BBB", "1h", "sell", 55.0, opens[1] + 5 * quarter),
            ("AAA", "1d", "sell", 106.0, opens[2]),
        ]

    def test_it_is_the_sum_of_days_on_daily_bars_and_of_minutes(self):
        daily, hourly = self.forecasts()
        together = self.run(pl.concat([daily, hourly]))
        by_day = {s: [(day[0], day[-1]) for day in days] for s, days in self.PRICES.items()}
        alone = scenes.run(
            daily,
            scenes.daily_bars(by_day),
            rules=TENTHS,
            plan_rules=COARSE,
            costs=scenes.FREE,
        )
        days = scenes.sessions(4)
        added = [
            a + b for a, b in zip(gains(alone, days), gains(self.run(hourly), days), strict=True)
        ]
        assert gains(together, days) == pytest.approx(added)
        assert together.equity["equity_usd"][-1] > CASH

    def test_the_close_takes_the_hours_and_leaves_the_days(self):
        daily = scenes.forecasts([("AAA", 0, 100.0)], "1d")
        late = scenes.intraday_forecasts([("BBB", 1, 23, 100.0)], "1h", 2000.0)
        simulation = self.run(pl.concat([daily, late]))
        closed = calendar.session_close(scenes.sessions(2)[1])
        assert simulation.fills.filter(pl.col("filled_at") == closed).select(
            "symbol", "horizon", "side"
        ).rows() == [("BBB", "1h", "sell")]
        at_close = simulation.equity.filter(pl.col("bar_end") == closed)
        assert at_close["gross_exposure"][0] == pytest.approx(0.1, abs=0.01)

    def test_an_hour_that_the_days_agree_with_is_held_on_through_the_close(self):
        daily = scenes.forecasts([("AAA", n, 100.0) for n in (0, 1)], "7d")
        late = scenes.intraday_forecasts([("AAA", 1, 0, 100.0)], "1h")
        simulation = self.run(pl.concat([daily, late]))
        assert simulation.fills["side"].to_list() == ["buy"]

    def test_a_session_without_such_bars_is_not_traded_in(self):
        daily = scenes.forecasts([("AAA", n, 100.0) for n in (0, 1, 2)], "1d")
        late = scenes.intraday_forecasts([("BBB", 3, 0, 100.0)], "1h", 2000.0)
        gap = pl.col("session") != scenes.sessions(2)[1]
        simulation = scenes.run(
            pl.concat([daily, late]), minutes(self.PRICES).filter(gap), rules=TENTHS
        )
        # Nor at the next open: the last price is one of two sessions ago.
        assert set(simulation.denials["code"]) == {"price_too_old"}
        first = simulation.fills.row(0, named=True)
        assert first["filled_at"] == calendar.session_open(scenes.sessions(4)[3])
        assert (first["symbol"], first["price"]) == ("AAA", 108.0)

    def test_what_is_known_late_waits_for_the_next_of_the_shortest_bars(self):
        # An hour's forecast at 9:47, beside a quarter's at 9:45.
        prices = {s: [[(50.0,) * 4 + (1e6,)] * 78] for s in ("AAA", "BBB")}
        hourly = scenes.intraday_forecasts([("AAA", 0, 0, 100.0)], "1h", 2000.0)
        quarter = scenes.intraday_forecasts([("BBB", 0, 2, 100.0)], "15m", 2000.0)
        late = hourly.with_columns(pl.col("as_of") + dt.timedelta(minutes=2))
        simulation = scenes.run(
            pl.concat([late, quarter]), scenes.candles(prices, Timeframe.M5), rules=TENTHS
        )
        opened = calendar.session_open(scenes.FIRST)
        bought = simulation.fills.filter(pl.col("side") == "buy")
        assert bought.select("symbol", "filled_at").rows() == [
            ("BBB", opened + dt.timedelta(minutes=15)),
            ("AAA", opened + dt.timedelta(minutes=20)),
        ]

    def test_bars_of_the_longer_horizon_are_refused(self):
        by_day = {s: [(day[0], day[-1]) for day in days] for s, days in self.PRICES.items()}
        with pytest.raises(BacktestError, match=r"no prediction can be traded.*of 1h.*15m"):
            scenes.run(pl.concat(self.forecasts()), scenes.daily_bars(by_day))


class TestNetting:
    BARS = scenes.daily_bars({"AAA": [(100.0, 100.0)] * 8})

    def bought(self, *rows: tuple[str, str, int, float]) -> list[tuple[int, str, float]]:
        simulation = scenes.run(
            daily_forecasts(*rows), self.BARS, rules=HALF_OF_CONFIDENCE, costs=scenes.FREE
        )
        days = scenes.sessions(8)
        return [
            (days.index(at.date()), side, quantity)
            for at, side, quantity in simulation.fills.select(
                "filled_at", "side", "quantity"
            ).iter_rows()
        ]

    def test_the_weight_is_the_mean_over_fresh_horizons(self):
        assert self.bought(("14d", "AAA", 0, 300.0)) == [(1, "buy", 300.0)]
        # The neutral week is over at the close of session 5.
        assert self.bought(("14d", "AAA", 0, 300.0), ("7d", "AAA", 0, 0.0)) == [
            (1, "buy", 150.0),
            (6, "buy", 150.0),
        ]
        assert self.bought(("14d", "AAA", 0, 300.0), ("7d", "AAA", 0, -300.0)) == []

    def test_a_signal_supersedes_that_of_its_own_horizon_alone(self):
        found = self.bought(
            ("14d", "AAA", 0, 300.0), ("7d", "AAA", 0, 0.0), ("7d", "AAA", 2, 300.0)
        )
        assert found == [(1, "buy", 150.0), (3, "buy", 150.0)]

    def test_an_order_that_closes_belongs_to_the_horizon_that_opened(self):
        rows = [("14d", "AAA", 0, 300.0), ("7d", "AAA", 2, -900.0), ("1d", "AAA", 2, -900.0)]
        simulation = scenes.run(
            daily_forecasts(*rows),
            self.BARS,
            rules=TargetRules(symbol_cap=0.5, symbol_volatility_target=1000.0, long_only=False),
            costs=scenes.FREE,
        )
        found = simulation.fills.select("side", "horizon").rows()
        assert found[:2] == [("buy", "14d"), ("sell", "14d")]
        opened = simulation.fills.filter(pl.col("side") == "sell")["horizon"].to_list()
        assert opened[1] in ("1d", "7d")


def test_longer_bars_say_what_the_volatility_is():
    published, hour, day = Published(), find_horizon("1h"), find_horizon("1d")

    def stated(name: str, volatility_bps: float) -> pl.DataFrame:
        return scenes.forecasts([("AAA", 0, 1.0)], name, volatility_bps)

    published.learn_volatilities(hour, stated("1h", 30.0))
    assert published.volatilities == {"AAA": annualised_volatility(30.0, Timeframe.M15)}
    for volatility_bps in (150.0, 180.0):
        published.learn_volatilities(day, stated("1d", volatility_bps))
        published.learn_volatilities(hour, stated("1h", 40.0))
        assert published.volatilities == {
            "AAA": annualised_volatility(volatility_bps, Timeframe.D1)
        }


def test_the_order_of_rows_and_horizons_says_nothing():
    one = scenes.run_synthetic("1h+1d")
    assert set(one.fills["horizon"]) == {"1h", "1d"}
    two = scenes.run_synthetic(
        "1h+1d",
        predictions=scenes.oracle("1h+1d").reverse(),
        horizons=[find_horizon("1d"), find_horizon("1h")],
    )
    assert one.horizon == two.horizon == "1h+1d"
    assert one.orders.equals(two.orders)
    assert one.equity.equals(two.equity)


def test_horizons_that_cannot_be_traded_together_are_named():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 4})
    both = daily_forecasts(("1d", "AAA", 0, 100.0), ("7d", "AAA", 0, 100.0))
    day, week = find_horizon("1d"), find_horizon("7d")
    for predictions, horizons, message in (
        (both, [day], "another horizon"),
        (both.filter(pl.col("horizon") == "1d"), [day, week], "another horizon"),
        (both, [day, week, day], "cannot be traded together"),
        (both, [], "cannot be traded together"),
        (pl.concat([both, both]), [day, week], "two predictions at one time"),
        (
            daily_forecasts(("1d", "AAA", 0, 100.0), ("7d", "AAA", 3, 100.0)),
            [day, week],
            "no prediction can be traded.*of 7d",
        ),
    ):
        with pytest.raises(BacktestError, match=message):
            scenes.run(predictions, bars, horizons=horizons)
