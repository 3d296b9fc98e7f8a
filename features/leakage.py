"""The leakage audit: nothing dated ``as_of`` may change when the future is cut off.

Everything is computed twice, from all rows and from those known at a cut-off, and what is dated
up to the cut-off is compared value by value, to the bit. That is done at many cut-offs, also in
the middle of bars, and for all symbols at once, so that a look of a single bar ahead shows. What
is audited is any function from tables to a dated frame: features, labels, regimes, universes,
walk-forward predictions with their scalers, or a function of your own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.compute import compute_features
from features.lookback import ages
from features.side import SideTables
from features.spec import PANEL_KEYS, Feature, Stage
from market.errors import FeatureError
from market.schema import Bar

Tables = Mapping[str, pl.DataFrame]
_SHOWN = 3
_TOGETHER = 64  # Columns that are compared at once: a copy of more would take memory.


@dataclass(frozen=True)
class Subject:
    """Something to audit.

    Attributes
    ----------
    name : str
        As findings call it.
    compute : callable
        From tables to a frame. Tables with a ``known_at`` are cut; others are given as they are.
    keys : tuple of str
        Columns that identify a row.
    dated : str
        Column with the moment (aware) from which on a row may be used.
    known : str, optional
        For labels: column with the moment at which a row's values became known.
    ahead : tuple of str
        The columns for which that holds: null until then, and the same ever after.
    """

    name: str
    compute: Callable[[Tables], pl.DataFrame] = field(repr=False)
    keys: tuple[str, ...] = (Bar.SYMBOL.value, Bar.BAR_END.value)
    dated: str = "as_of"
    known: str | None = None
    ahead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A value that the future changed.

    Attributes
    ----------
    subject, column : str
        What it is.
    cut : datetime
        Rows known later were taken away.
    values : int
        How many values of this column differ at this cut.
    example : str
        One of them: its key, its value with the future and without.
    """

    subject: str
    column: str
    cut: dt.datetime
    values: int
    example: str

    def __str__(self) -> str:
        return (
            f"{self.subject}: {self.column} looks ahead: cut at {self.cut:%Y-%m-%d %H:%M}, "
            f"{self.values} values differ, as {self.example}"
        )


def audit(subject: Subject, tables: Tables, cuts: Sequence[dt.datetime]) -> list[Finding]:
    """Compare what is computed with the future and without it, at each cut-off.

    Parameters
    ----------
    subject : Subject
        What to audit.
    tables : mapping
        Name to frame; rows are usable from their ``known_at`` on.
    cuts : sequence of datetime
        Aware, from :func:`choose_cuts`.

    Returns
    -------
    list of Finding
        At most one per column, at the earliest cut-off that shows it; empty when all is well.

    Raises
    ------
    FeatureError
        When the subject's rows lack their keys or dates, or have none of them before any cut-off:
        an audit of nothing proves nothing.

    Examples
    --------
    >>> import polars as pl
    >>> day = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)
    >>> days = [day + dt.timedelta(days=k) for k in range(4)]
    >>> prices = pl.DataFrame({"known_at": days, "price": [1.0, 2.0, 3.0, 4.0]})
    >>> ahead = Subject("demo", lambda t: t["prices"].select(
    ...     pl.col("known_at").alias("as_of"), pl.col("price").shift(-1)), keys=("as_of",))
    >>> [f.column for f in audit(ahead, {"prices": prices}, days[1:3])]
    ['price']
    """
    whole = _dated(subject, subject.compute(tables))
    found: dict[str, Finding] = {}
    compared = 0
    for cut in sorted(cuts):
        seen = _dated(subject, subject.compute(truncate(tables, cut)))
        here = pl.col(subject.dated) <= cut
        wanted, got = whole.filter(here), seen.filter(here)
        compared += wanted.height
        for finding in _differences(subject, wanted, got, cut):
            found.setdefault(finding.column, finding)
    if not compared:
        raise FeatureError(
            f"{subject.name}: there is nothing to compare",
            got=f"{len(cuts)} cut-offs, no row dated before any of them",
            allowed="cut-offs inside the period of the data",
            remedy="give more history or other cut-offs",
        )
    return list(found.values())


def truncate(tables: Tables, cut: dt.datetime) -> dict[str, pl.DataFrame]:
    """Return the tables as they were known at a moment."""
    return {
        name: frame.filter(pl.col(Bar.KNOWN_AT) <= cut) if Bar.KNOWN_AT in frame.columns else frame
        for name, frame in tables.items()
    }


def choose_cuts(
    tables: Tables, count: int, *, seed: int, main: str = "bars_1d", burn_in: float = 0.3
) -> list[dt.datetime]:
    """Return cut-offs spread over the data, ascending, some of them for each table.

    Parameters
    ----------
    tables : mapping
        Name to frame; those with ``known_at`` count.
    count : int
        How many for each table; of few rows, as many as they become known at.
    seed : int
        Of the choice.
    main : str
        The table whose period is audited.
    burn_in : float
        Share of it left out at its start, where features are null anyway.

    Notes
    -----
    A cut-off exactly when a row becomes known shows what looks a row ahead; one a microsecond
    before, what takes a row for known too early (a split, an article, a yield); one inside longer
    bars, what looks into a bar that is not over; one where a half-hour ends, what takes the newest
    bar for the last one.
    """
    rng = np.random.default_rng(seed)
    period = tables[main][Bar.KNOWN_AT].unique().sort()
    first: dt.datetime = period[int(len(period) * burn_in)]
    arrivals = pl.concat(f.select(Bar.KNOWN_AT) for f in tables.values() if _is_dated(f))
    last: dt.datetime = arrivals[Bar.KNOWN_AT].sort()[-1]
    picked: set[dt.datetime] = set()
    for frame in tables.values():
        if not _is_dated(frame):
            continue
        moments = frame[Bar.KNOWN_AT].unique().sort()
        moments = moments.filter((moments > first) & (moments < last))
        places = np.unique(np.linspace(0, len(moments) - 1, count).astype(int))
        # Where rows are few, each has its own, and is most telling just before it is known.
        few = len(moments) <= count
        for k, place in enumerate(places[: len(moments)]):
            shift = 0 if few else rng.integers(-2, 3)
            near = int(np.clip(place + shift, 0, len(moments) - 1))
            moment: dt.datetime = moments[near]
            if k % 4 == 1 and not few:
                moment = moment.replace(minute=moment.minute // 30 * 30, second=0, microsecond=0)
            early = few or k % 4 == 3
            picked.add(moment - dt.timedelta(microseconds=1) if early else moment)
    return sorted(picked)


def _is_dated(frame: pl.DataFrame) -> bool:
    return Bar.KNOWN_AT in frame.columns and frame.height > 0


def _dated(subject: Subject, frame: pl.DataFrame) -> pl.DataFrame:
    needed = {*subject.keys, subject.dated, *((subject.known,) if subject.known else ())}
    missing = needed - set(frame.columns)
    if missing:
        raise FeatureError(
            f"{subject.name}: its rows lack columns",
            got=sorted(missing),
            allowed=", ".join(sorted(needed)),
            remedy="return the key columns and the moment from which on a row may be used",
        )
    return frame.sort(subject.keys)


def _differences(
    subject: Subject, wanted: pl.DataFrame, got: pl.DataFrame, cut: dt.datetime
) -> list[Finding]:
    keys = list(subject.keys)
    if not wanted.select(keys).equals(got.select(keys)):
        return [_rows_differ(subject, wanted, got, cut)]
    wanted, got = (_as_known(frame, subject, cut) for frame in (wanted, got))
    unlike = _unlike(wanted, got, [c for c in wanted.columns if c not in keys])
    out: list[Finding] = []
    for column, places in unlike.items():
        if places.any():
            place = int(np.flatnonzero(places)[-1])
            key = ", ".join(str(wanted[k][place]) for k in keys)
            with_it, without = _show(wanted[column][place]), _show(got[column][place])
            text = f"{key}: {with_it} with the future, {without} without"
            out.append(Finding(subject.name, column, cut, int(places.sum()), text))
    return out


def _as_known(frame: pl.DataFrame, subject: Subject, cut: dt.datetime) -> pl.DataFrame:
    """Return the frame without what lay ahead and was not known by the cut."""
    if subject.known is None:
        return frame
    known = pl.when(pl.col(subject.known) <= cut)
    ahead = [c for c in frame.columns if c in subject.ahead]
    return frame.with_columns(known.then(pl.col(c)).alias(c) for c in ahead)


def _rows_differ(
    subject: Subject, wanted: pl.DataFrame, got: pl.DataFrame, cut: dt.datetime
) -> Finding:
    keys = list(subject.keys)
    more = wanted.join(got, on=keys, how="anti", nulls_equal=True).select(keys)
    less = got.join(wanted, on=keys, how="anti", nulls_equal=True).select(keys)
    shown = more.head(_SHOWN).rows() or less.head(_SHOWN).rows()
    which = "only with the future" if more.height else "only without the future"
    count = more.height + less.height
    example = f"rows {which}: {'; '.join(', '.join(map(str, r)) for r in shown)}"
    return Finding(subject.name, "rows", cut, count, example)


def _unlike(
    wanted: pl.DataFrame, got: pl.DataFrame, columns: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """Return by column, in their order, which rows are not the same to the bit."""
    found = {c: np.ones(wanted.height, dtype=np.bool_) for c in columns}
    kinds, others = wanted.schema, got.schema
    same = [c for c in columns if kinds[c] == others[c]]
    for column in same:
        if not kinds[column].is_float():
            found[column] = wanted[column].ne_missing(got[column]).to_numpy()
    # To the bit: neither a rounding in the last place nor another zero is the same.
    for kind, bits in ((pl.Float32, np.uint32), (pl.Float64, np.uint64)):
        floats = [c for c in same if kinds[c] == kind]
        for first in range(0, len(floats), _TOGETHER):
            names = floats[first : first + _TOGETHER]
            some = pl.col(names)
            x, y = (f.select(some.fill_null(0.0)).to_numpy().view(bits) for f in (wanted, got))
            p, q = (f.select(some.is_null()).to_numpy() for f in (wanted, got))
            found |= dict(zip(names, ((x != y) | (p != q)).T, strict=True))
    return found


def _show(value: object) -> str:
    return "nothing" if value is None else str(value)


# ---------------------------------------------------------------------- where history starts


@dataclass(frozen=True)
class Settling:
    """How a feature depends on where history starts.

    Attributes
    ----------
    feature : str
        Its name.
    lookback : int
        As declared.
    settles_bars : int or None
        Bars from the start of history after which every value is, to one unit in the last place
        of float32, what more history gives; ``None`` where that never happens in the data.
    """

    feature: str
    lookback: int
    settles_bars: int | None

    @property
    def depends_on_start(self) -> bool:
        """Whether more history than the lookback changes values."""
        return self.settles_bars is None or self.settles_bars > self.lookback


def settling(
    bars: pl.DataFrame,
    features: Sequence[Feature],
    starts: Sequence[dt.date],
    side: SideTables | None = None,
) -> list[Settling]:
    """Measure after how many bars features forget where history starts.

    Parameters
    ----------
    bars : pl.DataFrame
        Forward-adjusted bars of one timeframe.
    features : sequence of Feature
        Those that are computed from bars.
    starts : sequence of date
        Sessions at which history is begun again.
    side : SideTables, optional
        See :func:`features.compute.compute_features`.
    """
    own = [f for f in features if f.stage is not Stage.AS_OF]
    whole = compute_features(bars, own, side)
    worst: dict[str, int | None] = {f.name: f.lookback for f in own}
    for start in starts:
        later = compute_features(bars.filter(pl.col(Bar.SESSION) >= start), own, side)
        old = ages(later)
        age = old.bars
        left = later.select(pl.len().over(Bar.SYMBOL)).to_series().to_numpy()
        wanted = later.select(PANEL_KEYS).join(
            whole, on=list(PANEL_KEYS), how="left", maintain_order="left"
        )
        for feature in own:
            unlike = _not_within_one_ulp(wanted[feature.name], later[feature.name])
            # Before the lookback is met the shorter history has no value: that is declared.
            unlike &= old.meet(feature)
            now = worst[feature.name]
            if unlike.any() and now is not None:
                last = int(age[unlike].max())
                # A difference in a symbol's last tenth is one that has not settled.
                never = bool((age[unlike] > 0.9 * left[unlike]).any())
                worst[feature.name] = None if never else max(now, last + 1)
    return [Settling(f.name, f.lookback, worst[f.name]) for f in own]


def _not_within_one_ulp(a: pl.Series, b: pl.Series) -> np.ndarray:
    x, y = a.fill_null(float("nan")).to_numpy(), b.fill_null(float("nan")).to_numpy()
    # A difference of nearly equal numbers has no last place of its own.
    near = np.abs(x - y) <= np.maximum(np.spacing(np.abs(x)), 1e-8)
    return ~(near | (np.isnan(x) & np.isnan(y)))
