"""What a symbol returned beyond its market, its beta and its sector: a label to learn from.

Most of a return is shared. A model that picks symbols against one another learns more from what
is left when the shared part is taken away, and from each symbol on one scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from market.errors import FeatureError
from market.schema import Bar

NEUTRAL_RETURN = "neutral_return"
EXPOSURES = ("beta_60", "volatility_20")
"""Features, known at ``as_of``, that a neutral label is measured with."""

_BETA_SHRINK = 0.5
_BETA_RANGE = (0.2, 2.5)
_CLIP = 3.0
_KEYS = (Bar.SYMBOL.value, Bar.BAR_END.value)


def neutral_returns(
    labels: Sequence[pl.DataFrame],
    steps: Sequence[int],
    exposures: pl.DataFrame,
    sectors: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the last of some nested labels with its neutral return.

    Parameters
    ----------
    labels : sequence of pl.DataFrame
        From :func:`features.labels.forward_returns`, of ascending horizons on the same bars;
        the last is the one that is forecast. One is enough.
    steps : sequence of int
        Length of each in bars.
    exposures : pl.DataFrame
        ``symbol``, ``bar_end``, ``beta_60`` and ``volatility_20`` (a fraction per bar) as known
        at the bar; rows that are to be set against one another, and no others.
    sectors : pl.DataFrame, optional
        ``symbol``, ``sector``; a symbol that is not in it is in a sector of its own kind.

    Returns
    -------
    pl.DataFrame
        The last label, its rows and columns, and ``neutral_return``: a fraction over the
        horizon. Null where the label or an exposure is.

    Raises
    ------
    FeatureError
        When labels and steps do not go together.

    Notes
    -----
    For each horizon: the forward return less beta times the mean of all symbols, less the mean
    of that over the sector; beta is drawn half way to one (Vasicek, 1973) and held to 0.2 to
    2.5. The mean over the nested horizons, each in units of its volatility and clipped to
    plus or minus three, times the volatility of the last: what happens soon counts in every
    one of them, which makes the label of a long horizon less noisy. Nothing reaches beyond
    the last label's end.

    Examples
    --------
    >>> from features.compute import compute_features
    >>> from features.labels import forward_returns
    >>> from features.registry import select_features
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> bars = generate(SyntheticSpec(symbols=4, sessions=70, minute_sessions=0)).daily
    >>> exposed = compute_features(bars, select_features(list(EXPOSURES)))
    >>> label = forward_returns(bars, find_horizon("1d"))
    >>> neutral_returns([label], [1], exposed)["neutral_return"].drop_nulls().len()
    36
    """
    if not labels or len(labels) != len(steps) or list(steps) != sorted(set(steps)):
        raise FeatureError(
            "nested labels and their steps do not go together",
            got=f"{len(labels)} labels, steps {list(steps)}",
            allowed="as many steps as labels, ascending",
            remedy="give the horizons from the shortest to the one that is forecast",
        )
    table = exposures.select(*_KEYS, *EXPOSURES)
    if sectors is not None:
        table = table.join(sectors.select("symbol", "sector"), on="symbol", how="left")
    else:
        table = table.with_columns(pl.lit("").alias("sector"))
    parts: list[str] = []
    for label, length in zip(labels, steps, strict=True):
        parts.append(name := f"_neutral_{length}")
        forward = label.select(*_KEYS, pl.col("forward_return").alias("_forward"))
        # Three passes: a window expression inside another one is not what it seems.
        table = (
            table.join(forward, on=_KEYS, how="left")
            .with_columns(pl.col("_forward").mean().over(Bar.BAR_END).alias("_market"))
            .with_columns((pl.col("_forward") - _beta() * pl.col("_market")).alias("_beyond"))
            .with_columns(pl.col("_beyond").mean().over(Bar.BAR_END, "sector").alias("_shared"))
            .with_columns(_scaled(length).alias(name))
            .drop("_forward", "_market", "_beyond", "_shared")
        )
    unit = pl.col("volatility_20") * float(steps[-1]) ** 0.5
    mean = pl.sum_horizontal(parts, ignore_nulls=False) / len(parts)
    made = table.select(*_KEYS, (mean * unit).alias(NEUTRAL_RETURN))
    return labels[-1].join(made, on=_KEYS, how="left")


def nested_steps(steps: int) -> tuple[int, ...]:
    """Return the lengths of the labels whose mean stands for one of this length.

    Examples
    --------
    >>> nested_steps(1), nested_steps(10)
    ((1,), (1, 5, 10))
    """
    return (*(s for s in (1, 5, 10) if s < steps), steps)


def _beta() -> pl.Expr:
    shrunk = _BETA_SHRINK * pl.col("beta_60") + (1.0 - _BETA_SHRINK)
    return shrunk.clip(*_BETA_RANGE)


def _scaled(length: int) -> pl.Expr:
    unit = pl.col("volatility_20") * float(length) ** 0.5
    own = ((pl.col("_beyond") - pl.col("_shared")) / unit).clip(-_CLIP, _CLIP)
    return pl.when(pl.col("volatility_20") > 0).then(own)
