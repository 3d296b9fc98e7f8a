"""The live path at the paper broker and the backtest make the same trades, to the share."""

from __future__ import annotations

import pytest

from evidence import live_replay
from evidence.live_replay_market import SESSIONS, make_market
from evidence.live_replay_runs import RULES, differences, simulated, traded_live
from evidence.part import Run
from execution.paper_book import PaperBook


def both(folder, horizon, sessions, participation, seed=1):
    market = make_market(horizon, seed, sessions)
    simulation = simulated(market, participation, RULES)
    live = traded_live(market, participation, RULES, folder)
    return simulation, live, differences(market, simulation, live)


@pytest.mark.parametrize("horizon", ["7d", "1d"])
def test_a_month_of_opening_auctions_held_over_nights(tmp_path, horizon):
    simulation, live, found = both(tmp_path, horizon, SESSIONS, None)
    assert found == []
    assert len(live.fills) > 50
    assert {"opg", "day"} <= set(simulation.orders["time_in_force"])  # second legs are day orders
    reasons = {"signal", "exit_opposite_signal", "exit_target_touched", "exit_stop_touched"}
    assert reasons <= set(simulation.fills["reason"])
    assert "no_volume" in simulation.orders["status"]


def test_two_weeks_of_brackets_and_closing_auctions(tmp_path):
    """``make evidence`` takes a month of them."""
    simulation, live, found = both(tmp_path, "1h", 10, None)
    assert found == []
    assert len(live.fills) > 150
    exits = simulation.fills.filter("is_bracket_exit")
    assert {"exit_target_touched", "exit_stop_touched"} == set(exits["reason"])
    assert simulation.fills.filter(simulation.fills["time_in_force"] == "cls").height > 20


def test_with_a_limit_on_volume_the_rest_works_on_at_both(tmp_path):
    simulation, _, found = both(tmp_path, "1h", 5, 0.02)
    assert found == []
    assert "above_participation" in simulation.orders["status"]
    parts = simulation.fills.filter(~simulation.fills["is_bracket_exit"])
    assert parts.group_by("as_of", "symbol", "side", "reason").len()["len"].max() > 2


def test_exits_that_rest_over_nights_and_through_a_split(tmp_path):
    simulation, _, found = both(tmp_path, "4h", 11, None)
    assert found == []
    assert {"gtc", "day", "opg"} <= set(simulation.orders["time_in_force"])


def test_a_broker_where_each_order_has_its_own_volume_is_told_apart(tmp_path, monkeypatch):
    fill = PaperBook._fill

    def alone(book, order, touch):
        book._taken.clear()
        fill(book, order, touch)

    monkeypatch.setattr(PaperBook, "_fill", alone)
    _, _, found = both(tmp_path, "1h", 3, 0.02)
    assert any(line.startswith("fill only live") for line in found)


def test_a_broker_that_wakes_targets_in_their_entrys_bar_is_told_apart(tmp_path, monkeypatch):
    wake = PaperBook._wake

    def early(book, leg, touch):
        wake(book, leg, touch)
        leg.eligible_from = touch.bar_start

    monkeypatch.setattr(PaperBook, "_wake", early)
    _, _, found = both(tmp_path, "1h", 3, None)
    assert any(line.startswith("fill only live") for line in found)


def test_the_part_says_what_it_found(tmp_path):
    config = {"sessions": 4, "runs": [{"horizon": "1d", "participation": None, "seed": 2}]}
    result = live_replay.measure_with(config, Run(tmp_path))
    (run,) = result["runs"]
    assert run["mismatches"] == 0
    assert run["fills"] > 0
    assert "**Nothing differs.**" in live_replay.sections(result)
    run["mismatches"] = 3
    assert "**3 things differ.**" in live_replay.sections(result)
    assert live_replay.pictures(result) == {}
