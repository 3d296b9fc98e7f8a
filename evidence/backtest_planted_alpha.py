"""Backtests on markets with planted alpha: what costs leave of it.

Measured in :mod:`evidence.backtest_planted_alpha_runs`; here is what the page says of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evidence.backtest_planted_alpha_runs import CONFIG, NAME, measure
from evidence.tables import interval, number, percent, percent_interval, table

__all__ = ["CONFIG", "NAME", "NEEDS_REAL_BARS", "TITLE", "measure", "pictures", "sections"]

TITLE = "Backtests on synthetic markets with planted alpha"
NEEDS_REAL_BARS = False
_PERCENT = {
    "annual_return_before_costs": "return a year, before costs",
    "annual_return": "return a year, after costs",
    "annual_volatility": "volatility a year",
    "max_drawdown": "deepest drawdown",
    "average_gross_exposure": "gross exposure",
    "average_net_exposure": "net exposure",
}
_NUMBER = {"annual_turnover": "turnover a year, times equity", "beta": "beta", "rank_ic": "rank IC"}


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    config, seeds = result["config"], result["seeds"]
    n, judged = len(seeds), result["overfitting"]
    planted = ", ".join(f"{v:g} at {h}" for h, v in config["alpha"].items())
    return f"""\
{n} consecutive seeds (0 to {n - 1}) of {config["symbols"]} symbols over {config["sessions"]}
sessions, horizon {config["horizon"]}; planted is a rank IC of {planted}. Forecasts and settings
are those of the chapter before, the first {config["min_train_sessions"]} sessions to learn from,
again each {config["test_sessions"]}: {seeds[0]["sessions"]} sessions a seed are traded. Means over
seeds with Student's t interval.

**In {result["above_zero_before_costs"]} of {n}** seeds the interval of the Sharpe ratio before
costs lies above zero, in {result["above_zero_after_costs"]} that after costs. Before costs it is
{_estimate(result["sharpe_ratio_before_costs"])} on average, after them
{_estimate(result["sharpe_ratio"])}.

{_seeds(seeds)}

{_means(result["means"])}

### What costs take

A year, as a share of the capital at the start:

{_lines(result["lines"])}

The same orders at other costs:

{_sensitivity(result["sensitivity"])}

{_capacity(result["capacity"], n)}

### What is left after counting looks

{result["trials"]} trials a seed: its engines, and the one backtest. Medians over seeds:
probabilistic Sharpe ratio {number(judged["probabilistic_sharpe_ratio"], 2, signed=False)}, deflated
{number(judged["deflated_sharpe_ratio"], 2, signed=False)} (above 0.95 in
{result["deflated_above"]} of {n}), probability of overfitting
{number(judged["probability_of_overfitting"], 2, signed=False)}, all after costs.
"""


def _triple(e: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    return e["mean"], e["low"], e["high"]


def _estimate(e: Mapping[str, Any]) -> str:
    return interval(*_triple(e), digits=2)


def _seeds(seeds: list[dict[str, Any]]) -> str:
    rows = [
        (
            f["seed"],
            interval(f["sharpe_ratio_before_costs"], *f["sharpe_interval_before_costs"], digits=2),
            interval(f["sharpe_ratio"], *f["sharpe_interval"], digits=2),
            number(f["overfitting"]["deflated_sharpe_ratio"], 2, signed=False),
            f["capacity"]["statement"],
        )
        for f in seeds
    ]
    head = ("seed", "Sharpe before costs", "after costs", "deflated", "capacity")
    return table(head, rows)


def _means(means: Mapping[str, Any]) -> str:
    rows = [(words, percent_interval(*_triple(means[n]))) for n, words in _PERCENT.items()]
    rows += [
        (words, interval(*_triple(means[n]), digits=3 if n == "rank_ic" else 2))
        for n, words in _NUMBER.items()
    ]
    return table(("measure", "mean over seeds"), rows)


def _lines(lines: Mapping[str, Any]) -> str:
    rows = [
        (name.removesuffix("_usd"), percent_interval(*_triple(e), digits=2))
        for name, e in lines.items()
    ]
    total = percent(sum(e["mean"] for e in lines.values()), 2)
    return table(("line", "share of capital a year"), [*rows, ("together", total)])


def _sensitivity(rows: list[dict[str, Any]]) -> str:
    return table(
        ("costs times", "Sharpe ratio", "total return"),
        [
            (
                f"{r['multiple']:g}",
                _estimate(r["sharpe_ratio"]),
                percent_interval(*_triple(r["total_return"])),
            )
            for r in rows
        ],
    )


def _capacity(found: Mapping[str, Any], seeds: int) -> str:
    if not found["found"]:
        return "No seed has a capacity: the table above says why."
    least, median, most = (f"{found[k]:,.0f}" for k in ("least_usd", "median_usd", "most_usd"))
    return (
        f"Capacity, the capital at which the net Sharpe ratio is half: {median} USD in the median "
        f"of {found['found']} of {seeds} seeds ({least} to {most})."
    )


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """Return no picture."""
    return {}
