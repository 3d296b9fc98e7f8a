from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from decimal import Decimal

import polars as pl
import pytest

from backtest import account
from backtest.published import annualised_volatility
from backtest.tape import moment_of
from execution import paper_book
from execution.intents import PlanRules
from execution.risk import RiskLimits
from execution.targets import TargetRules
from market import calendar
from market.costs import CostModel
from market.errors import BacktestError
from market.horizons import find_horizon
from market.timeframes import Timeframe
from tests.backtest import scenes

RATE = scenes.FLAT.one_way_bps / 1e4


def final_equity(simulation) -> float:
    return simulation.equity["equity_usd"][-1]


def at_session(simulation, number: int) -> float:
    day = scenes.sessions(number + 1)[-1]
    return simulation.equity.filter(pl.col("session") == day)["equity_usd"][-1]


def test_buy_and_hold_through_a_split_and_a_dividend_equals_hand_arithmetic():
    # Closes at 100; half of 100,000 USD buys 500 shares, at the next open of 102.
    quotes = [(100, 100), (102, 104), (105, 106), (53, 54), (54, 55), (55, 56)]
    quotes += [(56, 57)] * 5 + [(60, 61), (61, 62)]
    simulation = scenes.run(
        scenes.forecasts([("AAA", 0, 100.0)]),
        scenes.daily_bars({"AAA": quotes, "BBB": [(10, 10)] * 13}),
        splits=scenes.splits_of(("AAA", 3, 2.0)),
        dividends=scenes.dividends_of(("AAA", 5, 0.5)),
        plan_rules=scenes.HOLD,
    )
    cash = 100_000 - 500 * 102 - 500 * 102 * RATE
    assert at_session(simulation, 1) == pytest.approx(cash + 500 * 104, abs=1e-6)
    assert at_session(simulation, 3) == pytest.approx(cash + 1000 * 54, abs=1e-6)
    cash += 1000 * 0.5
    assert at_session(simulation, 5) == pytest.approx(cash + 1000 * 56, abs=1e-6)
    # Valid for ten sessions: closed at the open of the eleventh.
    cash += 1000 * 60 - 1000 * 60 * RATE
    assert final_equity(simulation) == pytest.approx(cash, abs=1e-6)
    assert simulation.orders["reason"].to_list() == ["signal", "exit_validity_expired"]
    assert simulation.cash_flows.select("kind", "quantity", "amount_usd").rows() == [
        ("dividend", 1000.0, 500.0)
    ]
    trade = simulation.trades.row(0, named=True)
    paid = (500 * 102 + 1000 * 60) * RATE
    assert trade["pnl_usd"] == pytest.approx(1000 * 60 - 500 * 102 - paid, abs=1e-6)


def test_a_short_position_pays_the_dividend():
    simulation = scenes.run(
        scenes.forecasts([("AAA", 0, -100.0)]),
        scenes.daily_bars({"AAA": [(50, 50), (50, 50), (50, 50), (49, 48)]}),
        costs=scenes.FREE,
        dividends=scenes.dividends_of(("AAA", 2, 0.25)),
        plan_rules=scenes.HOLD,
    )
    assert simulation.orders["side"].to_list() == ["sell"]
    assert simulation.cash_flows["amount_usd"].to_list() == [-250.0]
    assert final_equity(simulation) == pytest.approx(100_000 - 250 + 1000 * 2)


def test_a_reverse_split_pays_fractions_in_cash():
    simulation = scenes.run(
        scenes.forecasts([("AAA", 0, 100.0)]),
        scenes.daily_bars({"AAA": [(99, 99), (99, 100), (1000, 1000)]}),
        costs=scenes.FREE,
        splits=scenes.splits_of(("AAA", 2, 0.1)),
    )
    # 505 shares become 50 and a half; the half is paid at ten times the close before.
    assert simulation.cash_flows.select("kind", "quantity", "amount_usd").rows() == [
        ("cash_in_lieu", 0.5, 500.0)
    ]
    assert final_equity(simulation) == pytest.approx(100_000 - 505 * 99 + 50 * 1000 + 500)


def test_costs_are_basis_points_of_the_notional_of_each_side():
    quotes = [(100, 100)] * 13
    bars = scenes.daily_bars({"AAA": quotes})
    simulation = scenes.run(
        scenes.forecasts([("AAA", 0, 100.0)]),
        bars,
        costs=CostModel.flat(1.0, 2.0, 7.0),
        plan_rules=scenes.HOLD,
    )
    assert simulation.orders["cost_usd"].to_list() == [50.0, 50.0]
    assert final_equity(simulation) == pytest.approx(99_900.0)
    assert simulation.equity["turnover"].sum() == pytest.approx(0.5 + 50_000 / 99_950)


def test_a_weekly_rebalance_of_two_symbols_equals_hand_arithmetic():
    quotes = {
        "AAA": [(100, 100), (100, 110), (110, 120), (120, 120), (120, 120), (120, 120), (120, 120)],
        "BBB": [(50, 50), (50, 50), (50, 50), (50, 50), (50, 40), (40, 40), (40, 44)],
    }
    simulation = scenes.run(
        scenes.forecasts([(s, n, 100.0) for n in (0, 4) for s in quotes], "7d"),
        scenes.daily_bars(quotes),
        rules=TargetRules(symbol_cap=0.4, symbol_volatility_target=1000.0),
        costs=scenes.FREE,
        plan_rules=PlanRules(min_notional_usd=Decimal(5_000)),
    )
    # 40% each of 100,000; a week on, 20,000 + 400 x 120 + 800 x 40 is 100,000 again, of which
    # 40% are 333 shares at 120 and 1,000 at 40.
    assert simulation.fills.select("symbol", "side", "quantity", "price").rows() == [
        ("AAA", "buy", 400.0, 100.0),
        ("BBB", "buy", 800.0, 50.0),
        ("AAA", "sell", 67.0, 120.0),
        ("BBB", "buy", 200.0, 40.0),
    ]
    assert final_equity(simulation) == pytest.approx(20_040 + 333 * 120 + 1000 * 44)


def test_a_missing_signal_closes_nothing():
    rows = [("AAA", 0, 100.0), *(("BBB", n, 100.0) for n in range(5))]
    flat = [(100, 100)] * 6
    bars = scenes.daily_bars({"AAA": flat, "BBB": flat})
    rules = TargetRules(symbol_cap=0.3, symbol_volatility_target=1000.0)
    simulation = scenes.run(scenes.forecasts(rows), bars, rules=rules, costs=scenes.FREE)
    assert simulation.orders.filter(pl.col("symbol") == "AAA")["side"].to_list() == ["buy"]
    assert simulation.equity["gross_exposure"][-1] == pytest.approx(0.6)


def test_the_position_after_a_fill_is_what_the_next_decision_sees():
    rows = [("AAA", n, 100.0) for n in range(4)]
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 6})
    simulation = scenes.run(scenes.forecasts(rows), bars, costs=scenes.FREE)
    assert simulation.orders["quantity"].to_list() == [500.0]


def test_an_order_for_a_halted_symbol_expires_and_is_recorded():
    bars = scenes.daily_bars(
        {"AAA": [(100, 100), None, (101, 101), (102, 102)], "BBB": [(10, 10)] * 4}
    )
    simulation = scenes.run(scenes.forecasts([("AAA", 0, 100.0)], "1d"), bars)
    row = simulation.orders.row(0, named=True)
    assert (row["symbol"], row["status"]) == ("AAA", "expired")
    assert row["filled_at"] is None
    assert row["price"] is None
    assert simulation.orders.height == 1
    assert final_equity(simulation) == 100_000.0


def test_a_position_in_a_halted_symbol_keeps_its_last_price_and_is_not_sold_meanwhile():
    bars = scenes.daily_bars(
        {"AAA": [(100, 100), (100, 90), None, None, (80, 80), (80, 80)], "BBB": [(10, 10)] * 6}
    )
    simulation = scenes.run(scenes.forecasts([("AAA", 0, 100.0)], "1d"), bars, costs=scenes.FREE)
    assert at_session(simulation, 3) == pytest.approx(95_000)
    sale = simulation.fills.filter(pl.col("side") == "sell").row(0, named=True)
    assert sale["filled_at"].date() == scenes.sessions(6)[5]
    assert set(simulation.denials["code"]) == {"price_too_old"}


def test_a_forecast_for_a_symbol_without_bars_is_a_denial():
    bars = scenes.daily_bars({"BBB": [(10, 10)] * 4})
    rows = [("AAA", 0, 100.0), ("BBB", 0, 100.0)]
    simulation = scenes.run(scenes.forecasts(rows), bars)
    assert simulation.denials.select("symbol", "side", "code").rows() == [
        ("AAA", None, "missing_data")
    ]
    assert simulation.orders["symbol"].to_list() == ["BBB"]


def test_risk_limits_deny_and_the_denial_is_kept():
    bars = scenes.daily_bars({"AAA": [(10, 10)] * 4})
    limits = RiskLimits()  # 15% of equity in one symbol, and no short positions
    simulation = scenes.run(scenes.forecasts([("AAA", 0, -100.0)]), bars, limits=limits)
    assert simulation.orders.is_empty()
    assert set(simulation.denials["code"]) == {"position_notional", "not_shortable"}
    assert simulation.trades.is_empty()


def test_the_limit_on_drawdowns_stops_what_opens_and_the_day_is_told():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 2 + [(60, 60)] * 4, "BBB": [(50, 50)] * 6})
    views = [("AAA", 0, 100.0), ("BBB", 3, 100.0), ("BBB", 4, 100.0)]
    limits = replace(scenes.WIDE, drawdown_share=Decimal("0.15"))
    stopped = scenes.run(scenes.forecasts(views), bars, limits=limits)
    assert "BBB" not in stopped.fills["symbol"]
    assert stopped.stopped_from == scenes.sessions(6)[3]
    free = scenes.run(scenes.forecasts(views), bars, limits=scenes.WIDE)
    assert "BBB" in free.fills["symbol"]
    assert free.stopped_from is None


def test_a_target_level_closes_and_follows_a_split():
    quotes = [(100, 100), (100, 100), (50, 50), (50, 56), (56, 56), (56, 56)]
    simulation = scenes.run(
        scenes.forecasts([("AAA", 0, 100.0)], volatility_bps=300.0),
        scenes.daily_bars({"AAA": quotes}),
        splits=scenes.splits_of(("AAA", 2, 2.0)),
    )
    # The target is 110.49, 55.24 after the split: touched by the close of session 3.
    assert simulation.orders["reason"].to_list() == ["signal", "exit_target_touched"]
    assert simulation.orders["filled_at"][1].date() == scenes.sessions(5)[4]


def test_an_account_without_equity_stops():
    bars = scenes.daily_bars({"AAA": [(10, 10), (10, 10), (10, 40), (40, 40), (40, 40)]})
    simulation = scenes.run(scenes.forecasts([("AAA", 0, -100.0)]), bars)
    assert simulation.is_ruined
    assert simulation.equity.height == 3


@pytest.mark.parametrize("name", ["1d", "1h", "1h+1d"])
def test_no_order_fills_on_the_bar_that_made_its_decision(name):
    simulation = scenes.run_synthetic(name)
    fills = simulation.fills
    assert fills.height > 50
    assert (fills["filled_at"] >= fills["as_of"]).all()
    bars = scenes.synthetic_bars(name).select("symbol", "bar_end", "bar_start", "open", "close")
    joined = fills.join(bars, on=["symbol", "bar_end"], how="left")
    assert joined["open"].null_count() == 0
    assert (joined["bar_start"] >= joined["as_of"]).all()
    closing = joined["filled_at"] == joined["bar_end"]
    expected = pl.select(pl.when(closing).then(joined["close"]).otherwise(joined["open"]))
    assert (joined["price"] == expected.to_series()).all()
    known = scenes.oracle(name)["as_of"].min()
    assert fills["as_of"].min() >= known


def test_intraday_orders_fill_in_the_same_session_and_none_is_held_overnight():
    simulation = scenes.run_synthetic("1h")
    fills = simulation.fills
    assert (fills["as_of"].dt.date() == fills["filled_at"].dt.date()).all()
    ends = simulation.equity.group_by("session", maintain_order=True).last()
    closes = [calendar.session_close(s) for s in ends["session"]]
    assert ends["bar_end"].to_list() == closes
    assert ends["gross_exposure"].max() == 0.0
    assert "exit_validity_expired" in set(fills["reason"])


def _changed_after(bars: pl.DataFrame, moment: dt.datetime) -> pl.DataFrame:
    prices = ("open", "high", "low", "close", "vwap")
    later = pl.col("bar_end") > moment
    return bars.with_columns(pl.when(later).then(pl.col(c) * 1.7).otherwise(c) for c in prices)


@pytest.mark.parametrize("name", ["1d", "1h", "1h+1d"])
@pytest.mark.parametrize(("what", "share"), [("truncated", 0.35), ("changed", 0.7)])
def test_later_bars_change_no_earlier_order(name, what, share):
    bars = scenes.synthetic_bars(name)
    ends = bars["bar_end"].unique().sort()
    moment = ends[int(len(ends) * share)]
    other = bars.filter(pl.col("bar_end") <= moment)
    if what == "changed":
        other = _changed_after(bars, moment)
    whole, part = scenes.run_synthetic(name), scenes.run_synthetic(name, bars=other)
    before = pl.col("bar_end") <= moment
    assert whole.orders.filter(before).height > 20
    assert part.orders.filter(before).equals(whole.orders.filter(before))
    assert part.equity.filter(before).equals(whole.equity.filter(before))
    # What is decided at that moment knows no later bar either: only its fills may differ.
    decided = ["as_of", "symbol", "side", "quantity", "reason"]
    early = pl.col("as_of") <= moment
    if what == "changed":
        one, two = (s.orders.filter(early).select(decided) for s in (whole, part))
        assert one.equals(two)


def test_moments_of_decision():
    day, hour, session = find_horizon("1d"), find_horizon("1h"), find_horizon("4h")
    noon = dt.datetime(2024, 7, 2, 16, 0, tzinfo=dt.UTC)
    close = dt.datetime(2024, 7, 2, 20, 0, tzinfo=dt.UTC)
    inside = moment_of(noon, hour)
    assert inside is not None
    assert (inside.decided_at, inside.fills_at, inside.is_open) == (noon, noon, True)
    late = moment_of(noon + dt.timedelta(minutes=1), hour)
    assert late is not None
    assert late.fills_at == noon + dt.timedelta(minutes=15)
    assert moment_of(close, hour) is None
    assert moment_of(close - dt.timedelta(minutes=1), hour) is None
    for horizon in (day, session):
        after = moment_of(close, horizon)
        assert after is not None
        assert after.fills_at == calendar.session_open(dt.date(2024, 7, 3))
        assert not after.is_open
    at_eight = dt.datetime(2024, 7, 3, 12, 0, tzinfo=dt.UTC)
    same_day = moment_of(at_eight, day)
    assert same_day is not None
    assert same_day.fills_at == calendar.session_open(dt.date(2024, 7, 3))


def test_volatility_and_margin_agree_with_what_live_uses():
    assert annualised_volatility(100.0, Timeframe.D1) == pytest.approx(0.01 * math.sqrt(252))
    assert annualised_volatility(10.0, Timeframe.M15) == pytest.approx(0.001 * math.sqrt(252 * 26))
    assert float(paper_book.MARGIN_MULTIPLIER) == account.MARGIN_MULTIPLIER


def test_progress_is_told():
    seen: list[tuple[int, int]] = []
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 4})
    scenes.run(
        scenes.forecasts([("AAA", 0, 100.0)]), bars, progress=lambda n, m: seen.append((n, m))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_bad_input_is_named():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 4})
    good = scenes.forecasts([("AAA", 0, 100.0)])
    horizon = find_horizon("14d")
    for predictions, message in (
        (good.with_columns(pl.lit("xgboost").alias("engine")), "another engine"),
        (pl.concat([good, good]), "two predictions at one time"),
        (good.clear(), "unusable"),
        (good.drop("p_long"), "unusable"),
        (scenes.forecasts([("AAA", 3, 100.0)]), "no prediction can be traded"),
    ):
        with pytest.raises(BacktestError, match=message):
            scenes.run(predictions, bars, horizons=[horizon])
    with pytest.raises(BacktestError, match="another horizon"):
        scenes.run(good, bars, horizons=[find_horizon("7d")])
    for broken, message in (
        (bars.clear(), "no bars"),
        (pl.concat([bars, bars]), "two bars at one time"),
        (bars.with_columns(pl.lit(-1.0).alias("open")), "no usable price"),
        (bars.with_columns(pl.lit(math.nan).alias("close")), "no usable price"),
    ):
        with pytest.raises(BacktestError, match=message):
            scenes.run(good, broken)
    for cash in (0.0, -1.0, math.inf):
        with pytest.raises(BacktestError, match="starting cash"):
            scenes.run(good, bars, starting_cash_usd=cash)
