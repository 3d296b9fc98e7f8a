import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signals.parity import NEARLY, compare_signals
from signals.schema import CONTENT_SCHEMA, SignalColumn

NOW = dt.datetime(2025, 6, 30, 20, tzinfo=dt.UTC)
OTHER = {
    SignalColumn.VALID_UNTIL: NOW + dt.timedelta(days=2),
    SignalColumn.DIRECTION: "short",
    SignalColumn.CONFIDENCE: 0.7,
    SignalColumn.EXPECTED_RETURN_BPS: 8.0,
    SignalColumn.TARGETS: [101.01],
    SignalColumn.STOPS: [],
    SignalColumn.REGIME: "bear",
    SignalColumn.MODEL_VERSION: "m2",
    SignalColumn.DATA_HASH: "e",
    SignalColumn.CONFIG_HASH: "f",
}


def signals(*engines, horizon="1d", symbol="AA", **changes):
    rows = [
        {
            "valid_until": NOW,
            "symbol": symbol,
            "engine": engine,
            "direction": "long",
            "confidence": 0.6,
            "horizon": horizon,
            "expected_return_bps": 7.0,
            "targets": [101.0],
            "stops": [99.0],
            "regime": "bull",
            "explain": "so",
            "features": [],
            "model_version": "m",
            "data_hash": "d",
            "config_hash": "c",
        }
        | changes
        for engine in engines
    ]
    return pl.DataFrame(rows, schema=CONTENT_SCHEMA)


@pytest.mark.parametrize("name", list(OTHER))
def test_any_other_value_is_found(name):
    trees = signals("linear", "ensemble")
    found = compare_signals(trees, signals("linear", "ensemble", **{name: OTHER[name]}))
    assert len(found) == 1
    assert found[0].startswith(f"{name} of 2 signals, AA 1d linear")


def test_reasons_are_not_compared():
    reasons = [{"feature": "gap", "contribution": 1.0}]
    again = signals("linear", explain="because of gap", features=reasons)
    assert compare_signals(signals("linear"), again) == []


@given(st.floats(-50, 50), st.floats(1e-12, 1e-7), st.sampled_from(["linear", "lstm"]))
def test_networks_may_be_off_by_a_millionth_and_others_by_nothing(value, off, engine):
    published = signals(engine, "ensemble", expected_return_bps=value)
    moved = value + off
    again = signals(engine, "ensemble", expected_return_bps=moved)
    equal = engine == "lstm" or moved == value
    assert (compare_signals(published, again) == []) is equal


@pytest.mark.parametrize("engine", ["lstm", "policy", "cnn@challenger"])
def test_networks_may_not_be_off_by_more(engine):
    again = signals(engine, expected_return_bps=7.0 * (1 + 2 * NEARLY))
    assert compare_signals(signals(engine), again)


def test_a_number_that_is_none_is_found():
    again = signals("lstm", expected_return_bps=float("nan"))
    assert compare_signals(signals("lstm"), again)


def test_signals_that_are_missing_or_new_are_named():
    two = pl.concat([signals("linear"), signals("linear", symbol="BB")])
    assert "BB 1d linear" in compare_signals(two, signals("linear"))[0]
    assert "were published" in compare_signals(two, signals("linear"))[0]
    assert "were not published" in compare_signals(signals("linear"), two)[0]


def test_horizons_that_were_not_made_again_are_left_out():
    both = pl.concat([signals("linear"), signals("linear", horizon="1M")])
    assert compare_signals(both, signals("linear")) == []
