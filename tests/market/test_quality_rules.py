"""Each rule fires on a hand-made fault and stays silent on a near miss."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from market import calendar
from market.errors import MarketError
from market.quality_picture import draw_findings
from market.quality_rules import (
    CIRCUMSTANTIAL,
    FINDING_SCHEMA,
    REASONS,
    QualityRules,
    Reason,
    Severity,
    reason_table,
)
from market.quality_series import daily_moves, find_excess
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, conform, empty
from market.timeframes import Timeframe
from tests.markets import market
from tests.quality_bars import (
    HALF_DAY,
    NO_DIVIDENDS,
    NO_SPLITS,
    SESSION,
    N,
    copy_row,
    inspect,
    minutes,
    put,
    reasons,
    rows_of,
    rules_of,
    scaled,
    shift,
    walk,
)


def test_sound_markets_have_no_fault() -> None:
    of = market(symbols=3, sessions=80, minute_sessions=3)
    daily = inspect(of.daily, splits=of.splits, dividends=of.dividends)
    assert daily.good.equals(of.daily.sort(Bar.SYMBOL, Bar.BAR_START))
    assert inspect(of.minute, Timeframe.M1).quarantined.is_empty()
    assert inspect(walk(3)).findings.is_empty()
    assert inspect(minutes(), Timeframe.M1).findings.is_empty()


CASES: list[tuple[Reason, dict[str, object], dict[str, object]]] = [
    (Reason.NULL, {Bar.CLOSE: None}, {Bar.VWAP: None}),
    (Reason.NULL, {Bar.SYMBOL: None}, {Bar.TRADES: None}),
    (Reason.NULL, {Bar.VOLUME: None}, {Bar.VOLUME: 0.0}),
    (Reason.NULL, {Bar.SESSION: None}, {}),
    (Reason.NULL, {Bar.BAR_START: None}, {}),
    (Reason.NULL, {Bar.KNOWN_AT: None}, {}),
    (Reason.NOT_POSITIVE, {Bar.LOW: 0.0}, {Bar.LOW: 90.0}),
    (Reason.NOT_POSITIVE, {Bar.CLOSE: float("nan")}, {}),
    (Reason.NOT_POSITIVE, {Bar.HIGH: float("inf")}, {Bar.HIGH: 999.0}),
    (Reason.NOT_POSITIVE, {Bar.VWAP: -1.0}, {}),
    (Reason.NOT_POSITIVE, {Bar.VOLUME: -1.0}, {}),
    (Reason.NOT_POSITIVE, {Bar.TRADES: -1}, {Bar.TRADES: 0}),
    (Reason.OHLC_ORDER, {Bar.HIGH: 50.0, Bar.LOW: 40.0}, {}),
    (Reason.OHLC_ORDER, {Bar.LOW: 150.0, Bar.HIGH: 160.0}, {}),
    (Reason.OHLC_ORDER, {Bar.HIGH: 99.0, Bar.LOW: 101.0}, {Bar.HIGH: 150.0, Bar.LOW: 60.0}),
]


@pytest.mark.parametrize(("reason", "fault", "near_miss"), CASES)
def test_a_row_that_is_no_bar(
    reason: Reason, fault: dict[str, object], near_miss: dict[str, object]
) -> None:
    bars = walk()
    found = inspect(put(bars, 30, **fault))
    assert reasons(found) == [reason.value]
    assert found.quarantined["evident_at"].to_list() in ([bars[Bar.KNOWN_AT][30]], [None])
    assert inspect(put(bars, 30, **near_miss)).quarantined.is_empty()


def test_a_misfit_keeps_the_row_as_received() -> None:
    bars = walk().with_columns(pl.col(Bar.CLOSE).cast(pl.String))
    assert inspect(bars).quarantined.is_empty()
    here = pl.int_range(pl.len()) == 7
    bars = bars.with_columns(
        pl.when(here).then(pl.lit("n/a")).otherwise(Bar.CLOSE).alias(Bar.CLOSE), venue=pl.lit("X")
    )
    found = inspect(bars)
    assert reasons(found) == [Reason.SCHEMA.value]
    assert (
        found.quarantined["detail"][0]
        == "schema: close; null: a key, time, price or volume is missing"
    )
    row = json.loads(found.quarantined["source_row"][0])
    assert (row["close"], row["venue"], row["symbol"]) == ("n/a", "X", "S000")


def test_missing_columns_and_unknown_lengths_are_refused() -> None:
    with pytest.raises(MarketError, match="lack columns"):
        inspect(walk().drop(Bar.VOLUME))
    with pytest.raises(MarketError, match="not inspected"):
        inspect(walk(), Timeframe.H1)


def test_duplicates() -> None:
    bars = walk()
    copied = inspect(pl.concat([bars, bars[10]]))
    assert reasons(copied) == [Reason.DUPLICATE.value]
    assert copied.good.equals(bars)
    conflict = inspect(pl.concat([bars, put(bars, 10, **{Bar.VOLUME: 1.0})[10]]))
    assert reasons(conflict) == [Reason.CONFLICT.value] * 2
    assert conflict.good.height == N - 1


@pytest.mark.parametrize(
    ("bars", "timeframe", "bad"),
    [
        (put(walk(), 5, **{Bar.SESSION: dt.date(2024, 3, 9)}), Timeframe.D1, 1),
        (put(walk(), 5, **{Bar.SESSION: dt.date(2024, 3, 7)}), Timeframe.D1, 1),
        (put(walk(), 5, **{Bar.BAR_END: walk()[Bar.BAR_START][5]}), Timeframe.D1, 1),
        (shift(minutes(10), seconds=1), Timeframe.M1, 1),
        (shift(minutes(10), days=1), Timeframe.M1, 1),
        (put(minutes(10), 5, **{Bar.BAR_END: minutes(10)[Bar.BAR_END][6]}), Timeframe.M1, 1),
        (minutes(3, first=-331), Timeframe.M1, 1),  # 03:59 New York
        (minutes(3, first=-330), Timeframe.M1, 0),
        (minutes(3, first=627), Timeframe.M1, 0),  # 19:57 New York
        (minutes(3, first=628), Timeframe.M1, 1),
        (walk(), Timeframe.M1, N),
        (minutes(5), Timeframe.D1, 5),
    ],
)
def test_the_grid(bars: pl.DataFrame, timeframe: Timeframe, bad: int) -> None:
    found = inspect(bars, timeframe)
    assert found.quarantined.height == bad
    assert rows_of(found, Reason.OFF_GRID) == bad


def test_known_before_it_ended() -> None:
    early = walk()[Bar.BAR_END][5] - dt.timedelta(microseconds=1)
    assert reasons(inspect(put(walk(), 5, **{Bar.KNOWN_AT: early}))) == [Reason.KNOWN_EARLY.value]
    assert not reasons(inspect(put(walk(), 5, **{Bar.KNOWN_AT: walk()[Bar.BAR_END][5]})))


def test_a_spike_is_quarantined_once_the_next_bar_shows_it() -> None:
    bars = scaled(walk(), 60, 1.25)
    found = inspect(bars)
    assert reasons(found) == [Reason.SPIKE.value]
    assert found.quarantined[Bar.SESSION][0] == bars[Bar.SESSION][60]
    assert found.quarantined["evident_at"][0] == bars[Bar.KNOWN_AT][61]
    assert Reason.JUMP.value not in rules_of(found)
    # On arrival it is served; the next bar makes it a suspect: a revision.
    arrived = inspect(bars[60:61], history=bars[:60])
    assert arrived.quarantined.is_empty()
    revealed = inspect(bars[61:62], history=bars[:61])
    assert revealed.quarantined.is_empty()
    assert revealed.suspects[Bar.SESSION].to_list() == [bars[Bar.SESSION][60]]
    assert inspect(bars[63:64], history=bars[:63]).suspects.is_empty()


def test_a_move_within_the_usual_is_no_spike() -> None:
    assert inspect(scaled(walk(), 60, 1.03)).findings.is_empty()
    wild = walk().with_columns(
        (pl.col(c) / 100) ** 5 * 100 for c in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VWAP)
    )
    assert inspect(scaled(wild, 60, 1.25)).findings.is_empty()


def test_a_close_alone_can_spike() -> None:
    bars = walk()
    high = bars[Bar.CLOSE][60] * 1.2
    assert reasons(inspect(put(bars, 60, **{Bar.CLOSE: high, Bar.HIGH: high}))) == [
        Reason.SPIKE.value
    ]


def test_a_jump_that_stays_is_held_until_the_next_bar_and_then_served() -> None:
    bars = scaled(walk(), pl.int_range(pl.len()) >= 60, 1.5)
    arrived = inspect(bars[60:61], history=bars[:60])
    assert reasons(arrived) == [Reason.JUMP_UNCONFIRMED.value]
    again = inspect(bars[60:61], history=pl.concat([bars[:60], bars[61:]]))
    assert again.quarantined.is_empty()
    assert rules_of(again) == {Reason.JUMP.value}
    # History holds what was held back, so that the bar after is no jump.
    assert inspect(bars[61:62], history=bars[:61]).findings.is_empty()
    smaller = scaled(walk(), pl.int_range(pl.len()) >= 60, 1.2)
    assert inspect(smaller[60:61], history=smaller[:60]).findings.is_empty()


def test_corporate_actions_explain_a_jump() -> None:
    bars = scaled(walk(), pl.int_range(pl.len()) >= 60, 0.5)
    day, known = bars[Bar.SESSION][60], bars[Bar.BAR_START][60]
    split = pl.DataFrame(
        [{"symbol": "S000", "ex_date": day, "known_at": known, "split_ratio": 2.0}]
    )
    split = conform(split, SPLIT_SCHEMA, "splits")
    assert rules_of(inspect(bars)) == {Reason.JUMP.value}
    assert inspect(bars, splits=split).findings.is_empty()
    assert rules_of(inspect(bars, splits=split.with_columns(symbol=pl.lit("B")))) == {"jump"}
    paid = pl.DataFrame(
        [
            {
                "symbol": "S000",
                "ex_date": day,
                "known_at": known,
                "amount_usd": bars[Bar.CLOSE][59] / 2,
            }
        ]
    )
    assert inspect(bars, dividends=conform(paid, DIVIDEND_SCHEMA, "d")).findings.is_empty()


def test_a_move_of_the_whole_market_is_no_fault() -> None:
    bars = scaled(walk(25), pl.col(Bar.SESSION) == walk()[Bar.SESSION][60], 1.25)
    assert inspect(bars).findings.is_empty()
    few = inspect(bars.filter(pl.col(Bar.SYMBOL) < "S005"))
    assert rows_of(few, Reason.SPIKE) == 5


def test_a_row_that_repeats_another_session() -> None:
    bars = scaled(walk(), pl.int_range(pl.len()) >= 50, 1.1)
    copied = copy_row(bars, 60, 40)  # Prices of the future.
    found = inspect(copied, rules=QualityRules(spike=1e9, jump=1e9))
    assert found.quarantined[Bar.SESSION].to_list() == [bars[Bar.SESSION][40]]
    assert reasons(found) == [Reason.REPEATED_ROW.value]
    assert found.quarantined["evident_at"][0] == bars[Bar.KNOWN_AT][60]
    on_the_day = inspect(copied[60:61], history=copied[:60])
    assert on_the_day.suspects[Bar.SESSION].to_list() == [bars[Bar.SESSION][40]]
    assert on_the_day.good.height == 1
    assert inspect(
        put(copied, 40, **{Bar.VOLUME: 123_456.0}), rules=QualityRules(spike=1e9, jump=1e9)
    ).findings.is_empty()


def test_of_neighbours_that_are_equal_none_is_served() -> None:
    bars = copy_row(walk(), 40, 41)
    assert reasons(inspect(bars)) == [Reason.REPEATED_ROW.value] * 2
    arrived = inspect(bars[41:42], history=bars[:41])
    assert reasons(arrived) == [Reason.REPEATED_ROW.value]
    assert arrived.suspects[Bar.SESSION].to_list() == [bars[Bar.SESSION][40]]
    quiet = put(put(bars, 40, **{Bar.VOLUME: 900.0}), 41, **{Bar.VOLUME: 900.0})
    assert inspect(quiet).findings.is_empty()


def test_another_symbol_may_look_the_same() -> None:
    bars = walk()
    twin = bars.with_columns(pl.lit("T").alias(Bar.SYMBOL))
    assert inspect(pl.concat([bars, twin])).findings.is_empty()


@pytest.mark.parametrize(("run", "stale"), [(4, 1), (6, 3), (3, 0)])
def test_stale_prices(run: int, stale: int) -> None:
    bars = walk()
    values = {c: bars[c][30] for c in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)}
    for at in range(31, 30 + run):
        bars = put(bars, at, **values)
    found = inspect(bars)
    assert rows_of(found, Reason.STALE) == stale
    assert found.quarantined.is_empty()
    halted = bars.with_columns(pl.lit(0.0).alias(Bar.VOLUME))
    assert rows_of(inspect(halted), Reason.STALE) == 0


def test_the_documented_table_and_the_code_agree() -> None:
    assert set(REASONS) == set(Reason)
    page = Path(__file__).parents[2] / "docs" / "quality.md"
    assert f"\n\n{reason_table()}\n" in page.read_text()


def test_holes_are_found_and_never_filled() -> None:
    bars = walk(2).filter(
        ~(
            (pl.col(Bar.SYMBOL) == "S001")
            & pl.col(Bar.SESSION).is_in([dt.date(2024, 3, 13), dt.date(2024, 3, 14)])
        )
    )
    found = inspect(bars)
    assert found.good.equals(bars)
    holes = found.findings.filter(pl.col("rule") == Reason.HOLE.value)
    assert holes["session"].to_list() == [dt.date(2024, 3, 13), dt.date(2024, 3, 14)]
    assert holes["detail"].to_list() == ["S001"] * 2
    # Listed late and delisted early is no hole.
    late = walk(2).filter(
        (pl.col(Bar.SYMBOL) == "S000")
        | pl.col(Bar.SESSION).is_between(dt.date(2024, 3, 13), dt.date(2024, 5, 1))
    )
    assert inspect(late).findings.is_empty()


@pytest.mark.parametrize(("session", "whole"), [(SESSION, 390), (HALF_DAY, 210)])
def test_missing_minutes_of_active_symbols(session: dt.date, whole: int) -> None:
    bars = minutes(whole, session)
    assert inspect(bars, Timeframe.M1).findings.is_empty()
    gap = inspect(pl.concat([bars[:100], bars[107:]]), Timeframe.M1)
    assert rows_of(gap, Reason.MISSING_MINUTES) == 7
    assert gap.good.height == whole - 7
    assert inspect(bars[: whole // 2], Timeframe.M1).findings.is_empty()


def test_minutes_that_leave_and_come_back() -> None:
    bars = minutes()
    assert reasons(inspect(scaled(bars, 200, 1.1), Timeframe.M1)) == [Reason.SPIKE.value]
    assert inspect(scaled(bars, 200, 1.02), Timeframe.M1).findings.is_empty()
    jumped = inspect(scaled(bars, pl.int_range(pl.len()) >= 200, 1.1), Timeframe.M1)
    assert rules_of(jumped) == {Reason.JUMP.value}
    # The night between two sessions is not the rule's business.
    night = pl.concat(
        [bars, scaled(minutes(session=dt.date(2024, 7, 11)), pl.lit(value=True), 1.3)]
    )
    assert Reason.JUMP.value not in rules_of(inspect(night, Timeframe.M1))


def test_minutes_that_repeat() -> None:
    copied = copy_row(minutes(), 100, 101)
    assert reasons(inspect(copied, Timeframe.M1)) == [Reason.REPEATED_ROW.value] * 2
    apart = copy_row(minutes(), 100, 102)
    assert inspect(apart, Timeframe.M1).findings.is_empty()
    both = pl.concat([minutes(), minutes(session=dt.date(2024, 7, 11))])
    assert rows_of(inspect(both, Timeframe.M1), Reason.COPIED_SESSION) == 780
    other = put(both, 5, **{Bar.VOLUME: 77.0})
    assert inspect(other, Timeframe.M1).findings.is_empty()


def test_a_date_on_which_too_many_symbols_are_odd() -> None:
    bars = walk(40)
    day = bars[Bar.SESSION][60]
    odd = scaled(bars, (pl.col(Bar.SESSION) == day) & (pl.col(Bar.SYMBOL) < "S008"), 1.06)
    found = inspect(odd)
    excess = found.findings.filter(pl.col("rule") == Reason.EXCESS.value)
    assert excess["session"].to_list() == [day]
    assert excess["symbols"].to_list() == [8]
    assert str(day) in str(found.as_metadata()["sessions that stand out"])
    lone = scaled(bars, (pl.col(Bar.SESSION) == day) & (pl.col(Bar.SYMBOL) < "S001"), 1.06)
    assert Reason.EXCESS.value not in rules_of(inspect(lone))
    # On the day itself, when nobody knows what comes back, the jumps speak.
    upto = odd.filter(pl.col(Bar.SESSION) <= day)
    bigger = scaled(upto, (pl.col(Bar.SESSION) == day) & (pl.col(Bar.SYMBOL) < "S008"), 1.06)
    today = inspect(
        bigger.filter(pl.col(Bar.SESSION) == day), history=bigger.filter(pl.col(Bar.SESSION) < day)
    )
    assert Reason.EXCESS.value in rules_of(today)
    assert today.quarantined.is_empty()


def test_severities_are_settings() -> None:
    bars = scaled(walk(), 60, 1.25)
    lenient = QualityRules(severities={Reason.SPIKE: Severity.WARN})
    found = inspect(bars, rules=lenient)
    assert found.quarantined.is_empty()
    assert found.findings["severity"].to_list() == ["warn"]
    strict = QualityRules(severities={Reason.JUMP: Severity.QUARANTINE})
    jumped = scaled(walk(), pl.int_range(pl.len()) >= 60, 1.5)
    assert reasons(inspect(jumped, rules=strict)) == [Reason.JUMP.value]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: QualityRules(spike=0.0),
        lambda: QualityRules(disagreement=float("nan")),
        lambda: QualityRules(slight_disagreement=0.05),
    ],
)
def test_thresholds_without_sense_are_refused(wrong: Callable[[], QualityRules]) -> None:
    with pytest.raises(MarketError):
        wrong()


def test_the_table_of_reasons_is_whole() -> None:
    assert list(REASONS) == list(Reason)
    assert set(CIRCUMSTANTIAL) < set(Reason)
    assert all(text for _, text in REASONS.values())


def test_metadata_and_picture() -> None:
    found = inspect(scaled(walk(3), 60, 1.25))
    data = found.as_metadata()
    assert data["bars quarantined"] == 1
    assert data["rows: spike"] == 1
    picture = draw_findings(found.findings)
    assert picture.startswith("<svg")
    assert picture.count("<rect") == 1
    assert str(walk()[Bar.SESSION][60]) in picture
    assert not re.search(r"nan|inf|None", picture)
    assert "no findings" in draw_findings(empty(FINDING_SCHEMA))


def test_scores_against_a_loop() -> None:
    rules = QualityRules(usual_sessions=15, usual_overlap=5)
    bars = scaled(scaled(walk(), 60, 1.1), pl.int_range(pl.len()) >= 40, 1.05)
    moves = daily_moves(bars.with_row_index("row"), NO_SPLITS, NO_DIVIDENDS, rules)
    close, opened = bars[Bar.CLOSE].log().to_list(), bars[Bar.OPEN].log().to_list()
    way = [None] + [b - a for a, b in itertools.pairwise(close)]
    gap = [None] + [o - c for o, c in zip(opened[1:], close[:-1], strict=True)]

    def back(ways: list[float | None], at: int) -> float:
        a, b = ways[at] or 0.0, ways[at + 1] or 0.0
        return max(0.0, min(abs(a), abs(b)) - abs(a + b) / 2) if a * b < 0 else 0.0

    for at in range(N):
        before = [abs(w) for w in way[max(0, at - 15) : at] if w is not None]
        jump, spike = moves["jump"][at], moves["spike"][at]
        if len(before) < 5:
            assert jump is None
            continue
        usual = max(statistics.median(before), rules.usual_floor)
        assert jump == pytest.approx(abs(way[at] or 0.0) / usual)
        if at == N - 1:
            assert spike is None
        else:
            assert spike == pytest.approx(max(back(way, at), back(gap, at)) / usual)


def test_an_excess_is_judged_by_the_other_sessions() -> None:
    rules = QualityRules()
    symbols, days = 100, calendar.sessions_between(dt.date(2024, 7, 1), dt.date(2024, 7, 12))
    grid = pl.DataFrame({Bar.SESSION: days}).join(
        pl.DataFrame({Bar.SYMBOL: [f"S{n:03}" for n in range(symbols)]}), how="cross"
    )
    odd = (pl.col(Bar.SESSION) == days[3]) & (pl.col(Bar.SYMBOL) < "S010")
    moves = grid.with_row_index("row").with_columns(
        next_known_at=pl.lit(dt.datetime(2024, 8, 1, tzinfo=dt.UTC)),
        jump=pl.lit(0.0),
        spike=pl.when(odd).then(5.0).otherwise(0.0),
    )
    found = find_excess(moves, pl.Series([], dtype=pl.UInt32), rules)
    usual = 1 / (symbols * (len(days) - 1) + 1000)
    z = (10 - symbols * usual) / (symbols * usual * (1 - usual)) ** 0.5
    assert found["session"].to_list() == [days[3]]
    assert found["worst"][0] == pytest.approx(z)


def test_received_rows_take_the_place_of_those_in_history() -> None:
    bars = walk()
    stored = put(bars, 70, **{Bar.VOLUME: 1.0})
    again = inspect(bars[70:71], history=stored)
    assert again.good.equals(bars[70:71])
    assert again.suspects.is_empty()
