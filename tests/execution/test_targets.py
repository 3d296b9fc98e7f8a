"""Targets: netting, caps, and that a missing signal closes nothing."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.targets import HeldPosition, TargetReason, TargetRules, compute_targets
from market.errors import ExecutionError
from tests.execution.memory_broker import NOW
from tests.execution.scenes import AS_OF, a_signal, table

LOOSE = TargetRules(
    gross_limit=10, net_limit=10, symbol_cap=5, cash_buffer=0.0, symbol_volatility_target=0.3
)
LONG_SHORT = TargetRules(
    gross_limit=10,
    net_limit=10,
    symbol_cap=5,
    cash_buffer=0.0,
    symbol_volatility_target=0.3,
    long_only=False,
)
HOUR = dt.timedelta(hours=1)


def decide(*signals, held=(), rules=LONG_SHORT, price=100.0, volatility=0.3, **more):
    symbols = {"A", "B", "C"}
    return compute_targets(
        table(*signals),
        held,
        dict.fromkeys(symbols, price) if price is not None else {},
        dict.fromkeys(symbols, volatility) if volatility is not None else {},
        1000.0,
        rules,
        NOW,
        **more,
    )


def only(targets):
    assert len(targets.decisions) == 1
    return targets.decisions[0]


def holding(quantity=5, **changes):
    fields = {
        "opened_by_horizon": "1d",
        "valid_until": NOW + HOUR,
        **changes,
    }
    return HeldPosition("A", Decimal(quantity), **fields)


def test_confidence_and_inverse_volatility_scale():
    assert only(decide(a_signal("A", confidence=0.6))).weight == pytest.approx(0.6)
    doubled = decide(a_signal("A", confidence=0.6), volatility=0.6)
    assert only(doubled).weight == pytest.approx(0.3)


def test_horizons_are_netted_and_the_strongest_gives_the_exit_rule():
    target = only(
        decide(
            a_signal(
                "A", confidence=0.9, horizon="14d", targets=[120.0, 110.0], stops=[90.0, 95.0]
            ),
            a_signal("A", confidence=0.3, horizon="1d", direction="short"),
        )
    )
    assert target.weight == pytest.approx((0.9 - 0.3) / 2)
    assert (target.horizon, target.target_price, target.stop_price) == (
        "14d",
        Decimal("110.0"),
        Decimal("95.0"),
    )
    assert target.signal_ids == ("A-14d", "A-1d")


def test_a_neutral_horizon_adds_zero():
    both = only(
        decide(a_signal("A", confidence=0.8), a_signal("A", direction="neutral", horizon="14d"))
    )
    assert both.weight == pytest.approx(0.4)
    alone = only(decide(a_signal("A", direction="neutral")))
    assert (alone.weight, alone.reason) == (0.0, TargetReason.NEUTRAL)


def test_only_fresh_ensemble_rows_count():
    assert decide(a_signal("A", engine="xgboost")).decisions == ()
    assert decide(a_signal("A", valid_until=NOW)).decisions == ()
    assert decide(a_signal("A", as_of=NOW + HOUR, valid_until=NOW + 2 * HOUR)).decisions == ()


def test_a_newer_signal_supersedes_an_older_one():
    old = a_signal("A", direction="short", as_of=AS_OF - HOUR)
    assert only(decide(old, a_signal("A"))).weight > 0
    ended = a_signal("A", valid_until=NOW - dt.timedelta(minutes=1))
    assert decide(old, ended).decisions == ()


def test_long_only_turns_a_short_view_into_zero():
    target = only(decide(a_signal("A", direction="short"), rules=LOOSE))
    assert (target.weight, target.reason) == (0.0, TargetReason.LONG_ONLY)


@pytest.mark.parametrize("quantity", [5, -5])
def test_a_missing_signal_closes_nothing(quantity):
    target = only(decide(held=[holding(quantity)]))
    assert target.keep_quantity == quantity
    assert target.reason is TargetReason.KEPT
    assert target.weight == pytest.approx(quantity * 100 / 1000)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (holding(valid_until=NOW), TargetReason.EXIT_EXPIRED),
        (holding(target_price=Decimal(100)), TargetReason.EXIT_TARGET),
        (holding(stop_price=Decimal(100)), TargetReason.EXIT_STOP),
        (holding(-5, target_price=Decimal(100)), TargetReason.EXIT_TARGET),
        (holding(-5, stop_price=Decimal(100)), TargetReason.EXIT_STOP),
    ],
)
def test_exit_rules_fire(held, reason):
    target = only(decide(held=[held]))
    assert (target.weight, target.keep_quantity, target.reason) == (0.0, None, reason)
    assert reason.is_exit


def test_levels_not_touched_keep():
    held = holding(target_price=Decimal("100.01"), stop_price=Decimal("99.99"))
    assert only(decide(held=[held])).reason is TargetReason.KEPT


def test_a_touched_stop_wins_over_the_signal_that_opened():
    target = only(decide(a_signal("A"), held=[holding(stop_price=Decimal(100))]))
    assert target.reason is TargetReason.EXIT_STOP


def test_a_stopped_position_is_not_opened_again_by_the_same_signal():
    target = only(decide(a_signal("A"), exits={"A": NOW}))
    assert (target.weight, target.reason) == (0.0, TargetReason.SPENT)
    assert only(decide(a_signal("A"), exits={"A": AS_OF - HOUR})).weight > 0
    assert only(decide(a_signal("A", targets=[99.0]))).reason is TargetReason.SPENT
    assert only(decide(a_signal("A", stops=[101.0]))).reason is TargetReason.SPENT


def test_an_opposite_signal_closes():
    target = only(decide(a_signal("A", direction="short"), held=[holding()], rules=LOOSE))
    assert (target.weight, target.reason) == (0.0, TargetReason.EXIT_OPPOSITE)
    other = a_signal("A", direction="short", horizon="14d")
    assert only(decide(other, held=[holding()])).reason is TargetReason.EXIT_OPPOSITE


def test_silence_of_the_opening_horizon_does_not_shrink_the_position():
    neutral = a_signal("A", direction="neutral", horizon="1h")
    assert only(decide(neutral, held=[holding()])).reason is TargetReason.KEPT
    weak = a_signal("A", confidence=0.1, horizon="1h")
    assert only(decide(weak, held=[holding()])).reason is TargetReason.KEPT
    strong = a_signal("A", confidence=0.9, horizon="1h")
    assert only(decide(strong, held=[holding()])).weight == pytest.approx(0.9)


def test_the_opening_horizon_itself_may_shrink_or_close():
    assert only(decide(a_signal("A", confidence=0.1), held=[holding()])).weight == pytest.approx(
        0.1
    )
    neutral = only(decide(a_signal("A", direction="neutral"), held=[holding()]))
    assert (neutral.weight, neutral.keep_quantity) == (0.0, None)


@pytest.mark.parametrize(("price", "volatility"), [(None, 0.3), (100.0, None), (100.0, 0.0)])
def test_without_data_nothing_changes(price, volatility):
    data = {"price": price, "volatility": volatility}
    assert only(decide(a_signal("A"), **data)).reason is TargetReason.NO_DATA
    kept = only(decide(a_signal("A"), held=[holding()], **data))
    assert (kept.reason, kept.keep_quantity) == (TargetReason.KEPT_NO_DATA, Decimal(5))


@pytest.mark.parametrize("equity", [0.0, -1.0, float("nan")])
def test_an_account_without_equity_is_refused(equity):
    with pytest.raises(ExecutionError, match="equity"):
        compute_targets(table(), [], {}, {}, equity, LOOSE, NOW)


@pytest.mark.parametrize("change", [{"gross_limit": 0}, {"cash_buffer": 1.0}, {"symbol_cap": -1}])
def test_rules_that_cannot_be_met_are_refused(change):
    with pytest.raises(ExecutionError, match="out of range"):
        TargetRules(**change)


signal_rows = st.builds(
    lambda s, h, d, c: a_signal(s, horizon=h, direction=d, confidence=c),
    st.sampled_from("ABCDEF"),
    st.sampled_from(["1h", "1d", "14d"]),
    st.sampled_from(["long", "short", "neutral"]),
    st.floats(0, 1),
)
rule_sets = st.builds(
    TargetRules,
    gross_limit=st.floats(0.1, 2),
    net_limit=st.floats(0.1, 2),
    symbol_cap=st.floats(0.01, 0.5),
    cash_buffer=st.floats(0, 0.9),
    symbol_volatility_target=st.floats(0.01, 1),
    sector_cap=st.floats(0.01, 1),
    turnover_limit=st.floats(0.01, 2),
    long_only=st.booleans(),
)
SECTORS = {"A": "energy", "B": "energy", "C": "energy", "D": "banks", "E": "banks"}
volatility_maps = st.fixed_dictionaries({s: st.floats(0.05, 2) for s in "ABCDEF"})


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(signal_rows, max_size=12, unique_by=lambda r: (r["symbol"], r["horizon"])),
    rules=rule_sets,
    volatilities=volatility_maps,
)
def test_no_limit_is_ever_passed(rows, rules, volatilities):
    prices = dict.fromkeys("ABCDEF", 50.0)
    targets = compute_targets(
        table(*rows), [], prices, volatilities, 1e5, rules, NOW, sectors=SECTORS
    )
    weights = [d.weight for d in targets.decisions]
    slack = 1e-9
    assert sum(map(abs, weights)) <= rules.turnover_limit + slack
    for sector in ("energy", "banks", None):
        inside = [d.weight for d in targets.decisions if SECTORS.get(d.symbol) == sector]
        assert sum(map(abs, inside)) <= rules.sector_cap + slack
    assert sum(map(abs, weights)) <= rules.gross_limit + slack
    assert -rules.net_limit - slack <= sum(weights)
    assert sum(weights) <= min(rules.net_limit, 1 - rules.cash_buffer) + slack
    assert all(abs(w) <= rules.symbol_cap + slack for w in weights)
    if rules.long_only:
        assert all(w >= 0 for w in weights)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(signal_rows, max_size=8, unique_by=lambda r: (r["symbol"], r["horizon"])),
    quantity=st.integers(-20, 20).filter(bool),
    rules=rule_sets,
    volatilities=volatility_maps,
)
def test_a_held_symbol_without_signals_keeps_its_quantity(rows, quantity, rules, volatilities):
    held = HeldPosition("Z", Decimal(quantity), "1d", NOW + HOUR)
    prices = dict.fromkeys("ABCDEFZ", 50.0)
    targets = compute_targets(table(*rows), [held], prices, volatilities, 1e5, rules, NOW)
    (kept,) = [d for d in targets.decisions if d.symbol == "Z"]
    assert kept.keep_quantity == quantity


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(signal_rows, max_size=12, unique_by=lambda r: (r["symbol"], r["horizon"])),
    quantities=st.dictionaries(st.sampled_from("ABCDEF"), st.integers(-400, 400).filter(bool)),
    rules=rule_sets,
    volatilities=volatility_maps,
)
def test_turnover_holds_back_what_grows_and_nothing_else(rows, quantities, rules, volatilities):
    prices = dict.fromkeys("ABCDEF", 50.0)
    held = [HeldPosition(s, Decimal(q), "1w", NOW + HOUR) for s, q in quantities.items()]
    free = replace(rules, turnover_limit=1e9)
    bound, unbound = (
        compute_targets(table(*rows), held, prices, volatilities, 1e5, r, NOW).decisions
        for r in (rules, free)
    )
    grown = 0.0
    for d, wanted in zip(bound, unbound, strict=True):
        present = quantities.get(d.symbol, 0) * 50.0 / 1e5
        start = present if present * d.weight > 0 else 0.0
        grown += max(0.0, abs(d.weight) - abs(start))
        assert abs(d.weight) <= abs(wanted.weight) + 1e-9
        assert d.weight * wanted.weight >= 0
        if wanted.weight == 0 or d.keep_quantity is not None:
            assert d.weight == wanted.weight
    assert grown <= rules.turnover_limit + 1e-9


def test_exits_are_not_held_back_by_turnover():
    rules = replace(LONG_SHORT, turnover_limit=0.05)
    held = [HeldPosition("A", Decimal(400), "1d", NOW - HOUR)]
    rows = [a_signal("B", confidence=1.0)]
    risks = {"A": 0.2, "B": 0.2}
    targets = compute_targets(table(*rows), held, {"A": 50.0, "B": 50.0}, risks, 1e5, rules, NOW)
    assert {d.symbol: d.weight for d in targets.decisions} == {"A": 0.0, "B": pytest.approx(0.05)}
