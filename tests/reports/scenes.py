"""Reports made by hand, and readers of what was rendered."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import polars as pl

from reports.facts import (
    CHECK_SCHEMA,
    COVERAGE_SCHEMA,
    EVIDENCE_SCHEMA,
    HELD_ROWS_SCHEMA,
    MODEL_SCHEMA,
    ORDER_SCHEMA,
    OUTCOME_SCHEMA,
    PARITY_SCHEMA,
    POSITION_SCHEMA,
    REGIME_SCHEMA,
    Batch,
    Book,
    LastPlan,
    Report,
    Trading,
)
from signals.schema import SIGNAL_SCHEMA

SESSION = dt.date(2025, 6, 30)
AS_OF = dt.datetime(2025, 6, 30, 16, 15, tzinfo=dt.UTC)
EARLIER = dt.datetime(2025, 6, 30, 12, 30, tzinfo=dt.UTC)
SINCE = dt.datetime(2025, 6, 27, 16, 15, tzinfo=dt.UTC)
NEXT = dt.datetime(2025, 6, 30, 20, 20, tzinfo=dt.UTC)
ACTIVE = Trading("active", enabled=True, mode="paper")


def signal(symbol: str, horizon: str, bps: float, **changes: Any) -> dict[str, Any]:
    direction = "long" if bps > 6 else "short" if bps < -6 else "neutral"
    directed = direction != "neutral"
    made: dict[str, Any] = {
        "id": f"{symbol}-{horizon}-{changes.get('as_of', AS_OF):%d%H}",
        "batch_id": "batch-midday",
        "revision": 1,
        "ts_emit": AS_OF,
        "as_of": AS_OF,
        "valid_until": AS_OF + dt.timedelta(days=2),
        "symbol": symbol,
        "engine": "ensemble",
        "direction": direction,
        "confidence": 0.53 if directed else 0.2,
        "horizon": horizon,
        "expected_return_bps": bps,
        "targets": [101.25] if directed else [],
        "stops": [98.75] if directed else [],
        "regime": "bear",
        "explain": f"{symbol} over {horizon} for a reason.",
        "features": [{"feature": "rsi_14", "contribution": bps / 3}] if directed else [],
        "model_version": "ensemble-1",
        "data_hash": "d",
        "config_hash": "c",
        "prev_hash": "p",
        "hash": "h",
    }
    return made | changes


def signals(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SIGNAL_SCHEMA, orient="row")


def frame(schema: pl.Schema, *rows: dict[str, Any]) -> pl.DataFrame:
    filled = [{n: row.get(n) for n in schema.names()} for row in rows]
    return pl.DataFrame(filled, schema=schema, orient="row")


def bare(**changes: Any) -> Report:
    """A report of the first day of an installation that has nothing yet."""
    made = Report(
        run="midday",
        session=SESSION,
        as_of=AS_OF,
        known_by=AS_OF,
        since=SINCE,
        next_run_at=NEXT,
        trading=ACTIVE,
    )
    return replace(made, **changes)


def full(**changes: Any) -> Report:
    """A report with something in every section."""
    symbols = [f"ZZ{c}" for c in "ABCDEFGHIJ"]
    now = [signal(s, "1d", 40.0 - 9.5 * k) for k, s in enumerate(symbols)]
    now += [signal(s, "1h", 2.0 + k / 10) for k, s in enumerate(symbols)]
    before = [
        signal(s, h, -30.0 + 7.5 * k, as_of=EARLIER, batch_id="batch-premarket")
        for h in ("1d", "14d")
        for k, s in enumerate(symbols)
    ]
    made = bare(
        batch=Batch("batch-midday", "midday", AS_OF, AS_OF, late=False, rows=60),
        previous=Batch("batch-premarket", "premarket", EARLIER, EARLIER, late=False, rows=60),
        signals=signals(*now),
        earlier=signals(*before),
        earlier_runs={"1d": "premarket of 2025-06-30", "14d": "premarket of 2025-06-30"},
        regimes=regimes(),
        previous_regime="bear",
        models=models(),
        evidence=evidence(),
        outcomes=outcomes(),
        unsettled={"15m": 3},
        book=book(),
        open_orders=open_orders(),
        plan=plan(),
        checks=checks(),
        held_rows=frame(
            HELD_ROWS_SCHEMA,
            {
                "timeframe": "1d",
                "session": SESSION,
                "reason": "spike",
                "rows": 2,
                "symbols": ["ZZD", "ZZE"],
            },
        ),
        parity=frame(
            PARITY_SCHEMA,
            {"run": "eod", "as_of": SINCE, "checked_at": AS_OF, "equal": True, "findings": []},
        ),
        coverage=frame(
            COVERAGE_SCHEMA,
            {"table": "bars_1d", "newest": dt.date(2025, 6, 27), "expected": dt.date(2025, 6, 27)},
        ),
        made_at=AS_OF,
    )
    return replace(made, **changes)


def regimes() -> pl.DataFrame:
    days = [dt.date(2025, 6, d) for d in (23, 24, 25, 26, 27)]
    return frame(
        REGIME_SCHEMA,
        *(
            {
                "session": day,
                "as_of": dt.datetime(day.year, day.month, day.day, 20, tzinfo=dt.UTC),
                "trend": 0.2 - 0.2 * k,
                "volatility": 0.0123,
                "breadth": 0.4,
                "regime": "bear" if k > 2 else "neutral",
            }
            for k, day in enumerate(days)
        ),
    )


def models() -> pl.DataFrame:
    return frame(
        MODEL_SCHEMA,
        {"horizon": "1d", "engine": "lstm", "model_version": "lstm-2", "weight": 0.61}
        | {"previous_version": "lstm-1"},
        {"horizon": "1d", "engine": "linear", "model_version": "linear-1", "weight": 0.39}
        | {"previous_version": "linear-1"},
    )


def evidence() -> pl.DataFrame:
    return frame(
        EVIDENCE_SCHEMA,
        {"horizon": "1d", "rank_ic": 0.031, "low": -0.004, "high": 0.066, "sessions": 611}
        | {"sharpe_ratio": -0.71, "sharpe_low": -1.9, "sharpe_high": 0.4},
    )


def outcomes() -> pl.DataFrame:
    row = {"as_of": SINCE, "confidence": 0.55, "known_at": EARLIER}
    return frame(
        OUTCOME_SCHEMA,
        row
        | {"symbol": "ZZA", "horizon": "1d", "direction": "long", "target_touched_at": EARLIER}
        | {"expected_return_bps": 20.0, "realised_return_bps": 35.5},
        row
        | {"symbol": "ZZB", "horizon": "1d", "direction": "short", "stop_touched_at": EARLIER}
        | {"expected_return_bps": -18.0, "realised_return_bps": 12.25},
        row
        | {"symbol": "ZZC", "horizon": "1d", "direction": "neutral"}
        | {"expected_return_bps": 1.0, "realised_return_bps": -3.0},
    )


def book() -> Book:
    common = {"horizon": "1d", "valid_until": NEXT, "target_price_usd": 101.0}
    rows = frame(
        POSITION_SCHEMA,
        common
        | {"symbol": "ZZA", "quantity": 120.0, "own_quantity": 100.0, "average_price_usd": 99.5}
        | {"price_usd": 100.25, "stop_price_usd": 97.0},
        common
        | {"symbol": "ZZB", "quantity": -40.0, "own_quantity": -40.0, "average_price_usd": 51.0}
        | {"price_usd": 50.0},
    )
    return Book(
        positions=rows,
        source="the broker (alpaca-paper)",
        cash_usd=90_000.0,
        equity_usd=100_030.0,
        last_equity_usd=100_000.0,
        broker_orders=1,
        gross_limit=2.0,
        net_limit=1.0,
    )


def order(symbol: str, state: str, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "client_order_id": f"iso-{symbol}",
        "symbol": symbol,
        "side": "buy",
        "quantity": 10.0,
        "filled_quantity": 0.0,
        "state": state,
        "reason": "signal",
        "horizon": "1d",
        "denials": [],
        "updated_at": AS_OF,
    }
    return made | changes


def open_orders() -> pl.DataFrame:
    return frame(ORDER_SCHEMA, order("ZZC", "accepted"), order("ZZD", "unclear"))


def plan() -> LastPlan:
    rows = frame(
        ORDER_SCHEMA,
        order("ZZC", "accepted"),
        order("ZZE", "denied", denials=["gross_leverage", "order_count"]),
    )
    left_out = {"at_target": 3}, {"bad_signal": 2}
    return LastPlan("batch-midday", "midday", AS_OF, AS_OF, "alpaca-paper", rows, *left_out)


def checks() -> pl.DataFrame:
    row = {"asset": "bars_1d", "at": EARLIER, "severity": "WARN"}
    return frame(
        CHECK_SCHEMA,
        row | {"check": "bars_1d_spike", "passed": True},
        row | {"check": "bars_1d_hole", "passed": False, "detail": "newest: 2025-06-04 (1): ZZX"},
        row | {"check": "drift_1d_features", "passed": False, "detail": "found: half drifted"},
        row | {"check": "features_1d_are_finite", "passed": False, "severity": "ERROR"},
    )


@dataclass
class Page(HTMLParser):
    """What a browser would make of a page: elements, their attributes, and the text."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._hidden = 0

    @classmethod
    def of(cls, html: str) -> Page:
        page = cls()
        page.feed(html)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag in {"style", "svg", "title"}:
            self._hidden += 1
        # The words of a small picture inside a table; a large one has them in its caption.
        if tag == "svg" and dict(attrs).get("class") == "split":
            self.text.append(f" {dict(attrs)['aria-label']} ")
        if tag in {"td", "th", "p", "li", "dd", "dt", "span", "h1", "h2", "h3", "caption"}:
            self.text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"style", "svg", "title"}:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def unescaped(markdown: str) -> str:
    """Markdown as a reader sees it, without the UTC beside each time."""
    plain = re.sub(r"\\([\\`*_{}\[\]<>|~#&$/])", r"\1", markdown)
    return re.sub(r" \((?:\d{4}-\d\d-\d\d )?\d\d:\d\d UTC\)", "", plain)


def numbers(text: str) -> Counter[str]:
    """Every number in a text, signs and all."""
    return Counter(re.findall(r"[+−]?\$?\d[\d.,:]*\d|[+−]?\d", text))
