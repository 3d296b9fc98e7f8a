"""Drift of features against scipy, naive loops, and simulated panels that move together."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from market.errors import ModelError
from models.drift import bin_shares, feature_drift
from models.drift_reference import Reference, summarize_features

FIRST = dt.date(2020, 1, 1)
ROWS = 20


def panel(values: dict[str, Any], rows: int = ROWS, first: dt.date = FIRST) -> pl.DataFrame:
    """``rows`` rows a session."""
    n = len(next(iter(values.values())))
    days = [first + dt.timedelta(days=k // rows) for k in range(n)]
    return pl.DataFrame({"session": days, **values})


def single(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n).astype(np.float32)


def moving_together(
    rng: np.random.Generator, sessions: int, rows: int, share: float, memory: float
) -> np.ndarray:
    """Rows with a common part of this variance, which lives on from session to session."""
    common = np.empty(sessions)
    common[0] = rng.standard_normal()
    for t in range(1, sessions):
        shock = math.sqrt(1.0 - memory**2) * rng.standard_normal()
        common[t] = memory * common[t - 1] + shock
    own = rng.standard_normal((sessions, rows))
    return (math.sqrt(share) * common[:, None] + math.sqrt(1.0 - share) * own).ravel()


def held(trained: Any, live: Any) -> dict[str, Any]:
    """One feature's row: training in 40 sessions, live in as many sessions of it as allowed."""
    before, after = panel({"a": trained}, -(-len(trained) // 40)), panel({"a": live}, len(live))
    reference = summarize_features(before, ["a"], live_sessions=10)
    return feature_drift(reference, after).row(0, named=True)


def naive_psi(trained: list[float], live: list[float]) -> float:
    """Deciles that occurred; one that repeats is a bin of its own; half a row more in each bin."""
    known = sorted(v for v in trained if not math.isnan(v))
    deciles = [known[math.ceil(len(known) * d / 10) - 1] for d in range(1, 10)] if known else []
    bins: list[Any] = []
    low = -math.inf
    for edge in sorted(set(deciles)):
        if deciles.count(edge) > 1:
            bins.append(lambda v, low=low, edge=edge: low < v < edge)
            bins.append(lambda v, edge=edge: v == edge)
        else:
            bins.append(lambda v, low=low, edge=edge: low < v <= edge)
        low = edge
    bins += [lambda v, low=low: v > low, math.isnan]
    total = 0.0
    for inside in bins:
        p = (sum(map(inside, trained)) + 0.5) / (len(trained) + 0.5 * len(bins))
        q = (sum(map(inside, live)) + 0.5) / (len(live) + 0.5 * len(bins))
        total += (q - p) * math.log(q / p)
    return total


def test_shares_by_bin_are_those_of_the_index() -> None:
    rng = np.random.default_rng(3)
    trained, live = np.round(single(rng, 800), 1), np.round(single(rng, 200) + 0.4, 1)
    live[:30] = np.nan
    reference = summarize_features(panel({"a": trained}), ["a"], live_sessions=10)
    frame = panel({"a": live})
    shares = bin_shares(reference.features[0], frame)
    assert shares["then"].sum() == pytest.approx(1.0)
    assert shares["now"].to_list()[-1] == 30 / 200
    bins = shares.height
    p = (shares["then"] * 800 + 0.5) / (800 + 0.5 * bins)
    q = (shares["now"] * 200 + 0.5) / (200 + 0.5 * bins)
    found = feature_drift(reference, frame)["psi"].item()
    assert ((q - p) * (q / p).log()).sum() == pytest.approx(found)


samples = st.lists(
    st.one_of(
        st.integers(-3, 3).map(float),
        st.floats(-5, 5, width=32),
        st.just(0.0),
        st.just(float("nan")),
    ),
    min_size=40,
    max_size=120,
)


@given(trained=samples, live=samples)
@settings(max_examples=60, derandomize=True)
def test_the_index_is_that_of_a_naive_loop(trained: list[float], live: list[float]) -> None:
    rows = len(trained) // 40
    trained = trained[: 40 * rows]
    assert held(trained, live)["psi"] == pytest.approx(naive_psi(trained, live), abs=1e-12)


@given(
    trained=st.lists(st.integers(0, 9).map(float), min_size=80, max_size=400),
    live=st.lists(st.integers(-2, 11).map(float), min_size=5, max_size=200),
)
@settings(max_examples=50, derandomize=True)
def test_the_distance_of_values_that_occur_often_is_scipys(
    trained: list[float], live: list[float]
) -> None:
    """A value that one percent of the rows have is a knot: nothing is between."""
    trained = trained[: len(trained) // 40 * 40]
    assume(all(100 * trained.count(v) >= len(trained) for v in set(trained)))
    got = held(trained, live)
    exact = ks_2samp(trained, live, method="asymp")
    # Values outside the training's lie beyond its last knots: the distance there is no larger.
    assert got["ks"] == pytest.approx(exact.statistic, abs=1e-12)
    assert got["p_value"] >= min(1.0, exact.pvalue) - 1e-12


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
def test_the_distance_of_continuous_values_is_at_most_a_percent_short(shift: float) -> None:
    rng = np.random.default_rng(int(shift * 10))
    for _ in range(20):
        trained, live = single(rng, 2000), single(rng, 300) + np.float32(shift)
        exact = ks_2samp(trained, live).statistic
        assert exact - 0.0105 <= held(trained, live)["ks"] <= exact + 1e-12


@given(seed=st.integers(0, 50), shift=st.sampled_from([0.0, 1.0]))
@settings(max_examples=20, derandomize=True)
def test_only_the_order_of_values_counts(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    trained, live = single(rng, 800), single(rng, 100) + np.float32(shift)
    assert held(trained, live) == held(trained * 8.0, live * 8.0)
    mirrored = held(-trained, -live)
    assert mirrored["ks"] == pytest.approx(held(trained, live)["ks"], abs=0.0201)


def simulated(share: float, memory: float, features: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(7)
    names = [f"f{k}" for k in range(features)]
    return panel({n: moving_together(rng, 420, ROWS, share, memory) for n in names})


@pytest.mark.parametrize(
    ("share", "memory"), [(0.0, 0.0), (0.1, 0.0), (0.5, 0.0), (0.2, 0.9), (1.0, 0.9)]
)
def test_without_drift_it_stays_calm_however_rows_move_together(
    share: float, memory: float
) -> None:
    """60 features: at 5 percent 3 are expected, 9 are the 99.9th percentile."""
    frame = simulated(share, memory)
    cut = FIRST + dt.timedelta(days=400)
    trained, live = frame.filter(pl.col("session") < cut), frame.filter(pl.col("session") >= cut)
    reference = summarize_features(trained, frame.columns[1:], live_sessions=20)
    found = feature_drift(reference, live)
    assert (found["p_value"] / 2 < 0.05).sum() <= 9
    assert (found["psi"] > found["psi_noise"]).sum() <= 9
    assert found["drifted"].sum() == 0
    if memory > 0.0:
        # What the same rows would look like to who takes them for independent.
        blind = tuple(replace(f, distance_scale=0.0, psi_scale=0.0) for f in reference.features)
        assert feature_drift(replace(reference, features=blind), live)["drifted"].sum() > 12


CHANGES = {
    "shift": lambda v, rng: v + np.float32(0.7),
    "spread": lambda v, rng: v * np.float32(2.5),
    "nulls": lambda v, rng: np.where(rng.random(len(v)) < 0.3, np.float32("nan"), v),
    "gone": lambda v, rng: np.full(len(v), np.float32("nan")),
    "stuck": lambda v, rng: np.zeros_like(v),
    "unscaled": lambda v, rng: v * np.float32(100.0),
}


def test_each_kind_of_drift_is_found_among_many_that_stay() -> None:
    rng = np.random.default_rng(3)
    calm = {f"calm_{k}": single(rng, 420 * ROWS) for k in range(40)}
    frame = panel({**calm, **{name: single(rng, 420 * ROWS) for name in CHANGES}})
    trained, live = frame.head(400 * ROWS), frame.tail(20 * ROWS)
    reference = summarize_features(trained, frame.columns[1:], live_sessions=20)
    spoiled = live.with_columns(
        pl.Series(name, change(live[name].to_numpy(), rng)) for name, change in CHANGES.items()
    )
    found = feature_drift(reference, spoiled)
    assert set(found.filter("drifted")["feature"]) == set(CHANGES)
    assert found["drifted"].to_list() == [True] * len(CHANGES) + [False] * 40
    assert found["psi"].head(len(CHANGES)).is_sorted(descending=True)
    change = dict(found.select("feature", "null_share_change").iter_rows())
    assert change["gone"] == 1.0
    assert change["nulls"] == pytest.approx(0.3, abs=0.07)
    assert change["shift"] == 0.0
    assert math.isnan(found.filter(pl.col("feature") == "gone")["ks"].item())


def test_an_index_within_the_noise_is_no_drift_however_rare_the_distance() -> None:
    rng = np.random.default_rng(4)
    frame = panel({"a": single(rng, 400 * ROWS)})
    reference = summarize_features(frame, ["a"], live_sessions=10)
    moved = frame.tail(10 * ROWS).with_columns(pl.col("a") + 1.0)
    assert feature_drift(reference, moved)["drifted"].item()
    restless = replace(reference, features=(replace(reference.features[0], psi_scale=1e5),))
    found = feature_drift(restless, moved)
    assert found["q_value"].item() < 0.05
    assert found["psi"].item() < found["psi_noise"].item()
    assert not found["drifted"].item()


def test_a_constant_that_moves_either_way_is_found() -> None:
    rows = 40 * 50
    frame = panel({"a": [1.0] * rows, "b": [1.0] * rows, "c": [1.0] * rows}, 50)
    reference = summarize_features(frame, ["a", "b", "c"], live_sessions=10)
    moved = frame.tail(500).with_columns(a=pl.lit(0.5), b=pl.lit(2.0))
    found = feature_drift(reference, moved)
    assert dict(found.select("feature", "drifted").iter_rows()) == {
        "a": True,
        "b": True,
        "c": False,
    }
    assert found.filter(pl.col("feature") == "c").select("psi", "ks").row(0) == (
        pytest.approx(0.0, abs=1e-2),
        0.0,
    )


def test_what_was_never_there_and_is_not_there_has_not_drifted() -> None:
    frame = panel({"a": [None] * 800}).with_columns(pl.col("a").cast(pl.Float64))
    found = feature_drift(summarize_features(frame, ["a"], live_sessions=10), frame.tail(100))
    naive = naive_psi([math.nan] * 800, [math.nan] * 100)
    assert found.select("psi", "p_value", "drifted").row(0) == (pytest.approx(naive), 1.0, False)
    assert naive < 0.01


def test_a_small_sample_does_not_cry_wolf() -> None:
    """Ten rows often have an index above the convention's 0.25, and mean nothing."""
    rng = np.random.default_rng(5)
    names = [f"f{k}" for k in range(50)]
    trained = panel({n: single(rng, 8000) for n in names})
    reference = summarize_features(trained, names, live_sessions=20)
    found = feature_drift(reference, panel({n: single(rng, 10) for n in names}, 10))
    assert (found["psi"] > 0.25).sum() > 25
    assert (found["psi"] > found["psi_noise"]).sum() <= 8
    assert not found["drifted"].any()


def test_q_values_are_those_of_benjamini_and_hochberg() -> None:
    rng = np.random.default_rng(6)
    names = [f"f{k}" for k in range(30)]
    frame = panel({n: single(rng, 1000) for n in names})
    reference = summarize_features(frame, names, live_sessions=10)
    found = feature_drift(
        reference, panel({n: single(rng, 40) + 0.02 * k for k, n in enumerate(names)})
    )
    p = sorted(found["p_value"].to_list())
    for value, q in found.select("p_value", "q_value").iter_rows():
        ranks = [k for k in range(30) if p[k] >= value]
        assert q == pytest.approx(min(1.0, *(30 * p[k] / (k + 1) for k in ranks)))


def test_the_reference_comes_back_from_json_to_the_bit() -> None:
    rng = np.random.default_rng(8)
    values = single(rng, 800)
    values[::7] = np.nan
    frame = panel({"a": values, "b": np.round(values), "c": np.full(800, np.float32("nan"))})
    reference = summarize_features(frame, ["a", "b", "c"], live_sessions=10)
    assert Reference.from_json(reference.to_json()) == reference
    assert len(reference.to_json()) < 3 * 6000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version":2,"sessions":1,"live_sessions":1,"features":[]}',
        '{"version":1,"sessions":1,"live_sessions":1,"features":[{"name":"a"}]}',
        '{"version":1,"sessions":9,"live_sessions":1,"features":[{"name":"a","rows":2,"nulls":0,'
        '"knots":[2.0,1.0],"below":[0,1],"upto":[1,2],"distance_scale":1,"psi_scale":1,'
        '"null_scale":1}]}',
    ],
)
def test_a_reference_that_was_spoiled_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="stored reference of features cannot be read"):
        Reference.from_json(text)


def test_the_order_of_rows_means_nothing() -> None:
    rng = np.random.default_rng(9)
    frame = panel({"a": single(rng, 800)})
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=1)
    one, other = (summarize_features(f, ["a"], live_sessions=10) for f in (frame, shuffled))
    assert one == other
    late, mixed = frame.tail(100), frame.tail(100).reverse()
    assert feature_drift(one, late).equals(feature_drift(one, mixed))


def test_double_precision_meets_the_values_it_was_trained_on() -> None:
    frame = panel({"a": np.repeat([0.1, 0.2], 400)[np.random.default_rng(1).permutation(800)]})
    reference = summarize_features(
        frame.with_columns(pl.col("a").cast(pl.Float32)), ["a"], live_sessions=10
    )
    assert feature_drift(reference, frame.tail(200))["ks"].item() < 0.1


def test_what_cannot_be_judged_is_refused() -> None:
    frame = panel({"a": single(np.random.default_rng(1), 800)})
    reference = summarize_features(frame, ["a"], live_sessions=10)
    with pytest.raises(ModelError, match=r"features to judge by their distribution: got \['b'\]"):
        summarize_features(frame, ["a", "b"])
    with pytest.raises(ModelError, match="features to judge by their distribution"):
        summarize_features(frame, [])
    with pytest.raises(ModelError, match="features to judge by their distribution"):
        feature_drift(reference, frame.drop("a"))
    for live in (frame.head(0), frame.tail(220)):
        with pytest.raises(ModelError, match="rows to hold against the training's features"):
            feature_drift(reference, live)
    for stretch in (11, 0):
        with pytest.raises(ModelError, match="too few sessions to know how much"):
            summarize_features(frame, ["a"], live_sessions=stretch)
    with pytest.raises(ModelError, match="too few sessions to know how much"):
        summarize_features(frame.head(0), ["a"])
