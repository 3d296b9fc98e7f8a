"""The leakage audit of an installation: everything that is computed from its tables."""

from __future__ import annotations

import datetime as dt
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from features.audited import (
    adjusted_bars,
    barriers_subject,
    features_subject,
    labels_subject,
    regimes_subject,
    side_tables,
)
from features.leakage import (
    Finding,
    Settling,
    Subject,
    Tables,
    audit,
    choose_cuts,
    settling,
)
from features.registry import CORE
from features.spec import Feature, Stage
from market.errors import UsageError
from market.horizons import Horizon
from market.lake import Lake
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from market.synthetic import SyntheticSpec, generate
from market.synthetic_reference import generate_reference
from market.timeframes import Timeframe
from market.universe import liquid_universe, membership_universe, read_membership
from models.audited import scalers_subject
from pipelines.feature_run import kept_features, used_timeframes
from pipelines.lake_store import open_lake
from pipelines.settings import Settings

Progress = Callable[[str, int, int], None]
# A third to learn from, and cut-offs in the last fifth; the longest core lookback is 41 bars.
_SESSIONS_FOR_SCALERS = 90
_SIDE = ("indices", "treasury_yields", "news")


@dataclass(frozen=True)
class Audited:
    """One thing that was audited: how many columns, at how many cut-offs, with what outcome."""

    name: str
    columns: int
    cuts: int
    findings: int


@dataclass(frozen=True)
class AuditReport:
    """What an audit found, and which features depend on where history starts."""

    audited: tuple[Audited, ...]
    findings: tuple[Finding, ...]
    depend_on_start: tuple[Settling, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing had seen the future."""
        return not self.findings

    def __repr__(self) -> str:
        lines = [
            f"{a.name}: {a.columns} columns at {a.cuts} cut-offs, {a.findings} findings"
            for a in self.audited
        ]
        starts = [f"{s.feature} depends on where history starts" for s in self.depend_on_start]
        verdict = "nothing had seen the future" if self.is_clean else "something looks ahead"
        return "\n".join([verdict, *lines, *map(str, self.findings), *starts])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "clean": self.is_clean,
            "audited": [asdict(a) for a in self.audited],
            "findings": [asdict(f) for f in self.findings],
            "depend_on_start": [asdict(s) for s in self.depend_on_start],
        }


def load_features(place: str) -> list[Feature]:
    """Return the feature, or the sequence of features, that ``FILE.py:NAME`` names.

    Raises
    ------
    UsageError
        When there is no such file or name, or it is no feature.
    """
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py" or not path.is_file():
        raise UsageError(
            "no feature there", got=place, allowed="FILE.py:NAME", remedy="name an existing file"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError("this file cannot be imported", got=file, remedy="name a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    made = [found] if isinstance(found, Feature) else found
    if (
        not isinstance(made, list | tuple)
        or not made
        or not all(isinstance(f, Feature) for f in made)
    ):
        raise UsageError(
            "this is no feature",
            got=place,
            allowed="a features.spec.Feature, or a sequence of them",
            remedy=f"define {name} in {path.name}",
        )
    return list(made)


def run_audit(
    settings: Settings,
    *,
    timeframes: Sequence[Timeframe] | None,
    features: Sequence[Feature] | None,
    cuts: int,
    sessions: int,
    minute_sessions: int,
    seed: int,
    synthetic: bool,
    progress: Progress,
) -> AuditReport:
    """Audit features, and unless some are named also labels, regimes, universes and scalers.

    Parameters
    ----------
    settings : Settings
        Which timeframes, horizons and universe are in use, and where the lake is.
    timeframes : sequence of Timeframe, optional
        Bars to audit; those in use.
    features : sequence of Feature, optional
        Only these.
    cuts : int
        Cut-offs for each table.
    sessions, minute_sessions : int
        How many of the newest sessions of daily bars and of minutes.
    seed : int
        Of the choice of cut-offs.
    synthetic : bool
        Whether to audit on a generated market.
    progress : callable
        Called with (what, done, total).
    """
    wanted = list(timeframes or used_timeframes(settings))
    if synthetic:
        tables = _generated(min(sessions, 400), min(minute_sessions, 12))
    else:
        lake = open_lake(settings)
        tables = _from_lake(lake, sessions, minute_sessions if _any_intraday(wanted) else 0)
    days = tables["bars_1d"][Bar.SESSION].n_unique()
    subjects = _subjects(settings, wanted, features, days)
    audited: list[Audited] = []
    findings: list[Finding] = []
    chosen = choose_cuts(tables, cuts, seed=seed)
    late = choose_cuts(tables, max(1, cuts // 2), seed=seed, burn_in=0.8)
    for k, (subject, columns, needs_history) in enumerate(subjects):
        progress("auditing", k, len(subjects))
        found = audit(subject, tables, late if needs_history else chosen)
        audited.append(
            Audited(subject.name, columns, len(late if needs_history else chosen), len(found))
        )
        findings += found
    progress("auditing", len(subjects), len(subjects))
    starts = [s for t in wanted for s in _settling(tables, t, _of(settings, t, features))]
    return AuditReport(tuple(audited), tuple(findings), tuple(starts))


def _of(
    settings: Settings, timeframe: Timeframe, features: Sequence[Feature] | None
) -> list[Feature]:
    return list(features if features is not None else kept_features(settings, timeframe))


def _subjects(
    settings: Settings,
    timeframes: Sequence[Timeframe],
    features: Sequence[Feature] | None,
    sessions: int,
) -> list[tuple[Subject, int, bool]]:
    """Return what to audit, with its number of columns, and whether it needs a long history."""
    made: list[tuple[Subject, int, bool]] = []
    for timeframe in timeframes:
        own = _of(settings, timeframe, features)
        made.append((features_subject(own, timeframe), len(own), False))
    if features is not None:
        return made
    horizons = [h for h in settings.enabled_horizons if h.timeframe in timeframes]
    for horizon in horizons:
        made += [(labels_subject(horizon), 7, False), (barriers_subject(horizon), 5, False)]
    made.append((regimes_subject(), 4, False))
    if settings.universe.kind != "fixed":
        made.append((_universe_subject(settings), 1, False))
    daily = [h for h in horizons if h.timeframe is Timeframe.D1 and h.steps == 1]
    if daily and sessions >= _SESSIONS_FOR_SCALERS:
        made.append((_scalers(daily[0], sessions // 3), 5, True))
    return made


def _scalers(horizon: Horizon, window: int) -> Subject:
    return scalers_subject(horizon, CORE, min_train_sessions=window, test_sessions=window // 2)


def _universe_subject(settings: Settings) -> Subject:
    rule = settings.universe

    def compute(tables: Tables) -> pl.DataFrame:
        bars = tables["bars_1d"]
        days = sorted(bars[Bar.SESSION].unique())
        if rule.kind == "membership" and rule.membership_file is not None:
            found = membership_universe(read_membership(rule.membership_file), days)
        else:
            found = liquid_universe(
                bars, days, count=rule.count, lookback_sessions=rule.lookback_sessions
            )
        ends = bars.group_by(Bar.SESSION).agg(pl.col(Bar.KNOWN_AT).max().alias("as_of"))
        return found.join(ends, on=Bar.SESSION)

    return Subject(f"universe by {rule.kind}", compute, keys=("session", "symbol"))


def _settling(tables: Tables, timeframe: Timeframe, features: Sequence[Feature]) -> list[Settling]:
    bars = adjusted_bars(tables, timeframe)
    days = bars[Bar.SESSION].unique().sort()
    starts = [days[len(days) // 8], days[len(days) // 4]]
    side = side_tables(tables, timeframe)
    own = [f for f in features if f.stage is not Stage.AS_OF]
    return [s for s in settling(bars, own, starts, side) if s.depends_on_start]


def _any_intraday(timeframes: Sequence[Timeframe]) -> bool:
    return any(t.is_intraday for t in timeframes)


def _from_lake(lake: Lake, sessions: int, minute_sessions: int) -> dict[str, pl.DataFrame]:
    tables: dict[str, pl.DataFrame] = {}
    for table, count in (("bars_1d", sessions), ("bars_1m", minute_sessions)):
        if count:
            there = sorted(lake.sessions(table))
            start: dt.date | None = there[-count:][0] if there else None
            tables[table] = lake.read_bars(table, start=start)
    for name in ("splits", "dividends", *_SIDE):
        if lake.exists(name):
            tables[name] = lake.scan(name).collect()
    return {"splits": empty(SPLIT_SCHEMA), "dividends": empty(DIVIDEND_SCHEMA), **tables}


def _generated(sessions: int, minute_sessions: int) -> dict[str, pl.DataFrame]:
    made = generate(
        SyntheticSpec(symbols=6, sessions=sessions, minute_sessions=minute_sessions, seed=5)
    )
    reference = generate_reference(made)
    return {
        "bars_1d": made.daily,
        "bars_1m": made.minute,
        "splits": made.splits,
        "dividends": made.dividends,
        "indices": reference.indices,
        "treasury_yields": reference.treasury_yields,
        "news": reference.news,
    }
