"""Bring the features of some sessions up to date: only what is stale, in parts that fit memory."""

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.bridge import indicator_features
from features.compute import SECTOR, compute_features, longest_lookback
from features.definitions import definition_hashes, definitions_hash
from features.incremental import (
    Checkpoint,
    compute_increment,
    out_of_reach,
    session_to_keep,
    short_of_bars,
)
from features.registry import select_features
from features.side import SideTables
from features.spec import PANEL_KEYS, Feature, Stage
from market import calendar
from market.bars import by_company, read_adjusted, symbols_of
from market.ingest_log import read_log
from market.lake import Lake
from market.lineage import (
    Definitions,
    Inputs,
    contiguous,
    input_hashes,
    remember_inputs,
    stale_features,
)
from market.schema import Bar
from market.timeframes import Timeframe
from pipelines.settings import Settings

SideReader = Callable[[dt.date, dt.date], SideTables]

# Values computed at once: four bytes each, beside the bars that they come from.
_CELLS_AT_ONCE = 250_000_000
_CHECKPOINTS_KEPT = 8


def feature_table(timeframe: Timeframe) -> str:
    """Return the lake table of these features."""
    return f"features_{timeframe.value}"


def kept_features(settings: Settings, timeframe: Timeframe) -> tuple[Feature, ...]:
    """Return the features that this installation keeps for bars of a length."""
    wanted = settings.features
    registered = (f for n in wanted.families for f in select_features(family=n))
    named = indicator_features(wanted.indicators) if wanted.indicators else ()
    return tuple(f for f in (*registered, *named) if f.scope.covers(timeframe))


def used_timeframes(settings: Settings) -> list[Timeframe]:
    """Return the input bars of the horizons that are on."""
    wanted = {h.timeframe for h in settings.enabled_horizons}
    return [t for t in Timeframe if t in wanted]


def definitions_of(features: Sequence[Feature], sectors: Path | None = None) -> Definitions:
    """Return what features are computed by, apart by what they depend on.

    Parameters
    ----------
    features : sequence of Feature
        What is kept.
    sectors : Path, optional
        The file of sectors: a setting that sector features are made by.
    """
    hashes = definition_hashes(features)
    if sectors is not None:
        digest = hashlib.sha256(sectors.read_bytes()).hexdigest()[:16]
        hashes |= {f.name: hashes[f.name] + digest for f in features if SECTOR in f.inputs}
    beside = {f.name for f in features if f.stage is Stage.AS_OF or SECTOR in f.inputs}
    recursive = {f.name for f in features if f.memory.is_recursive} - beside
    return Definitions(
        {n: h for n, h in hashes.items() if n not in recursive | beside},
        {n: h for n, h in hashes.items() if n in recursive},
        {n: h for n, h in hashes.items() if n in beside},
    )


def warm_up_sessions(timeframe: Timeframe, features: Sequence[Feature]) -> int:
    """Return how many sessions before it the features of a session read.

    Twice the lookback, so that a symbol that was halted for a while still has enough bars.
    """
    per_session = max(1, calendar.REGULAR_MINUTES // timeframe.minutes)
    return 2 * -(-longest_lookback(features) // per_session) + 3


def feature_inputs(
    lake: Lake, timeframe: Timeframe, features: Sequence[Feature]
) -> dict[dt.date, Inputs]:
    """Return digests of the data that the features of each session depend on."""
    reach = warm_up_sessions(timeframe, features)
    return input_hashes(lake, timeframe, warm_up_sessions=reach)


def compute_now(
    lake: Lake,
    timeframe: Timeframe,
    features: Sequence[Feature],
    start: dt.date | None,
    end: dt.date | None,
    side: SideReader | None = None,
) -> pl.DataFrame:
    """Return features of a period that are not kept in the lake, from the bars that are.

    Of features that look back a fixed number of bars, only those bars are read.
    """
    begin = None
    if start is not None and not any(f.memory.is_recursive for f in features):
        begin = start - dt.timedelta(days=2 * warm_up_sessions(timeframe, features))
    bars = read_adjusted(lake, timeframe, begin, end)
    days = bars[Bar.SESSION].unique().sort()
    beside = side(start or days[0], days[-1]) if side and len(days) else None
    return by_company(lake, bars, lambda rows: compute_features(rows, features, beside))


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did: rows written, values computed, sessions that were stale."""

    rows: int
    values: int
    sessions: int
    null_share: float


class FeatureRun:
    """One refresh of the features of a timeframe.

    Parameters
    ----------
    lake : Lake
        Bars in, features out.
    timeframe : Timeframe
        Of the bars.
    features : sequence of Feature
        All that are kept in the table.
    side : callable, optional
        From first and last session to what as-of features and sectors are read from.
    sectors : Path, optional
        The file of sectors that ``side`` reads.
    """

    def __init__(
        self,
        lake: Lake,
        timeframe: Timeframe,
        features: Sequence[Feature],
        side: SideReader | None = None,
        sectors: Path | None = None,
    ) -> None:
        self._read_side = side
        self.lake = lake
        self.timeframe = timeframe
        self.features = tuple(features)
        self.definitions = definitions_of(features, sectors)
        self.inputs = feature_inputs(lake, timeframe, features)
        self._states = f"feature_states_{timeframe.value}"
        self._table = feature_table(timeframe)

    def refresh(self, sessions: Sequence[dt.date]) -> Refreshed:
        """Compute what is stale of these sessions, write it and remember from what it was made."""
        stale = stale_features(self.lake, self.timeframe, self.inputs, self.definitions)
        # A session without bars has no features, but it may have had some.
        gone = [s for s in sessions if s not in self.inputs]
        if gone and self.lake.exists(self._table):
            self.lake.replace(self._table, self._empty(), gone)
        rows = values = 0
        nulls = 0.0
        wanted = [s for s in sessions if s in stale]
        for run in _alike(wanted, stale):
            names = stale[run[0]]
            for part in self._compute([f for f in self.features if f.name in names], run):
                days = part[Bar.SESSION].unique().sort().to_list()
                whole = self._with_the_rest(part, days)
                self.lake.replace(self._table, whole, days)
                remember_inputs(self.lake, self.timeframe, days, self.inputs, self.definitions)
                rows += whole.height
                values += part.height * len(names)
                nulls += sum(part.null_count().row(0))
        return Refreshed(rows, values, len(wanted), nulls / values if values else 0.0)

    def _empty(self) -> pl.DataFrame:
        return self.lake.scan(self._table).head(0).collect()

    def _with_the_rest(self, made: pl.DataFrame, days: Sequence[dt.date]) -> pl.DataFrame:
        """Return new columns beside those that are kept, in the order of the registry."""
        names = [f.name for f in self.features]
        kept = [n for n in names if n not in made.columns]
        if kept:
            keys = [Bar.SYMBOL.value, Bar.BAR_END.value]
            stored = self.lake.scan(self._table).filter(pl.col(Bar.SESSION).is_in(days))
            there = [n for n in kept if n in stored.collect_schema().names()]
            made = made.join(stored.select(*keys, *there).collect(), on=keys, how="left")
        return made.select(*PANEL_KEYS, *(n for n in names if n in made.columns))

    def _compute(self, features: list[Feature], run: Sequence[dt.date]) -> Iterator[pl.DataFrame]:
        """Yield the features of consecutive sessions, a part at a time."""
        going_on = [f for f in features if f.resumable]
        anew = self._from_the_start([f for f in features if not f.resumable], run)
        if not going_on and anew is not None:
            yield anew
            return
        for part in self._in_parts(going_on, run):
            if anew is None:
                yield part
            else:
                keys = list(PANEL_KEYS)
                yield part.join(anew, on=keys, how="left", maintain_order="left")

    def _from_the_start(
        self, features: list[Feature], run: Sequence[dt.date]
    ) -> pl.DataFrame | None:
        """Return features that no checkpoint serves, from all of history."""
        if not features:
            return None
        bars = read_adjusted(self.lake, self.timeframe, None, run[-1])
        made = by_company(self.lake, bars, lambda rows: compute_features(rows, features))
        return made.filter(pl.col(Bar.SESSION) >= run[0])

    def _in_parts(self, features: list[Feature], run: Sequence[dt.date]) -> Iterator[pl.DataFrame]:
        recursive = [f for f in features if f.memory.is_recursive]
        checkpoint = self._latest_before(run[0]) if recursive else None
        size = self._sessions_at_once(len(features))
        if recursive and checkpoint is None:
            # Nothing but their state is wanted of what comes before.
            before = [s for s in sorted(self.inputs) if s < run[0]]
            for k in range(0, len(before), size):
                days = before[k : k + size]
                _, checkpoint = self._step(recursive, days, checkpoint, serving=features)
        days = [s for s in sorted(self.inputs) if run[0] <= s <= run[-1]]
        for k in range(0, len(days), size):
            made, checkpoint = self._step(features, days[k : k + size], checkpoint)
            if made.height:
                yield made
        names = {f.name for f in features}
        kept = {f.name for f in self.features if f.memory.is_recursive and f.resumable}
        if checkpoint is not None and checkpoint.bars and names >= kept:
            self._keep(checkpoint)

    def _side(self, features: Sequence[Feature], days: Sequence[dt.date]) -> SideTables | None:
        wanted = any(f.name in self.definitions.beside for f in features)
        return self._read_side(days[0], days[-1]) if wanted and self._read_side else None

    def _sessions_at_once(self, columns: int) -> int:
        log = read_log(self.lake, Timeframe.M1 if self.timeframe.is_intraday else Timeframe.D1)
        symbols = max(len(entry.symbols) for entry in log.values())
        per_session = max(1, calendar.REGULAR_MINUTES // self.timeframe.minutes)
        return max(1, _CELLS_AT_ONCE // (symbols * per_session * columns))

    def _step(
        self,
        features: list[Feature],
        days: Sequence[dt.date],
        checkpoint: Checkpoint | None,
        serving: list[Feature] | None = None,
    ) -> tuple[pl.DataFrame, Checkpoint | None]:
        """Compute one part; return it with the checkpoint for the next one, of ``serving``."""
        recursive = any(f.memory.is_recursive for f in features)
        every = sorted(self.inputs)
        anchor = every.index(days[0])
        if checkpoint is not None:
            anchor = sum(s <= checkpoint.session for s in every) - 1
        back = warm_up_sessions(self.timeframe, features) // 2
        first = 0 if recursive and checkpoint is None else max(0, anchor - back)
        kept: list[Checkpoint] = []

        def compute(bars: pl.DataFrame) -> pl.DataFrame:
            bars, whole = self._with_enough(bars, features, every[first], days[0], checkpoint)
            made = compute_increment(
                bars,
                features,
                start=days[0],
                keep=self._session_to_keep(bars, serving or features, checkpoint),
                checkpoint=checkpoint,
                whole=whole,
                side=self._side(features, days),
            )
            kept.append(made.checkpoint)
            return made.features

        bars = read_adjusted(self.lake, self.timeframe, every[first], days[-1])
        made = by_company(self.lake, bars, compute)
        return made, kept[0] if recursive else None

    def _session_to_keep(
        self, bars: pl.DataFrame, features: list[Feature], checkpoint: Checkpoint | None
    ) -> dt.date:
        nothing = bars[Bar.SESSION].min() - dt.timedelta(days=1)  # type: ignore[operator]
        found = session_to_keep(bars, features) or nothing
        return found if checkpoint is None else max(found, checkpoint.session)

    def _with_enough(
        self,
        bars: pl.DataFrame,
        features: list[Feature],
        first: dt.date,
        start: dt.date,
        checkpoint: Checkpoint | None,
    ) -> tuple[pl.DataFrame, list[str]]:
        """Add all earlier bars of symbols that lack some, and for all symbols of their window."""
        if first == min(self.inputs):
            # Bars begin where history does: whom a checkpoint does not reach is computed anew.
            return bars, out_of_reach(bars, features, start=start, checkpoint=checkpoint)
        short = (
            short_of_bars(bars, features, start)
            if checkpoint is None
            else out_of_reach(bars, features, start=start, checkpoint=checkpoint)
        )
        if not short:
            return bars, []
        before = calendar.previous_session(first)
        names = symbols_of(self.lake, short)
        own = self._companies(None, before, names).filter(pl.col(Bar.SYMBOL).is_in(short))
        if own.is_empty():
            return bars, [] if checkpoint is None else short
        # What is measured against all symbols needs all of them as far back as its window goes.
        lookback = longest_lookback(features)
        window = own.group_by(Bar.SYMBOL).agg(pl.col(Bar.SESSION).tail(lookback).first())
        begin = window[Bar.SESSION].min()
        others = self._companies(begin, before, None).filter(~pl.col(Bar.SYMBOL).is_in(short))
        return pl.concat([own, others, bars]), short

    def _companies(
        self, start: dt.date | None, end: dt.date, symbols: Sequence[str] | None
    ) -> pl.DataFrame:
        bars = read_adjusted(self.lake, self.timeframe, start, end, symbols)
        made: list[pl.DataFrame] = []

        def keep(rows: pl.DataFrame) -> pl.DataFrame:
            made.append(rows)
            return rows

        by_company(self.lake, bars, keep)
        return made[0]

    def _made_from(self, session: dt.date) -> str:
        recursive = [f for f in self.features if f.memory.is_recursive and f.resumable]
        return self.inputs[session].history + definitions_hash(recursive)

    def _latest_before(self, session: dt.date) -> Checkpoint | None:
        """Return the newest stored state before a session that rests on what is there now."""
        for kept in sorted(self.lake.sessions(self._states), reverse=True):
            if kept < session and kept in self.inputs:
                rows = self.lake.scan(self._states).filter(pl.col(Bar.SESSION) == kept).collect()
                if rows["made_from"][0] == self._made_from(kept):
                    return Checkpoint.from_frame(rows.drop("made_from"))
        return None

    def _keep(self, checkpoint: Checkpoint) -> None:
        if checkpoint.session not in self.inputs:
            return
        made_from = pl.lit(self._made_from(checkpoint.session)).alias("made_from")
        rows = checkpoint.to_frame().with_columns(made_from)
        self.lake.replace(self._states, rows, [checkpoint.session])
        old = sorted(self.lake.sessions(self._states))[:-_CHECKPOINTS_KEPT]
        if old:
            self.lake.replace(self._states, rows.head(0), old)


def _alike(
    sessions: Sequence[dt.date], stale: Mapping[dt.date, frozenset[str]]
) -> list[list[dt.date]]:
    """Return runs of consecutive sessions of which the same features are stale."""
    out: list[list[dt.date]] = []
    for run in contiguous(sessions):
        for session in run:
            joins = out and out[-1][-1] in run and stale[out[-1][-1]] == stale[session]
            if joins:
                out[-1].append(session)
            else:
                out.append([session])
    return out
