"""The training rows of features in summary, to hold later rows against.

Kept beside the model. Rows of one session, and sessions close in time, are not independent: the
summary says how far the training's own stretches lie from the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from market.errors import ModelError

Vector = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_VERSION = 1
_BINS = 10
_SMOOTHING = 0.5
_STRETCHES = 4


@dataclass(frozen=True, slots=True)
class FeatureSummary:
    """How one feature was distributed in training.

    Attributes
    ----------
    name : str
        Feature.
    rows, nulls : int
        Rows in all, and those without a finite value.
    knots : tuple of float
        Distinct percentiles of the known values, the smallest and the largest included.
    below, upto : tuple of int
        Known rows below each knot, and up to and with it.
    distance_scale, psi_scale, null_scale : float
        Mean square of the distance, mean of the index, and variance of the share of nulls of the
        training's stretches against the whole, each times the rows of a stretch.
    """

    name: str
    rows: int
    nulls: int
    knots: tuple[float, ...]
    below: tuple[int, ...]
    upto: tuple[int, ...]
    distance_scale: float
    psi_scale: float
    null_scale: float

    @property
    def known(self) -> int:
        """Rows with a finite value."""
        return self.rows - self.nulls


@dataclass(frozen=True, slots=True)
class Reference:
    """The training rows in summary.

    Attributes
    ----------
    sessions : int
        Sessions of the training rows.
    live_sessions : int
        Longest stretch that may be held against it.
    features : tuple of FeatureSummary
        One per feature.
    """

    sessions: int
    live_sessions: int
    features: tuple[FeatureSummary, ...]

    def to_json(self) -> str:
        """Return the summary as JSON text."""
        return orjson.dumps({"version": _VERSION, **asdict(self)}).decode()

    @classmethod
    def from_json(cls, text: str) -> Reference:
        """Return the summary that :meth:`to_json` wrote.

        Raises
        ------
        ModelError
            When the text is something else.
        """
        try:
            given: dict[str, Any] = orjson.loads(text)
            if given["version"] != _VERSION:
                raise ValueError(f"version {given['version']}")
            features = tuple(_restored(entry) for entry in given["features"])
            return cls(int(given["sessions"]), int(given["live_sessions"]), features)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"a stored reference of features cannot be read ({type(error).__name__}: {error})",
                allowed=f"what Reference.to_json wrote, version {_VERSION}",
                remedy="train again",
            ) from error


def _restored(entry: dict[str, Any]) -> FeatureSummary:
    made = FeatureSummary(
        name=str(entry["name"]),
        rows=int(entry["rows"]),
        nulls=int(entry["nulls"]),
        knots=tuple(float(v) for v in entry["knots"]),
        below=tuple(int(v) for v in entry["below"]),
        upto=tuple(int(v) for v in entry["upto"]),
        distance_scale=float(entry["distance_scale"]),
        psi_scale=float(entry["psi_scale"]),
        null_scale=float(entry["null_scale"]),
    )
    sizes = {len(made.knots), len(made.below), len(made.upto)}
    if len(sizes) != 1 or any(np.diff(made.knots) <= 0) or made.rows < made.nulls:
        raise ValueError(f"the summary of {made.name} contradicts itself")
    return made


def summarize_features(
    frame: pl.DataFrame, names: Sequence[str], *, live_sessions: int = 20
) -> Reference:
    """Summarise the training rows of some features.

    Parameters
    ----------
    frame : pl.DataFrame
        ``session`` and the features; rows that were trained on and no others.
    names : sequence of str
        Features.
    live_sessions : int
        Longest stretch of later sessions that will be held against it; a quarter of the training's
        sessions at most.

    Returns
    -------
    Reference
        About five kilobytes of JSON per feature.

    Raises
    ------
    ModelError
        When a feature is not there, or the training has fewer than four such stretches.

    Notes
    -----
    All overlapping stretches of ``live_sessions`` sessions are held against the whole, at its
    deciles. Of independent rows, distances and indices shrink with the number of rows, whatever
    the stretch; where symbols move together and sessions resemble the ones before, they do not,
    and a stretch is worth few rows. The scales say how few. A shorter stretch is worth no fewer
    for each of its rows, so one scale serves all up to ``live_sessions``.

    Examples
    --------
    >>> import datetime as dt
    >>> days = [dt.date(2024, 1, 1) + dt.timedelta(days=k // 5) for k in range(500)]
    >>> values = np.random.default_rng(0).standard_normal(500)
    >>> frame = pl.DataFrame({"session": days, "a": values})
    >>> reference = summarize_features(frame, ["a"], live_sessions=10)
    >>> reference.sessions, reference.features[0].rows, len(reference.features[0].knots)
    (100, 500, 101)
    """
    require_columns(frame, names)
    session = (frame["session"].rank("dense").cast(pl.Int64) - 1).to_numpy()
    sessions = int(session.max()) + 1 if frame.height else 0
    if live_sessions < 1 or sessions < _STRETCHES * live_sessions:
        raise ModelError(
            "too few sessions to know how much stretches of them differ",
            got=f"{sessions} sessions in stretches of {live_sessions}",
            allowed=f"{_STRETCHES} stretches of one session or more",
            remedy="lower live_sessions, or train on a longer history",
        )
    made = tuple(_summary(name, values_of(frame, name), session, live_sessions) for name in names)
    return Reference(sessions, live_sessions, made)


def _summary(name: str, values: Vector, session: Counts, stretch: int) -> FeatureSummary:
    known = np.isfinite(values)
    ordered = np.sort(values[known])
    knots = np.empty(0)
    if len(ordered):
        # The smallest value that so many percent do not exceed: knots are values that occurred.
        places = np.maximum((len(ordered) * np.arange(101) + 99) // 100 - 1, 0)
        knots = np.unique(ordered[places])
    below, upto = counts_around(ordered, knots)
    nulls = len(values) - len(ordered)
    cuts = cuts_of(upto, len(ordered))
    bins = np.zeros(len(values), dtype=np.int64)
    for place, inclusive in cuts:
        bins += values >= knots[place] if inclusive else values > knots[place]
    bins[~known] = len(cuts) + 1
    scales = _scales(_table(session, bins, len(cuts) + 2), stretch)
    shape = (tuple(knots.tolist()), tuple(below.tolist()), tuple(upto.tolist()))
    return FeatureSummary(name, len(values), nulls, *shape, *scales)


def _table(session: Counts, bins: Counts, width: int) -> Counts:
    flat = np.bincount(session * width + bins, minlength=(int(session.max()) + 1) * width)
    return flat.reshape(-1, width)


def _scales(table: Counts, stretch: int) -> tuple[float, float, float]:
    """Return the scales of distance, index and share of nulls; the last bin is that of nulls."""
    running = np.concatenate([np.zeros((1, table.shape[1]), np.int64), np.cumsum(table, axis=0)])
    stretches = running[stretch:] - running[:-stretch]
    whole = table.sum(axis=0)
    rows, known = stretches.sum(axis=1), stretches[:, :-1].sum(axis=1)
    apart = np.abs(_cumulative(stretches[:, :-1]) - _cumulative(whole[:-1])).max(axis=1)
    index = population_stability_index(whole, stretches)
    nulls = stretches[:, -1] / rows - whole[-1] / whole.sum()
    # What overlaps lies about its own mean: it varies by this much less.
    shortfall = 1.0 - stretch / len(table)
    some = known > 0
    distance = (apart[some] ** 2 * known[some]).mean() if some.any() else 0.0
    return (
        float(distance / shortfall),
        float((index * rows).mean() / shortfall),
        float((nulls**2 * rows).mean() / shortfall),
    )


def _cumulative(counts: Counts) -> Vector:
    """Return the distribution functions of rows of counts; NaN where there are none."""
    total = counts.sum(axis=-1, keepdims=True).astype(np.float64)
    return np.cumsum(counts, axis=-1) / np.where(total > 0.0, total, np.nan)


def cuts_of(upto: Any, known: int) -> list[tuple[int, bool]]:
    """Return where bins end: the training's deciles, as (knot, whether the knot lies above).

    A value that is several deciles at once has a bin of its own.
    """
    if known == 0:
        return []
    wanted = -(-known * np.arange(1, _BINS) // _BINS)
    places, times = np.unique(np.searchsorted(upto, wanted), return_counts=True)
    cuts: list[tuple[int, bool]] = []
    for place, count in zip(places.tolist(), times.tolist(), strict=True):
        cuts += [(place, True), (place, False)] if count > 1 else [(place, False)]
    return cuts


def counts_around(ordered: Vector, knots: Vector) -> tuple[Counts, Counts]:
    """Return how many ascending values lie below each knot, and how many up to and with it."""
    return np.searchsorted(ordered, knots), np.searchsorted(ordered, knots, side="right")


def population_stability_index(before: Counts, now: Counts) -> Vector:
    """Return the population stability index of counts over the same bins.

    Parameters
    ----------
    before : (k,) int64
        Rows per bin.
    now : (..., k) int64
        The same of one sample or of many.

    Returns
    -------
    (...) float64
        Sum over the bins of the difference of shares times the logarithm of their ratio (the
        symmetric divergence of Jeffreys, 1946), with half a row added to each bin.

    Examples
    --------
    >>> round(float(population_stability_index(np.array([50, 50]), np.array([90, 10]))), 3)
    0.853
    """
    bins = before.shape[-1]
    p = (before + _SMOOTHING) / (before.sum() + _SMOOTHING * bins)
    q = (now + _SMOOTHING) / (now.sum(axis=-1, keepdims=True) + _SMOOTHING * bins)
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))


def values_of(frame: pl.DataFrame, name: str) -> Vector:
    """Return a feature's values, NaN where there is none."""
    # As models see them: of double precision a value that occurs often would not be met again.
    single = frame[name].cast(pl.Float32).fill_null(float("nan"))
    return single.to_numpy().astype(np.float64)


def require_columns(frame: pl.DataFrame, names: Sequence[str]) -> None:
    """Raise unless the frame has a session and every feature, and there is a feature."""
    missing = [n for n in ("session", *names) if n not in frame.columns]
    if missing or not names:
        raise ModelError(
            "features to judge by their distribution",
            got=missing[:5] or "no feature",
            allowed="session and every feature of the model",
            remedy="compute them",
        )
