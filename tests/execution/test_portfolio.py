"""Profit and loss tie to fills, whoever they are dealt out to."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution import portfolio
from execution.adjustments import Adjustment, AdjustmentKind
from execution.intents import LastPrice
from execution.portfolio import read_portfolio
from execution.trade import TradeRules, trade
from market.ledger import open_ledger
from tests.execution.memory_broker import NOW, MemoryBroker
from tests.execution.scenes import AS_OF, content, market_of, publish

MINUTE = dt.timedelta(minutes=1)
moves = st.lists(
    st.tuples(
        st.sampled_from("AB"),
        st.integers(-30, 30).filter(bool),
        st.decimals("1", "200", places=2),
        st.sampled_from(["1d", "7d", None]),
        st.lists(st.sampled_from(["s1", "s2", "s3"]), max_size=2, unique=True),
    ),
    max_size=25,
)


def at_prices(monkeypatch, events, prices):
    """The portfolio of some fills and adjustments, without a ledger between."""
    with monkeypatch.context() as patch:
        patch.setattr(portfolio, "_events", lambda _ledger: events)
        empty = pl.DataFrame(schema=portfolio.SHORTFALL_SCHEMA)
        patch.setattr(portfolio, "_shortfall", lambda _ledger: empty)
        last = {s: LastPrice(Decimal(p), NOW) for s, p in prices.items()}
        return read_portfolio(SimpleNamespace(), last)  # type: ignore[arg-type]


def fills_of(made):
    return [
        portfolio._Fill(
            symbol,
            portfolio.Fraction(quantity),
            portfolio.Fraction(price),
            NOW + k * MINUTE,
            portfolio._Origin(horizon, tuple(signals)),
        )
        for k, (symbol, quantity, price, horizon, signals) in enumerate(made)
    ]


def average_cost(made, symbol):
    """The textbook's average-cost method, in floats: quantity, cost of a share, realised."""
    held, cost, realised = 0.0, 0.0, 0.0
    for name, quantity, price, _, _ in made:
        if name != symbol:
            continue
        price = float(price)
        if held * quantity < 0:
            closed = min(abs(quantity), abs(held)) * (1 if held > 0 else -1)
            realised += closed * (price - cost)
            held -= closed
            quantity += closed
        if quantity:
            cost = (abs(held) * cost + abs(quantity) * price) / (abs(held) + abs(quantity))
            held += quantity
    return held, cost, realised


@settings(max_examples=200, deadline=None)
@given(made=moves)
def test_the_sums_are_those_of_cash_and_of_the_average_cost_method(made):
    prices = {"A": "50", "B": "70"}
    found = at_prices(pytest.MonkeyPatch(), fills_of(made), prices)
    cash = sum(-q * float(p) for _, q, p, _, _ in made)
    worth = sum(q * float(prices[s]) for s, q, _, _, _ in made)
    assert found.realised_usd + found.unrealised_usd == pytest.approx(cash + worth, abs=1e-6)
    for frame in (found.by_horizon, found.by_signal):
        dealt = frame.select(pl.sum_horizontal(pl.exclude(pl.String))).sum().item()
        assert dealt == pytest.approx(cash + worth, abs=1e-6)
    for row in found.positions.iter_rows(named=True):
        held, cost, realised = average_cost(made, row["symbol"])
        assert row["quantity"] == pytest.approx(held)
        assert row["realised_usd"] == pytest.approx(realised, abs=1e-6)
        if held:
            assert row["average_cost_usd"] == pytest.approx(cost)


def adjustment(kind, symbol, quantity=0, cash=0, minutes=1, **detail):
    at = NOW + minutes * MINUTE
    return Adjustment("a", kind, symbol, Decimal(quantity), Decimal(cash), at, detail)


def test_splits_renames_and_dividends_keep_what_was_earned(monkeypatch):
    events = [
        *fills_of([("A", 10, "100", "1d", ["s1"])]),
        adjustment(AdjustmentKind.SPLIT, "A", 10, minutes=1, split_ratio="2"),
        adjustment(AdjustmentKind.RENAME, "A", -20, minutes=2, to="B"),
        adjustment(AdjustmentKind.RENAME, "B", 20, minutes=2, **{"from": "A"}),
        adjustment(AdjustmentKind.DIVIDEND, "B", 0, "5", minutes=3),
        *fills_of([("B", -5, "60", None, [])]),
    ]
    found = at_prices(monkeypatch, events, {"B": "70"})
    (row,) = found.positions.to_dicts()
    assert row == {
        "symbol": "B",
        "quantity": 15.0,
        "average_cost_usd": 50.0,
        "price_usd": 70.0,
        "unrealised_usd": 300.0,
        "realised_usd": 50.0,
        "dividends_usd": 5.0,
    }
    assert found.by_horizon.to_dicts() == [
        {"horizon": "1d", "realised_usd": 50.0, "unrealised_usd": 300.0, "dividends_usd": 5.0}
    ]


def test_what_a_person_accepted_is_no_profit(monkeypatch):
    events = [
        *fills_of([("A", 10, "100", "1d", ["s1"])]),
        adjustment(AdjustmentKind.ACCEPTED, "A", -14),
    ]
    (row,) = at_prices(monkeypatch, events, {"A": "100"}).positions.to_dicts()
    assert (row["quantity"], row["realised_usd"], row["unrealised_usd"]) == (-4.0, 0.0, 0.0)


def test_without_a_price_nothing_is_made_up(monkeypatch):
    found = at_prices(monkeypatch, fills_of([("A", 10, "100", "1d", [])]), {})
    assert found.positions["unrealised_usd"].to_list() == [None]
    assert found.unrealised_usd == 0.0


def test_a_run_is_dealt_out_to_its_signals_and_shortfall_is_a_cost(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        broker = MemoryBroker({"A": 100.0})
        publish(ledger, tmp_path, content("A"))
        market = market_of(broker)
        broker.prices["A"] = Decimal("100.5")  # it moved between decision and fill
        trade(ledger, broker, market=market, rules=TradeRules(), now=NOW)
        broker.prices["A"] = Decimal(110)
        publish(
            ledger, tmp_path, content("A", direction="short"), as_of=AS_OF + dt.timedelta(minutes=1)
        )
        market = market_of(broker)
        trade(ledger, broker, market=market, rules=TradeRules(), now=NOW)
        found = read_portfolio(ledger, {})
        quantity = broker.orders[broker.placed[0]].quantity
        earned = float(quantity * Decimal("9.5"))
        assert found.realised_usd == pytest.approx(earned)
        (by_signal,) = found.by_signal.to_dicts()
        signals = ledger.read("SELECT id FROM signals ORDER BY seq")["id"].to_list()
        assert by_signal["signal_id"] == signals[0]
        assert by_signal["realised_usd"] == pytest.approx(earned)
        assert found.by_horizon["horizon"].to_list() == ["1d"]
        bought, sold = found.shortfall.to_dicts()
        assert bought["shortfall_bps"] == pytest.approx(50.0)
        assert bought["shortfall_usd"] == pytest.approx(float(quantity) * 0.5)
        assert (sold["side"], sold["shortfall_usd"]) == ("sell", 0.0)
