"""From bars to a frame of features, in two passes: through time, then across symbols."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import polars as pl

from features.registry import REGISTRY
from features.spec import PANEL_KEYS, Feature, Stage
from market.errors import FeatureError
from market.schema import Bar


def compute_features(bars: pl.DataFrame, features: Sequence[Feature] = REGISTRY) -> pl.DataFrame:
    """Compute features on forward-adjusted bars.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA`` of one timeframe, prices forward-adjusted
        (:func:`market.actions.forward_adjust`), rows in any order, no duplicates.
    features : sequence of Feature
        From the registry.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``session``, ``bar_end``, ``as_of`` (the bar's ``known_at``, UTC) and one
        float32 column per feature, sorted by symbol and time. A value whose lookback reaches
        before the symbol's first bar is null, as is one that is not finite: never zero.

    Raises
    ------
    FeatureError
        On duplicated bars, or a cross-section feature whose input is not a time-series feature.

    Examples
    --------
    >>> from market.synthetic import SyntheticSpec, generate
    >>> market = generate(SyntheticSpec(symbols=2, sessions=30, minute_sessions=0))
    >>> compute_features(market.daily).shape
    (60, 35)
    """
    doubled = bars.height - bars.select(Bar.SYMBOL, Bar.BAR_END).n_unique()
    if doubled:
        raise FeatureError(
            "bars are not unique per symbol and time",
            got=f"{doubled} duplicates",
            allowed="one bar per symbol and bar_end",
            remedy="remove duplicates before computing features",
        )
    first = [f for f in features if f.stage is Stage.TIME_SERIES]
    second = [f for f in features if f.stage is Stage.CROSS_SECTION]
    helpers = _needed_by(second, first)
    panel = bars.sort(Bar.SYMBOL, Bar.BAR_END).with_columns(
        pl.col(Bar.KNOWN_AT).alias("as_of"),
        pl.int_range(pl.len()).over(Bar.SYMBOL).alias("_age"),
    )
    panel = panel.select(
        *PANEL_KEYS, "_age", *(_through_time(f).alias(f.name) for f in [*first, *helpers])
    )
    # A per-symbol window nested in a per-time window gives nulls without an error in
    # Polars 2.1, so the passes are separate statements.
    panel = panel.with_columns(
        _old_enough(f, f.expression.over(Bar.BAR_END)).alias(f.name) for f in second
    )
    return panel.select(*PANEL_KEYS, *(f.name for f in features))


def _through_time(feature: Feature) -> pl.Expr:
    return _old_enough(feature, feature.expression.over(Bar.SYMBOL))


def _old_enough(feature: Feature, value: pl.Expr) -> pl.Expr:
    # Also across symbols: an aggregate of the others says nothing about a symbol's first bars.
    return _finite(pl.when(pl.col("_age") >= feature.lookback - 1).then(value))


def _finite(value: pl.Expr) -> pl.Expr:
    as_float = value.cast(pl.Float32)
    return pl.when(as_float.is_finite()).then(as_float)


def _needed_by(second: Sequence[Feature], first: Sequence[Feature]) -> list[Feature]:
    have = {f.name for f in first}
    known = {f.name: f for f in REGISTRY if f.stage is Stage.TIME_SERIES}
    known |= {f.name: f for f in first}
    out: list[Feature] = []
    for feature in second:
        for name in feature.inputs:
            if name not in known:
                raise FeatureError(
                    f"cross-section feature {feature.name!r} reads something that is not a "
                    "time-series feature",
                    got=name,
                    allowed=", ".join(known),
                    remedy="register the input as a time-series feature first",
                )
            if name not in have:
                have.add(name)
                out.append(known[name])
    return out


def longest_lookback(features: Sequence[Feature] = REGISTRY) -> int:
    """Return how many bars, the current one included, the features need."""
    return max(f.lookback for f in features)


def definitions_hash(features: Sequence[Feature] = REGISTRY) -> str:
    """Return a digest of the features' definitions: it changes when one of them does."""
    text = "".join(f"{f.name}{f.expression}{f.lookback}{f.stage}" for f in features)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
