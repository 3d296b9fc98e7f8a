"""Horizons that point apart are shown as such."""

from __future__ import annotations

import polars as pl

from signals.agreement import compare_horizons

NAMES = ["batch_id", "symbol", "horizon", "engine", "direction"]


def signals(*rows: tuple[str, str, str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict.fromkeys(NAMES, pl.String), orient="row")


def test_long_against_short_disagrees_and_neutral_sides_with_nobody() -> None:
    got = compare_horizons(
        signals(
            ("b", "FINE", "14d", "ensemble", "neutral"),
            ("b", "FINE", "1d", "ensemble", "long"),
            ("b", "APART", "1d", "ensemble", "short"),
            ("b", "APART", "14d", "ensemble", "long"),
            ("b", "ALONE", "1d", "ensemble", "short"),
        )
    )
    assert got.columns == ["symbol", "disagrees", "1d", "14d"]
    assert got.rows() == [
        ("APART", True, "short", "long"),
        ("ALONE", False, "short", None),
        ("FINE", False, "long", "neutral"),
    ]


def test_the_newest_batch_and_one_engine_count() -> None:
    rows = signals(
        ("old", "A", "14d", "ensemble", "short"),
        ("old", "B", "14d", "ensemble", "short"),
        ("new", "A", "1d", "ensemble", "long"),
        ("new", "A", "1d", "linear", "short"),
    )
    assert compare_horizons(rows).rows() == [("A", False, "long")]
    assert compare_horizons(rows, engine="linear").rows() == [("A", False, "short")]


def test_no_signals_give_no_rows() -> None:
    assert compare_horizons(signals()).columns == ["symbol", "disagrees"]
    assert compare_horizons(signals(("b", "A", "1d", "linear", "long"))).is_empty()
