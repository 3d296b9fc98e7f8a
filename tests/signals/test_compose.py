"""From a forecast to a signal: direction, levels, words."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from market.errors import SignalError
from market.horizons import find_horizon
from models.forecast import PREDICTION_SCHEMA
from signals.compose import compose_signals, direction_of
from signals.levels import PROBABILITIES, Residuals, price_levels
from signals.schema import CONTENT_SCHEMA, Direction

AS_OF = dt.datetime(2024, 7, 2, 20, 20, tzinfo=dt.UTC)
REASONS = [{"feature": f"f{k}", "contribution": 4.0 - k} for k in range(4)]


def forecasts(**expected: float) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "symbol": symbol,
                "session": AS_OF.date(),
                "bar_end": AS_OF,
                "as_of": AS_OF,
                "horizon": "14d",
                "engine": "ensemble",
                "model_version": "v1",
                "p_short": 0.2,
                "p_neutral": 0.3,
                "p_long": 0.5,
                "expected_return_bps": value,
                "volatility_bps": 100.0,
            }
            for symbol, value in expected.items()
        ],
        schema=PREDICTION_SCHEMA,
    )


def compose(
    frame: pl.DataFrame, prices: dict[str, float], horizon: str = "14d", levels=None
) -> list[dict]:
    out = compose_signals(
        frame,
        horizon=find_horizon(horizon),
        prices=prices,
        regime="bull",
        band_bps=10.0,
        as_of=AS_OF,
        data_hash="d",
        config_hash="c",
        contributions={("A", "ensemble"): REASONS},
        levels=levels,
    )
    assert out.schema == CONTENT_SCHEMA
    return out.to_dicts()


def test_long_short_and_neutral() -> None:
    prices = {"A": 100.0, "B": 100.0, "C": 100.0}
    long, short, neutral = compose(forecasts(A=40.0, B=-40.0, C=9.0), prices)
    assert [r["direction"] for r in (long, short, neutral)] == ["long", "short", "neutral"]
    assert [r["confidence"] for r in (long, short, neutral)] == [0.5, 0.2, 0.3]
    spread = 100 * 10**0.5  # ten sessions
    assert (long["targets"], long["stops"]) == price_levels(100.0, Direction.LONG, 40.0, spread)
    assert (short["targets"], short["stops"]) == price_levels(100.0, Direction.SHORT, -40.0, spread)
    assert (neutral["targets"], neutral["stops"]) == ([], [])


def test_validity_follows_from_the_horizon() -> None:
    (row,) = compose(forecasts(A=40.0), {"A": 10.0}, "1d")
    assert row["valid_until"] == dt.datetime(2024, 7, 3, 17, tzinfo=dt.UTC)
    assert row["horizon"] == "1d"


def test_the_words_say_why() -> None:
    with_reasons, without = compose(forecasts(A=40.0, B=-40.0), {"A": 10.0, "B": 10.0})
    assert with_reasons["explain"] == (
        "Long: +40.0 bps expected over 14d against the market in a bull regime, "
        "mostly f0 (+4.0 bps), f1 (+3.0 bps), f2 (+2.0 bps)."
    )
    assert with_reasons["features"] == REASONS
    assert without["explain"].endswith("in a bull regime.")
    assert without["features"] == []
    (neutral,) = compose(forecasts(A=1.0), {"A": 10.0})
    assert "does not pay a round trip of 10.0 bps" in neutral["explain"]


def test_provenance_is_carried() -> None:
    (row,) = compose(forecasts(A=40.0), {"A": 10.0})
    assert (row["data_hash"], row["config_hash"]) == ("d", "c")
    assert (row["model_version"], row["regime"], row["engine"]) == ("v1", "bull", "ensemble")


def test_a_symbol_without_a_price_is_refused() -> None:
    with pytest.raises(SignalError, match=r"no last price.*'B'"):
        compose(forecasts(A=40.0, B=1.0), {"A": 10.0})


def test_no_predictions_give_no_signals() -> None:
    assert compose(forecasts(), {}) == []


def test_the_band_itself_is_neutral() -> None:
    assert direction_of(6.0, 6.0) is Direction.NEUTRAL
    assert direction_of(-6.0, 6.0) is Direction.NEUTRAL
    assert direction_of(6.01, 6.0) is Direction.LONG
    assert direction_of(-6.01, 6.0) is Direction.SHORT


def test_levels_are_those_of_the_engine() -> None:
    wide = Residuals(tuple(3.0 * (p - 0.5) for p in PROBABILITIES))
    frame, prices = forecasts(A=40.0), {"A": 100.0}
    (mine,) = compose(frame, prices, levels={"ensemble": wide})
    (other,) = compose(frame, prices, levels={"linear": wide})
    spread = 100 * 10**0.5
    assert (mine["targets"], mine["stops"]) == price_levels(
        100.0, Direction.LONG, 40.0, spread, wide
    )
    (plain,) = compose(frame, prices)
    assert (other["targets"], other["stops"]) == (plain["targets"], plain["stops"])
    assert mine["stops"] != plain["stops"]
