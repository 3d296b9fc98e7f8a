"""Backtests on synthetic markets: the settings, and what is counted over seeds."""

from __future__ import annotations

from copy import deepcopy

import pytest

from evidence import backtest_no_alpha_runs, backtests
from evidence.backtest_synthetic import backtest_synthetic
from evidence.backtests import metric
from evidence.part import Run
from execution.risk import RiskLimits
from execution.targets import TargetRules
from pipelines.settings import Settings
from tests.evidence.small import BACKTEST_NO_ALPHA, BACKTEST_PLANTED, result_of


def test_the_settings_are_those_of_an_installation_that_changed_none() -> None:
    fields = {name: field.default for name, field in Settings.model_fields.items()}
    assert fields["targets"] == TargetRules()
    assert fields["risk"] == RiskLimits()
    assert fields["orders"] == backtests.PLAN_RULES
    assert fields["costs"] == backtests.COSTS
    assert float(fields["starting_cash_usd"]) == backtests.STARTING_CASH_USD
    assert Settings.model_construct(costs=fields["costs"]).band_bps == backtests.BAND_BPS


def test_small_markets_without_alpha_go_the_whole_way() -> None:
    result = result_of("backtest_no_alpha")
    assert [f["seed"] for f in result["seeds"]] == [0, 1, 2]
    for found in result["seeds"]:
        assert found["fills"] > 20
        # Two members, their meta-learner, their blend, and the backtest.
        assert found["trials"] == 5
        assert found["return_after_costs"] < found["return_before_costs"]
        assert found["deflated_sharpe_ratio"] < found["probabilistic_sharpe_ratio"]
        assert found["deflated_sharpe_ratio"] < found["deflated_before_costs"]


def test_a_market_gives_the_same_to_the_bit() -> None:
    again = backtest_no_alpha_runs.one_seed(BACKTEST_NO_ALPHA, 1)
    assert again == result_of("backtest_no_alpha")["seeds"][1]


def test_a_killed_measurement_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    whole = result_of("backtest_no_alpha")
    left = Run(tmp_path)
    for seed in (0, 1):
        left.once(f"seed-{seed}", lambda seed=seed: whole["seeds"][seed])
    made: list[int] = []

    def one_seed(config, seed):
        made.append(seed)
        return whole["seeds"][seed]

    monkeypatch.setattr(backtest_no_alpha_runs, "one_seed", one_seed)
    found = backtest_no_alpha_runs.measure_with(BACKTEST_NO_ALPHA, left)
    assert made == [2]
    assert found["seeds"] == whole["seeds"]


def luck(low: float, high: float, deflated: float | None) -> dict:
    one = deepcopy(result_of("backtest_no_alpha")["seeds"][0])
    estimate = {"mean": (low + high) / 2.0, "low": low, "high": high}
    chances = ("probabilistic_sharpe_ratio", "deflated_sharpe_ratio", "deflated_before_costs")
    return {**one, "before_costs": estimate, **dict.fromkeys(chances, deflated)}


def test_intervals_count_on_either_side_and_what_cannot_be_judged_does_not() -> None:
    found = [luck(-1.0, 1.0, 0.5) for _ in range(180)]
    found += [luck(0.1, 2.0, 0.96) for _ in range(12)] + [luck(-2.0, -0.1, 0.0) for _ in range(7)]
    unknown = luck(0.0, 0.0, None)
    unknown["before_costs"] = {"mean": None, "low": None, "high": None}
    result = backtest_no_alpha_runs.together([*found, unknown])
    counts = {k: v for k, v in result["before_costs"].items() if k != "sharpe_ratio"}
    assert counts == {
        "with_interval": 199,
        "excluding_zero": 19,
        "above_zero": 12,
        "below_zero": 7,
    }
    assert result["wanted"] == [3, 19]
    assert result["within"]
    assert result["passing"]["deflated_sharpe_ratio"]["passing"] == 12
    assert result["passing"]["deflated_sharpe_ratio"]["judged"] == 199
    assert not backtest_no_alpha_runs.together([*found, luck(0.1, 1.0, 0.5)])["within"]


def test_planted_alpha_is_found_before_costs_and_each_multiple_of_them_takes_more() -> None:
    result = result_of("backtest_planted_alpha")
    assert result["above_zero_before_costs"] == 2
    ratios = [row["sharpe_ratio"]["mean"] for row in result["sensitivity"]]
    assert [row["multiple"] for row in result["sensitivity"]] == [0.0, 1.0, 2.0, 3.0]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[1] == pytest.approx(result["sharpe_ratio"]["mean"])


def test_the_lines_of_costs_add_up() -> None:
    result = result_of("backtest_planted_alpha")
    shares = [
        f["total_costs_usd"] / f["starting_equity_usd"] * 252 / f["sessions"]
        for f in result["seeds"]
    ]
    assert sum(line["mean"] for line in result["lines"].values()) == pytest.approx(
        sum(shares) / len(shares)
    )


def test_a_report_is_the_metrics_of_the_product_without_its_small_groups() -> None:
    report = backtest_synthetic(BACKTEST_PLANTED, 0)
    groups = {row["group"].split("=")[0] for row in report["table"]}
    assert groups == {"all", "year", "regime"}
    assert metric(report, "sharpe_ratio")["value"] == report["sharpe_ratio"]
    assert metric(report, "no_such")["value"] is None
    assert report["overfitting"]["splits"]["strategies"] == [
        "ensemble",
        "ensemble.meta",
        "gradient_boosting",
        "linear",
    ]
