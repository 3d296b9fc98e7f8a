"""What a report shows, read from lake, ledger, broker and settings."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import polars as pl
import sqlalchemy as sa

from execution.failures import failure_of
from market import calendar
from market.errors import IsobarError, SignalError
from market.horizons import Run, find_horizon, last_complete_bar, scheduled_for
from market.lake import Lake
from market.ledger import Ledger
from market.ledger_tables import (
    backtests,
    engine_weights,
    parity_checks,
    signal_batches,
    signal_outcomes,
    trading_state,
)
from market.ledger_tables import signals as signals_table
from market.quarantine import quarantine_table
from market.timeframes import Timeframe
from pipelines.report_book import read_book, read_open_orders, read_plan
from pipelines.resources import Stores
from reports.analysis import in_order
from reports.facts import (
    COVERAGE_SCHEMA,
    EVIDENCE_SCHEMA,
    HELD_ROWS_SCHEMA,
    MODEL_SCHEMA,
    OUTCOME_SCHEMA,
    PARITY_SCHEMA,
    REGIME_SCHEMA,
    Batch,
    Report,
    Trading,
)
from signals.publish import decode_signals
from signals.schema import ENSEMBLE_ENGINE, SIGNAL_SCHEMA

_BATCHES_BACK = 12
_REGIME_SESSIONS = 126
_HELD_SESSIONS = 5
_ORDER_OF_DAY = (Run.PREMARKET, Run.MIDDAY, Run.EOD)


def next_run_at(run: Run, session: dt.date) -> dt.datetime:
    """Return when the scheduled run after this one is due.

    Examples
    --------
    >>> next_run_at(Run.EOD, dt.date(2025, 6, 30)).isoformat()
    '2025-07-01T12:30:00+00:00'
    """
    later = _ORDER_OF_DAY[_ORDER_OF_DAY.index(run) + 1 :]
    if later:
        return scheduled_for(later[0], session)
    return scheduled_for(_ORDER_OF_DAY[0], calendar.next_session(session))


def read_report(
    stores: Stores, run: Run, session: dt.date, now: dt.datetime, checks: pl.DataFrame
) -> Report:
    """Return all that the report of a run shows.

    Parameters
    ----------
    stores : Stores
        One installation.
    run, session
        Whose report.
    now : datetime
        The present. What became known later than this, or after the next run was due, is left
        out, so that a report made again later says the same.
    checks : pl.DataFrame
        ``reports.facts.CHECK_SCHEMA``, from :func:`pipelines.check_results.read_checks`.

    Returns
    -------
    Report
        With an entry in ``unread`` for a source of the lake that could not be read.

    Raises
    ------
    SignalError
        When the run is not due yet.
    LedgerError
        When the ledger cannot be read: without it there is nothing to report.
    """
    as_of = scheduled_for(run, session)
    if now < as_of:
        raise SignalError(
            f"the {run.value} report of {session} is not due yet",
            got=f"now {now.isoformat()}",
            allowed=f"from {as_of.isoformat()}",
            remedy="wait, or name an earlier session",
        )
    upcoming = next_run_at(run, session)
    known_by = min(now, upcoming)
    since = scheduled_for(run, calendar.previous_session(session))
    unread: list[str] = []
    regimes = _regimes(stores.lake, as_of, unread)
    with stores.ledger as ledger:
        batches = _batches(ledger, as_of, known_by)
        batch = next((b for b in batches if (b.run, b.as_of) == (run.value, as_of)), None)
        before = [b for b in batches if b.as_of < as_of]
        previous = before[0] if before else None
        signals = _signals(ledger, [] if batch is None else [batch])
        earlier, earlier_runs = _earlier(ledger, before)
        trading = _trading(stores, ledger, known_by)
        outcomes, unsettled = _outcomes(ledger, since, known_by)
        plan = read_plan(ledger, as_of, known_by)
        open_orders = read_open_orders(ledger, known_by)
        models = _models(ledger, batch, before, regimes)
        evidence = _evidence(ledger, signals, known_by)
        parity = _parity(ledger, since, known_by)
        book = read_book(stores, ledger, known_by, is_present=now <= upcoming)
        failure = None if batch is None else failure_of(ledger, batch.batch_id, known_by)
    return Report(
        run=run.value,
        session=session,
        as_of=as_of,
        known_by=known_by,
        since=since,
        next_run_at=upcoming,
        trading=trading,
        batch=batch,
        previous=previous,
        signals=signals,
        earlier=earlier,
        earlier_runs=earlier_runs,
        regimes=regimes,
        previous_regime=_regime_at(regimes, previous),
        models=models,
        evidence=evidence,
        outcomes=outcomes,
        unsettled=unsettled,
        book=book,
        open_orders=open_orders,
        plan=plan,
        trading_failure=failure,
        checks=checks,
        held_rows=_held(stores.lake, session, known_by, unread),
        parity=parity,
        coverage=_coverage(stores, as_of, unread),
        unread=tuple(unread),
        made_at=now,
    )


def _batches(ledger: Ledger, as_of: dt.datetime, known_by: dt.datetime) -> list[Batch]:
    """Return the newest batches up to a moment, of each its newest revision, newest first."""
    c = signal_batches.c
    query = (
        sa.select(c.batch_id, c.run, c.as_of, c.ts_emit, c.late, c.rows, c.revision)
        .where(c.as_of <= as_of, c.complete)
        .order_by(c.as_of.desc(), c.revision.desc())
        .limit(_BATCHES_BACK)
    )
    found: dict[tuple[str, dt.datetime], Batch] = {}
    for row in ledger.rows(query):
        # A batch of this moment counts however late it was emitted; a revision that came after
        # the time of the report does not.
        if row["ts_emit"] <= known_by or row["revision"] == 1:
            found.setdefault((row["run"], row["as_of"]), Batch(**row))
    return list(found.values())


def _signals(ledger: Ledger, batches: Sequence[Batch]) -> pl.DataFrame:
    if not batches:
        return pl.DataFrame(schema=SIGNAL_SCHEMA)
    c = signals_table.c
    query = (
        sa.select(signals_table)
        .where(c.batch_id.in_([b.batch_id for b in batches]), c.engine == ENSEMBLE_ENGINE)
        .order_by(c.seq)
    )
    return decode_signals(ledger.read(query))


def _earlier(ledger: Ledger, before: Sequence[Batch]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return of each horizon the ensemble's rows of the newest batch before, and whose they are."""
    rows = _signals(ledger, before)
    # Of two batches of one moment the one with the higher revision was read first.
    newest = rows.filter(pl.col("as_of") == pl.col("as_of").max().over("horizon"))
    named = {(b.as_of, b.batch_id): b for b in before}
    runs: dict[str, str] = {}
    for horizon, as_of, batch_id in newest["horizon", "as_of", "batch_id"].unique().rows():
        batch = named[(as_of, batch_id)]
        runs[horizon] = f"{batch.run} of {as_of.astimezone(calendar.NEW_YORK):%Y-%m-%d}"
    return newest, runs


def _regimes(lake: Lake, as_of: dt.datetime, unread: list[str]) -> pl.DataFrame:
    try:
        rows = lake.scan("regimes").filter(pl.col("as_of") <= as_of).sort("as_of").collect()
    except IsobarError as error:
        unread.append(f"regimes ({error.problem})")
        return pl.DataFrame(schema=REGIME_SCHEMA)
    return rows.select(REGIME_SCHEMA.names()).cast(REGIME_SCHEMA).tail(_REGIME_SESSIONS)


def _regime_at(regimes: pl.DataFrame, batch: Batch | None) -> str | None:
    if batch is None:
        return None
    known = regimes.filter(pl.col("as_of") <= batch.as_of)["regime"].to_list()
    return known[-1] if known else None


def _trading(stores: Stores, ledger: Ledger, known_by: dt.datetime) -> Trading:
    c = trading_state.c
    query = (
        sa.select(c.state, c.at, c.reason).where(c.at <= known_by).order_by(c.seq.desc()).limit(1)
    )
    rows = ledger.rows(query)
    settings = stores.settings.trading
    if not rows:
        return Trading("active", settings.enabled, settings.mode)
    row = rows[0]
    return Trading(row["state"], settings.enabled, settings.mode, row["at"], row["reason"])


def _models(
    ledger: Ledger, batch: Batch | None, before: Sequence[Batch], regimes: pl.DataFrame
) -> pl.DataFrame:
    if batch is None:
        return pl.DataFrame(schema=MODEL_SCHEMA)
    now = _versions(ledger, [batch])
    past = _versions(ledger, before).sort("as_of").unique(["horizon", "engine"], keep="last")
    c = engine_weights.c
    regime = regimes["regime"][-1] if regimes.height else "neutral"
    weights = ledger.read(
        sa.select(c.horizon, c.engine, c.weight).where(c.as_of == batch.as_of, c.regime == regime)
    )
    keys = ["horizon", "engine"]
    return (
        now.join(weights, on=keys, how="left")
        .join(
            past.select(*keys, pl.col("model_version").alias("previous_version")),
            on=keys,
            how="left",
        )
        .select(pl.col(n).cast(t) for n, t in MODEL_SCHEMA.items())
        .sort(
            pl.col("horizon").replace_strict(
                {h: k for k, h in enumerate(in_order(now["horizon"].to_list()))},
                return_dtype=pl.Int64,
            ),
            "engine",
        )
    )


def _versions(ledger: Ledger, batches: Sequence[Batch]) -> pl.DataFrame:
    c = signals_table.c
    ids = [b.batch_id for b in batches]
    query = sa.select(c.horizon, c.engine, c.model_version, c.as_of).distinct()
    return ledger.read(query.where(c.batch_id.in_(ids)))


def _evidence(ledger: Ledger, signals: pl.DataFrame, known_by: dt.datetime) -> pl.DataFrame:
    c = backtests.c
    query = (
        sa.select(c.horizons, c.metrics, c.end_session)
        .where(c.as_of <= known_by)
        .order_by(c.as_of.desc(), c.created_at.desc())
    )
    found: dict[str, dict[str, Any]] = {}
    for row in ledger.rows(query):
        # A combined backtest says nothing of one of its horizons by itself.
        if len(row["horizons"]) == 1:
            found.setdefault(row["horizons"][0], _skill(row["horizons"][0], row))
    return pl.DataFrame(list(found.values()), schema=EVIDENCE_SCHEMA, orient="row")


def _skill(horizon: str, row: dict[str, Any]) -> dict[str, Any]:
    metrics = row["metrics"]
    low, high = metrics.get("rank_ic_interval") or (None, None)
    sharpe_low, sharpe_high = metrics.get("sharpe_interval") or (None, None)
    return {
        "horizon": horizon,
        "rank_ic": metrics.get("rank_ic"),
        "low": low,
        "high": high,
        "sessions": metrics.get("rank_ic_sessions"),
        "sharpe_ratio": metrics.get("sharpe_ratio"),
        "sharpe_low": sharpe_low,
        "sharpe_high": sharpe_high,
        "end_session": row["end_session"],
    }


def _outcomes(
    ledger: Ledger, since: dt.datetime, known_by: dt.datetime
) -> tuple[pl.DataFrame, dict[str, int]]:
    s, o = signals_table.c, signal_outcomes.c
    is_ensemble = s.engine == ENSEMBLE_ENGINE
    columns = {**dict(s.items()), **dict(o.items())}
    query = (
        sa.select(*(columns[n] for n in OUTCOME_SCHEMA.names()))
        .join_from(signal_outcomes, signals_table, o.signal_id == s.id)
        .where(o.known_at > since, o.known_at <= known_by, is_ensemble)
        .order_by(s.seq)
    )
    found = ledger.read(query).select(pl.col(n).cast(t) for n, t in OUTCOME_SCHEMA.items())
    ended = (
        sa.select(s.horizon, sa.func.count().label("signals"))
        .join_from(signals_table, signal_outcomes, o.signal_id == s.id, isouter=True)
        .where(s.valid_until > since, s.valid_until <= known_by, is_ensemble, o.signal_id.is_(None))
        .group_by(s.horizon)
    )
    counts = {r["horizon"]: int(r["signals"]) for r in ledger.rows(ended)}
    return found, {h: counts[h] for h in in_order(list(counts))}


def _parity(ledger: Ledger, since: dt.datetime, known_by: dt.datetime) -> pl.DataFrame:
    p, b = parity_checks.c, signal_batches.c
    query = (
        sa.select(b.run, b.as_of, p.checked_at, p.equal, p.findings)
        .join_from(parity_checks, signal_batches, p.batch_id == b.batch_id)
        .where(p.checked_at > since, p.checked_at <= known_by)
        .order_by(b.as_of, p.checked_at)
    )
    # The newest verdict on each batch.
    rows = {(r["run"], r["as_of"]): r for r in ledger.rows(query)}
    told = [{**r, "findings": [str(f) for f in r["findings"]]} for r in rows.values()]
    return pl.DataFrame(told, schema=PARITY_SCHEMA, orient="row")


def _held(lake: Lake, session: dt.date, known_by: dt.datetime, unread: list[str]) -> pl.DataFrame:
    first = calendar.offset_session(session, -_HELD_SESSIONS)
    parts = [pl.DataFrame(schema=HELD_ROWS_SCHEMA)]
    for timeframe in (Timeframe.D1, Timeframe.M1):
        table = quarantine_table(timeframe)
        if not lake.exists(table):
            continue
        try:
            rows = (
                lake.scan(table)
                .filter(
                    (pl.col("asked_session") >= first)
                    & (pl.col("asked_session") <= session)
                    & (pl.col("evident_at").is_null() | (pl.col("evident_at") <= known_by))
                )
                .collect()
            )
        except IsobarError as error:
            unread.append(f"{table} ({error.problem})")
            continue
        parts.append(
            rows.group_by(pl.col("asked_session").alias("session"), "reason")
            .agg(rows=pl.len(), symbols=pl.col("symbol").drop_nulls().unique().sort())
            .with_columns(timeframe=pl.lit(timeframe.value))
            .select(pl.col(n).cast(t) for n, t in HELD_ROWS_SCHEMA.items())
        )
    return pl.concat(parts).sort("session", "timeframe", "reason", descending=[True, False, False])


def _coverage(stores: Stores, as_of: dt.datetime, unread: list[str]) -> pl.DataFrame:
    """Return the newest session of the bars that the horizons which are on are fed with."""
    fed = {find_horizon(h.name).timeframe.is_intraday for h in stores.settings.enabled_horizons}
    frames = [Timeframe.D1, *([Timeframe.M1] if True in fed else [])]
    rows: list[dict[str, Any]] = []
    moment = as_of - stores.delay
    for timeframe in frames:
        table = f"bars_{timeframe.value}"
        newest = None
        try:
            if stores.lake.exists(table):
                # What has come in since tells nothing of what this run could know.
                begun = [s for s in stores.lake.sessions(table) if _begins(timeframe, s) <= moment]
                newest = max(begun, default=None)
        except IsobarError as error:
            unread.append(f"{table} ({error.problem})")
            continue
        expected = last_complete_bar(timeframe, as_of, stores.delay)
        rows.append(
            {
                "table": table,
                "newest": newest,
                "expected": expected.astimezone(calendar.NEW_YORK).date(),
            }
        )
    return pl.DataFrame(rows, schema=COVERAGE_SCHEMA, orient="row")


def _begins(timeframe: Timeframe, session: dt.date) -> dt.datetime:
    """Return when the first bar of a session begins to be known."""
    if timeframe.is_intraday:
        return calendar.session_open(session)
    return calendar.session_close(session)
