"""What features of a session were made from, so that only what changed is computed again.

A feature of a session depends on its definition, and on the bars and actions of a window of
sessions or, where it carries a state from bar to bar, of all of history; or on tables beside the
bars. For each session are remembered a digest of each and which definitions made its features.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from market import calendar
from market.ingest_log import read_log, settled_sessions
from market.lake import Lake
from market.reference_lineage import in_reach, reference_digests
from market.timeframes import Timeframe

LOG_TABLE = "feature_log"
DEFINITIONS_TABLE = "feature_definitions"
_SCHEMA = pl.Schema(
    {
        "timeframe": pl.String(),
        "session": pl.Date(),
        "window": pl.String(),
        "history": pl.String(),
        "beside": pl.String(),
        "definitions": pl.String(),
    }
)
_DEFINITIONS_SCHEMA = pl.Schema(
    {"definitions": pl.String(), "feature": pl.String(), "hash": pl.String()}
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Digests of the bars and actions behind the features of a session.

    ``window`` is over the sessions that a fixed lookback may reach, ``history`` over all,
    ``beside`` over the window and the macro values and news known by then.
    """

    window: str
    history: str
    beside: str


@dataclass(frozen=True)
class Definitions:
    """What features are computed by: name to digest.

    Attributes
    ----------
    window : mapping
        Features that look back a fixed number of bars.
    history : mapping
        Features that depend on all bars before.
    beside : mapping
        Features that are read from tables beside the bars.
    """

    window: Mapping[str, str] = field(default_factory=dict[str, str])
    history: Mapping[str, str] = field(default_factory=dict[str, str])
    beside: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def every(self) -> dict[str, str]:
        """All of them."""
        return {**self.window, **self.history, **self.beside}

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits that stand for all of them."""
        return _digest("".join(repr(sorted(d.items())) for d in self._parts()))

    def version(self, inputs: Inputs) -> str:
        """Return the data version of features made by these from such inputs."""
        digests = (inputs.window, inputs.history, inputs.beside)
        used = (d for d, part in zip(digests, self._parts(), strict=True) if part)
        return _digest(self.identity + "".join(used))

    def _parts(self) -> tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]:
        return self.window, self.history, self.beside

    def stale(self, made_by: Mapping[str, str], same: tuple[bool, bool, bool]) -> frozenset[str]:
        """Return the features whose inputs are not the same, or that other definitions made."""
        return frozenset(
            name
            for part, unchanged in zip(self._parts(), same, strict=True)
            for name, digest in part.items()
            if not unchanged or made_by.get(name) != digest
        )


def input_hashes(
    lake: Lake, timeframe: Timeframe, *, warm_up_sessions: int
) -> dict[dt.date, Inputs]:
    """Return, for each session with bars, digests of the data that its features depend on.

    Parameters
    ----------
    lake : Lake
        Bars, corporate actions, side tables, and what is remembered of their ingest.
    timeframe : Timeframe
        Of the features.
    warm_up_sessions : int
        How many sessions before it the features of fixed lookback read.
    """
    wanted = [Timeframe.D1, *([Timeframe.M1] if timeframe.is_intraday else [])]
    logs = [read_log(lake, t) for t in wanted]
    # Features need minutes; daily bars only carry the adjustment, and lie further back.
    sessions = sorted(logs[-1])
    actions, reference = _actions_by_session(lake), reference_digests(lake)
    own = {
        s: "".join(log[s].content if s in log else "-" for log in logs) + actions.get(s, "")
        for s in sessions
    }
    out: dict[dt.date, Inputs] = {}
    history = ""
    for position, session in enumerate(sessions):
        window = sessions[max(0, position - warm_up_sessions) : position + 1]
        history = _digest(history + own[session])
        within = _digest("|".join(own[s] for s in window))
        out[session] = Inputs(within, history, _digest(within + in_reach(reference, session)))
    return out


def stale_features(
    lake: Lake, timeframe: Timeframe, inputs: Mapping[dt.date, Inputs], definitions: Definitions
) -> dict[dt.date, frozenset[str]]:
    """Return, by session, the features that are missing or were made from something else.

    Sessions of which nothing is stale are left out.
    """
    have, made_by = _read(lake, timeframe), _read_definitions(lake)
    every = frozenset(definitions.every)
    known: dict[tuple[str, tuple[bool, bool, bool]], frozenset[str]] = {}
    out: dict[dt.date, frozenset[str]] = {}
    for session, now in sorted(inputs.items()):
        then = have.get(session)
        if then is None:
            out[session] = every
            continue
        old, maker = then
        same = (old.window == now.window, old.history == now.history, old.beside == now.beside)
        if (maker, same) not in known:
            known[maker, same] = definitions.stale(made_by.get(maker, {}), same)
        if known[maker, same]:
            out[session] = known[maker, same]
    return out


def stale_sessions(
    lake: Lake, timeframe: Timeframe, inputs: Mapping[dt.date, Inputs], definitions: Definitions
) -> list[dt.date]:
    """Return the sessions with a feature that is missing or was made from something else."""
    return sorted(stale_features(lake, timeframe, inputs, definitions))


def changed_sessions(
    lake: Lake, timeframe: Timeframe, inputs: Mapping[dt.date, Inputs], definitions: Definitions
) -> list[dt.date]:
    """Return the sessions whose features exist and were made from something else than now."""
    have = _read(lake, timeframe)
    return [s for s in stale_sessions(lake, timeframe, inputs, definitions) if s in have]


def remember_inputs(
    lake: Lake,
    timeframe: Timeframe,
    sessions: Sequence[dt.date],
    inputs: Mapping[dt.date, Inputs],
    definitions: Definitions,
) -> None:
    """Write down what the features of these sessions were made from, and by what."""
    rows = pl.DataFrame(
        [
            (timeframe.value, s, i.window, i.history, i.beside, definitions.identity)
            for s, i in ((s, inputs.get(s)) for s in sessions)
            if i is not None
        ],
        schema=_SCHEMA,
        orient="row",
    )
    items = definitions.every.items()
    named = pl.DataFrame(
        [(definitions.identity, name, digest) for name, digest in sorted(items)],
        schema=_DEFINITIONS_SCHEMA,
        orient="row",
    )
    with lake.locked():
        _add(lake, DEFINITIONS_TABLE, named, ["definitions", "feature"])
        _add(lake, LOG_TABLE, rows, ["timeframe", "session"])


def _add(lake: Lake, table: str, rows: pl.DataFrame, keys: list[str]) -> None:
    if lake.exists(table):
        stored = lake.scan(table).collect()
        # A log of an earlier version says less than is asked of it: those features are stale.
        if stored.schema == rows.schema:
            rows = pl.concat([stored.join(rows, on=keys, how="anti"), rows])
    lake.replace(table, rows.sort(keys), None)


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
        parts += [
            f"{timeframe.value} {s} {i.window} {i.history} {i.beside} {d}" for s, (i, d) in made
        ]
    return _digest("\n".join(parts))[:12]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def _read(lake: Lake, timeframe: Timeframe) -> dict[dt.date, tuple[Inputs, str]]:
    if not lake.exists(LOG_TABLE) or lake.scan(LOG_TABLE).collect_schema() != _SCHEMA:
        return {}
    rows = lake.scan(LOG_TABLE).filter(pl.col("timeframe") == timeframe.value)
    columns = rows.select("session", "window", "history", "beside", "definitions").collect()
    return {s: (Inputs(w, h, b), d) for s, w, h, b, d in columns.iter_rows()}


def _read_definitions(lake: Lake) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    if lake.exists(DEFINITIONS_TABLE):
        for identity, feature, digest in lake.scan(DEFINITIONS_TABLE).collect().iter_rows():
            out.setdefault(identity, {})[feature] = digest
    return out


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
