"""A feature's identity follows what it computes, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features import core, definitions, kernels
from features.definitions import definition_hash, definition_hashes, definitions_hash
from features.panel import Panel
from features.registry import REGISTRY, find_feature, select_features
from features.spec import Feature, Stage, from_expression


def made(compute, name: str = "x", lookback: int = 1) -> Feature:
    return Feature(name, compute, ("close",), lookback, Stage.TIME_SERIES, "text", "source")


def shifted(panel: Panel, bars: int):
    return panel.lag(panel["close"], bars)


def fresh(name: str) -> Feature:
    """A registered feature that has not been asked for its identity yet."""
    return replace(find_feature(name))


def test_every_registered_feature_has_an_identity_of_its_own() -> None:
    hashes = definition_hashes(REGISTRY)
    assert len(set(hashes.values())) == len(REGISTRY)
    assert definitions_hash(REGISTRY) != definitions_hash(REGISTRY[1:])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda p: p["close"] * 2.0, lambda p: p["close"] * 3.0),
        (lambda p: p["close"] + 1.0, lambda p: p["close"] - 1.0),
        (lambda p: p.mean(p["close"], 3), lambda p: p.std(p["close"], 3)),
        (partial(shifted, bars=1), partial(shifted, bars=2)),
    ],
)
def test_other_code_or_other_constants_are_another_feature(one, other) -> None:
    assert definition_hash(made(one)) != definition_hash(made(other))


def test_expressions_are_told_apart() -> None:
    up, down = (made(from_expression(pl.col("close").shift(k))) for k in (1, 2))
    assert definition_hash(up) != definition_hash(down)


def test_what_is_declared_counts() -> None:
    compute = partial(shifted, bars=1)
    assert definition_hash(made(compute)) != definition_hash(made(compute, lookback=2))
    assert definition_hash(made(compute)) != definition_hash(made(compute, name="y"))


def test_comments_and_docstrings_do_not_count() -> None:
    def plain(panel):
        return panel["close"]

    def documented(panel):
        """Return the close."""
        # As it is.
        return panel["close"]

    assert definition_hash(made(plain)) == definition_hash(made(documented))


def test_a_changed_kernel_changes_the_features_that_use_it_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {f.name: definition_hash(f) for f in select_features(family="core")}

    def window_sum(x, offsets, window, out):
        out[:] = 0.0

    window_sum.__module__ = kernels.__name__
    monkeypatch.setattr(kernels, "window_sum", window_sum)
    after = {n: definition_hash(fresh(n)) for n in before}
    assert {n for n in before if before[n] != after[n]} == {"body_4", "efficiency_10"}


def test_a_changed_function_below_changes_what_stands_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {n: definition_hash(fresh(n)) for n in ("vwap_gap", "body")}

    def typical_price(panel):
        return panel["close"]

    typical_price.__module__ = core.__name__
    monkeypatch.setattr(core, "typical_price", typical_price)
    assert definition_hash(fresh("vwap_gap")) != before["vwap_gap"]
    assert definition_hash(fresh("body")) == before["body"]


def test_another_numpy_is_another_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = definition_hash(fresh("body"))
    monkeypatch.setattr(definitions.np, "__version__", "0.0")
    assert definition_hash(fresh("body")) != before
    assert np.__version__ == "0.0"


def test_every_process_finds_the_same() -> None:
    code = (
        "from features.registry import REGISTRY\n"
        "from features.bridge import indicator_features\n"
        "from features.definitions import definitions_hash\n"
        "print(definitions_hash([*REGISTRY, *indicator_features(['fisher(length=9)'])]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(found) == 1
