"""Several backtests side by side: one page, and the same rows for a terminal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from backtest.metric_names import DASH, METRICS, Form, write_interval, write_value
from backtest.metrics import drawdowns
from backtest.page import TONES, Page, Panel, bars, chart, line, table_html
from backtest.session_metrics import block_of, draw_sessions, interval, sharpe_ratios
from backtest.tearsheet_charts import rolling_sharpe, rolling_window
from market.errors import BacktestError

MOST_RUNS = len(TONES)

SESSION_SCHEMA = pl.Schema(
    {
        "session": pl.Date(),
        "equity_usd": pl.Float64(),
        "costs_usd": pl.Float64(),
        "turnover": pl.Float64(),
        "gross_exposure": pl.Float64(),
        "net_exposure": pl.Float64(),
    }
)
"""What is kept of each session of a run: :func:`backtest.metrics.session_curve`."""


@dataclass(frozen=True)
class Run:
    """A backtest to compare.

    Attributes
    ----------
    name : str
        What to call it; another than the others'.
    metrics : mapping
        From :func:`backtest.metrics.compute_metrics`.
    sessions : pl.DataFrame
        ``SESSION_SCHEMA``; the first row is the starting cash.
    """

    name: str
    metrics: Mapping[str, Any]
    sessions: pl.DataFrame

    @property
    def returns(self) -> pl.DataFrame:
        """``session`` and ``value``: the return of each session."""
        equity = self.sessions["equity_usd"]
        found = pl.DataFrame({"session": self.sessions["session"], "value": equity.pct_change()})
        return found[1:].with_columns(pl.col("value").fill_null(0.0))


def compare_runs(runs: Sequence[Run], *, seed: int) -> list[dict[str, Any]]:
    """Return one row per metric with every run's value and interval.

    Parameters
    ----------
    runs : sequence of Run
        Two to six, of different names.
    seed : int
        Of the bootstrap of differences.

    Returns
    -------
    list of dict
        ``metric``, ``label``, ``form`` and ``values``: run to ``value``, ``low``, ``high``. The
        last rows are what was tried, and the difference of the Sharpe ratio to the first run's
        over the sessions that both have, the same sessions drawn for both.

    Raises
    ------
    BacktestError
        When there are fewer than two or more than six, or two share a name.
    """
    _check(runs)
    tables = {r.name: _whole(r.metrics) for r in runs}
    rows: list[dict[str, Any]] = [
        _row(
            "sessions",
            "Sessions",
            Form.COUNT,
            {r.name: _alone(r.metrics["sessions"]) for r in runs},
        )
    ]
    for name in METRICS:
        values = {run: table.get(name.metric, _alone(None)) for run, table in tables.items()}
        if any(v["value"] is not None for v in values.values()):
            rows.append(_row(name.metric, name.label, name.form, values))
    for key, label, form in (
        ("deflated_sharpe_ratio", "Deflated Sharpe ratio", Form.NUMBER),
        ("probability_of_overfitting", "Probability of overfitting", Form.PERCENT),
    ):
        found = {r.name: _alone((r.metrics.get("overfitting") or {}).get(key)) for r in runs}
        rows.append(_row(key, label, form, found))
    trials = {
        r.name: _alone(((r.metrics.get("overfitting") or {}).get("trials") or {}).get("total"))
        for r in runs
    }
    rows.append(_row("trials", "Trials counted", Form.COUNT, trials))
    leads = {r.name: _lead(runs[0], r, seed) for r in runs}
    label = f"Sharpe less that of {runs[0].name}"
    rows.append(_row("sharpe_difference", label, Form.NUMBER, leads))
    return rows


def written_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows as text: the label, then value and interval of each run on two lines."""
    return [
        [row["label"], *(_cell(v, row["form"]) for v in row["values"].values())] for row in rows
    ]


def render_comparison(runs: Sequence[Run], *, title: str, seed: int) -> str:
    """Return a page on several backtests, side by side, that stands alone.

    Raises
    ------
    BacktestError
        As :func:`compare_runs`.
    """
    rows = compare_runs(runs, seed=seed)
    names = [r.name for r in runs]
    spans = {(r.metrics["start"], r.metrics["end"]) for r in runs}
    table = table_html(written_rows(rows), ("", *names), name="runs")
    return Page(
        title=title,
        subtitle=f"{len(runs)} backtests: " + ", ".join(names),
        period="All over the same sessions."
        if len(spans) == 1
        else "Their periods differ; the difference of Sharpe ratios is over shared sessions.",
        tone="blue",
        verdict=[comparison_verdict(runs, rows)],
        panels=[
            Panel("Growth of one dollar", "After costs.", chart="growth", is_wide=True),
            Panel("Drawdown", "Below the highest equity so far.", chart="drawdown"),
            Panel("Rolling Sharpe ratio", "Of half a year, or a third.", chart="rolling"),
            Panel("Rank IC by month", chart="ic", is_wide=True),
            Panel("Side by side", "With 95% intervals.", body=table, is_wide=True),
        ],
        charts=_charts(runs),
        footnotes=[
            "Simulated, not traded. Each column is a backtest as it was recorded.",
            "The difference of Sharpe ratios draws the same sessions for both runs, so what moves "
            "both of them is no part of it. The best of several is lucky too: see the trials.",
        ],
    ).render()


def comparison_verdict(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in one sentence whether any run differs from the first."""
    leads = next(r for r in rows if r["metric"] == "sharpe_difference")["values"]
    apart = {
        name: v["value"]
        for name, v in leads.items()
        if v["low"] is not None and (v["low"] > 0.0 or v["high"] < 0.0)
    }
    if not apart:
        return f"No Sharpe ratio differs from that of {runs[0].name} by more than chance."
    said = [f"{n} {'above' if v > 0 else 'below'}" for n, v in apart.items()]
    return f"Against {runs[0].name}, by more than chance: {', '.join(said)}."


def _check(runs: Sequence[Run]) -> None:
    names = [r.name for r in runs]
    if not 2 <= len(runs) <= MOST_RUNS or len(set(names)) < len(names):
        raise BacktestError(
            "runs to compare",
            got=names,
            allowed=f"two to {MOST_RUNS} different ones",
            remedy="name others",
        )


def _whole(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of the whole period; of a record without a table the bare values."""
    table = metrics.get("table")
    if table is None:
        return {n.metric: _alone(metrics.get(n.metric)) for n in METRICS}
    return {r["metric"]: r for r in table if r["group"] == "all"}


def _alone(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None}


def _row(metric: str, label: str, form: Form, values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {run: {k: v[k] for k in ("value", "low", "high")} for run, v in values.items()}
    return {"metric": metric, "label": label, "form": form, "values": kept}


def _lead(first: Run, other: Run, seed: int) -> dict[str, Any]:
    if first is other:
        return _alone(None)
    both = first.returns.join(other.returns, on="session", suffix="_other").sort("session")
    a, b = both["value"].to_numpy(), both["value_other"].to_numpy()
    if len(a) < 10:
        return _alone(None)
    block = max(block_of(a), block_of(b))
    draws = draw_sessions(len(a), block=block, seed=seed)
    value = float((sharpe_ratios(b[None, :]) - sharpe_ratios(a[None, :]))[0])
    low, high = interval(
        [sharpe_ratios(b[draws.rows]) - sharpe_ratios(a[draws.rows])], draws.tail()
    )
    return {"value": value if np.isfinite(value) else None, "low": low, "high": high}


def _cell(value: Mapping[str, Any], form: Form) -> str:
    if value["value"] is None:
        return DASH
    bounds = (value["low"], value["high"])
    under = "" if None in bounds else f"\n{write_interval(bounds, form)}"
    return f"{write_value(value['value'], form)}{under}"


def _charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    growth, down, rolling, ics = [], [], [], []
    for run, tone in zip(runs, TONES, strict=False):
        days = [_text(d) for d in run.sessions["session"]]
        equity = run.sessions["equity_usd"].to_numpy()
        returns = run.returns["value"].to_numpy()
        window = rolling_window(len(returns))
        growth.append(line(run.name, days, (equity / equity[0]).tolist(), tone, width=1.8))
        down.append(line(run.name, days, drawdowns(equity).tolist(), tone, width=1.3))
        rolling.append(line(run.name, days[1:], rolling_sharpe(returns, window), tone))
        months = run.metrics["rank_ic_by_month"]
        ics.append(
            bars(
                [r["month"] for r in months],
                [r["rank_ic"] for r in months],
                tone,
                ".3f",
                run.name,
            )
        )
    return [
        chart("growth", growth, {"tickformat": ".2f"}),
        chart("drawdown", down, {"tickformat": ".1%"}),
        chart("rolling", rolling, {"tickformat": ".1f"}),
        chart("ic", ics, {"tickformat": ".2f"}, {"type": "category"}),
    ]


def _text(day: dt.date) -> str:
    return day.isoformat()
