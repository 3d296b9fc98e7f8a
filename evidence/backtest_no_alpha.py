"""Backtests on markets in which nothing is planted: how often one looks like skill.

Measured in :mod:`evidence.backtest_no_alpha_runs`; here is what the page says of it.
"""

from __future__ import annotations

from typing import Any

from evidence import pictures as draw
from evidence.backtest_no_alpha_runs import CONFIDENCE, CONFIG, NAME, measure
from evidence.tables import interval, number, percent, table

__all__ = ["CONFIG", "NAME", "NEEDS_REAL_BARS", "TITLE", "measure", "pictures", "sections"]

TITLE = "Backtests on synthetic markets without alpha"
NEEDS_REAL_BARS = False
_JUDGES = {
    "probabilistic_sharpe_ratio": "probabilistic Sharpe ratio, after costs",
    "deflated_before_costs": "deflated Sharpe ratio, before costs",
    "deflated_sharpe_ratio": "deflated Sharpe ratio, after costs",
}


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    config, seeds = result["config"], result["seeds"]
    low, high = result["wanted"]
    before = result["before_costs"]
    trials = " or ".join(str(n) for n in result["trials"])
    luck = result["probability_of_overfitting"]
    rows = [
        (
            words,
            f"{found['with_interval']}",
            f"{found['excluding_zero']}",
            f"{found['above_zero']}",
            f"{found['below_zero']}",
            interval(*(found["sharpe_ratio"][k] for k in ("mean", "low", "high")), digits=2),
        )
        for words, found in (("before costs", before), ("after costs", result["after_costs"]))
    ]
    head = ("Sharpe ratio", "seeds", "excluding zero", "above", "below", "mean over seeds")
    judges = [
        (
            words,
            f"{result['passing'][name]['passing']} of {result['passing'][name]['judged']}",
            number(result["passing"][name]["median"], 2, signed=False),
        )
        for name, words in _JUDGES.items()
    ]
    return f"""\
{len(seeds)} consecutive seeds (0 to {len(seeds) - 1}) of {config["symbols"]} symbols over
{config["sessions"]} sessions, horizon {config["horizon"]}. Forecasts are real walk-forward ones:
{" and ".join(config["families"])}, their meta-learner and their blend, calibrated, learn from
{config["min_train_sessions"]} sessions on and again each {config["test_sessions"]}. The blend is
traded long and short by the live targets, planning and risk code with the settings as installed:
{seeds[0]["sessions"]} sessions a seed. The ensemble trades little where it has found little: on
average {percent(_mean(seeds, "gross_exposure"))} of equity is invested.

**{before["excluding_zero"]} of {len(seeds)}** intervals of the Sharpe ratio before costs exclude
zero ({before["above_zero"]} above it, {before["below_zero"]} below):
{"within" if result["within"] else "**outside**"} the wanted {low} to {high}.

{table(head, rows)}

![intervals of all seeds](images/evidence/{NAME}_intervals.png)

What counts how often one looked ({trials} trials a market: its engines, and the one backtest) is
above {CONFIDENCE:g} in:

{table(("judge", f"above {CONFIDENCE:g}", "median"), judges)}

The probability of overfitting, of choosing the best of the engines by rank IC, is
{interval(luck["mean"], luck["low"], luck["high"], 3, signed=False)} on average over seeds; one
half is what engines without any difference would give.
"""


def _mean(seeds: list[dict[str, Any]], name: str) -> float:
    return sum(f[name] for f in seeds) / len(seeds)


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """See :class:`evidence.part.Part`."""
    known = [f["before_costs"] for f in result["seeds"] if f["before_costs"]["low"] is not None]
    label = "Sharpe ratio before costs with 95% interval, seeds in order of the estimate"
    return {f"{NAME}_intervals.png": draw.many_intervals(known, label)}
