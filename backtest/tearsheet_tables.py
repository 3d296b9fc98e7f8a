"""The tables of a tear sheet: months, metrics with intervals, groups, costs, overfitting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from backtest.metric_names import BY_NAME, DASH, METRICS, Form, write_interval, write_value
from backtest.page import Panel, table_html
from backtest.simulation import FillStatus

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STRONGEST = 0.55
_GROUPS = {
    "year": "Year",
    "regime": "Regime",
    "sector": "Sector",
    "horizon": "Horizon",
    "confidence": "Confidence",
    "side": "Side",
}
_GROUP_COLUMNS = ("total_return", "sharpe_ratio", "hit_rate", "profit_factor", "rank_ic")
_LINE_NAMES = {
    "commission_usd": "Commission",
    "fees_usd": "Regulatory fees",
    "spread_usd": "Half-spread",
    "impact_usd": "Market impact",
    "slippage_usd": "Slippage",
    "borrow_usd": "Borrowing shares",
}
_FLOW_NAMES = {
    "dividend": "Dividends, net of those paid on shorts",
    "cash_in_lieu": "Cash in lieu of fractions",
}
_STATUS_NAMES = {
    FillStatus.EXPIRED.value: "Expired: the symbol did not trade",
    FillStatus.NO_VOLUME.value: "Expired: a bar without volume",
    FillStatus.ABOVE_PARTICIPATION.value: "Expired: more than the volume allows",
    FillStatus.LIMIT_NOT_REACHED.value: "Expired: limit not reached",
    FillStatus.LAPSED.value: "Lapsed: the leg before it did not fill",
}


def monthly_returns(curve: pl.DataFrame) -> pl.DataFrame:
    """Return the return of each month and year.

    Parameters
    ----------
    curve : pl.DataFrame
        From :func:`backtest.metrics.session_curve`.

    Returns
    -------
    pl.DataFrame
        ``year``, ``1`` to ``12``, and ``total``, as shares; null where there is no session.
    """
    change = pl.col("equity_usd") / pl.col("equity_usd").shift(1)
    steps = curve.select(
        pl.col("session").dt.year().alias("year"),
        pl.col("session").dt.month().cast(pl.String).alias("month"),
        change.alias("growth"),
    )[1:]
    months = steps.group_by("year", "month").agg(pl.col("growth").product() - 1.0)
    years = steps.group_by("year").agg(total=pl.col("growth").product() - 1.0)
    wide = months.pivot("month", index="year", values="growth")
    names = [str(k) for k in range(1, 13)]
    lacking = [n for n in names if n not in wide.columns]
    return (
        wide.with_columns(pl.lit(None, dtype=pl.Float64).alias(n) for n in lacking)
        .join(years, on="year")
        .select("year", *names, "total")
        .sort("year")
    )


def monthly_panel(curve: pl.DataFrame) -> Panel:
    """Return the table of months; the deeper the colour, the larger the return."""
    table = monthly_returns(curve)
    shades = table.select(pl.exclude("year", "total")).to_numpy()
    largest = max((abs(v) for v in shades.ravel() if v == v and v is not None), default=0.0)
    rows: list[list[str]] = []
    tints: list[list[str]] = []
    for year, *values in table.iter_rows():
        rows.append([str(year), *(_month(v) for v in values)])
        tints.append(["", *(_tint(v, largest) for v in values[:-1]), ""])
    body = table_html(rows, ("Year", *_MONTHS, "Year"), tints=tints, name="months")
    return Panel("Monthly returns", "Percent, after costs.", body=body, is_wide=True)


def metrics_panel(m: Mapping[str, Any]) -> Panel:
    """Return the table of every metric of the whole period with its interval."""
    whole = {r["metric"]: r for r in m["table"] if r["group"] == "all"}
    rows: list[list[str]] = []
    for name in METRICS:
        row = whole.get(name.metric)
        if row is None or row["value"] is None:
            continue
        label = f"{name.label}\n{name.note}" if name.note else name.label
        bounds = (row["low"], row["high"])
        under = "" if None in bounds else f"\n{write_interval(bounds, name.form)}"
        rows.append([label, f"{write_value(row['value'], name.form)}{under}"])
    note = "After costs; 95% intervals under the values."
    return Panel("Metrics", note, body=table_html(rows), is_tall=True)


def group_panels(m: Mapping[str, Any]) -> list[Panel]:
    """Return a table for each way of grouping that has two groups or more, or is of years."""
    found: list[Panel] = []
    for by, title in _GROUPS.items():
        rows = [r for r in m["table"] if r["group"].startswith(f"{by}=")]
        labels = list(dict.fromkeys(r["group"].partition("=")[2] for r in rows))
        if len(labels) < 2 and by != "year":
            continue
        cells = {(r["group"].partition("=")[2], r["metric"]): r for r in rows}
        names = [c for c in _GROUP_COLUMNS if any((g, c) in cells for g in labels)]
        body = table_html(
            [[label, *(_cell(cells.get((label, c)), c) for c in names)] for label in labels],
            (title, *(BY_NAME[c].label for c in names)),
            name="groups",
        )
        found.append(Panel(f"By {title.lower()}", _group_note(by), body=body, is_wide=True))
    return found


def overfitting_panel(m: Mapping[str, Any]) -> Panel | None:
    """Return what the number of looks makes of the result; ``None`` where nobody counted."""
    found = m.get("overfitting")
    if found is None:
        return None
    trials, splits = found["trials"], found["splits"]
    number, needed = Form.NUMBER, found["minimum_track_record_sessions"]
    rows = [
        [
            "Probabilistic Sharpe ratio\nthat the true one is above zero",
            write_value(found["probabilistic_sharpe_ratio"], number),
        ],
        [
            "Deflated Sharpe ratio\nabove the best of as many trials without skill",
            write_value(found["deflated_sharpe_ratio"], number),
        ],
        [
            "What that best would show\na year",
            write_value(found["expected_maximum_sharpe"], number),
        ],
        [
            "Sessions needed to be sure\nat this Sharpe ratio, against that best",
            "never" if needed is None else f"{needed:,}",
        ],
        [f"Trials counted\n{trials['counted_in']}", f"{trials['total']:,}"],
        ["· engines judged by trainings", f"{trials['forecasters']:,}"],
        ["· tuning trials", f"{trials['tuning_trials']:,}"],
        ["· backtests, with this one", f"{trials['backtests']:,}"],
        [
            "Probability of overfitting\n"
            + ("nothing to choose from" if splits is None else _splits_note(found)),
            write_value(found["probability_of_overfitting"], Form.PERCENT),
        ],
    ]
    return Panel("Overfitting", found["verdict"], body=table_html(rows))


def cost_panels(m: Mapping[str, Any]) -> list[Panel]:
    """Return what was paid, what other costs would have left, and how much capital is borne."""
    usd = Form.USD
    rows = [
        ["Equity at the start", write_value(m["starting_equity_usd"], usd)],
        ["Equity at the end", write_value(m["ending_equity_usd"], usd)],
        ["Costs paid", write_value(m["total_costs_usd"], usd)],
        *([f"· {_LINE_NAMES[k]}", write_value(v, usd)] for k, v in m["cost_lines"].items()),
        *([_FLOW_NAMES[k], write_value(v, usd)] for k, v in m["cash_flows_usd"].items()),
        ["Annual return before costs", write_value(m["annual_return_before_costs"], Form.PERCENT)],
        ["Annual return after costs", write_value(m["annual_return"], Form.PERCENT)],
    ]
    panels = [Panel("Costs", body=table_html(rows))]
    if "cost_sensitivity" in m:
        head = ["Costs", "Total return", "Sharpe ratio"]
        priced = [
            [
                f"× {row['multiple']:g}",
                write_value(row["total_return"], Form.PERCENT),
                write_value(row["sharpe_ratio"], Form.NUMBER),
            ]
            for row in m["cost_sensitivity"]
        ]
        note = (
            "The same orders at other costs. Capital at which the Sharpe ratio is half: "
            f"{m['capacity']['statement']}."
        )
        panels.append(Panel("Under other costs", body=table_html(priced, head), note=note))
    return panels


def order_panel(m: Mapping[str, Any]) -> Panel:
    """Return what became of orders."""
    rows = [
        ["Accepted", f"{m['orders']:,}"],
        ["Filled", f"{m['orders_filled']:,}"],
        *(
            [f"· {_STATUS_NAMES[status]}", f"{count:,}"]
            for status, count in m["orders_by_status"].items()
            if status != FillStatus.FILLED.value
        ),
        ["Reasons against orders (denials)", f"{m['denials']:,}"],
        *([f"· {code}", f"{count:,}"] for code, count in m["denials_by_code"].items()),
        ["Closed trades", f"{m['trades']:,}"],
    ]
    return Panel("Orders", body=table_html(rows))


def _month(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}".replace("-", "−")


def _tint(value: float | None, largest: float) -> str:
    if value is None or largest == 0.0:
        return ""
    tone = "win" if value >= 0.0 else "loss"
    return f"rgba(var(--{tone}), {_STRONGEST * abs(value) / largest:.2f})"


def _cell(row: Mapping[str, Any] | None, metric: str) -> str:
    if row is None or row["value"] is None:
        return DASH
    form = BY_NAME[metric].form
    bounds = (row["low"], row["high"])
    under = f"n = {row['n']:,}" if None in bounds else write_interval(bounds, form)
    return f"{write_value(row['value'], form)}\n{under}"


def _group_note(by: str) -> str:
    return {
        "year": "Each year measured by itself. A trade counts in the year it was closed.",
        "regime": "The regime known at the session's open; trades by that of their exit.",
        "sector": "Rank IC among the symbols of the sector.",
        "horizon": "Rank IC of the forecasts; trades by the horizon that opened them.",
        "confidence": "Probability of the side of the expected return; trades by that at entry.",
        "side": "Closed trades.",
    }[by]


def _splits_note(found: Mapping[str, Any]) -> str:
    splits, horizons = found["splits"], len(found["probability_by_horizon"])
    which = f"; horizon {splits['horizon']}, the worst of {horizons}" if horizons > 1 else ""
    of = "rank IC" if splits["statistic"] == "mean" else "Sharpe ratio"
    return (
        f"of {len(splits['strategies'])} engines by {of}: the best in one half of "
        f"{splits['blocks']} blocks below the median in the other, {splits['splits']:,} splits"
        f"{which}"
    )
