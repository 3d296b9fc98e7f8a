"""Sections on the market and the signals: regime, strongest, turned, disagreeing, outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from reports.analysis import (
    conflicts,
    first_touched,
    in_order,
    is_compared,
    judge_outcomes,
    standing,
    strongest,
    turned,
)
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
    Reasons,
    Section,
    Subheading,
    Table,
    Tone,
    number,
    percent,
    plural,
    signed,
    some,
)
from reports.facts import Report
from reports.first_screen import direction, neutral_count, regime_since
from reports.pictures import draw_regimes, draw_split

SHOWN_IN_FULL = 5
SHOWN_SHORT = 20
_SHOWN_CHANGES = 12
_SHOWN_CONFLICTS = 15
_SHOWN_OUTCOMES = 6
_SHOWN_SESSIONS = 5
_SIGNAL_COLUMNS = (
    Column("Symbol"),
    Column("Direction"),
    Column("Expected, bps", numeric=True),
    Column("Confidence", numeric=True),
    Column("Target, USD", numeric=True),
    Column("Stop, USD", numeric=True),
    Column("Valid until"),
)


def regime_section(report: Report) -> Section:
    """Return what the market's regime is and was."""
    return Section("regime", "Market regime", tuple(_regime(report)))


def _regime(report: Report) -> Iterator[Block]:
    if report.regimes.is_empty():
        yield Paragraph(("No regime is on file: it is unknown.",), Tone.WARN)
        return
    last = report.regimes.row(-1, named=True)
    before = report.previous_regime
    changed = "no batch before" if before is None else f"{before} at the batch before"
    yield Figures(
        (
            ("Regime", (Mark(str(last["regime"])),), f"since {regime_since(report)}; {changed}"),
            ("Trend", (signed(last["trend"], 2),), "standard deviations of 63 sessions"),
            ("Volatility", (percent(last["volatility"], 2),), "of a session's return"),
            ("Breadth", (percent(last["breadth"]),), "of symbols above 63 sessions ago"),
        )
    )
    picture = draw_regimes(report.regimes)
    if picture is not None:
        yield picture
    rows = report.regimes.tail(_SHOWN_SESSIONS).reverse()
    yield Table(
        f"The last {plural(rows.height, 'session')}",
        (
            Column("Session"),
            Column("Regime"),
            Column("Trend, std. dev.", numeric=True),
            Column("Volatility", numeric=True),
            Column("Breadth", numeric=True),
        ),
        tuple(
            (
                Day(r["session"]),
                str(r["regime"]),
                signed(r["trend"], 2),
                percent(r["volatility"], 2),
                percent(r["breadth"]),
            )
            for r in rows.to_dicts()
        ),
        grid=True,
    )


def signals_section(report: Report) -> Section:
    """Return the strongest signals of each horizon, with their reasons."""
    return Section("signals", "Strongest signals by horizon", tuple(_signals(report)))


def _signals(report: Report) -> Iterator[Block]:
    if report.signals.is_empty():
        yield Paragraph(("This run published no signals.",), Tone.WARN)
    else:
        yield _overview(report)
    silent: list[str] = []
    for horizon in in_order(report.signals["horizon"].to_list()):
        mine = report.signals.filter(pl.col("horizon") == horizon)
        directed = strongest(mine, horizon)
        if directed.is_empty():
            silent.append(_nearest(mine, horizon))
        else:
            yield from _horizon(report, horizon, mine.height, directed)
    if silent:
        yield Paragraph((f"No symbol is expected to pay its costs over {'; over '.join(silent)}.",))
    stand = standing(report)
    old = in_order(list(set(stand["horizon"]) - set(report.signals["horizon"])))
    if old:
        told = ", ".join(f"{h} ({report.earlier_runs.get(h, 'an earlier run')})" for h in old)
        yield Paragraph(
            (f"Not published by this run and still valid: {told}. Their reasons stand there.",)
        )


def _overview(report: Report) -> Table:
    known = {r["horizon"]: r for r in report.evidence.to_dicts()}
    rows: list[Line] = []
    for horizon in in_order(report.signals["horizon"].to_list()):
        mine = report.signals.filter(pl.col("horizon") == horizon)
        counts = dict(mine.group_by("direction").len().iter_rows())
        long, short = counts.get("long", 0), counts.get("short", 0)
        neutral = neutral_count(mine)
        directed = strongest(mine, horizon)
        best = directed["confidence"].max() if directed.height else None
        rows.append(
            (
                horizon,
                f"{long}",
                f"{neutral}",
                f"{short}",
                draw_split(long, neutral, short),
                percent(best if isinstance(best, float) else None),
                _skill(known.get(horizon)),
                _blend(report, horizon),
            )
        )
    return Table(
        "Signals of the ensemble; neutral where the expected return does not pay a round trip",
        (
            Column("Horizon"),
            Column("Long", numeric=True),
            Column("Neutral", numeric=True),
            Column("Short", numeric=True),
            Column("Split"),
            Column("Highest confidence", numeric=True),
            Column("Walk-forward rank IC, 95 % interval"),
            Column("Weights in this regime"),
        ),
        tuple(rows),
    )


def _skill(evidence: dict[str, Any] | None) -> str:
    if evidence is None:
        return "unknown: no backtest"
    if evidence["low"] is None or evidence["high"] is None:
        return f"{signed(evidence['rank_ic'], 3)}, no interval"
    return (
        f"{signed(evidence['rank_ic'], 3)} ({signed(evidence['low'], 3)} to "
        f"{signed(evidence['high'], 3)}), {plural(evidence['sessions'], 'session')}"
    )


def _blend(report: Report, horizon: str) -> str:
    weights = report.models.filter(
        (pl.col("horizon") == horizon) & pl.col("weight").is_not_null()
    ).sort("weight", "engine", descending=[True, False])
    if weights.is_empty():
        return "unknown"
    pairs = weights.select("engine", "weight").iter_rows()
    return ", ".join(f"{engine} {percent(weight)}" for engine, weight in pairs)


def _nearest(signals: pl.DataFrame, horizon: str) -> str:
    near = signals.sort(pl.col("expected_return_bps").abs(), descending=True).row(0, named=True)
    return f"{horizon} (nearest {near['symbol']} {signed(near['expected_return_bps'])} bps)"


def _horizon(report: Report, horizon: str, symbols: int, directed: pl.DataFrame) -> Iterator[Block]:
    yield Subheading(f"{horizon}: {directed.height} of {symbols} with a direction")
    yield Table(
        f"{horizon}, the largest expected moves: {min(SHOWN_IN_FULL, directed.height)}",
        (*_SIGNAL_COLUMNS, Column("Why")),
        tuple((*_signal(r), _why(report, r)) for r in directed.head(SHOWN_IN_FULL).to_dicts()),
    )
    rest = directed.slice(SHOWN_IN_FULL)
    if rest.height:
        shown = rest.head(SHOWN_SHORT)
        more = rest.height - shown.height
        left = f"; {more:,} more by isobar signals --horizon {horizon}" if more else ""
        yield Table(
            f"{horizon}, the next {shown.height}{left}",
            _SIGNAL_COLUMNS,
            tuple(_signal(r) for r in shown.to_dicts()),
            folded=True,
        )


def _signal(row: dict[str, Any]) -> Line:
    return (
        row["symbol"],
        direction(row["direction"]),
        signed(row["expected_return_bps"]),
        percent(row["confidence"]),
        _levels(row["targets"]),
        _levels(row["stops"]),
        Moment(row["valid_until"]),
    )


def _levels(levels: list[float] | None) -> str:
    return " / ".join(number(v) for v in levels) if levels else DASH


def _why(report: Report, row: dict[str, Any]) -> Reasons:
    """Return the strongest contributions, and in words what neither they nor the columns say."""
    contributions = tuple((c["feature"], float(c["contribution"])) for c in row["features"] or [])
    if not contributions:
        return Reasons(row["explain"])
    given = sum(bps for _, bps in contributions)
    rest = row["expected_return_bps"] - given
    told = [f"The strongest features make {signed(given)} bps of it, all else {signed(rest)}."]
    told += _elsewhere(report, row)
    told += _before(report, row)
    return Reasons(" ".join(told), contributions)


def _elsewhere(report: Report, row: dict[str, Any]) -> Iterator[str]:
    """Say which other horizons point the same way, and which the other."""
    rows = standing(report).filter(
        (pl.col("symbol") == row["symbol"])
        & (pl.col("horizon") != row["horizon"])
        & (pl.col("direction") != "neutral")
    )
    of = dict(rows.group_by("direction").agg("horizon").iter_rows())
    same = in_order(of.pop(row["direction"], []))
    if same:
        yield f"{row['direction'].capitalize()} over {', '.join(same)} too."
    for other, horizons in of.items():
        yield f"But {other} over {', '.join(in_order(horizons))}."


def _before(report: Report, row: dict[str, Any]) -> Iterator[str]:
    """Say what the batch before expected of it, where that is of the same days."""
    if not is_compared(row["horizon"]):
        return
    mine = (pl.col("symbol") == row["symbol"]) & (pl.col("horizon") == row["horizon"])
    for was in report.earlier.filter(mine).to_dicts():
        yield f"Before: {was['direction']}, {signed(was['expected_return_bps'])} bps."


def turned_section(report: Report) -> Section:
    """Return the signals that changed their direction."""
    return Section("turned", "Directions that changed", tuple(_turned(report)))


def _turned(report: Report) -> Iterator[Block]:
    changes = turned(report)
    yield Paragraph(
        (
            "Against the newest batch before that published the horizon. Horizons of an hour and "
            "less are new at every run and not compared.",
        )
    )
    if changes.is_empty():
        yield Paragraph(("None.",))
        return
    columns = (
        Column("Symbol"),
        Column("Horizon"),
        Column("Was"),
        Column("Is"),
        Column("Expected before, bps", numeric=True),
        Column("Expected now, bps", numeric=True),
        Column("Was as of"),
    )
    rows = tuple(
        (
            r["symbol"],
            r["horizon"],
            direction(r["was"]),
            direction(r["direction"]),
            signed(r["expected_was_bps"]),
            signed(r["expected_return_bps"]),
            Moment(r["was_as_of"]),
        )
        for r in changes.to_dicts()
    )
    yield Table(
        f"{plural(len(rows), 'change')}, the largest change of the expected return first",
        columns,
        rows[:_SHOWN_CHANGES],
    )
    rest = rows[_SHOWN_CHANGES:]
    if rest:
        yield Table(f"The other {len(rest)}", columns, rest, folded=True)


def disagreement_section(report: Report) -> Section:
    """Return the symbols whose horizons point different ways, each horizon by itself."""
    return Section("disagreement", "Horizons that disagree", tuple(_disagreement(report)))


def _disagreement(report: Report) -> Iterator[Block]:
    found = conflicts(report)
    rows = standing(report)
    if not found:
        yield Paragraph(("No symbol is long over one horizon and short over another.",))
        return
    horizons = in_order(rows["horizon"].to_list())
    yield Paragraph(
        (
            f"{plural(len(found), 'symbol')} of {rows['symbol'].n_unique()} long over one horizon "
            "and short over another, the sharpest first; nothing is averaged. Expected bps over "
            "each horizon; neutral in plain figures.",
        )
    )
    shown = found[:_SHOWN_CONFLICTS]
    yield Table(
        f"{plural(len(shown), 'symbol')}, expected bps by horizon",
        (Column("Symbol"), *(Column(h, numeric=True) for h in horizons)),
        tuple(
            (conflict.symbol, *(_cell(conflict.by_horizon.get(h)) for h in horizons))
            for conflict in shown
        ),
        grid=True,
    )
    rest = [c.symbol for c in found[_SHOWN_CONFLICTS:]]
    if rest:
        yield Paragraph((f"And {some(rest, 60)}.",))


def _cell(row: dict[str, Any] | None) -> Mark:
    if row is None:
        return Mark(DASH)
    return Mark(
        signed(row["expected_return_bps"]),
        direction(row["direction"]).tone,
    )


def outcomes_section(report: Report) -> Section:
    """Return yesterday's signals against what became of them."""
    return Section("outcomes", "Yesterday's signals against outcomes", tuple(_outcomes(report)))


def _outcomes(report: Report) -> Iterator[Block]:
    yield Paragraph(
        (
            "Signals of the ensemble whose end became known after ",
            Moment(report.since),
            " and by ",
            Moment(report.known_by),
            ".",
        )
    )
    if report.unsettled:
        told = ", ".join(f"{h} {n:,}" for h, n in report.unsettled.items())
        yield Paragraph((f"Ended, and no outcome on file yet: {told}.",), Tone.WARN)
    records = judge_outcomes(report.outcomes)
    if not records:
        yield Paragraph(("No outcomes known yet.",))
        return
    yield Table(
        "Share of signals with a direction that were right; returns in the signal's direction, "
        "before costs",
        (
            Column("Horizon"),
            Column("Right", numeric=True),
            Column("Share, 95 % interval"),
            Column("Expected, bps", numeric=True),
            Column("Realised, bps", numeric=True),
            Column("Target first", numeric=True),
            Column("Stop first", numeric=True),
            Column("Neutral", numeric=True),
        ),
        tuple(
            (
                r.horizon,
                f"{r.right} of {r.directed}",
                DASH
                if r.low is None
                else f"{percent(r.right / r.directed)} ({percent(r.low)} to {percent(r.high)})",
                signed(r.expected_bps),
                signed(r.realised_bps),
                f"{r.targets}",
                f"{r.stops}",
                f"{r.neutral}",
            )
            for r in records
        ),
    )
    yield Paragraph(
        (
            "Intervals are Wilson's and take signals for independent; those of one moment move "
            "together, so the truth is wider. One day proves nothing.",
        )
    )
    yield from _extremes(report)


def _extremes(report: Report) -> Iterator[Block]:
    directed = report.outcomes.filter(pl.col("direction") != "neutral").with_columns(
        gained=pl.when(pl.col("direction") == "long")
        .then(pl.col("realised_return_bps"))
        .otherwise(-pl.col("realised_return_bps")),
        first=first_touched(),
    )
    order = directed.sort("gained", "symbol", "horizon", descending=[True, False, False])
    if order.height > 2 * _SHOWN_OUTCOMES:
        order = pl.concat([order.head(_SHOWN_OUTCOMES), order.tail(_SHOWN_OUTCOMES)])
        caption = f"The {_SHOWN_OUTCOMES} best and the {_SHOWN_OUTCOMES} worst"
    else:
        caption = "Each of them, the best first"
    if order.is_empty():
        return
    yield Table(
        caption,
        (
            Column("Symbol"),
            Column("Horizon"),
            Column("As of"),
            Column("Direction"),
            Column("Confidence", numeric=True),
            Column("Expected, bps", numeric=True),
            Column("Realised, bps", numeric=True),
            Column("Verdict"),
        ),
        tuple(
            (
                r["symbol"],
                r["horizon"],
                Moment(r["as_of"]),
                direction(r["direction"]),
                percent(r["confidence"]),
                signed(r["expected_return_bps"]),
                signed(r["realised_return_bps"]),
                _verdict(r),
            )
            for r in order.to_dicts()
        ),
    )


def _verdict(row: dict[str, Any]) -> Mark:
    touched = {"neither": "", "target": ", target first", "stop": ", stop first"}[row["first"]]
    right = row["gained"] > 0
    return Mark(("right" if right else "wrong") + touched, Tone.GOOD if right else Tone.BAD)
