"""All registered features, by family. A family is one file and one line here.

All are invariant to a symbol's price scale and to its volume scale, so that the forward-adjusted
bars they are computed on give what back-adjusted ones would.
"""

from __future__ import annotations

from collections.abc import Sequence

from features import (
    alpha158,
    anomalies,
    calendar_features,
    core,
    cross_section,
    longer_bars,
    macro_features,
    microstructure,
    sentiment,
    technical,
)
from features.spec import Feature
from market.errors import FeatureError
from market.near_names import did_you_mean
from market.timeframes import Timeframe

CORE: tuple[Feature, ...] = (*core.FEATURES, *cross_section.CORE)
"""The plain set that :func:`features.compute.compute_features` computes unless told otherwise."""

FAMILIES: dict[str, tuple[Feature, ...]] = {
    "core": CORE,
    "alpha158": alpha158.FEATURES,
    "technical": technical.FEATURES,
    "microstructure": microstructure.FEATURES,
    "cross_section": cross_section.FEATURES,
    "anomalies": anomalies.FEATURES,
    "calendar": calendar_features.FEATURES,
    "macro": macro_features.FEATURES,
    "sentiment": sentiment.FEATURES,
    "longer_bars": longer_bars.FEATURES,
}

REGISTRY: tuple[Feature, ...] = tuple(f for family in FAMILIES.values() for f in family)
_BY_NAME = {f.name: f for f in REGISTRY}


def feature_names(*, family: str | None = None, timeframe: Timeframe | None = None) -> list[str]:
    """Return the names of registered features, in column order."""
    return [f.name for f in select_features(family=family, timeframe=timeframe)]


def find_feature(name: str) -> Feature | None:
    """Return the registered feature of this name, if there is one."""
    return _BY_NAME.get(name)


def select_features(
    names: Sequence[str] | None = None,
    *,
    family: str | None = None,
    timeframe: Timeframe | None = None,
) -> tuple[Feature, ...]:
    """Return registered features, in registry order.

    Parameters
    ----------
    names : sequence of str, optional
        These, or all.
    family : str, optional
        Only of this family.
    timeframe : Timeframe, optional
        Only those that make sense on bars of this length.

    Raises
    ------
    FeatureError
        On an unknown name or family; the message suggests near ones.

    Examples
    --------
    >>> [f.name for f in select_features(["gap", "body"])]
    ['body', 'gap']
    """
    for name in names or ():
        if name not in _BY_NAME:
            raise _unknown("feature", name, list(_BY_NAME))
    if family is not None and family not in FAMILIES:
        raise _unknown("feature family", family, list(FAMILIES))
    wanted = set(_BY_NAME if names is None else names)
    return tuple(
        f
        for f in (REGISTRY if family is None else FAMILIES[family])
        if f.name in wanted and (timeframe is None or f.scope.covers(timeframe))
    )


def _unknown(what: str, name: str, known: list[str]) -> FeatureError:
    return FeatureError(
        f"unknown {what}",
        got=name,
        allowed=f"{len(known)} registered, see `isobar features list`",
        remedy=did_you_mean(name, known, f"choose one, such as {', '.join(known[:5])}"),
    )
