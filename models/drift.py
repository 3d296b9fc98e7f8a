"""Whether features still look as they did in training.

Later rows are held against a summary of the training rows, and judged by how far the training's
own stretches lie from the whole of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from scipy.stats import false_discovery_control, kstwo
from scipy.stats import t as student

from market.errors import ModelError
from models.drift_reference import (
    Counts,
    FeatureSummary,
    Reference,
    Vector,
    counts_around,
    cuts_of,
    population_stability_index,
    require_columns,
    values_of,
)

# Mean square of the Kolmogorov distribution: of independent rows.
_KOLMOGOROV = np.pi**2 / 12.0


def feature_drift(
    reference: Reference,
    frame: pl.DataFrame,
    *,
    psi_limit: float = 0.1,
    false_discovery_rate: float = 0.05,
) -> pl.DataFrame:
    """Hold the features of later rows against the training's.

    Parameters
    ----------
    reference : Reference
        From :func:`summarize_features`.
    frame : pl.DataFrame
        ``session`` and all features of the reference; at most its ``live_sessions`` sessions.
    psi_limit : float
        Smallest population stability index that counts as a drift. By convention 0.1 is moderate
        and 0.25 is major.
    false_discovery_rate : float
        Largest expected share of false alarms among the features called drifted.

    Returns
    -------
    pl.DataFrame
        One row per feature, the worst first. ``psi``: index over the training's deciles and a bin
        of nulls. ``psi_noise``: what 19 of 20 samples of these sizes stay below without drift, or
        more of them.
        ``ks``: Kolmogorov-Smirnov distance of the known values; NaN where there are none.
        ``p_value``: of the distance or of the change in nulls, whichever is rarer. ``q_value``:
        the same after Benjamini and Hochberg (1995). ``null_share_change``. ``drifted``: ``psi``
        at ``psi_limit`` or more and above its noise, and ``q_value`` within the rate.

    Raises
    ------
    ModelError
        When a feature is not there, there are no rows, or more sessions than the reference is for.

    Notes
    -----
    Shares are (count + 0.5) / (rows + 0.5 bins) on both sides, so that an empty bin is finite.
    What to expect without drift is the scale of the training's stretches (of independent rows
    where these say less) over the harmonic size of both samples. Where whole sessions
    move together, the index is about a squared normal variable and the distance its absolute value:
    both are judged by Student's t with the training's number of separate stretches less one. Of
    independent rows the tails are thinner, so this errs on the side of no alarm; and no p-value is
    below that of the two-sample Kolmogorov-Smirnov test on the rows.

    The distance is taken at the stored percentiles, from both sides of each: no more than the
    training's share between two of them, 1 percent, below the exact one.

    Examples
    --------
    >>> import datetime as dt
    >>> from models.drift_reference import summarize_features
    >>> days = [dt.date(2024, 1, 1) + dt.timedelta(days=k // 50) for k in range(5000)]
    >>> values = np.random.default_rng(0).standard_normal(5000)
    >>> frame = pl.DataFrame({"session": days, "a": values, "b": values[::-1]})
    >>> reference = summarize_features(frame, ["a", "b"])
    >>> found = feature_drift(reference, frame.tail(1000).with_columns(pl.col("b") + 1.0))
    >>> found.select("feature", "drifted").rows()
    [('b', True), ('a', False)]
    """
    names = [f.name for f in reference.features]
    require_columns(frame, names)
    sessions = frame["session"].n_unique()
    if not 1 <= sessions <= reference.live_sessions:
        raise ModelError(
            "rows to hold against the training's features",
            got=f"{sessions} sessions",
            allowed=f"1 to {reference.live_sessions}: how much longer stretches differ is unknown",
            remedy="take the newest sessions, or summarise with a larger live_sessions",
        )
    freedom = reference.sessions / reference.live_sessions - 1.0
    made = pl.DataFrame(
        [_compared(f, values_of(frame, f.name), freedom) for f in reference.features], orient="row"
    )
    q_value = pl.Series("q_value", false_discovery_control(made["p_value"].to_numpy()))
    drifted = (
        (pl.col("psi") >= psi_limit)
        & (pl.col("psi") > pl.col("psi_noise"))
        & (pl.col("q_value") <= false_discovery_rate)
    )
    return (
        made.with_columns(q_value)
        .with_columns(drifted.alias("drifted"))
        .sort("drifted", "psi", "feature", descending=[True, True, False])
        .select(*_COLUMNS)
    )


_COLUMNS = (
    "feature",
    "psi",
    "psi_noise",
    "ks",
    "p_value",
    "q_value",
    "null_share_change",
    "drifted",
)


def bin_shares(trained: FeatureSummary, frame: pl.DataFrame) -> pl.DataFrame:
    """Return in which bins a feature lay in training, and lies in later rows.

    Parameters
    ----------
    trained : FeatureSummary
        One of a reference's features.
    frame : pl.DataFrame
        The feature and ``session``.

    Returns
    -------
    pl.DataFrame
        ``bin`` (a value, or up to which value; the last two: above the last decile, and none),
        ``then`` and ``now`` (shares of the rows). These are the bins of the index.
    """
    require_columns(frame, [trained.name])
    values = values_of(frame, trained.name)
    ordered = np.sort(values[np.isfinite(values)])
    below, upto = counts_around(ordered, np.asarray(trained.knots))
    cuts = cuts_of(trained.upto, trained.known)
    known = len(ordered)
    before = _bin_counts(cuts, trained.below, trained.upto, trained.known, trained.nulls)
    now = _bin_counts(cuts, below, upto, known, len(values) - known)
    ends = [
        f"< {trained.knots[place]:.3g}" if inclusive else f"{trained.knots[place]:.3g}"
        for place, inclusive in cuts
    ]
    return pl.DataFrame(
        {
            "bin": [*ends, "above", "none"],
            "then": before / max(1, trained.rows),
            "now": now / max(1, len(values)),
        }
    )


def _compared(trained: FeatureSummary, values: Vector, freedom: float) -> dict[str, Any]:
    ordered = np.sort(values[np.isfinite(values)])
    rows, known = len(values), len(ordered)
    below, upto = counts_around(ordered, np.asarray(trained.knots))
    cuts = cuts_of(trained.upto, trained.known)
    before = _bin_counts(cuts, trained.below, trained.upto, trained.known, trained.nulls)
    now = _bin_counts(cuts, below, upto, known, rows - known)
    distance, p_distance = _distance(trained, below, upto, known, freedom)
    change, p_nulls = _null_change(trained, rows, rows - known, freedom)
    scale = max(trained.psi_scale, float((before + now > 0).sum() - 1))
    expected = scale / _harmonic(trained.rows, rows)
    return {
        "feature": trained.name,
        "psi": float(population_stability_index(before, now)),
        "psi_noise": expected * float(student.ppf(0.975, freedom)) ** 2,
        "ks": distance,
        # Bonferroni over the two looks at one feature.
        "p_value": min(1.0, 2.0 * min(p_distance, p_nulls)),
        "null_share_change": change,
    }


def _bin_counts(
    cuts: list[tuple[int, bool]], below: Any, upto: Any, known: int, nulls: int
) -> Counts:
    ends = [below[place] if inclusive else upto[place] for place, inclusive in cuts]
    return np.append(np.diff(np.array([0, *ends, known], dtype=np.int64)), nulls)


def _distance(
    trained: FeatureSummary, below: Counts, upto: Counts, known: int, freedom: float
) -> tuple[float, float]:
    if not known or not trained.known:
        return float("nan"), 1.0
    right = np.abs(np.asarray(trained.upto) / trained.known - upto / known)
    left = np.abs(np.asarray(trained.below) / trained.known - below / known)
    distance = float(max(right.max(), left.max()))
    size = _harmonic(trained.known, known)
    of_rows = float(kstwo.sf(distance, max(1, round(size))))
    expected = (max(trained.distance_scale, _KOLMOGOROV) / size) ** 0.5
    return distance, max(of_rows, 2.0 * float(student.sf(distance / expected, freedom)))


def _null_change(
    trained: FeatureSummary, rows: int, nulls: int, freedom: float
) -> tuple[float, float]:
    change = nulls / rows - trained.nulls / trained.rows
    pooled = (nulls + trained.nulls) / (rows + trained.rows)
    scale = max(trained.null_scale, pooled * (1.0 - pooled))
    if scale == 0.0:
        return change, 1.0
    expected = (scale / _harmonic(trained.rows, rows)) ** 0.5
    return change, 2.0 * float(student.sf(abs(change) / expected, freedom))


def _harmonic(a: int, b: int) -> float:
    return a * b / (a + b)
