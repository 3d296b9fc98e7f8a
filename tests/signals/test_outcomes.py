"""What became of signals: the labels' returns, levels touched as a trader would see it, once."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market import calendar
from market.actions import session_factors
from market.errors import LedgerError, SignalError
from market.horizons import find_horizon
from market.ledger import open_ledger
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar
from market.synthetic import SyntheticMarket
from signals.outcomes import SIGNAL_OUTCOME_SCHEMA, reached_first, settle_signals
from signals.publish import publish_batch, read_signals
from signals.record import read_outcomes, record_outcomes, unsettled_signals
from signals.schema import CONTENT_SCHEMA, SIGNAL_SCHEMA
from tests.markets import bits, daily_bars, labels_of, market

FIRST = dt.date(2024, 6, 3)
DAYS = calendar.sessions_between(FIRST, dt.date(2024, 7, 31))
CLOSES = [calendar.session_close(d) for d in DAYS]
NO_MINUTES = pl.DataFrame(schema=BAR_SCHEMA)


def a_signal(symbol: str, as_of: dt.datetime, horizon: str = "1d", **changes) -> dict:
    return {
        "id": f"{symbol} {horizon} {as_of} {changes.get('direction', 'long')}",
        "symbol": symbol,
        "horizon": horizon,
        "direction": "long",
        "as_of": as_of,
        "valid_until": find_horizon(horizon).end_of(as_of),
        "targets": [],
        "stops": [],
        **changes,
    }


def frame(*rows: dict) -> pl.DataFrame:
    names = ("id", "symbol", "horizon", "direction", "as_of", "valid_until", "targets", "stops")
    return pl.DataFrame(list(rows), schema={n: SIGNAL_SCHEMA[n] for n in names})


def splits(*rows: tuple[str, dt.date, float]) -> pl.DataFrame:
    data = [(s, day, calendar.session_open(FIRST), ratio) for s, day, ratio in rows]
    return pl.DataFrame(data, schema=SPLIT_SCHEMA, orient="row")


def dividends(*rows: tuple[str, dt.date, float]) -> pl.DataFrame:
    data = [(s, day, calendar.session_open(FIRST), amount) for s, day, amount in rows]
    return pl.DataFrame(data, schema=DIVIDEND_SCHEMA, orient="row")


def settle(
    signals: pl.DataFrame,
    daily: pl.DataFrame,
    minutes: pl.DataFrame = NO_MINUTES,
    split: pl.DataFrame | None = None,
    dividend: pl.DataFrame | None = None,
    as_of: dt.datetime = CLOSES[-1],
) -> list[dict]:
    factors = session_factors(
        daily,
        splits() if split is None else split,
        dividends() if dividend is None else dividend,
    )
    out = settle_signals(signals, daily, minutes, factors, as_of=as_of)
    assert out.schema == SIGNAL_OUTCOME_SCHEMA
    return out.to_dicts()


def minutes_of(symbol: str, day: dt.date, path: list[tuple[float, float]], skip: int = 0):
    """Minutes of (low, high) from the open on; the first ``skip`` of the session have no trade."""
    opened = calendar.session_open(day)
    starts = [opened + dt.timedelta(minutes=skip + k) for k in range(len(path))]
    ends = [s + dt.timedelta(minutes=1) for s in starts]
    middle = [(low + high) / 2 for low, high in path]
    return pl.DataFrame(
        {
            Bar.SYMBOL: symbol,
            Bar.SESSION: day,
            Bar.BAR_START: starts,
            Bar.BAR_END: ends,
            Bar.KNOWN_AT: ends,
            Bar.OPEN: middle,
            Bar.HIGH: [high for _, high in path],
            Bar.LOW: [low for low, _ in path],
            Bar.CLOSE: middle,
            Bar.VOLUME: 10.0,
            Bar.VWAP: middle,
            Bar.TRADES: 1,
        }
    ).select(pl.col(n).cast(t) for n, t in BAR_SCHEMA.items())


def whole(table: pl.DataFrame, symbols: int) -> pl.DataFrame:
    """Times at which every symbol has a label."""
    known = table.drop_nulls("excess_return")
    return known.filter(pl.len().over("bar_end") == symbols)


def settled_beside_labels(of: SyntheticMarket, horizon: str, bars: int) -> pl.DataFrame:
    labels = whole(labels_of(of, horizon), of.tickers.height)
    times = labels["bar_end"].unique().sort().to_list()[:: max(1, len(labels) // bars)]
    # A bar that ends with its session is what a run after the close, or before the open, knows.
    signals = frame(*(a_signal(s, t, horizon) for t in times for s in of.tickers["symbol"]))
    factors = session_factors(of.daily, of.splits, of.dividends)
    out = settle_signals(signals, of.daily, of.minute, factors, as_of=of.daily["known_at"].max())
    return (
        out.join(signals, left_on="signal_id", right_on="id")
        .join(labels.drop("as_of"), left_on=["symbol", "as_of"], right_on=["symbol", "bar_end"])
        .with_columns(wrong=(pl.col("realised_return_bps") - pl.col("excess_return") * 1e4).abs())
    )


@pytest.mark.parametrize("horizon", ["1d", "14d"])
def test_daily_outcomes_are_the_labels(horizon) -> None:
    of = market(seed=5, symbols=8, sessions=300)
    assert of.splits.height + of.dividends.height > 10
    both = settled_beside_labels(of, horizon, 10**9)
    assert both.height > 1500
    assert both["wrong"].max() < 1e-6
    assert (both["known_at"] == both["label_known_at"]).all()


@pytest.mark.parametrize("horizon", ["5m", "1h", "4h", "10h"])
def test_intraday_outcomes_are_the_labels(horizon) -> None:
    """Those that cross a close earn what happens inside sessions alone, as their labels do."""
    of = market(seed=5, symbols=6, sessions=80, minute_sessions=8)
    both = settled_beside_labels(of, horizon, 60)
    # A minute without a trade of one symbol: its label is null, and these times are left out.
    assert both.height >= 60
    assert both["wrong"].max() < 1e-6


def test_splits_and_dividends_are_no_returns() -> None:
    closes = {"A": [100.0, 50.0, 50.0], "B": [100.0, 98.0, 98.0], "C": [10.0] * 3}
    done = settle(
        frame(*(a_signal(s, CLOSES[0]) for s in "ABC")),
        daily_bars(closes, FIRST),
        split=splits(("A", DAYS[1], 2.0)),
        dividend=dividends(("B", DAYS[1], 2.0)),
    )
    assert [r["realised_return_bps"] for r in done] == pytest.approx([0.0] * 3, abs=1e-6)
    raw = settle(frame(a_signal("A", CLOSES[0])), daily_bars(closes, FIRST))
    assert raw[0]["realised_return_bps"] == pytest.approx(1e4 * (-0.5 - (-0.5 - 0.02) / 3))


def test_the_return_is_against_all_symbols_and_not_signed_by_direction() -> None:
    closes = {"A": [100.0, 110.0], "B": [100.0, 100.0]}
    rows = [a_signal("A", CLOSES[0], direction=d) for d in ("long", "short", "neutral")]
    done = settle(frame(*rows), daily_bars(closes, FIRST))
    assert [r["realised_return_bps"] for r in done] == pytest.approx([500.0] * 3)
    assert [r["signal_id"] for r in done] == [r["id"] for r in rows]


def test_a_halted_symbol_is_settled_at_its_last_price_and_left_out_of_the_mean() -> None:
    nan = float("nan")
    closes = {
        "FINE": [100.0, 101.0, 102.0, 103.0, 104.0, 105.0],
        "GONE": [50.0, 40.0, nan, nan, nan, nan],
        "HELD": [20.0, nan, nan, nan, nan, 30.0],
    }
    of = daily_bars(closes, FIRST)
    (fine, gone, held) = settle(
        frame(*(a_signal(s, CLOSES[0], "7d") for s in ("FINE", "GONE", "HELD"))),
        of.filter(pl.col("session") < DAYS[5]).vstack(
            daily_bars({"FINE": [105.0]}, DAYS[5]).select(of.columns)
        ),
    )
    mean = (0.05 - 0.2) / 2
    assert fine["realised_return_bps"] == pytest.approx(1e4 * (0.05 - mean))
    assert gone["realised_return_bps"] == pytest.approx(1e4 * (-0.2 - mean))
    assert held["realised_return_bps"] == pytest.approx(1e4 * (0.0 - mean))
    assert {r["known_at"] for r in (fine, gone, held)} == {CLOSES[5]}
    (_, _, back) = settle(frame(*(a_signal(s, CLOSES[0], "7d") for s in closes)), of)
    assert back["realised_return_bps"] == pytest.approx(1e4 * (0.5 - (0.05 - 0.2 + 0.5) / 3))


def test_a_symbol_without_a_price_before_has_no_outcome() -> None:
    of = daily_bars({"OLD": [1.0, 2.0], "OTHER": [1.0, 1.0]}, FIRST)
    new = daily_bars({"NEW": [5.0]}, DAYS[1])
    rows = frame(a_signal("NEW", CLOSES[0]), a_signal("OLD", CLOSES[0]), a_signal("?", CLOSES[0]))
    done = settle(rows, pl.concat([of, new]))
    assert [r["signal_id"][:3] for r in done] == ["OLD"]
    assert done[0]["realised_return_bps"] == pytest.approx(5000.0)


def test_an_outcome_waits_for_the_end_s_bars() -> None:
    of = daily_bars({"A": [1.0, 2.0, 3.0], "B": [1.0, 1.0, 1.0]}, FIRST)
    signal = frame(a_signal("A", CLOSES[0]))
    minute = dt.timedelta(minutes=1)
    assert settle(signal, of, as_of=CLOSES[1] - minute) == []
    assert len(settle(signal, of, as_of=CLOSES[1])) == 1
    # The end's session is not in the lake, although the next one is.
    assert settle(signal, of.filter(pl.col("session") != DAYS[1])) == []
    longer = daily_bars({"A": [1.0] * 8, "B": [1.0] * 8}, FIRST)
    week = frame(a_signal("A", CLOSES[0], "7d"))
    assert len(settle(week, longer)) == 1
    assert settle(week, longer.filter(pl.col("session") != DAYS[5])) == []
    late = of.with_columns(pl.col("known_at") + 15 * minute)
    # What a plan with a delay knew at the close is the day before.
    early = frame(a_signal("A", CLOSES[1]))
    assert settle(early, late, as_of=CLOSES[2]) == []
    (done,) = settle(early, late, as_of=CLOSES[2] + 15 * minute)
    assert done["known_at"] == CLOSES[2] + 15 * minute
    assert done["realised_return_bps"] == pytest.approx(1e4 * (2.0 - 1.0))


def test_what_is_known_later_changes_nothing() -> None:
    of = market(seed=5, symbols=6, sessions=80, minute_sessions=8)
    factors = session_factors(of.daily, of.splits, of.dividends)
    names = of.tickers["symbol"].to_list()
    days = of.minute["session"].unique().sort().to_list()
    noon = [calendar.session_open(d) + dt.timedelta(hours=2) for d in days[:-1]]
    rows = [
        a_signal(s, t, h, targets=[1.0], stops=[1000.0], direction="short")
        for t in noon
        for s in names
        for h in ("1h", "4h", "1d", "14d")
    ]
    cut = calendar.session_open(days[5]) + dt.timedelta(hours=3)
    later = pl.col("known_at") > cut
    prices = [
        pl.when(later).then(pl.col(c) * 3.0).otherwise(c).alias(c)
        for c in Bar
        if c in "open high low close"
    ]
    got = settle_signals(frame(*rows), of.daily, of.minute, factors, as_of=cut)
    other = settle_signals(
        frame(*rows),
        of.daily.with_columns(prices),
        of.minute.with_columns(prices),
        factors,
        as_of=cut,
    )
    assert 0 < got.height < len(rows)
    assert bits(got) == bits(other)
    assert (got["known_at"] <= cut).all()


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(SignalError, match="time zone"):
        settle(frame(), daily_bars({"A": [1.0]}, FIRST), as_of=dt.datetime(2024, 7, 1))  # noqa: DTZ001


# --- levels ---------------------------------------------------------------------------------------


def first_touch(rows: list[dict], level: float, above: bool) -> dt.datetime | None:
    """The slow way, bar after bar."""
    for row in rows:
        if (row["high"] >= level) if above else (row["low"] <= level):
            return row["bar_end"]
    return None


PATH = st.lists(
    st.tuples(st.integers(90, 110), st.integers(0, 8)).map(
        lambda p: (float(p[0]), float(p[0] + p[1]))
    ),
    min_size=1,
    max_size=30,
)


@given(PATH, PATH, st.integers(0, 12), st.integers(88, 100), st.integers(100, 118), st.booleans())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_levels_are_touched_by_the_first_bar_that_reaches_them(
    one, two, skip, low, high, is_long
) -> None:
    """Two sessions with minutes; the signal is made within the first, at its eleventh minute."""
    days = DAYS[1:3]
    minutes = pl.concat(
        [minutes_of("A", days[0], one, skip=skip), minutes_of("A", days[1], two, skip=0)]
    )
    daily = daily_bars({"A": [100.0] * 4, "B": [100.0] * 4}, FIRST)
    as_of = calendar.session_open(days[0]) + dt.timedelta(minutes=10)
    levels = {"targets": [float(high)], "stops": [float(low)]}
    if not is_long:
        levels = {"targets": [float(low)], "stops": [float(high)]}
    direction = "long" if is_long else "short"
    signal = a_signal("A", as_of, "7d", direction=direction, **levels)
    signal["valid_until"] = CLOSES[2]
    (done,) = settle(frame(signal), daily, minutes)
    seen = minutes.filter(pl.col("bar_start") >= as_of).to_dicts()
    # A session whose minutes are all over by then has no day instead of them: it began before.
    above, below = first_touch(seen, high, above=True), first_touch(seen, low, above=False)
    target, stop = (above, below) if is_long else (below, above)
    assert (done["target_touched_at"], done["stop_touched_at"]) == (target, stop)


def test_days_stand_in_where_there_are_no_minutes() -> None:
    of = daily_bars({"A": [100.0, 100.0, 106.0, 100.0], "B": [100.0] * 4}, FIRST)
    signal = a_signal("A", CLOSES[0], "7d", targets=[105.0], stops=[99.0], valid_until=CLOSES[3])
    (done,) = settle(frame(signal), of)
    assert (done["target_touched_at"], done["stop_touched_at"]) == (CLOSES[2], None)
    # The day has the level, the minutes of that very session do not: the finer bars hold.
    fine = minutes_of("A", DAYS[2], [(101.0, 102.0)])
    (done,) = settle(frame(signal), of, fine)
    assert done["target_touched_at"] is None


def test_a_day_that_began_before_the_signal_is_not_looked_at() -> None:
    of = daily_bars({"A": [100.0, 120.0, 100.0], "B": [100.0] * 3}, FIRST)
    noon = calendar.session_open(DAYS[1]) + dt.timedelta(hours=2)
    signal = a_signal("A", noon, targets=[105.0], stops=[90.0], valid_until=CLOSES[2])
    (done,) = settle(frame(signal), of)
    assert done["target_touched_at"] is None


def test_bars_after_the_end_are_not_looked_at() -> None:
    of = daily_bars({"A": [100.0, 100.0, 120.0], "B": [100.0] * 3}, FIRST)
    (done,) = settle(frame(a_signal("A", CLOSES[0], targets=[105.0], stops=[90.0])), of)
    assert (done["target_touched_at"], done["stop_touched_at"]) == (None, None)


def test_a_split_scales_levels_and_a_dividend_does_not() -> None:
    # 2 for 1: 106 before is 53 after, and 97 before is 48.5.
    of = daily_bars({"A": [100.0, 50.0, 53.0, 48.5], "B": [100.0] * 4}, FIRST)
    signal = a_signal("A", CLOSES[0], "7d", targets=[106.0], stops=[97.0], valid_until=CLOSES[3])
    (done,) = settle(frame(signal), of, split=splits(("A", DAYS[1], 2.0)))
    assert (done["target_touched_at"], done["stop_touched_at"]) == (CLOSES[2], CLOSES[3])
    (paid,) = settle(frame(signal), of, dividend=dividends(("A", DAYS[1], 50.0)))
    assert paid["stop_touched_at"] == CLOSES[1]
    # Made before the open of the ex-date, levels are prices of the day before all the same.
    early = signal | {"as_of": calendar.session_open(DAYS[1]) - dt.timedelta(hours=1)}
    (done,) = settle(frame(early), of, split=splits(("A", DAYS[1], 2.0)))
    assert (done["target_touched_at"], done["stop_touched_at"]) == (CLOSES[2], CLOSES[3])


def test_where_a_bar_touches_both_the_stop_counts() -> None:
    daily = daily_bars({"A": [100.0] * 2, "B": [100.0] * 2}, FIRST)
    path = [(99.0, 101.0), (94.0, 106.0), (107.0, 108.0)]
    minutes = minutes_of("A", DAYS[1], path)
    rows = [
        a_signal("A", CLOSES[0], direction=d, targets=[t], stops=[s])
        for d, t, s in (("long", 105.0, 95.0), ("short", 95.0, 105.0), ("long", 105.0, 90.0))
    ]
    for k, row in enumerate(rows):
        row["id"] = str(k)
    done = settle(frame(*rows), daily, minutes)
    moment = calendar.session_open(DAYS[1]) + dt.timedelta(minutes=2)
    assert [r["target_touched_at"] for r in done] == [moment] * 3
    assert [r["stop_touched_at"] for r in done] == [moment, moment, None]
    out = reached_first(pl.DataFrame(done, schema=SIGNAL_OUTCOME_SCHEMA))
    assert out["reached"].to_list() == ["stop", "stop", "target"]
    never = pl.DataFrame(done, schema=SIGNAL_OUTCOME_SCHEMA).with_columns(
        pl.lit(None, SIGNAL_OUTCOME_SCHEMA["known_at"]).alias("target_touched_at")
    )
    assert reached_first(never)["reached"].to_list() == ["stop", "stop", None]


def test_neutral_touches_nothing() -> None:
    of = daily_bars({"A": [100.0, 200.0], "B": [100.0] * 2}, FIRST)
    (done,) = settle(frame(a_signal("A", CLOSES[0], direction="neutral")), of)
    assert (done["target_touched_at"], done["stop_touched_at"]) == (None, None)


# --- the ledger -----------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        content = {
            "valid_until": CLOSES[1],
            "engine": "ensemble",
            "direction": "long",
            "confidence": 0.6,
            "horizon": "1d",
            "expected_return_bps": 12.5,
            "targets": [101.0],
            "stops": [98.0],
            "regime": "bull",
            "explain": "",
            "features": [],
            "model_version": "7",
            "data_hash": "d",
            "config_hash": "c",
        }
        batch = pl.DataFrame([{"symbol": s, **content} for s in "AB"], schema=CONTENT_SCHEMA)
        publish_batch(
            opened,
            batch,
            run="eod",
            as_of=CLOSES[0],
            scheduled_for=CLOSES[0],
            ts_emit=CLOSES[0],
            late=False,
            head_file=tmp_path / "heads.jsonl",
        )
        yield opened


def test_outcomes_are_recorded_once_and_never_change(ledger) -> None:
    pending = unsettled_signals(ledger, until=CLOSES[1])
    assert pending.equals(read_signals(ledger))
    assert unsettled_signals(ledger, until=CLOSES[1] - dt.timedelta(seconds=1)).is_empty()
    of = daily_bars({"A": [100.0, 110.0], "B": [100.0] * 2}, FIRST)
    factors = session_factors(of, splits(), dividends())
    done = settle_signals(pending, of, NO_MINUTES, factors, as_of=CLOSES[1])
    assert record_outcomes(ledger, done.head(1), recorded_at=CLOSES[2]) == 1
    assert unsettled_signals(ledger, until=CLOSES[1])["symbol"].to_list() == ["B"]
    changed = done.with_columns(pl.col("realised_return_bps") + 1.0)
    assert record_outcomes(ledger, changed, recorded_at=CLOSES[3]) == 1
    kept = read_outcomes(ledger)
    assert kept["realised_return_bps"].to_list() == pytest.approx([500.0, -499.0])
    assert kept["signal_id"].to_list() == pending["id"].to_list()
    assert kept["target_touched_at"].to_list() == [CLOSES[1], None]
    assert unsettled_signals(ledger, until=CLOSES[1]).is_empty()
    assert read_outcomes(ledger, since=CLOSES[1]).is_empty()


def test_outcomes_of_a_signal_that_is_not_there_are_refused_and_none_is_kept(ledger) -> None:
    mine = read_signals(ledger)["id"][0]
    rows = [(mine, CLOSES[1], 1.0, None, None), ("nobody", CLOSES[1], 1.0, None, None)]
    with pytest.raises(LedgerError):
        record_outcomes(
            ledger,
            pl.DataFrame(rows, schema=SIGNAL_OUTCOME_SCHEMA, orient="row"),
            recorded_at=CLOSES[2],
        )
    assert read_outcomes(ledger).is_empty()
