"""Recursive indicators go on from a checkpoint as if they had never stopped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from features.compute import to_panels
from features.panel import Panel, Recursion
from features.registry import FAMILIES
from features.spec import Feature
from market.schema import Bar
from tests.markets import adjusted_daily, market

FAMILY = FAMILIES["technical"]
FEATURES = [f for f in FAMILY if f.memory.is_recursive]
# Rows before the first recursion that windows under it read, and rows after it that windows over
# it need before their first value.
BEFORE, AFTER = 60, 30


@dataclass(frozen=True)
class Cut:
    """A whole history, and where each symbol's recursions are cut."""

    columns: dict[str, np.ndarray]
    offsets: np.ndarray
    at: np.ndarray

    def whole(self) -> Panel:
        own = Recursion(self.offsets[:-1], self.offsets[:-1] + self.at - 1)
        return Panel(self.columns, self.offsets, own)

    def rest(self, before: dict[str, np.ndarray]) -> tuple[Panel, np.ndarray]:
        """The panel that goes on, and its rows in the whole one."""
        begins = self.offsets[:-1] + np.maximum(self.at - BEFORE, 0)
        parts = [np.arange(a, b) for a, b in zip(begins, self.offsets[1:], strict=True)]
        rows = np.concatenate(parts)
        offsets = np.append(0, np.cumsum([len(p) for p in parts]))
        start = offsets[:-1] + np.minimum(self.at, BEFORE)
        own = Recursion(start, offsets[1:] - 1, before)
        return Panel({n: c[rows] for n, c in self.columns.items()}, offsets, own), rows

    def compared(self, rows: np.ndarray) -> np.ndarray:
        """Whether a row is far enough behind its symbol's cut."""
        group = np.searchsorted(self.offsets, rows, side="right") - 1
        return rows >= self.offsets[group] + self.at[group] + AFTER


def bars() -> pl.DataFrame:
    """Three whole symbols, one with a flat stretch, holes and NaN, and one of a few bars."""
    whole = adjusted_daily(market(seed=11, symbols=5, sessions=170))
    n = pl.int_range(pl.len()).over(Bar.SYMBOL)
    names = whole[Bar.SYMBOL].unique().sort()
    is_odd = pl.col(Bar.SYMBOL) == names[1]
    prices = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)
    return (
        whole.with_columns(n=n)
        .filter((pl.col(Bar.SYMBOL) != names[4]) | (pl.col("n") < 9), ~(is_odd & (n % 31 == 0)))
        .with_columns(
            pl.when(is_odd & pl.col("n").is_between(70, 95))
            .then(20.0)
            .when(is_odd & (pl.col("n") % 37 == 5))
            .then(float("nan"))
            .otherwise(p)
            .alias(p)
            for p in prices
        )
        .drop("n")
    )


def cut(share: float) -> Cut:
    panels = to_panels(bars(), {n for f in FAMILY for n in f.inputs})
    at = (np.diff(panels.offsets) * share).astype(np.int64)
    return Cut(panels.columns, panels.offsets, at)


def compute(feature: Feature, panel: Panel) -> np.ndarray:
    with np.errstate(all="ignore"):
        return feature.compute(panel)


def assert_within_an_ulp(got: np.ndarray, wanted: np.ndarray, name: str) -> None:
    got, wanted = got.astype(np.float32), wanted.astype(np.float32)
    got[~np.isfinite(got)] = wanted[~np.isfinite(wanted)] = np.nan
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted), err_msg=name)
    apart = np.abs(got - wanted)
    allowed = np.spacing(np.maximum(np.abs(got), np.abs(wanted))) + np.float32(1e-12)
    assert not (apart > allowed).any(), f"{name}: {np.nanmax(apart / allowed)} ulp apart"


@pytest.mark.parametrize("share", [0.0, 0.05, 0.41, 0.55, 0.7])
def test_a_resumed_run_equals_a_whole_one(share: float) -> None:
    scene = cut(share)
    whole = scene.whole()
    wanted = {f.name: compute(f, whole) for f in FEATURES}
    rest, rows = scene.rest(whole.recursion.after)
    told = scene.compared(rows)
    assert told.sum() > 50
    for feature in FEATURES:
        got = compute(feature, rest)
        assert_within_an_ulp(got[told], wanted[feature.name][rows][told], feature.name)


def test_what_is_left_behind_after_a_resumed_run_is_what_a_whole_one_leaves() -> None:
    scene = cut(0.55)
    whole = scene.whole()
    for feature in FEATURES:
        compute(feature, whole)
    rest, _ = scene.rest(whole.recursion.after)
    end = Panel(scene.columns, scene.offsets)
    for feature in FEATURES:
        compute(feature, rest)
        compute(feature, end)
    assert set(rest.recursion.after) == set(end.recursion.after)
    for name, state in end.recursion.after.items():
        got = rest.recursion.after[name]
        np.testing.assert_allclose(got, state, rtol=1e-9, atol=1e-9, err_msg=name)


def test_every_recursive_indicator_keeps_a_state_and_no_other_does() -> None:
    for feature in FAMILY:
        panel = cut(0.5).whole()
        compute(feature, panel)
        assert bool(panel.recursion.after) == feature.memory.is_recursive, feature.name


def test_a_lost_state_is_noticed() -> None:
    scene = cut(0.55)
    whole = scene.whole()
    lost: set[str] = set()
    for feature in FEATURES:
        wanted = compute(feature, whole)
        rest, rows = scene.rest({})
        told = scene.compared(rows)
        got = compute(feature, rest)
        try:
            assert_within_an_ulp(got[told], wanted[rows][told], feature.name)
        except AssertionError:
            lost.add(feature.name)
    # Filters that forget within the rows left out, and trends that have turned since.
    forgetful = {f.name for f in FEATURES} - lost
    assert len(forgetful) < len(FEATURES) / 4, forgetful
