"""The charts of a tear sheet: what they draw, as data for plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from backtest.metrics import drawdowns
from backtest.page import bars, chart, line
from backtest.session_metrics import SessionSeries, Vector, sharpe_ratios

ROLLING_SESSIONS = 126
_FEW_MONTHS = 5
_SHARE: dict[str, Any] = {"tickformat": ".0%"}


def tear_sheet_charts(
    m: Mapping[str, Any], curve: pl.DataFrame, series: SessionSeries, benchmark: str | None
) -> list[dict[str, Any]]:
    """Return every chart of a tear sheet, by the ids of its panels; ``benchmark`` is a name."""
    days = [d.isoformat() for d in curve["session"]]
    equity = curve["equity_usd"].to_numpy()
    gross = (curve["equity_usd"] + curve["costs_usd"]).to_list()
    lines = [
        line("After costs", days, equity.tolist(), "blue", width=2.2),
        line("Costs added back", days, gross, "grey", width=1.2),
    ]
    down = [_filled(line("Strategy", days, drawdowns(equity).tolist(), "red", width=1.4))]
    if series.benchmark is not None:
        held = equity[0] * np.concatenate([[1.0], np.cumprod(1.0 + series.benchmark)])
        name = str(benchmark)
        lines.append(line(name, days, held.tolist(), "gold", width=1.4, dash="dot"))
        down.append(line(name, days, drawdowns(held).tolist(), "gold", width=1.2, dash="dot"))
    at = days[1:]
    return [
        chart("equity", lines, {"tickprefix": "$", "tickformat": ",.4~s"}),
        chart("drawdown", down, {"tickformat": ".1%"}),
        chart("rolling", _rolling_lines(at, series, str(benchmark)), {"tickformat": ".1f"}),
        _ic_chart(m),
        chart(
            "exposure",
            [
                line("Gross", at, series.gross.tolist(), "blue"),
                line("Net", at, series.net.tolist(), "gold"),
            ],
            _SHARE,
        ),
        chart(
            "turnover", [_filled(line("", at, series.turnover.tolist(), "blue", width=1))], _SHARE
        ),
    ]


def rolling_sharpe(returns: Vector, sessions: int) -> list[float | None]:
    """Return the Sharpe ratio of the newest sessions at each session; ``None`` before.

    Examples
    --------
    >>> [v if v is None else round(v, 1) for v in rolling_sharpe(np.array([0.1, 0.3, 0.2]), 2)]
    [None, 22.4, 56.1]
    """
    if len(returns) < sessions:
        return [None] * len(returns)
    windows = np.lib.stride_tricks.sliding_window_view(returns, sessions)
    found = [v if math.isfinite(v) else None for v in sharpe_ratios(windows).tolist()]
    return [None] * (sessions - 1) + found


def rolling_window(sessions: int) -> int:
    """Return the window of rolling ratios: half a year, or a third of what there is."""
    return max(2, min(ROLLING_SESSIONS, sessions // 3))


def _rolling_lines(
    at: Sequence[str], series: SessionSeries, benchmark: str
) -> list[dict[str, Any]]:
    window = rolling_window(len(series))
    lines = [line("Strategy", at, rolling_sharpe(series.returns, window), "blue")]
    if series.benchmark is not None:
        held = rolling_sharpe(series.benchmark, window)
        lines.append(line(benchmark, at, held, "gold", width=1.2, dash="dot"))
    return lines


def _filled(trace: dict[str, Any]) -> dict[str, Any]:
    return {**trace, "data": {**trace["data"], "fill": "tozeroy"}}


def _ic_chart(m: Mapping[str, Any]) -> dict[str, Any]:
    months = m["rank_ic_by_month"]
    ics = [row["rank_ic"] for row in months]
    tones = ["green" if v is not None and v >= 0 else "red" for v in ics]
    drawn = bars([row["month"] for row in months], ics, tones, ".3f")
    if len(months) < _FEW_MONTHS:
        drawn["data"]["width"] = 0.15 * len(months)
    return chart("ic", [drawn], {"tickformat": ".2f"}, {"type": "category"})
