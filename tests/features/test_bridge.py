"""Indicators by name: what is refused, and that what is accepted equals the library's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from features.bridge import Indicator, indicator_features, indicator_names, library, parse_indicator
from features.bridge_trial import examine, trial_bars
from features.compute import compute_features
from features.registry import FAMILIES
from features.spec import Feature, Memory
from market.errors import FeatureError
from market.schema import Bar
from tests.markets import adjusted_daily, market

SETTINGS = ["fisher(length=9)", "kdj", "ebsw(length=40)", "qqe", "obv", "efi(length=5)"]


def bars() -> pl.DataFrame:
    return adjusted_daily(market(seed=8, symbols=3, sessions=160))


def frame_of(frame: pl.DataFrame, symbol: str) -> pd.DataFrame:
    own = frame.filter(pl.col(Bar.SYMBOL) == symbol).sort(Bar.BAR_END)
    columns = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME)
    index = pd.DatetimeIndex(own[Bar.BAR_START].dt.replace_time_zone(None).to_numpy())
    return pd.DataFrame({str(c): own[c].cast(pl.Float64).to_numpy() for c in columns}, index=index)


def by_name(*specs: str) -> dict[str, Feature]:
    return {f.name: f for f in indicator_features(specs)}


# ---------------------------------------------------------------- values


def direct(b: pd.DataFrame) -> dict[str, pd.Series]:
    """Calls of the library as its own documentation writes them."""
    ta = library()
    fisher, kdj = ta.fisher(b.high, b.low, length=9), ta.kdj(b.high, b.low, b.close)
    volume = b.volume.rolling(20).mean()
    bands = ta.bbands(b.close, length=10, std=1.5, talib=False)
    return {
        "ta_fishert_9_1": fisher["FISHERT_9_1"],
        "ta_fisherts_9_1": fisher["FISHERTs_9_1"],
        "ta_k_9_3": kdj["K_9_3"],
        "ta_j_9_3": kdj["J_9_3"],
        "ta_ebsw_40_10": ta.ebsw(b.close, length=40),
        "ta_bbu_10_1_5": bands["BBU_10_1.5"] / b.close,
        "ta_bbp_10_1_5": bands["BBP_10_1.5"],
        "ta_obv": ta.obv(b.close, b.volume, talib=False) / volume,
        "ta_efi_5": ta.efi(b.close, b.volume, length=5) / b.close / volume,
        "ta_eom_14_100000000": ta.eom(b.high, b.low, b.close, b.volume) / b.close**2 * volume,
    }


def test_values_are_those_of_the_library_in_a_unit_free_of_scale() -> None:
    specs = [*SETTINGS, "bbands(length=10, std=1.5)", "eom"]
    features = indicator_features(specs)
    frame = bars()
    out = compute_features(frame, features)
    for symbol in out[Bar.SYMBOL].unique():
        own = out.filter(pl.col(Bar.SYMBOL) == symbol)
        for name, wanted in direct(frame_of(frame, symbol)).items():
            got = own[name].to_numpy().astype(np.float64)
            first = next(f.lookback for f in features if f.name == name) - 1
            assert np.isnan(got[:first]).all(), name
            np.testing.assert_allclose(got[first:], wanted[first:], rtol=1e-6, err_msg=name)


def test_an_indicator_of_both_ways_has_one_value() -> None:
    ours = {f.name: f for f in FAMILIES["technical"]}
    pairs = {"rsi_14": "ta_rsi_14", "adx_14": "ta_adx_14", "mfi_14": "ta_mfi_14"}
    found = by_name("rsi", "adx", "mfi")
    out = compute_features(bars(), [*found.values(), *(ours[n] for n in pairs)])
    for own, bridged in pairs.items():
        both = out.drop_nulls([own, bridged])
        assert both.height > 300
        np.testing.assert_allclose(both[own].to_numpy(), both[bridged].to_numpy(), rtol=1e-5)


def test_symbols_are_kept_apart() -> None:
    features = indicator_features(SETTINGS)
    frame = bars()
    whole = compute_features(frame, features)
    for symbol in frame[Bar.SYMBOL].unique():
        own = pl.col(Bar.SYMBOL) == symbol
        assert compute_features(frame.filter(own), features).equals(whole.filter(own))


def test_the_future_and_the_scale_change_nothing() -> None:
    features = indicator_features(SETTINGS)
    frame = bars()
    whole = compute_features(frame, features)
    end = frame[Bar.BAR_END].unique().sort()[101]
    past = pl.col(Bar.BAR_END) <= end
    assert compute_features(frame.filter(past), features).equals(whole.filter(past))
    prices = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VWAP)
    scaled = frame.with_columns(*(pl.col(p) * 0.25 for p in prices), pl.col(Bar.VOLUME) * 8.0)
    assert compute_features(scaled, features).equals(whole)


def test_a_symbol_of_too_few_bars_is_null() -> None:
    features = indicator_features(SETTINGS)
    frame = bars().group_by(Bar.SYMBOL, maintain_order=True).head(3)
    out = compute_features(frame, features)
    assert all(out[f.name].null_count() == out.height for f in features)


# ---------------------------------------------------------------- what is found by experiment


def test_lookback_memory_and_unit_are_found() -> None:
    found = by_name("sma(length=12)", "rsi", "obv", "dpo(centered=False)", "donchian")
    assert found["ta_sma_12"].memory is Memory.WINDOW
    assert found["ta_sma_12"].lookback == 12
    assert found["ta_sma_12"].resumable
    assert found["ta_dpo_20"].lookback == 31
    assert found["ta_rsi_14"].memory is Memory.DECAYING
    assert found["ta_rsi_14"].lookback == 15
    assert not found["ta_rsi_14"].resumable
    assert found["ta_obv"].memory is Memory.CUMULATIVE
    assert found["ta_obv"].meaning.endswith("over mean volume of 20 bars")
    assert found["ta_dcl_20_20"].meaning.endswith("over close")
    assert "close" in found["ta_dcl_20_20"].inputs


def test_a_planted_leak_is_found_at_its_first_bar() -> None:
    def centred(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"good": frame.close.diff(), "bad": frame.close.shift(-3)})

    found = examine(centred)
    assert found["good"].foresight is None
    assert found["bad"].foresight is not None
    assert found["bad"].foresight.bar == 38
    assert found["bad"].foresight.until == 40


def test_a_leak_of_one_bit_is_found() -> None:
    def whole_sample(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"bad": frame.close * (1.0 + len(frame) * 2e-16)})

    assert examine(whole_sample)["bad"].foresight is not None


def test_the_trial_is_the_same_each_time() -> None:
    again = trial_bars.__wrapped__()
    assert again.equals(trial_bars())
    assert again.index.is_monotonic_increasing
    assert (again.high >= again[["open", "close"]].max(axis=1)).all()


# ---------------------------------------------------------------- what is refused


def test_the_chikou_span_is_refused_by_its_first_bar() -> None:
    with pytest.raises(FeatureError, match=r"ICS_26 of ichimoku looks ahead.*at bar \d+ changes"):
        indicator_features(["ichimoku"])


def test_only_the_unsafe_outputs_are_left_out_when_asked() -> None:
    names = [f.name for f in indicator_features(["ichimoku"], leave_out_unsafe=True)]
    assert names == ["ta_isa_9", "ta_isb_26", "ta_its_9", "ta_iks_26"]
    with pytest.raises(FeatureError, match="DPO_20 of dpo looks ahead"):
        indicator_features(["dpo"], leave_out_unsafe=True)


@pytest.mark.parametrize("spec", ["dpo", "sma(offset=-1)", "tos_stdevall"])
def test_what_looks_ahead_is_refused(spec: str) -> None:
    with pytest.raises(FeatureError, match="looks ahead"):
        indicator_features([spec])


def test_a_bad_name_is_answered_with_near_ones() -> None:
    with pytest.raises(FeatureError, match=r"unknown indicator: got 'fishr'.*did you mean fisher"):
        indicator_features(["fishr"])


@pytest.mark.parametrize(
    ("spec", "answer"),
    [
        ("kdj(lenght=3)", "did you mean length"),
        ("kdj(length=-3)", "takes a positive length"),
        ("kdj(length='9')", "another kind of length"),
        ("kdj(length=9.5)", "another kind of length"),
        ("kdj(length=True)", "another kind of length"),
        ("kdj(length=[9])", "another kind of length"),
        ("kc(mamode='median')", "no such moving average"),
        ("ebsw(length=20)", "ignores an argument"),
        ("rsi(talib=True)", "no such argument"),
        ("sma(close=3)", "no such argument"),
        ("beta", "gives nothing"),
        ("long_run", "needs more than bars"),
        ("ma", "needs more than bars"),
        ("linregangle", "has no unit"),
        ("vp", "shows nothing"),
        ("sma(length=5000)", "gives nothing|shows nothing"),
    ],
)
def test_bad_arguments_and_unfit_indicators_are_refused(spec: str, answer: str) -> None:
    with pytest.raises(FeatureError, match=answer):
        indicator_features([spec])


@pytest.mark.parametrize(
    "spec",
    [
        "kdj(9)",
        "kdj(length=3+4)",
        "kdj(length=abs(3))",
        "kdj(length=9, **{})",
        "kdj(length=9, length=3)",
        "ta.kdj",
        "__import__('os').system('true')",
        "[k for k in ()]",
        "kdj; ebsw",
        "kdj(",
        "",
        "'kdj'",
    ],
)
def test_only_a_name_with_constants_is_read(spec: str) -> None:
    with pytest.raises(FeatureError, match="cannot be read"):
        parse_indicator(spec)


def test_the_same_output_twice_is_refused() -> None:
    with pytest.raises(FeatureError, match="same name"):
        indicator_features(["kdj", "kdj(length=9)"])


def test_a_failure_inside_the_library_says_which_indicator() -> None:
    def broken(close: pd.Series) -> pd.Series:
        raise ValueError("no luck")

    with pytest.raises(FeatureError, match=r"the indicator odd\(length=3\) fails.*no luck"):
        Indicator("odd", (("length", 3),), lambda close, length: broken(close), ("close",))(
            trial_bars()
        )


def test_texts_are_read_back_as_they_are_written() -> None:
    for spec in ("kdj", "fisher(length=9)", "kc(scalar=1.5, mamode='sma')"):
        assert parse_indicator(spec).text == spec
    assert {"fisher", "kdj", "ebsw"} <= set(indicator_names())
