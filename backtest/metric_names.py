"""What metrics are called where people read them, and how their values are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

DASH = "–"


class Form(StrEnum):
    """How a value is written."""

    PERCENT = "percent"
    NUMBER = "number"
    SKILL = "skill"
    TIMES = "times"
    COUNT = "count"
    USD = "usd"


@dataclass(frozen=True, slots=True)
class MetricName:
    """A metric of the table, its label, its form, and what else a reader should know."""

    metric: str
    label: str
    form: Form
    note: str = ""


METRICS: tuple[MetricName, ...] = (
    MetricName("total_return", "Total return", Form.PERCENT),
    MetricName("annual_return", "Annual return", Form.PERCENT, "compounded"),
    MetricName("annual_volatility", "Volatility", Form.PERCENT, "a year"),
    MetricName("sharpe_ratio", "Sharpe ratio", Form.NUMBER),
    MetricName("sortino_ratio", "Sortino ratio", Form.NUMBER),
    MetricName("calmar_ratio", "Calmar ratio", Form.NUMBER),
    MetricName("max_drawdown", "Deepest drawdown", Form.PERCENT),
    MetricName("max_drawdown_sessions", "Its length", Form.COUNT, "sessions to recovery, or end"),
    MetricName("session_hit_rate", "Sessions won", Form.PERCENT),
    MetricName("hit_rate", "Trades won", Form.PERCENT),
    MetricName("profit_factor", "Profit factor", Form.NUMBER, "gains over losses of trades"),
    MetricName("mean_trade_usd", "Mean trade", Form.USD),
    MetricName("tail_ratio", "Tail ratio", Form.NUMBER, "95th over 5th percentile of sessions"),
    MetricName("annual_turnover", "Turnover", Form.TIMES, "of equity a year, both sides"),
    MetricName("average_gross_exposure", "Gross exposure", Form.PERCENT, "mean"),
    MetricName("average_net_exposure", "Net exposure", Form.PERCENT, "mean"),
    MetricName("beta", "Beta", Form.NUMBER, "to the benchmark"),
    MetricName("alpha", "Alpha", Form.PERCENT, "a year, beyond beta"),
    MetricName("benchmark_total_return", "Benchmark's return", Form.PERCENT),
    MetricName("ic", "IC", Form.SKILL),
    MetricName("rank_ic", "Rank IC", Form.SKILL),
    MetricName("forecast_hit_rate", "Forecasts right", Form.PERCENT, "in sign"),
    MetricName("total_return_before_costs", "Return before costs", Form.PERCENT),
    MetricName("annual_return_before_costs", "Annual, before costs", Form.PERCENT),
    MetricName("sharpe_ratio_before_costs", "Sharpe before costs", Form.NUMBER),
)
BY_NAME = {m.metric: m for m in METRICS}


def write_value(value: float | None, form: Form) -> str:
    """Return a value as it is read; a dash where there is none.

    Examples
    --------
    >>> write_value(-0.0312, Form.PERCENT), write_value(None, Form.NUMBER)
    ('−3.1%', '–')
    """
    if value is None:
        return DASH
    text = {
        Form.PERCENT: f"{value:,.1%}",
        Form.NUMBER: f"{value:,.2f}",
        Form.SKILL: f"{value:,.3f}",
        Form.TIMES: f"{value:,.1f}×",
        Form.COUNT: f"{value:,.0f}",
        Form.USD: f"${value:,.0f}",
    }[form]
    return text.replace("$-", "-$").replace("-", "−")


def write_interval(bounds: Sequence[float | None], form: Form) -> str:
    """Return a 95 percent interval as it is read."""
    low, high = bounds
    if low is None or high is None:
        return "no interval"
    return f"{write_value(low, form)} to {write_value(high, form)}"


def headline(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return label, value and interval of every metric of the whole period, as text.

    Parameters
    ----------
    metrics : mapping
        From :func:`backtest.metrics.compute_metrics`; with ``overfitting`` its numbers too.
    """
    whole = {r["metric"]: r for r in metrics["table"] if r["group"] == "all"}
    found: list[tuple[str, str, str]] = []
    for name in METRICS:
        row = whole.get(name.metric)
        if row is not None and row["value"] is not None:
            bounds = (row["low"], row["high"])
            known = DASH if None in bounds else write_interval(bounds, name.form)
            found.append((name.label, write_value(row["value"], name.form), known))
    judged = metrics.get("overfitting")
    if judged is None:
        return found
    chance, luck = judged["deflated_sharpe_ratio"], judged["probability_of_overfitting"]
    return [
        *found,
        ("Deflated Sharpe ratio", write_value(chance, Form.NUMBER), ""),
        ("Probability of overfitting", write_value(luck, Form.PERCENT), ""),
        ("Trials counted", write_value(judged["trials"]["total"], Form.COUNT), ""),
    ]
