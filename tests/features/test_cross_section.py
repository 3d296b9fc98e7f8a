"""Symbols against each other, against their sector and against the market, by naive loops."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from features.registry import find_feature, select_features
from features.side import SideTables
from market.schema import Bar
from tests.markets import adjusted_daily, bits, daily_bars, market

START = dt.date(2024, 1, 2)
SECTORS = {"ZZAA": "banks", "ZZAB": "banks", "ZZAC": "mines", "ZZAD": "mines", "ZZAE": "banks"}
# One is alone in its sector, one has none.
SPARSE = {"ZZAA": "banks", "ZZAB": "banks", "ZZAC": "mines", "ZZAD": "banks"}
FAMILY = select_features(family="cross_section")


def side(sectors: dict[str, str]) -> SideTables:
    frame = pl.DataFrame({"symbol": list(sectors), "sector": list(sectors.values())})
    return SideTables(sectors=frame)


@lru_cache(maxsize=1)
def bars() -> pl.DataFrame:
    return adjusted_daily(market())


@lru_cache(maxsize=1)
def computed() -> pl.DataFrame:
    inputs = {n for f in FAMILY for n in f.inputs if find_feature(n)} - {f.name for f in FAMILY}
    return compute_features(bars(), [*FAMILY, *select_features(sorted(inputs))], side(SECTORS))


def closes() -> np.ndarray:
    """Sessions by symbols."""
    wide = bars().pivot(on=Bar.SYMBOL, index=Bar.SESSION, values=Bar.CLOSE).sort(Bar.SESSION)
    return wide.drop(Bar.SESSION).select(sorted(SECTORS)).to_numpy()


def at(t: int) -> pl.DataFrame:
    sessions = bars()[Bar.SESSION].unique().sort()
    return computed().filter(pl.col(Bar.SESSION) == sessions[t]).sort(Bar.SYMBOL)


@pytest.mark.parametrize("t", [60, 75, 109])
def test_what_is_left_without_the_market_equals_a_naive_loop(t: int) -> None:
    c = closes()
    r = c[1:] / c[:-1] - 1
    m = r.mean(axis=1)
    got = at(t)
    window = slice(t - 60, t)
    for k, symbol in enumerate(sorted(SECTORS)):
        own, mean = r[window, k], m[window]
        design = np.column_stack([np.ones(60), mean])
        (_, beta), (squares,), *_ = np.linalg.lstsq(design, own, rcond=None)
        sigma = np.sqrt(squares / 58)
        older = slice(0, 55)
        wanted = {
            "beta_60": beta,
            "market_correlation_60": np.corrcoef(own, mean)[0, 1],
            "residual_return_1": own[-1] - beta * mean[-1],
            "residual_return_5": own[-5:].sum() - beta * mean[-5:].sum(),
            "idiosyncratic_volatility_60": sigma,
            "residual_momentum_60": (own[older].sum() - beta * mean[older].sum())
            / (sigma * np.sqrt(55)),
            "market_return_1": mean[-1],
            "market_return_5": mean[-5:].sum(),
            "market_return_20": mean[-20:].sum(),
            "market_volatility_20": mean[-20:].std(ddof=1),
            "market_volatility_60": mean.std(ddof=1),
        }
        for name, value in wanted.items():
            assert got[name][k] == pytest.approx(value, rel=2e-5, abs=1e-8), (symbol, name)


@pytest.mark.parametrize("t", [80, 109])
def test_ranks_and_scores_equal_a_naive_loop(t: int) -> None:
    got = at(t)
    for feature in FAMILY:
        of = feature.inputs[0]
        if feature.name == f"{of}_rank":
            x = got[of].to_numpy()
            # Of equal values each counts half.
            below = [(x < v).sum() + ((x == v).sum() - 1) / 2 for v in x]
            wanted = [n / 4 - 0.5 for n in below]
            assert got[feature.name].to_list() == pytest.approx(wanted), of
        if feature.name == f"{of}_z":
            x = got[of].to_numpy().astype(float)
            wanted = (x - x.mean()) / x.std(ddof=1)
            assert got[feature.name].to_numpy() == pytest.approx(wanted, rel=1e-4, abs=1e-6), of


@pytest.mark.parametrize("t", [80, 109])
def test_sectors_equal_a_naive_loop(t: int) -> None:
    got = at(t)
    sector = np.array([SECTORS[s] for s in got[Bar.SYMBOL]])
    for feature in FAMILY:
        of = feature.inputs[0]
        if of not in got.columns:
            continue
        x = got[of].to_numpy().astype(float)
        for k in range(5):
            peers = x[sector == sector[k]]
            value = got[feature.name][k]
            if feature.name == f"{of}_in_sector":
                wanted = (x[k] - peers.mean()) / peers.std(ddof=1)
                assert value == pytest.approx(wanted, rel=1e-4, abs=1e-5), feature.name
            if feature.name == f"sector_{of}":
                assert value == pytest.approx(peers.mean(), rel=1e-5, abs=1e-8), feature.name


def test_what_the_whole_market_does_equals_a_naive_loop() -> None:
    t = 109
    got, c = at(t), closes()
    r = c[t] / c[t - 1] - 1
    frame = bars().pivot(on=Bar.SYMBOL, index=Bar.SESSION, values=Bar.HIGH).sort(Bar.SESSION)
    highs = frame.drop(Bar.SESSION).to_numpy()[t - 19 : t + 1]
    frame = bars().pivot(on=Bar.SYMBOL, index=Bar.SESSION, values=Bar.LOW).sort(Bar.SESSION)
    lows = frame.drop(Bar.SESSION).to_numpy()[t - 19 : t + 1]
    five = c[t] / c[t - 5] - 1
    wanted = {
        "advance_decline": ((r > 0).sum() - (r < 0).sum()) / 5,
        "share_at_highs_20": (highs[-1] == highs.max(axis=0)).mean(),
        "share_at_lows_20": (lows[-1] == lows.min(axis=0)).mean(),
        "dispersion_of_return_5": five.std(ddof=1),
        "average_correlation_20": (got["market_volatility_20"][0] / got["volatility_20"].mean())
        ** 2,
    }
    for name, value in wanted.items():
        assert got[name].to_list() == pytest.approx([value] * 5, rel=1e-4), name


def test_a_symbol_alone_in_its_sector_or_without_one_has_no_place_in_it() -> None:
    names = select_features(["return_1_in_sector", "sector_return_1"])
    out = compute_features(bars(), names, side(SPARSE))
    for symbol, missing in (("ZZAA", 1), ("ZZAC", 110), ("ZZAE", 110)):
        own = out.filter(pl.col(Bar.SYMBOL) == symbol)
        assert own["return_1_in_sector"].null_count() == missing, symbol
        assert own["sector_return_1"].null_count() == missing, symbol
    nothing = compute_features(bars(), names)
    assert nothing["return_1_in_sector"].null_count() == nothing.height


def test_another_sector_changes_nothing_in_this_one() -> None:
    names = select_features(["return_1_in_sector", "sector_return_5", "volume_ratio_in_sector"])
    factor = pl.when(pl.col(Bar.SYMBOL) == "ZZAC").then(1 + pl.int_range(pl.len()) % 3).otherwise(1)
    other = bars().with_columns(
        *(pl.col(c) * factor for c in (Bar.CLOSE, Bar.HIGH, Bar.LOW, Bar.OPEN, Bar.VOLUME))
    )
    banks = pl.col(Bar.SYMBOL).is_in([s for s, name in SECTORS.items() if name == "banks"])
    before, after = (compute_features(b, names, side(SECTORS)) for b in (bars(), other))
    assert bits(before.filter(banks)) == bits(after.filter(banks))
    assert bits(before) != bits(after)


def test_a_market_that_does_not_move_has_no_beta() -> None:
    flat = daily_bars({"A": [5.0] * 70, "B": [7.0] * 70}, START)
    out = compute_features(flat, FAMILY).filter(pl.col(Bar.SYMBOL) == "A").row(-1, named=True)
    assert out["market_return_1"] == 0.0
    assert out["market_volatility_60"] == 0.0
    for name in ("beta_60", "market_correlation_60", "residual_return_1", "average_correlation_20"):
        assert out[name] is None, name


def test_a_symbol_that_is_the_market_has_a_beta_of_one_and_nothing_left() -> None:
    rng = np.random.default_rng(2)
    path = (10 * np.exp(np.cumsum(0.02 * rng.standard_normal(80)))).tolist()
    out = compute_features(daily_bars({"A": path}, START), FAMILY).row(-1, named=True)
    assert out["beta_60"] == pytest.approx(1.0)
    assert out["residual_return_5"] == pytest.approx(0.0, abs=1e-9)
    assert out["return_5_rank"] is None
