"""After how many bars a feature forgets where history starts."""

from __future__ import annotations

import math

import polars as pl
import pytest

from features.audited import adjusted_bars
from features.leakage import Settling, settling
from features.spec import Feature, Memory, Stage, from_expression
from market.schema import Bar
from market.timeframes import Timeframe
from tests.features.planted_leaks import audit_tables


def test_where_history_starts_is_told_with_the_bars_it_takes_to_forget() -> None:
    bars = adjusted_bars(audit_tables(), Timeframe.D1)
    days = bars[Bar.SESSION].unique().sort()

    def made(name: str, value, memory: Memory, lookback: int = 1) -> Feature:
        inputs = ("close",)
        return Feature(name, value, inputs, lookback, Stage.TIME_SERIES, "x", "none", memory=memory)

    close = pl.col("close")
    features = [
        made("window", lambda p: p.growth(p["close"], 5), Memory.WINDOW, 6),
        made("fading", lambda p: p["close"] / p.ema("fading", p["close"], 3), Memory.DECAYING, 3),
        made("endless", from_expression(close / close.first()), Memory.CUMULATIVE),
    ]
    late = Feature("late", from_expression(close), ("close",), 1, Stage.AS_OF, "x", "none")
    features.append(late)  # reads side tables, not the bars that begin later
    found = {s.feature: s for s in settling(bars, features, [days[20], days[50]])}
    assert list(found) == ["window", "fading", "endless"]
    assert found["window"].settles_bars == 6
    assert not found["window"].depends_on_start
    # Three quarters of the weight are gone after two bars: float32 forgets within thirty.
    assert 10 < (found["fading"].settles_bars or 0) < 40
    assert found["fading"].depends_on_start
    assert found["endless"].settles_bars is None
    assert found["endless"].depends_on_start


@pytest.mark.parametrize(
    ("settles", "depends"), [(None, True), (19, False), (20, False), (21, True)]
)
def test_more_history_than_the_lookback_is_what_counts(settles: int | None, depends: bool) -> None:
    assert Settling("x", 20, settles).depends_on_start is depends


def test_the_worst_start_counts_and_one_that_never_settles_stays_so() -> None:
    """The value differs for three bars from the first start, and for nine from the second."""
    bars = adjusted_bars(audit_tables(), Timeframe.D1)
    bars = bars.filter(pl.col(Bar.SYMBOL) == bars[Bar.SYMBOL].max())
    days = bars[Bar.SESSION].unique().sort()

    def made(name: str, differs: dict[int, int | None]) -> Feature:
        """Differs after each start, which the rows that are left tell, for so many bars."""

        def value(panel) -> pl.Series:
            sessions = len(set(panel["session"]))
            span = differs.get(sessions, 0)
            age = panel["close"] * 0.0
            for begin, end in zip(panel.offsets[:-1], panel.offsets[1:], strict=True):
                age[begin:end] = range(end - begin)
            return (age < (1e9 if span is None else span)) * 1.0

        inputs = ("close", "session")
        return Feature(name, value, inputs, 1, Stage.TIME_SERIES, "x", "none")

    starts = [days[20], days[-20]]
    left = [len(days) - 20, 20]
    features = [
        made("twice", dict(zip(left, (9, 3), strict=True))),
        made("late", dict(zip(left, (3, 9), strict=True))),
        made("never", dict(zip(left, (None, 3), strict=True))),
        # In the last tenth of twenty bars it counts as one that has not settled.
        made("barely", dict(zip(left, (3, 18), strict=True))),
        made("too late", dict(zip(left, (3, 19), strict=True))),
    ]
    found = {s.feature: s.settles_bars for s in settling(bars, features, starts)}
    # The tenth is the first right one.
    assert found == {"twice": 10, "late": 10, "never": None, "barely": 19, "too late": None}


def test_a_lookback_longer_than_what_is_left_is_declared_and_no_fault() -> None:
    bars = adjusted_bars(audit_tables(), Timeframe.D1)
    days = bars[Bar.SESSION].unique().sort()
    window = Feature(
        "window",
        lambda p: p.growth(p["close"], 5),
        ("close",),
        6,
        Stage.TIME_SERIES,
        "x",
        "none",
        memory=Memory.WINDOW,
    )
    assert [s.settles_bars for s in settling(bars, [window], [days[-5]])] == [6]


_ULP = 2.0**-23


@pytest.mark.parametrize(
    ("more_history", "less", "settles"),
    [
        (1.0, 1.0 + _ULP, 1),
        (1.0 + _ULP, 1.0, 1),
        (1.0, 1.0 + 2 * _ULP, None),
        # A difference of nearly equal numbers has no last place of its own.
        (0.0, 1e-8, 1),
        (0.0, 2e-8, None),
        (math.nan, math.nan, 1),
        (math.nan, 1.0, None),
        (1.0, math.nan, None),
    ],
)
def test_one_unit_in_the_last_place_is_no_difference(
    more_history: float, less: float, settles: int | None
) -> None:
    bars = adjusted_bars(audit_tables(), Timeframe.D1)
    days = bars[Bar.SESSION].unique().sort()

    def value(panel) -> pl.Series:
        chosen = more_history if len(set(panel["session"])) == len(days) else less
        return panel["close"] * 0.0 + chosen

    feature = Feature("x", value, ("close", "session"), 1, Stage.TIME_SERIES, "x", "none")
    assert [s.settles_bars for s in settling(bars, [feature], [days[20]])] == [settles]
