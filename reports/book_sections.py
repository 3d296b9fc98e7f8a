"""Sections on what is held and on what the numbers rest: positions and risk, data and drift."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl

from execution.denials import DENIALS, DenialCode
from reports.analysis import against_signal, exposure_of
from reports.document import (
    DASH,
    Block,
    Column,
    Day,
    Figures,
    Line,
    Mark,
    Moment,
    Paragraph,
    Section,
    Subheading,
    Table,
    Tone,
    number,
    percent,
    plural,
    quantity,
    signed,
    some,
    usd,
)
from reports.facts import Report
from reports.first_screen import DRIFT, RUN_NAMES, state_word
from reports.pictures import draw_positions

_SHOWN_POSITIONS = 15
_SHOWN_ORDERS = 25
_STATE_TONES = {
    "filled": Tone.GOOD,
    "denied": Tone.BAD,
    "rejected": Tone.BAD,
    "unclear": Tone.BAD,
    "sending": Tone.BAD,
    "unknown": Tone.BAD,
    "lapsed": Tone.WARN,
    "expired": Tone.WARN,
    "canceled": Tone.WARN,
}


def positions_section(report: Report) -> Section:
    """Return what is held, what is under way, and what was denied."""
    return Section("positions", "Positions and risk", tuple(_positions(report)))


def _positions(report: Report) -> Iterator[Block]:
    book = report.book
    yield _figures(report)
    if book.problem:
        yield Paragraph(
            (
                f"The broker was not heard: {book.problem} Positions are by {book.source}; cash "
                "and equity are unknown.",
            ),
            Tone.WARN,
        )
    unpriced = exposure_of(book.positions).unpriced
    if unpriced:
        yield Paragraph(
            (f"Without a price, and in no sum above: {some(unpriced)}.",),
            Tone.WARN,
        )
    if book.positions.is_empty():
        yield Paragraph((f"No open position, by {book.source}.",))
    else:
        picture = draw_positions(book.positions)
        if picture is not None:
            yield picture
        yield from _position_tables(report)
    yield from _open_orders(report)
    yield from _plan(report)


def _figures(report: Report) -> Figures:
    book, trading = report.book, report.trading
    sums = exposure_of(book.positions)
    equity = book.equity_usd
    day = None
    if equity is not None and book.last_equity_usd:
        day = equity / book.last_equity_usd - 1.0
    tone = Tone.GOOD if trading.is_active and trading.enabled else Tone.WARN
    word = trading.state if trading.enabled else f"{trading.state}, switched off"
    return Figures(
        (
            (
                "Trading",
                (Mark(word, tone if trading.is_active else Tone.BAD),),
                f"{trading.mode} mode",
            ),
            (
                "Gross exposure",
                (usd(sums.gross_usd),),
                _of_equity(sums.gross_usd, equity, book.gross_limit),
            ),
            (
                "Net exposure",
                (usd(sums.net_usd),),
                _of_equity(sums.net_usd, equity, book.net_limit),
            ),
            (
                "Equity",
                ("unknown" if equity is None else usd(equity),),
                "of the account"
                if day is None
                else f"{signed(100 * day, 2)} % since the last close",
            ),
            (
                "Cash",
                ("unknown" if book.cash_usd is None else usd(book.cash_usd),),
                f"by {book.source}" if book.cash_usd is not None else "the broker was not heard",
            ),
            (
                "Open orders",
                (f"{report.open_orders.height}",),
                "in the journal"
                if book.broker_orders is None
                else f"in the journal, {book.broker_orders} at the broker",
            ),
        )
    )


def _of_equity(value: float, equity: float | None, limit: float | None) -> str:
    bound = "" if limit is None else f", limit {percent(limit)}"
    if not equity:
        return f"share of equity unknown{bound}"
    return f"{percent(value / equity)} of equity{bound}"


def _position_tables(report: Report) -> Iterator[Block]:
    against = set(against_signal(report)["symbol"])
    rows = (
        report.book.positions.with_columns(value=pl.col("quantity") * pl.col("price_usd"))
        .with_columns(_size=pl.col("value").abs())
        .sort("_size", "symbol", descending=[True, False], nulls_last=True)
        .to_dicts()
    )
    columns = (
        Column("Symbol"),
        Column("Shares", numeric=True),
        Column("Value, USD", numeric=True),
        Column("Paid, USD", numeric=True),
        Column("Price, USD", numeric=True),
        Column("Gain, USD", numeric=True),
        Column("Opened by"),
        Column("Target / stop, USD", numeric=True),
        Column("Valid until"),
        Column("Note"),
    )
    made = tuple(_position(r, report, against) for r in rows)
    yield Table(
        f"{plural(len(made), 'position')}, by {report.book.source}, the largest first",
        columns,
        made[:_SHOWN_POSITIONS],
    )
    rest = made[_SHOWN_POSITIONS:]
    if rest:
        yield Table(f"The other {len(rest)}", columns, rest, folded=True)


def _position(row: dict[str, Any], report: Report, against: set[str]) -> Line:
    paid, price = row["average_price_usd"], row["price_usd"]
    gain = None if paid is None or price is None else row["quantity"] * (price - paid)
    foreign = row["quantity"] - row["own_quantity"]
    notes: list[str] = []
    if foreign:
        notes.append(f"{quantity(foreign)} shares are not Isobar's: never traded")
    if row["symbol"] in against:
        notes.append("its own signal points the other way")
    until = row["valid_until"]
    if until is not None and until <= report.next_run_at:
        past = until <= report.known_by
        notes.append("past its validity" if past else "ends before the next run")
    target, stop = row["target_price_usd"], row["stop_price_usd"]
    return (
        row["symbol"],
        quantity(row["quantity"]),
        number(row["value"], 0),
        number(paid),
        number(price),
        signed(gain, 0),
        row["horizon"] or DASH,
        DASH if target is None and stop is None else f"{number(target)} / {number(stop)}",
        DASH if row["valid_until"] is None else Moment(row["valid_until"]),
        Mark("; ".join(notes), Tone.WARN) if notes else DASH,
    )


def _open_orders(report: Report) -> Iterator[Block]:
    yield Subheading("Open orders")
    if report.open_orders.is_empty():
        yield Paragraph(("None in the journal.",))
        return
    shown = report.open_orders.head(_SHOWN_ORDERS)
    more = report.open_orders.height - shown.height
    yield Table(
        plural(report.open_orders.height, "order") + (f", {more} not shown" if more else ""),
        (
            Column("Symbol"),
            Column("Side"),
            Column("Shares", numeric=True),
            Column("Filled", numeric=True),
            Column("State"),
            Column("For"),
            Column("Since"),
        ),
        tuple(
            (
                r["symbol"],
                r["side"],
                quantity(r["quantity"]),
                quantity(r["filled_quantity"]),
                state_mark(r["state"]),
                r["horizon"] or DASH,
                Moment(r["updated_at"]),
            )
            for r in shown.to_dicts()
        ),
    )


def state_mark(state: str) -> Mark:
    """Return an order's state with its tone."""
    return Mark(state_word(state), _STATE_TONES.get(state, Tone.PLAIN))


def _plan(report: Report) -> Iterator[Block]:
    plan = report.plan
    yield Subheading("The last plan of orders")
    if plan is None:
        yield Paragraph(("No plan of orders is on file.",))
        return
    mine = report.batch is not None and plan.batch_id == report.batch.batch_id
    states = Counter(plan.orders["state"].to_list())
    told = ", ".join(f"{n} {state_word(s)}" for s, n in sorted(states.items()))
    whose = "This batch's plan" if mine else f"The {RUN_NAMES.get(plan.run, plan.run)} batch's plan"
    yield Paragraph(
        (
            f"{whose}, as of ",
            Moment(plan.as_of),
            ", made ",
            Moment(plan.created_at),
            f" for {plan.broker}: {told or 'no order'}.",
        )
    )
    denied = plan.orders.filter(pl.col("denials").list.len() > 0)
    number = denied.height + sum(plan.refused.values())
    if number == 0:
        yield Paragraph(("No order was denied.",))
    else:
        counts = Counter(code for codes in denied["denials"] for code in codes)
        counts.update(plan.refused)
        yield Table(
            f"Why {plural(number, 'order was', 'orders were')} denied; one order can have "
            "several reasons",
            (Column("Denial"), Column("Orders", numeric=True), Column("Meaning")),
            tuple(
                (Mark(code.replace("_", " "), Tone.BAD), f"{n}", _meaning(code))
                for code, n in counts.most_common()
            ),
        )
    if plan.skipped:
        told = ", ".join(
            f"{n} {reason.replace('_', ' ')}" for reason, n in sorted(plan.skipped.items())
        )
        yield Paragraph((f"Targets without an order: {told}.",))


def _meaning(code: str) -> str:
    known = {c.value for c in DenialCode}
    return (
        DENIALS[DenialCode(code)].replace("`", "") if code in known else "unknown to this version"
    )


def data_section(report: Report) -> Section:
    """Return what the numbers rest on: checks, quarantine, parity, coverage, drift, models."""
    return Section("data", "Data quality and drift", tuple(_data(report)))


def _data(report: Report) -> Iterator[Block]:
    for source in report.unread:
        yield Paragraph((f"Could not be read: {source}",), Tone.BAD)
    yield from _coverage(report)
    yield from _parity(report)
    yield from _checks(report)
    yield from _held(report)
    yield from _models(report)


def _coverage(report: Report) -> Iterator[Block]:
    if report.coverage.is_empty():
        yield Paragraph(("No bars are on file.",), Tone.WARN)
        return
    yield Table(
        "Newest session of the bars",
        (Column("Table"), Column("Newest"), Column("Should be"), Column("State")),
        tuple(
            (
                r["table"],
                DASH if r["newest"] is None else Day(r["newest"]),
                Day(r["expected"]),
                _coverage_mark(r),
            )
            for r in report.coverage.to_dicts()
        ),
        grid=True,
    )


def _coverage_mark(row: dict[str, Any]) -> Mark:
    if row["newest"] is None or row["newest"] < row["expected"]:
        return Mark("behind", Tone.BAD)
    return Mark("there", Tone.GOOD)


def _parity(report: Report) -> Iterator[Block]:
    yield Subheading("Parity: signals made again from the same inputs")
    if report.parity.is_empty():
        yield Paragraph(("No parity check since the session before.",), Tone.WARN)
        return
    yield Table(
        plural(report.parity.height, "check"),
        (Column("Signals of"), Column("As of"), Column("Checked"), Column("Result")),
        tuple(
            (
                str(RUN_NAMES.get(r["run"], r["run"])),
                Moment(r["as_of"]),
                Moment(r["checked_at"]),
                Mark("equal", Tone.GOOD)
                if r["equal"]
                else Mark(f"not equal: {some(list(r['findings']), 3)}", Tone.BAD),
            )
            for r in report.parity.to_dicts()
        ),
    )


def _checks(report: Report) -> Iterator[Block]:
    yield Subheading("Checks")
    if report.checks.is_empty():
        yield Paragraph(("No check is on file.",), Tone.WARN)
        return
    drift = report.checks.filter(pl.col("check").str.starts_with(DRIFT))
    newest: dt.datetime = max(report.checks["at"].to_list())
    drift_told = (
        "No drift check is on file."
        if drift.is_empty()
        else f"{int(drift['passed'].sum())} of {drift.height} drift checks passed."
    )
    others = report.checks.height - drift.height
    passed = int(report.checks["passed"].sum()) - int(drift["passed"].sum())
    yield Paragraph(
        (
            f"{passed} of {others} checks of the data passed. {drift_told} The newest is of ",
            Moment(newest),
            "; those of this very run may come after the report.",
        )
    )
    bad = report.checks.filter(~pl.col("passed").fill_null(False)).sort("severity", "check")
    if bad.is_empty():
        return
    yield Table(
        f"{plural(bad.height, 'check')} that did not pass",
        (Column("Check"), Column("Result"), Column("When"), Column("What it says")),
        tuple(
            (r["check"], _check_mark(r), Moment(r["at"]), r["detail"] or DASH)
            for r in bad.to_dicts()
        ),
    )


def _check_mark(row: dict[str, Any]) -> Mark:
    if row["passed"] is None:
        return Mark("did not run", Tone.BAD)
    return Mark("failed", Tone.BAD) if row["severity"] == "ERROR" else Mark("warned", Tone.WARN)


def _held(report: Report) -> Iterator[Block]:
    yield Subheading("Quarantine")
    if report.held_rows.is_empty():
        yield Paragraph(("No row of the last sessions is in quarantine.",))
        return
    yield Table(
        "Rows that are kept apart and served to nobody",
        (
            Column("Session"),
            Column("Bars"),
            Column("Reason"),
            Column("Rows", numeric=True),
            Column("Symbols"),
        ),
        tuple(
            (
                Day(r["session"]),
                r["timeframe"],
                r["reason"].replace("_", " "),
                f"{r['rows']:,}",
                some(list(r["symbols"])),
            )
            for r in report.held_rows.to_dicts()
        ),
    )


def _models(report: Report) -> Iterator[Block]:
    engines = report.models.filter(~pl.col("engine").is_in(["ensemble"]))
    if engines.is_empty():
        return
    yield Table(
        "Models behind these signals; a challenger weighs nothing",
        (Column("Horizon"), Column("Engine"), Column("Weight", numeric=True), Column("Version")),
        tuple(
            (
                r["horizon"],
                r["engine"],
                "none" if r["weight"] is None else percent(r["weight"]),
                r["model_version"],
            )
            for r in engines.to_dicts()
        ),
        folded=True,
    )
