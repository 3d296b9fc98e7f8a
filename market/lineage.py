"""What features of a session were made from, so that only what changed is computed again."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence

import polars as pl

from market import calendar
from market.ingest_log import read_log, settled_sessions
from market.lake import Lake
from market.timeframes import Timeframe

LOG_TABLE = "feature_log"
_SCHEMA = pl.Schema({"timeframe": pl.String(), "session": pl.Date(), "inputs": pl.String()})


def input_hashes(
    lake: Lake, timeframe: Timeframe, *, code: str, warm_up_sessions: int
) -> dict[dt.date, str]:
    """Return, for each session with bars, a digest of all that its features depend on.

    Parameters
    ----------
    lake : Lake
        Bars, corporate actions, and what is remembered of their ingest.
    timeframe : Timeframe
        Of the features.
    code : str
        Digest of the features' definitions.
    warm_up_sessions : int
        How many sessions before it a session's features read.

    Returns
    -------
    dict
        Session to digest over the code and the bars and actions of its window.
    """
    wanted = [Timeframe.D1, *([Timeframe.M1] if timeframe.is_intraday else [])]
    logs = [read_log(lake, t) for t in wanted]
    # Features need minutes; daily bars only carry the adjustment, and lie further back.
    sessions = sorted(logs[-1])
    actions = _actions_by_session(lake)
    own = {
        s: "".join(log[s].content if s in log else "-" for log in logs) + actions.get(s, "")
        for s in sessions
    }
    out: dict[dt.date, str] = {}
    for position, session in enumerate(sessions):
        window = sessions[max(0, position - warm_up_sessions) : position + 1]
        text = code + "|".join(own[s] for s in window)
        out[session] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return out


def stale_sessions(
    lake: Lake, timeframe: Timeframe, inputs: Mapping[dt.date, str]
) -> list[dt.date]:
    """Return the sessions whose features are missing or were made from something else."""
    have = _read(lake, timeframe)
    return sorted(s for s, digest in inputs.items() if have.get(s) != digest)


def remember_inputs(
    lake: Lake, timeframe: Timeframe, sessions: Sequence[dt.date], inputs: Mapping[dt.date, str]
) -> None:
    """Write down what the features of these sessions were made from."""
    rows = pl.DataFrame(
        [
            {"timeframe": timeframe.value, "session": s, "inputs": inputs[s]}
            for s in sessions
            if s in inputs
        ],
        schema=_SCHEMA,
    )
    with lake.locked():
        if lake.exists(LOG_TABLE):
            stored = lake.scan(LOG_TABLE).select(_SCHEMA.names()).collect()
            rows = pl.concat([stored.join(rows, on=["timeframe", "session"], how="anti"), rows])
        lake.replace(LOG_TABLE, rows.sort("timeframe", "session"), None)


def changed_sessions(
    lake: Lake, timeframe: Timeframe, inputs: Mapping[dt.date, str]
) -> list[dt.date]:
    """Return the sessions whose features exist and were made from something else than now."""
    have = _read(lake, timeframe)
    return sorted(s for s, digest in inputs.items() if have.get(s, digest) != digest)


def dataset_digest(lake: Lake, timeframes: Sequence[Timeframe]) -> str:
    """Return the identity of the features that may be learned from.

    Features are determined by what they were made from, so this reads no feature. Sessions that
    were not over when their bars were fetched do not count: they are not learned from.

    Parameters
    ----------
    lake : Lake
        With features.
    timeframes : sequence of Timeframe
        Whose features.

    Returns
    -------
    str
        12 hexadecimal digits.
    """
    parts: list[str] = []
    for timeframe in timeframes:
        settled = settled_sessions(lake, Timeframe.M1 if timeframe.is_intraday else Timeframe.D1)
        made = sorted((s, d) for s, d in _read(lake, timeframe).items() if s in settled)
        parts += [f"{timeframe.value} {session} {digest}" for session, digest in made]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def contiguous(sessions: Sequence[dt.date]) -> list[list[dt.date]]:
    """Return runs of sessions without a session in between.

    Examples
    --------
    >>> days = [dt.date(2024, 7, 2), dt.date(2024, 7, 3), dt.date(2024, 7, 5), dt.date(2024, 7, 9)]
    >>> [len(run) for run in contiguous(days)]
    [3, 1]
    """
    runs: list[list[dt.date]] = []
    for session in sorted(sessions):
        if runs and calendar.next_session(runs[-1][-1]) == session:
            runs[-1].append(session)
        else:
            runs.append([session])
    return runs


def _read(lake: Lake, timeframe: Timeframe) -> dict[dt.date, str]:
    if not lake.exists(LOG_TABLE):
        return {}
    rows = lake.scan(LOG_TABLE).filter(pl.col("timeframe") == timeframe.value)
    return dict(rows.select("session", "inputs").collect().iter_rows())


def _actions_by_session(lake: Lake) -> dict[dt.date, str]:
    out: dict[dt.date, str] = {}
    for table in ("splits", "dividends"):
        if lake.exists(table):
            rows = lake.scan(table).sort("symbol", "ex_date").collect()
            for row in rows.iter_rows(named=True):
                values = [str(v) for k, v in row.items() if k != "known_at"]
                out[row["ex_date"]] = out.get(row["ex_date"], "") + ",".join([table, *values])
    if lake.exists("identities"):
        # A series goes on under another symbol from the first session on or after the change.
        spells = lake.scan("identities").filter(pl.col("valid_from").is_not_null())
        for row in spells.sort("identity", "valid_from").collect().iter_rows(named=True):
            day = calendar.sessions_around(calendar.previous_session(row["valid_from"]), 0, 1)[-1]
            out[day] = out.get(day, "") + ",".join([row["identity"], row["symbol"]])
    return out
