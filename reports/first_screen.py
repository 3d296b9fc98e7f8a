"""The first screen: what is different, what to do, what not to trust."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from reports.analysis import (
    against_signal,
    conflicts,
    in_order,
    judge_outcomes,
    standing,
    strongest,
    turned,
    vanished,
)
from reports.document import (
    Code,
    Day,
    Item,
    Line,
    Mark,
    Moment,
    Tone,
    number,
    percent,
    plural,
    signed,
    some,
)
from reports.facts import Report
from signals.schema import Direction

RUN_NAMES = {"premarket": "premarket", "midday": "midday", "eod": "end of day"}
TRADING_RUNS = ("premarket", "midday")
DIRECTION_TONES = {"long": Tone.LONG, "short": Tone.SHORT, "neutral": Tone.PLAIN}
DRIFT = "drift_"
"""How the names of drift checks begin."""
_NAMED = 3
_EVEN = 0.5


def direction(word: str) -> Mark:
    """Return a direction with its sign."""
    return Mark(word, DIRECTION_TONES[word])


def state_word(state: str) -> str:
    """Return an order's state in plain words.

    Examples
    --------
    >>> state_word("intended"), state_word("partially_filled")
    ('not sent yet', 'partially filled')
    """
    return {"intended": "not sent yet"}.get(state, state.replace("_", " "))


def banners(report: Report) -> tuple[Item, ...]:
    """Return what must be seen before anything else."""
    return tuple(_banners(report))


def _worst_first(items: Iterator[Item]) -> tuple[Item, ...]:
    rank = {Tone.BAD: 0, Tone.WARN: 1}
    return tuple(sorted(items, key=lambda item: rank.get(item.tone, 2)))


def _banners(report: Report) -> Iterator[Item]:
    trading = report.trading
    if not trading.is_active:
        since: Line = () if trading.since is None else (" since ", Moment(trading.since))
        says = {
            "halted": "TRADING IS HALTED",
            "reducing": "TRADING IS REDUCING ONLY",
        }.get(trading.state, f"TRADING STATE {trading.state}")
        why = f": {trading.reason}." if trading.reason else "."
        yield Item((says, *since, why), Tone.BAD)
    if report.batch is None:
        yield Item(
            (
                f"NO SIGNALS: this {RUN_NAMES[report.run]} run published no batch. What follows is "
                "what stood before it.",
            ),
            Tone.BAD,
        )
    elif report.batch.late:
        yield Item(
            (
                "LATE BATCH: due ",
                Moment(report.as_of),
                ", emitted ",
                Moment(report.batch.ts_emit),
                ". It may not trade.",
            ),
            Tone.BAD,
        )
    if report.trading_failure is not None:
        yield Item(
            (
                "ORDERS FAILED at ",
                Moment(report.trading_failure.at),
                f": {report.trading_failure.problem}",
            ),
            Tone.BAD,
        )
    for row in report.parity.filter(~pl.col("equal")).to_dicts():
        finding = row["findings"][0] if row["findings"] else "no finding was written"
        yield Item(
            (
                f"PARITY BROKEN: the {RUN_NAMES.get(row['run'], row['run'])} signals of ",
                Moment(row["as_of"]),
                f" could not be made again: {finding}",
            ),
            Tone.BAD,
        )


def differences(report: Report) -> tuple[Item, ...]:
    """Return what is different since the batch before."""
    return tuple(_differences(report))


def _differences(report: Report) -> Iterator[Item]:
    yield _regime(report)
    if report.batch is None:
        yield Item(("No new signals to compare.",), Tone.WARN)
    elif report.previous is None:
        yield Item(("No batch of signals before this one: everything is new.",))
    else:
        yield from _turned(report)
    for horizon, gone in vanished(report).items():
        yield Item(
            (f"{horizon}: no signal any more for {some(gone)}.",),
            Tone.WARN,
        )
    yield from _replaced(report)
    trading = report.trading
    if trading.since and report.previous and trading.since > report.previous.as_of:
        yield Item(
            (f"Trading went to {trading.state} at ", Moment(trading.since), f": {trading.reason}."),
            Tone.GOOD if trading.is_active else Tone.BAD,
        )
    records = judge_outcomes(report.outcomes)
    directed, right = sum(r.directed for r in records), sum(r.right for r in records)
    if directed:
        yield Item(
            (
                f"{plural(directed, 'outcome')} of signals with a direction became known: "
                f"{right} right ({percent(right / directed)}).",
            )
        )


def _regime(report: Report) -> Item:
    if report.regimes.is_empty():
        return Item(("Regime unknown: none is on file.",), Tone.WARN)
    last = report.regimes.row(-1, named=True)
    trend = f"trend {signed(last['trend'], 2)} standard deviations at the close of "
    close: Line = (trend, Day(last["session"]), ".")
    before = report.previous_regime
    if before is not None and before != last["regime"]:
        return Item(("Regime ", Mark(f"{before} → {last['regime']}"), "; ", *close), Tone.WARN)
    return Item(
        ("Regime ", Mark(str(last["regime"])), f", since {regime_since(report)}; ", *close),
    )


def regime_since(report: Report) -> str:
    """Return the first session of the present spell, as far as the history goes."""
    labels = report.regimes["regime"].to_list()
    place = len(labels) - 1
    while place and labels[place - 1] == labels[-1]:
        place -= 1
    session = str(report.regimes["session"][place])
    return session if place else f"{session} or earlier"


def _turned(report: Report) -> Iterator[Item]:
    changes = turned(report)
    counts = dict(changes.group_by("kind").len().iter_rows())
    if not counts:
        yield Item(("No signal longer than an hour changed its direction.",))
        return
    told = ", ".join(
        f"{counts[kind]} {text}"
        for kind, text in (
            ("reversed", "reversed"),
            ("new", "new (were neutral)"),
            ("ended", "ended (now neutral)"),
        )
        if kind in counts
    )
    yield Item((f"Directions over more than an hour: {told}. The largest changes:",))
    # One that turned round says more than one that began or ended.
    rank = pl.col("kind") != "reversed"
    for row in changes.sort(rank, maintain_order=True).head(_NAMED).to_dicts():
        yield Item(
            (
                f"{row['symbol']} {row['horizon']}: ",
                direction(row["was"]),
                " → ",
                direction(row["direction"]),
                f" ({signed(row['expected_was_bps'])} → {signed(row['expected_return_bps'])} bps).",
            )
        )


def _replaced(report: Report) -> Iterator[Item]:
    changed = report.models.filter(
        pl.col("previous_version").is_not_null()
        & (pl.col("previous_version") != pl.col("model_version"))
        # The blend of an ensemble and a meta-learner is worked out anew by the day.
        & ~pl.col("engine").is_in(["ensemble", "meta"])
    )
    for horizon in in_order(changed["horizon"].to_list()):
        names = changed.filter(pl.col("horizon") == horizon)["engine"].to_list()
        yield Item((f"{horizon}: new model of {some(sorted(names))}.",), Tone.WARN)


def actions(report: Report) -> tuple[Item, ...]:
    """Return what a desk has to do, or that there is nothing."""
    found = _worst_first(_actions(report))
    return found or (Item(("Nothing waits for a decision.",), Tone.GOOD),)


def _actions(report: Report) -> Iterator[Item]:
    if not report.trading.is_active:
        yield Item(
            (
                "Find out why trading stands still. When it is safe: ",
                Code('isobar resume --reason "..."'),
                ".",
            ),
            Tone.BAD,
        )
    elif not report.trading.enabled:
        yield Item(("Trading is switched off: no order is sent whatever the signals say.",))
    if report.batch is None:
        yield Item(
            (
                "Find out from the run's log why there are no signals, and run it again: ",
                Code(f"isobar run {report.run}"),
                ".",
            ),
            Tone.BAD,
        )
    unclear = report.open_orders.filter(pl.col("state").is_in(["sending", "unclear", "unknown"]))
    if unclear.height:
        yield Item(
            (
                f"Look at the broker: {plural(unclear.height, 'order')} of which it is not known "
                f"whether it has them ({some(unclear['symbol'].to_list())}).",
            ),
            Tone.BAD,
        )
    yield from _orders(report)
    yield from _look_first(report)
    against = against_signal(report)
    if against.height:
        named = some([f"{r['symbol']} {r['horizon']}" for r in against.to_dicts()])
        yield Item(
            (f"Held against their own signal: {named}. The next trading run closes them.",),
            Tone.WARN,
        )
    ending = report.book.positions.filter(
        (pl.col("own_quantity") != 0) & (pl.col("valid_until") <= report.next_run_at)
    )
    if ending.height:
        yield Item(
            (
                f"{plural(ending.height, 'position')} past validity by the next run: "
                f"{some(ending['symbol'].to_list())}.",
            ),
            Tone.WARN,
        )


def _orders(report: Report) -> Iterator[Item]:
    plan = report.plan
    if report.run not in TRADING_RUNS:
        yield Item(
            (
                "This run sends no orders. The premarket run of the next session does, ",
                Moment(report.next_run_at),
                ".",
            ),
        )
        return
    if report.trading_failure is not None:
        yield Item(
            ("Orders failed. When the cause is mended, carry them on: ", Code("isobar trade"), "."),
            Tone.BAD,
        )
    if plan is None or report.batch is None or plan.batch_id != report.batch.batch_id:
        yield Item(
            ("No plan of orders is on file for this batch.",),
            Tone.WARN if report.trading.enabled else Tone.PLAIN,
        )
        return
    states = dict(plan.orders.group_by("state").len().sort("state").iter_rows())
    denied = states.pop("denied", 0)
    told = ", ".join(f"{count} {state_word(state)}" for state, count in states.items())
    yield Item(
        (f"Orders of this batch: {told or 'none accepted'}; {denied} denied.",),
        Tone.WARN if denied else Tone.PLAIN,
    )


def _look_first(report: Report) -> Iterator[Item]:
    for horizon in in_order(report.signals["horizon"].to_list()):
        best = strongest(report.signals, horizon).head(1).to_dicts()
        for row in best:
            yield Item(
                (
                    f"{horizon}: strongest is {row['symbol']} ",
                    direction(row["direction"]),
                    f" {signed(row['expected_return_bps'])} bps, confidence "
                    f"{percent(row['confidence'])}, until ",
                    Moment(row["valid_until"]),
                    ".",
                )
            )


def doubts(report: Report) -> tuple[Item, ...]:
    """Return what must not be trusted, or that nothing is known against these numbers."""
    found = _worst_first(_doubts(report))
    return found or (
        Item(("Nothing that was looked at speaks against these numbers.",), Tone.GOOD),
    )


def _doubts(report: Report) -> Iterator[Item]:
    for source in report.unread:
        yield Item((f"Could not be read: {source}",), Tone.BAD)
    yield from _stale(report)
    yield from _checks(report)
    if report.parity.is_empty():
        yield Item(("No parity check since the session before: not known to be repeatable.",))
    if report.held_rows.height:
        rows = int(report.held_rows["rows"].sum())
        symbols = sorted({s for names in report.held_rows["symbols"] for s in names})
        yield Item(
            (f"{plural(rows, 'row')} in quarantine in the last sessions: {some(symbols)}.",),
            Tone.WARN,
        )
    yield from _skill(report)
    yield from _undecided(report)
    split = conflicts(report)
    if split:
        yield Item(
            (
                f"{plural(len(split), 'symbol')} of {standing(report)['symbol'].n_unique()} point "
                f"both ways over the horizons: {some([c.symbol for c in split])}.",
            ),
            Tone.WARN,
        )
    if report.unsettled:
        told = ", ".join(f"{h} {n:,}" for h, n in report.unsettled.items())
        yield Item((f"Signals that ended and have no outcome on file: {told}.",), Tone.WARN)
    if report.book.problem:
        yield Item(
            (f"Positions are by {report.book.source}, not by the broker: {report.book.problem}",),
            Tone.WARN,
        )


def _stale(report: Report) -> Iterator[Item]:
    behind = report.coverage.filter(
        pl.col("newest").is_null() | (pl.col("newest") < pl.col("expected"))
    )
    for row in behind.to_dicts():
        yield Item(
            (
                f"{row['table']} end with {row['newest'] or 'nothing'}; this run should know "
                f"{row['expected']}.",
            ),
            Tone.BAD,
        )


def _checks(report: Report) -> Iterator[Item]:
    failed = report.checks.filter(~pl.col("passed").fill_null(False))
    for is_error, tone, text in ((True, Tone.BAD, "failed"), (False, Tone.WARN, "warned")):
        severe = (pl.col("severity") == "ERROR") | pl.col("passed").is_null()
        mine = failed.filter(severe if is_error else ~severe)
        names = [n for n in mine["check"] if not n.startswith(DRIFT)]
        if names:
            yield Item((f"{plural(len(names), 'check')} {text}: {some(names)}.",), tone)
    drifted = sorted(n for n in failed["check"] if n.startswith(DRIFT))
    if drifted:
        named = some([n.removeprefix(DRIFT).replace("_", " ") for n in drifted])
        yield Item((f"Drift: {named}.",), Tone.WARN)
    if report.checks.is_empty():
        yield Item(("No check of the data is on file.",), Tone.WARN)


def _skill(report: Report) -> Iterator[Item]:
    of_batch = in_order(report.signals["horizon"].to_list())
    known = {r["horizon"]: r for r in report.evidence.to_dicts()}
    lacking = [h for h in of_batch if h not in known]
    if lacking:
        yield Item((f"No backtest on file for {', '.join(lacking)}.",), Tone.WARN)
    unproven = [
        f"{h} {signed(known[h]['rank_ic'], 3)} ({signed(known[h]['low'], 3)} to "
        f"{signed(known[h]['high'], 3)})"
        for h in of_batch
        if h in known and not (known[h]["low"] or 0.0) > 0.0
    ]
    if unproven:
        yield Item(
            (f"Walk-forward rank IC not above zero at 95 %: {'; '.join(unproven)}.",),
            Tone.WARN,
        )
    lost = [
        f"{h} {number(known[h]['sharpe_ratio'])}"
        for h in of_batch
        if h in known and (known[h]["sharpe_ratio"] or 0.0) < 0.0
    ]
    if lost:
        yield Item(
            (f"Lost money after costs in the backtest (Sharpe ratio): {', '.join(lost)}.",),
            Tone.WARN,
        )


def _undecided(report: Report) -> Iterator[Item]:
    best = (
        report.signals.filter(pl.col("direction") != Direction.NEUTRAL.value)
        .group_by("horizon")
        .agg(pl.col("confidence").max())
        .filter(pl.col("confidence") < _EVEN)
    )
    highest = dict(best.iter_rows())
    if highest:
        told = ", ".join(f"{h} {percent(highest[h])}" for h in in_order(list(highest)))
        yield Item(
            (f"Not even the most confident signal reaches 50 %: {told}.",),
            Tone.WARN,
        )


def headline(report: Report) -> Line:
    """Return the line under the title."""
    batch = report.batch
    made: Line = (
        ("No batch was published",)
        if batch is None
        else (
            f"{plural(batch.rows, 'signal')} of all engines, emitted ",
            Moment(batch.ts_emit),
            f", batch {batch.batch_id[:12]}",
            f", revision {batch.revision}" if batch.revision > 1 else "",
        )
    )
    return ("As of ", Moment(report.as_of), "; all times are New York's. ", *made, ".")


def neutral_count(signals: pl.DataFrame) -> int:
    """Return how many signals have no direction."""
    return signals.filter(pl.col("direction") == Direction.NEUTRAL.value).height
