"""How much each label counts in training, from the labels known at a moment.

Labels whose spans overlap share returns and are not independent observations. After López de
Prado (2018, ch. 4): a label weighs its *uniqueness*, and old labels may weigh less.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
from numba import njit

from features.label_grid import Floats, Integers
from market.errors import FeatureError
from market.schema import Bar


def average_uniqueness(
    labels: pl.DataFrame, as_of: dt.datetime, *, end: str = "label_known_at"
) -> pl.Series:
    """Return how much of its span each label has to itself.

    Parameters
    ----------
    labels : pl.DataFrame
        ``symbol``, ``as_of`` and ``end``, in any order; from
        :func:`features.labels.forward_returns` or :func:`features.labels.label_frame`.
    as_of : datetime
        Aware. Labels known later count for nothing here.
    end : str
        When a label is known: ``label_known_at``, or ``barrier_known_at``.

    Returns
    -------
    pl.Series
        ``uniqueness``, one value per row: the mean, over the bars in ``(as_of, end]``, of one
        over the number of the symbol's labels whose spans hold that bar; 1 where none overlaps,
        about ``1 / steps`` where each bar has a label. Null where the label is not known.

    Raises
    ------
    FeatureError
        When a label is known at its own ``as_of`` or before.

    Notes
    -----
    Two labels are concurrent at a bar when both depend on its return, hence the half-open span
    (section 4.3). Symbols are counted each for itself, although their returns are correlated.
    One sort, then one pass over the bars.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> from features.labels import forward_returns
    >>> market = generate(SyntheticSpec(symbols=2, sessions=9, minute_sessions=0))
    >>> labels = forward_returns(market.daily, find_horizon("7d"))
    >>> one = average_uniqueness(labels.head(9), labels["as_of"].max())
    >>> one.round(3).to_list()
    [0.467, 0.333, 0.333, 0.467, None, None, None, None, None]
    """
    begin, stop, company = _place(_known_spans(labels, as_of, end))
    return pl.Series("uniqueness", _mean_share(begin, stop, company), nan_to_null=True)


def _place(spans: pl.DataFrame) -> tuple[Integers, Integers, Integers]:
    """Return the points at which spans begin and stop (-1: not known), and each point's symbol.

    Points are the moments at which a symbol's spans begin or stop, numbered symbol by symbol.
    """
    begin, stop = spans["_begin"], spans["_stop"]
    times = pl.concat([begin, stop]).drop_nulls().unique().sort().to_physical().to_numpy()
    symbol = spans[Bar.SYMBOL].rank("dense").cast(pl.Int64).to_numpy() * len(times)

    def key(column: pl.Series) -> Integers:
        moment = column.to_physical().fill_null(-1).to_numpy()
        return np.where(moment < 0, -1, symbol + np.searchsorted(times, moment))

    keys = key(begin), key(stop)
    points = np.sort(np.concatenate(keys))
    points = points[(points >= 0) & (np.diff(points, prepend=-1) != 0)]
    first, last = (np.where(k < 0, -1, np.searchsorted(points, k)) for k in keys)
    return first, last, points // max(1, len(times))


def _known_spans(labels: pl.DataFrame, as_of: dt.datetime, end: str) -> pl.DataFrame:
    """Return each row's span, its end null where it is not known; rows after ``as_of`` empty."""
    backwards = labels.filter(pl.col(end) <= pl.col("as_of"))
    if backwards.height:
        raise FeatureError(
            "a label is known before it begins",
            got=str(backwards.select(Bar.SYMBOL, "as_of", end).row(0)),
            allowed=f"{end} later than as_of",
            remedy="take labels as features.labels returns them",
        )
    return labels.select(
        Bar.SYMBOL,
        pl.when(pl.col("as_of") <= as_of).then(pl.col("as_of")).alias("_begin"),
        pl.when(pl.col(end) <= as_of).then(pl.col(end)).alias("_stop"),
    )


@njit(cache=True)
def _mean_share(begin: Integers, stop: Integers, company: Integers) -> Floats:
    """Return, for each span ``(begin, stop]`` of points, the mean of one over its crowd."""
    points = len(company)
    change = np.zeros(points + 1, dtype=np.int64)
    for i in range(len(begin)):
        if stop[i] >= 0:
            change[begin[i] + 1] += 1
            change[stop[i] + 1] -= 1
    total = np.zeros(points)
    crowd = 0
    for p in range(points):
        crowd += change[p]
        # Each symbol's sum starts anew: what others did cannot reach its rounding.
        carried = total[p - 1] if p > 0 and company[p] == company[p - 1] else 0.0
        total[p] = carried + (1.0 / crowd if crowd > 0 else 0.0)
    out = np.full(len(begin), np.nan)
    for i in range(len(begin)):
        if stop[i] >= 0:
            out[i] = (total[stop[i]] - total[begin[i]]) / (stop[i] - begin[i])
    return out


def time_decay(uniqueness: pl.Series, as_of: pl.Series, *, last_weight: float) -> pl.Series:
    """Return a factor that falls, line by line, with the uniqueness gathered since a label.

    Parameters
    ----------
    uniqueness : pl.Series
        From :func:`average_uniqueness`; null where the label is not known.
    as_of : pl.Series
        When each label begins; those of one time share one factor.
    last_weight : float
        What the oldest label would weigh, more than -1 and up to 1. 1: no decay. 0: the weight
        falls to nothing. Below 0: this share of all uniqueness, the oldest, weighs nothing.

    Returns
    -------
    pl.Series
        ``time_decay``: 1 for the newest known label; null where there is none.

    Raises
    ------
    FeatureError
        When ``last_weight`` is out of range.

    Notes
    -----
    The piecewise-linear factor of López de Prado (2018, section 4.7, snippet 4.11). Time is
    counted in cumulative uniqueness, so that a crowd of overlapping labels does not age the
    others.

    Examples
    --------
    >>> times = pl.Series([dt.datetime(2024, 7, day, tzinfo=dt.UTC) for day in (1, 2, 3, 5)])
    >>> time_decay(pl.Series([1.0, 1.0, 1.0, 1.0]), times, last_weight=-0.5).to_list()
    [0.0, 0.0, 0.5, 1.0]
    """
    if not -1.0 < last_weight <= 1.0:
        raise FeatureError(
            "time decay is out of range",
            got=last_weight,
            allowed="last_weight above -1 and up to 1",
            remedy="1 switches the decay off",
        )
    frame = pl.DataFrame({"_time": as_of, "uniqueness": uniqueness})
    # One running sum in order of time: its rounding does not depend on threads.
    ages = (
        frame.sort("_time", maintain_order=True)
        .select("_time", pl.col("uniqueness").fill_null(0.0).cum_sum().alias("_age"))
        .unique("_time", keep="last", maintain_order=True)
    )
    total = float(ages["_age"].tail(1).sum())
    span = total * (1.0 + min(0.0, last_weight))
    slope = (1.0 - max(0.0, last_weight)) / span if span > 0.0 else 0.0
    factor = (1.0 - slope * (total - pl.col("_age"))).clip(lower_bound=0.0)
    return (
        frame.join(ages, on="_time", how="left", maintain_order="left")
        .select(pl.when(pl.col("uniqueness").is_not_null()).then(factor).alias("time_decay"))
        .to_series()
    )


def sample_weights(
    labels: pl.DataFrame,
    as_of: dt.datetime,
    *,
    last_weight: float = 1.0,
    end: str = "label_known_at",
) -> pl.DataFrame:
    """Return the weight of each label in a training that happens at ``as_of``.

    Parameters
    ----------
    labels : pl.DataFrame
        ``symbol``, ``bar_end``, ``as_of`` and ``end``, in any order.
    as_of : datetime
        Aware. The weights depend on the labels known by then and on nothing else.
    last_weight : float
        See :func:`time_decay`; 1: old labels weigh as much as new ones.
    end : str
        See :func:`average_uniqueness`.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``bar_end``, ``as_of``, ``uniqueness``, ``time_decay`` and
        ``sample_weight``, their product scaled to a mean of one; rows as given, null where the
        label is not known.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> from features.labels import forward_returns
    >>> market = generate(SyntheticSpec(symbols=2, sessions=40, minute_sessions=0))
    >>> labels = forward_returns(market.daily, find_horizon("7d"))
    >>> weights = sample_weights(labels, labels["as_of"].max(), last_weight=0.5)
    >>> round(weights["sample_weight"].mean(), 12), weights["sample_weight"].null_count()
    (1.0, 10)
    """
    uniqueness = average_uniqueness(labels, as_of, end=end)
    decay = time_decay(uniqueness, labels["as_of"], last_weight=last_weight)
    weight = pl.col("uniqueness") * pl.col("time_decay")
    return (
        labels.select(Bar.SYMBOL, Bar.BAR_END, "as_of")
        .with_columns(uniqueness, decay)
        # The mean of the known ones by themselves: nulls between them would move its rounding.
        .with_columns((weight / weight.drop_nulls().mean()).alias("sample_weight"))
    )
