"""The tear sheet: one HTML file that needs nothing from outside.

It is given numbers and frames and fetches nothing; the file carries its own copy of plotly and
forbids itself every network access.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any, cast

import polars as pl

from backtest.metrics import drawdowns, session_curve
from backtest.simulation import Simulation
from market.errors import BacktestError

_DASH = "–"
_FEW_MONTHS = 5
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
        From :func:`backtest.metrics.compute_metrics`.
    simulation : Simulation
        The simulation that the metrics are of.
    title, subtitle : str
        Plain text; escaped here.
    benchmark : pl.DataFrame, optional
        ``session``, ``value`` (any scale) from
        :func:`backtest.benchmark.universe_benchmark`; drawn from the same start.

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
    curve = session_curve(simulation)
    template = Template(resources.files("backtest").joinpath("tearsheet.html").read_text("utf-8"))
    return template.substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        period=f"{m['start']} to {m['end']}, {m['sessions']:,} sessions; horizon {m['horizon']}",
        tone=_tone(m),
        verdict=_verdict(m),
        cards="\n".join(_card_html(card) for card in _cards(m)),
        equity_note="USD at the end of each session, after costs and, thinner, with costs added "
        "back." + ("" if benchmark is None else " Universe: equal weight, before costs."),
        ic_note=f"Mean {_number(m['rank_ic'], 3)}, {_interval(m['rank_ic_interval'], 3)}.",
        cost_table=_table(_cost_rows(m)),
        order_table=_table(_order_rows(m)),
        footnotes="\n".join(f"<li>{html.escape(note)}</li>" for note in _FOOTNOTES),
        plotly=_plotly(),
        charts=_as_script(_charts(m, simulation, curve, benchmark)),
    )


_FOOTNOTES = (
    "Simulated, not traded: orders were decided by the live trading code and fill in full at "
    "the open of the next bar, whatever their size; there is no market impact in these numbers.",
    "Intervals are 95% stationary-bootstrap intervals. They do not account for how many variants "
    "were tried before this one.",
    "Ratios are annualised with 252 sessions; no risk-free rate is taken off and cash earns "
    "nothing. Borrowing shares costs nothing here.",
    "A trade is a closed purchase or sale, matched by average price, after costs and without "
    "dividends.",
    "With costs added back means exactly that: the same orders, their costs returned; not a "
    "simulation in which costs were never paid.",
)


def _tone(m: Mapping[str, Any]) -> str:
    low, high = m["sharpe_interval"]
    if low is None or low <= 0.0 <= high:
        return "gold"
    return "green" if low > 0.0 else "red"


def _verdict(m: Mapping[str, Any]) -> str:
    gained, before = _percent(m["total_return"]), _percent(m["total_return_before_costs"])
    costs = (
        f"Costs took {_usd(m['total_costs_usd'])}: {before} with them added back, {gained} after."
    )
    reading = {
        "gold": "The interval of the Sharpe ratio includes zero: it may be chance.",
        "green": "The interval of the Sharpe ratio lies above zero after costs.",
        "red": "The interval of the Sharpe ratio lies below zero: after costs this loses money.",
    }[_tone(m)]
    if m["sessions"] < _SHORT_SESSIONS:
        reading += f" Annual figures are stretched from {m['sessions']} sessions."
    if m["sharpe_interval"][0] is None:
        reading = "There is too little to judge: the Sharpe ratio has no interval."
    return html.escape(f"{reading} {costs}")


def _cards(m: Mapping[str, Any]) -> list[_Card]:
    since = f", from {m['max_drawdown_from']}" if m["max_drawdown_from"] else ""
    return [
        ("Total return", _percent(m["total_return"]), f"{_percent(m['annual_return'])} a year"),
        ("Sharpe ratio", _number(m["sharpe_ratio"]), _interval(m["sharpe_interval"])),
        (
            "Sharpe before costs",
            _number(m["sharpe_ratio_before_costs"]),
            _interval(m["sharpe_interval_before_costs"]),
        ),
        (
            "Rank IC",
            _number(m["rank_ic"], 3),
            f"{_interval(m['rank_ic_interval'], 3)}, {m['rank_ic_sessions']:,} sessions",
        ),
        ("Volatility", _percent(m["annual_volatility"]), "annualised"),
        (
            "Deepest drawdown",
            _percent(m["max_drawdown"]),
            f"{m['max_drawdown_sessions']:,} sessions{since}",
        ),
        ("Sortino ratio", _number(m["sortino_ratio"]), f"Calmar {_number(m['calmar_ratio'])}"),
        ("Hit rate", _percent(m["hit_rate"]), f"of {m['trades']:,} trades"),
        ("Profit factor", _number(m["profit_factor"]), "gains over losses"),
        ("Turnover", f"{_number(m['annual_turnover'], 1)}×", "of equity a year, both sides"),
        ("Gross exposure", _percent(m["average_gross_exposure"]), "mean, of equity"),
        ("Net exposure", _percent(m["average_net_exposure"]), "mean, of equity"),
    ]


def _cost_rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Equity at the start", _usd(m["starting_equity_usd"])),
        ("Equity at the end", _usd(m["ending_equity_usd"])),
        ("Costs paid", _usd(m["total_costs_usd"])),
        ("Dividends, net of those paid on shorts", _usd(m["dividends_usd"])),
        ("Annual return before costs", _percent(m["annual_return_before_costs"])),
        ("Annual return after costs", _percent(m["annual_return"])),
    ]


def _order_rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Accepted", f"{m['orders']:,}"),
        ("Filled", f"{m['orders_filled']:,}"),
        ("Expired: the symbol did not trade", f"{m['orders_expired']:,}"),
        ("Reasons against orders (denials)", f"{m['denials']:,}"),
        *((f"· {code}", f"{count:,}") for code, count in m["denials_by_code"].items()),
        ("Closed trades", f"{m['trades']:,}"),
    ]


def _charts(
    m: Mapping[str, Any],
    simulation: Simulation,
    curve: pl.DataFrame,
    benchmark: pl.DataFrame | None,
) -> list[dict[str, Any]]:
    days = [d.isoformat() for d in curve["session"]]
    equity = curve["equity_usd"].to_numpy()
    gross = (curve["equity_usd"] + curve["costs_usd"]).to_list()
    lines = [
        _line("After costs", days, equity.tolist(), "blue", width=2.2),
        _line("Costs added back", days, gross, "grey", width=1.2),
    ]
    if benchmark is not None:
        held = _benchmark_line(benchmark, curve, simulation.starting_cash_usd)
        lines.append(_line("Universe", days, held, "gold", width=1.4, dash="dot"))
    sessions = (
        simulation.equity[1:]
        .group_by("session", maintain_order=True)
        .agg(pl.col("gross_exposure", "net_exposure").mean(), pl.col("turnover").sum())
    )
    at = [d.isoformat() for d in sessions["session"]]
    months = m["rank_ic_by_month"]
    ics = [row["rank_ic"] for row in months]
    by_month = _bars([row["month"] for row in months], ics, [_ic_tone(v) for v in ics], ".3f")
    if len(months) < _FEW_MONTHS:
        by_month["data"]["width"] = 0.15 * len(months)
    down = _line("Drawdown", days, drawdowns(equity).tolist(), "red", width=1.4)
    down["data"]["fill"] = "tozeroy"
    share: dict[str, Any] = {"tickformat": ".0%"}
    return [
        _chart("equity", lines, {"tickprefix": "$", "tickformat": ",.4~s"}),
        _chart("drawdown", [down], {"tickformat": ".1%"}),
        _chart(
            "ic",
            [by_month],
            {"tickformat": ".2f"},
            {"type": "category"},
        ),
        _chart(
            "exposure",
            [
                _line("Gross", at, sessions["gross_exposure"].to_list(), "blue", width=1.6),
                _line("Net", at, sessions["net_exposure"].to_list(), "gold", width=1.6),
            ],
            share,
        ),
        _chart("turnover", [_bars(at, sessions["turnover"].to_list(), "blue", ".1%")], share),
    ]


def _benchmark_line(benchmark: pl.DataFrame, curve: pl.DataFrame, start: float) -> list[float]:
    joined = curve.select("session").join_asof(
        benchmark.select("session", "value").sort("session"), on="session", strategy="backward"
    )["value"]
    if joined[0] is None:
        raise BacktestError(
            "the benchmark has no value at the start",
            got=f"first value on {benchmark['session'].min()}",
            allowed=f"a value on or before {curve['session'][0]}",
            remedy="pass a benchmark that begins a session earlier, or none",
        )
    return (joined / joined[0] * start).to_list()


def _ic_tone(value: float | None) -> str:
    return "green" if value is not None and value >= 0 else "red"


def _chart(
    name: str,
    traces: Sequence[dict[str, Any]],
    yaxis: dict[str, Any],
    xaxis: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {"id": name, "traces": list(traces), "yaxis": yaxis, "xaxis": xaxis or {"type": "date"}}


def _line(
    name: str, x: Sequence[str], y: Sequence[float], tone: str, *, width: float, dash: str = "solid"
) -> dict[str, Any]:
    data = {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y)}
    return {"tone": tone, "data": {**data, "line": {"width": width, "dash": dash}}}


def _bars(x: Sequence[str], y: Sequence[float], tone: str | list[str], form: str) -> dict[str, Any]:
    hover = f"%{{y:{form}}}<extra></extra>"
    data = {"type": "bar", "x": list(x), "y": list(y), "hovertemplate": hover}
    return {"tone": tone, "data": data}


def _as_script(value: object) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False).replace("</", "<\\/")


def _plotly() -> str:
    # The only bundle in the wheel; smaller ones would have to be downloaded.
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _card_html(card: _Card) -> str:
    label, value, detail = (html.escape(text) for text in card)
    return (
        f'<div class="card"><div class="label">{label}</div>'
        f'<div class="value">{value}</div><div class="detail">{detail}</div></div>'
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<table>{body}</table>"


def _number(value: float | None, digits: int = 2) -> str:
    return _DASH if value is None else f"{value:,.{digits}f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{value:.1%}".replace("-", "−")


def _usd(value: float | None) -> str:
    return _DASH if value is None else f"${value:,.0f}".replace("$-", "−$")


def _interval(bounds: Sequence[float | None], digits: int = 2) -> str:
    low, high = bounds
    if low is None or high is None:
        return "no interval"
    return f"95%: {_number(low, digits)} to {_number(high, digits)}"
