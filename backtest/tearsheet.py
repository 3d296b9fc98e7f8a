"""The tear sheet: one HTML file that needs nothing from outside.

It is given numbers and frames and fetches nothing; how a page stands alone is in
:mod:`backtest.page`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import polars as pl

from backtest.benchmark import UNIVERSE
from backtest.metric_names import BY_NAME, DASH, Form, write_interval, write_value
from backtest.metrics import session_curve, session_series
from backtest.overfitting import CONFIDENCE
from backtest.page import Page, Panel
from backtest.simulation import Simulation
from backtest.tearsheet_charts import rolling_window, tear_sheet_charts
from backtest.tearsheet_tables import (
    cost_panels,
    group_panels,
    metrics_panel,
    monthly_panel,
    order_panel,
    overfitting_panel,
)
from market.errors import BacktestError

_SHORT_SESSIONS = 126
_Card = tuple[str, str, str]


def render_tear_sheet(
    metrics: Mapping[str, object],
    simulation: Simulation,
    *,
    title: str,
    subtitle: str,
    benchmark: pl.DataFrame | None = None,
) -> str:
    """Return a tear sheet as one standalone HTML document.

    Parameters
    ----------
    metrics : mapping
        From :func:`backtest.metrics.compute_metrics`, with the same benchmark; with
        ``overfitting`` from :func:`backtest.overfitting.judge_overfitting` where trials were
        counted.
    simulation : Simulation
        The simulation that the metrics are of.
    title, subtitle : str
        Plain text; escaped here.
    benchmark : pl.DataFrame, optional
        ``session``, ``value`` (any scale) from :mod:`backtest.benchmark`; drawn from the same
        start.

    Returns
    -------
    str
        HTML, about 5 MB, nearly all of it plotly: works offline, light and dark.

    Raises
    ------
    BacktestError
        When metrics and simulation are of different horizons, or the benchmark has no value
        at the start.
    """
    if metrics.get("horizon") != simulation.horizon:
        raise BacktestError(
            "the metrics are of another simulation",
            got=metrics.get("horizon"),
            allowed=simulation.horizon,
            remedy="pass the metrics that were computed from this simulation",
        )
    m = cast(Mapping[str, Any], metrics)
    name = None if benchmark is None else str(m["benchmark"] or UNIVERSE)
    curve = session_curve(simulation)
    series = session_series(curve, benchmark)
    return Page(
        title=title,
        subtitle=subtitle,
        period=f"{m['start']} to {m['end']}, {m['sessions']:,} sessions; horizon {m['horizon']}",
        tone=_tone(m),
        verdict=_verdict(m),
        cards=_cards(m),
        panels=_panels(m, curve, len(series), name),
        charts=tear_sheet_charts(m, curve, series, name),
        footnotes=_footnotes(m),
    ).render()


def _panels(
    m: Mapping[str, Any], curve: pl.DataFrame, sessions: int, name: str | None
) -> list[Panel]:
    held = "" if name is None else f" {name}: held, before costs."
    equity = f"USD at the end of each session; thinner with costs added back.{held}"
    skill = {r["metric"]: r for r in m["table"] if r["group"] == "all"}["rank_ic"]
    ic = write_interval((skill["low"], skill["high"]), Form.SKILL)
    mean = write_value(skill["value"], Form.SKILL)
    window = rolling_window(sessions)
    overfitting = overfitting_panel(m)
    return [
        Panel("Equity", equity, chart="equity", is_wide=True),
        monthly_panel(curve),
        Panel("Drawdown", "Below the highest equity so far.", chart="drawdown"),
        Panel("Rolling Sharpe ratio", f"Of the newest {window} sessions.", chart="rolling"),
        Panel("Rank IC by month", f"Mean {mean}, 95%: {ic}.", chart="ic"),
        Panel("Exposure", "Share of equity, mean of each session's bars.", chart="exposure"),
        Panel("Turnover", "Purchases and sales per session, of equity.", chart="turnover"),
        order_panel(m),
        metrics_panel(m),
        *([] if overfitting is None else [overfitting]),
        *cost_panels(m),
        *group_panels(m),
    ]


def _footnotes(m: Mapping[str, Any]) -> list[str]:
    drawn = m["bootstrap"]
    block = drawn["block_sessions"]
    return [
        "Simulated, not traded: orders were decided by the live trading code and fill at the open "
        "of the next bar.",
        f"Intervals are 95% stationary-bootstrap intervals ({drawn['draws']:,} draws of blocks of "
        f"{block:.1f} sessions on average; automatic choice of Politis and White). They do not "
        "know how often one looked; the deflated Sharpe ratio does. Those of drawdowns are what "
        "other orders of like sessions would have brought.",
        "Ratios are annualised with 252 sessions; no risk-free rate is taken off and cash earns "
        "nothing.",
        "A trade is a closed purchase or sale, matched by average price, after costs and without "
        "dividends.",
        "With costs added back means exactly that: the same orders, their costs returned; not a "
        "simulation in which costs were never paid.",
    ]


def _tone(m: Mapping[str, Any]) -> str:
    """Return the colour of the verdict: green only for what so many looks do not explain."""
    tone, overfitting = _side_of_zero(m), m.get("overfitting")
    if tone != "green" or overfitting is None:
        return tone
    deflated = overfitting["deflated_sharpe_ratio"]
    return "green" if deflated is not None and deflated >= CONFIDENCE else "gold"


def _side_of_zero(m: Mapping[str, Any]) -> str:
    low, high = m["sharpe_interval"]
    if low is None or low <= 0.0 <= high:
        return "gold"
    return "green" if low > 0.0 else "red"


def _verdict(m: Mapping[str, Any]) -> list[str]:
    gained = write_value(m["total_return"], Form.PERCENT)
    before = write_value(m["total_return_before_costs"], Form.PERCENT)
    costs = write_value(m["total_costs_usd"], Form.USD)
    reading = {
        "gold": "The interval of the Sharpe ratio includes zero: it may be chance.",
        "green": "The interval of the Sharpe ratio lies above zero after costs.",
        "red": "The interval of the Sharpe ratio lies below zero: after costs this loses money.",
    }[_side_of_zero(m)]
    if m["sessions"] < _SHORT_SESSIONS:
        reading += f" Annual figures are stretched from {m['sessions']} sessions."
    if m["sharpe_interval"][0] is None:
        reading = "There is too little to judge: the Sharpe ratio has no interval."
    said = [f"{reading} Costs took {costs}: {before} with them added back, {gained} after."]
    stopped = stopped_notice(m)
    said += [] if stopped is None else [stopped]
    overfitting = m.get("overfitting")
    return said if overfitting is None else [*said, str(overfitting["verdict"])]


def stopped_notice(metrics: Mapping[str, Any]) -> str | None:
    """Say from when on the limit on drawdowns kept the account from trading, if it did."""
    if metrics.get("stopped_from") is None:
        return None
    return (
        f"From {metrics['stopped_from']} on the limit on drawdowns (risk.drawdown_share) refused "
        "what opens a position. Live, a person would have had to decide; here nobody did."
    )


def _cards(m: Mapping[str, Any]) -> list[_Card]:
    whole = {r["metric"]: r for r in m["table"] if r["group"] == "all"}

    def card(metric: str, detail: str = "") -> _Card:
        row, name = whole.get(metric), BY_NAME[metric]
        if row is None or row["value"] is None:
            return name.label, DASH, detail
        bounds = (row["low"], row["high"])
        known = "" if None in bounds else f"95%: {write_interval(bounds, name.form)}"
        return (
            name.label,
            write_value(row["value"], name.form),
            "; ".join(filter(None, (known, detail))),
        )

    since = f"from {m['max_drawdown_from']}" if m["max_drawdown_from"] else ""
    lasted = f"{m['max_drawdown_sessions']:,} sessions {since}".strip()
    found = [
        card("total_return"),
        card("annual_return"),
        card("sharpe_ratio"),
        card("sharpe_ratio_before_costs"),
        *_overfitting_cards(m),
        card("rank_ic"),
        card("annual_volatility"),
        (
            BY_NAME["max_drawdown"].label,
            write_value(m["max_drawdown"], Form.PERCENT),
            lasted,
        ),
        card("hit_rate", f"{m['trades']:,} trades"),
        card("annual_turnover"),
    ]
    if m["benchmark"] is None:
        return found
    return [*found, card("alpha", f"beta {write_value(m['beta'], Form.NUMBER)}")]


def _overfitting_cards(m: Mapping[str, Any]) -> list[_Card]:
    found = m.get("overfitting")
    if found is None:
        return []
    trials = found["trials"]["total"]
    return [
        (
            "Deflated Sharpe",
            write_value(found["deflated_sharpe_ratio"], Form.NUMBER),
            f"probability, after {trials:,} {'trial' if trials == 1 else 'trials'}",
        ),
        (
            "Overfitting",
            write_value(found["probability_of_overfitting"], Form.PERCENT),
            "probability, of choosing among engines",
        ),
    ]
