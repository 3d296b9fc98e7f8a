"""What a report concludes, against plain loops and results worked out by hand."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from reports.analysis import (
    against_signal,
    conflicts,
    exposure_of,
    judge_outcomes,
    standing,
    strongest,
    turned,
    vanished,
)
from reports.facts import OUTCOME_SCHEMA, POSITION_SCHEMA
from tests.reports.scenes import AS_OF, EARLIER, bare, book, frame, full, signal, signals

_BPS = st.floats(-50, 50).map(lambda v: round(v, 1))
_PANELS = st.dictionaries(
    st.tuples(st.sampled_from(["A", "B", "C", "D"]), st.sampled_from(["1h", "1d", "14d"])), _BPS
)


def _rows(panel: dict[tuple[str, str], float], **changes: object) -> pl.DataFrame:
    return signals(*(signal(s, h, bps, **changes) for (s, h), bps in panel.items()))


class TestConflicts:
    @settings(max_examples=60)
    @given(now=_PANELS, before=_PANELS)
    def test_they_are_the_symbols_with_both_signs_by_a_plain_loop(
        self, now: dict[tuple[str, str], float], before: dict[tuple[str, str], float]
    ):
        report = bare(signals=_rows(now), earlier=_rows(before, as_of=EARLIER))
        published = {h for _, h in now}
        stands = now | {k: v for k, v in before.items() if k[1] not in published}
        expected: dict[str, float] = {}
        for symbol in {s for s, _ in stands}:
            ups = [v for (s, _), v in stands.items() if s == symbol and v > 6]
            downs = [-v for (s, _), v in stands.items() if s == symbol and v < -6]
            if ups and downs:
                expected[symbol] = min(max(ups), max(downs))
        found = conflicts(report)
        assert [c.symbol for c in found] == sorted(expected, key=lambda s: (-expected[s], s))
        for conflict in found:
            told = {h: r["expected_return_bps"] for h, r in conflict.by_horizon.items()}
            assert told == {h: v for (s, h), v in stands.items() if s == conflict.symbol}

    def test_what_has_run_out_stands_no_more(self):
        gone = signal("A", "14d", 30.0, as_of=EARLIER, valid_until=AS_OF)
        left = signal("B", "14d", 30.0, as_of=EARLIER)
        report = bare(signals=_rows({("A", "1d"): -9.0}), earlier=signals(gone, left))
        assert sorted(standing(report)["symbol"]) == ["A", "B"]
        assert standing(report).filter(pl.col("horizon") == "14d")["symbol"].to_list() == ["B"]


class TestTurned:
    @settings(max_examples=60)
    @given(now=_PANELS, before=_PANELS)
    def test_they_are_the_changes_of_direction_over_more_than_an_hour(
        self, now: dict[tuple[str, str], float], before: dict[tuple[str, str], float]
    ):
        def word(bps: float) -> str:
            return "long" if bps > 6 else "short" if bps < -6 else "neutral"

        report = bare(signals=_rows(now), earlier=_rows(before, as_of=EARLIER))
        expected = {
            key: (word(before[key]), word(bps))
            for key, bps in now.items()
            if key[1] != "1h" and key in before and word(before[key]) != word(bps)
        }
        found = turned(report)
        told = {(r["symbol"], r["horizon"]): (r["was"], r["direction"]) for r in found.to_dicts()}
        assert told == expected
        kinds = {
            "reversed": ("neutral" not in pair for pair in expected.values()),
            "new": (pair[0] == "neutral" for pair in expected.values()),
            "ended": (pair[1] == "neutral" for pair in expected.values()),
        }
        for kind, those in kinds.items():
            assert found.filter(pl.col("kind") == kind).height == sum(those)
        change = (found["expected_return_bps"] - found["expected_was_bps"]).abs().to_list()
        assert change == sorted(change, reverse=True)

    def test_symbols_that_left_are_named_by_horizon(self):
        report = bare(
            signals=_rows({("A", "1d"): 1.0}),
            earlier=_rows({("A", "1d"): 1.0, ("B", "1d"): 1.0, ("C", "14d"): 9.0}),
        )
        # 14d is not published by this run: nothing left it.
        assert vanished(report) == {"1d": ["B"]}


class TestStrongest:
    @given(_PANELS)
    @settings(max_examples=40)
    def test_the_largest_move_comes_first_and_neutral_never(
        self, panel: dict[tuple[str, str], float]
    ):
        found = strongest(_rows(panel), "1d")["expected_return_bps"].to_list()
        moves = [v for (_, h), v in panel.items() if h == "1d" and abs(v) > 6]
        assert [abs(v) for v in found] == sorted((abs(v) for v in moves), reverse=True)


class TestOutcomes:
    @given(st.lists(st.tuples(st.sampled_from(["long", "short", "neutral"]), _BPS), max_size=40))
    @settings(max_examples=40)
    def test_shares_and_intervals_are_those_of_another_library(self, rows: list[tuple[str, float]]):
        table = frame(
            OUTCOME_SCHEMA,
            *(
                {
                    "symbol": "A",
                    "horizon": "1d",
                    "as_of": EARLIER,
                    "direction": side,
                    "expected_return_bps": 10.0,
                    "realised_return_bps": bps,
                }
                for side, bps in rows
            ),
        )
        found = judge_outcomes(table)
        if not rows:
            assert found == []
            return
        (record,) = found
        directed = [(s, v) for s, v in rows if s != "neutral"]
        right = sum((v > 0) if s == "long" else (v < 0) for s, v in directed)
        assert (record.directed, record.right) == (len(directed), right)
        assert record.neutral == len(rows) - len(directed)
        if directed:
            low, high = proportion_confint(right, len(directed), method="wilson")
            assert record.low == pytest.approx(low, abs=1e-9)
            assert record.high == pytest.approx(high, abs=1e-9)
        else:
            assert record.low is None
            assert record.realised_bps is None

    def test_a_bar_that_reached_both_levels_counts_for_the_stop(self):
        later = EARLIER + dt.timedelta(minutes=1)
        times = [
            (EARLIER, None),
            (None, EARLIER),
            (EARLIER, EARLIER),
            (EARLIER, later),
            (None, None),
        ]
        rows = [
            {"symbol": "A", "horizon": "1d", "as_of": EARLIER, "direction": "long"}
            | {"expected_return_bps": 1.0, "realised_return_bps": 1.0}
            | {"target_touched_at": target, "stop_touched_at": stop}
            for target, stop in times
        ]
        (record,) = judge_outcomes(frame(OUTCOME_SCHEMA, *rows))
        assert (record.targets, record.stops) == (2, 2)


class TestBook:
    def test_exposure_counts_only_what_has_a_price(self):
        rows = frame(
            POSITION_SCHEMA,
            {"symbol": "A", "quantity": 10.0, "price_usd": 5.0},
            {"symbol": "B", "quantity": -3.0, "price_usd": 10.0},
            {"symbol": "C", "quantity": 7.0},
        )
        found = exposure_of(rows)
        assert (found.gross_usd, found.net_usd, found.unpriced) == (80.0, 20.0, ["C"])

    def test_a_position_against_its_own_horizons_signal_is_found(self):
        # ZZA is held long and ZZB short, both for 1d.
        rows = [signal("ZZA", "1d", -20.0), signal("ZZB", "1d", -20.0), signal("ZZB", "1h", 20.0)]
        report = full(signals=signals(*rows), book=book())
        assert against_signal(report).rows() == [("ZZA", "1d", "short", -20.0)]
