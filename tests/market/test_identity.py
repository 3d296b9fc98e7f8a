"""One identity through renames, reuse and delisting, against a day-by-day lookup."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market import calendar
from market.errors import MarketError
from market.identity import as_known, follow, former_symbols, known_at, of_companies, resolve
from market.schema import IDENTITY_SCHEMA, empty
from tests.markets import daily_bars
from tests.reference_tables import Spell, identities

DAYS = calendar.sessions_between(dt.date(2024, 6, 24), dt.date(2024, 7, 19))
OPENS = [calendar.session_open(d) for d in DAYS]
NAMES = ["AA", "BB", "CC"]
META, ROUNDHILL = "BBG000META01", "BBG000ROUND1"
CHANGE = dt.date(2022, 6, 9)
FACEBOOK = identities(
    (META, META, "FB", dt.date(2012, 5, 18), CHANGE, False, None),
    (META, META, "META", CHANGE, None, True, None),
    # Another company's fund bore META before, and left it.
    (ROUNDHILL, ROUNDHILL, "META", dt.date(2021, 6, 30), dt.date(2022, 1, 31), False, None),
    (ROUNDHILL, ROUNDHILL, "METV", dt.date(2022, 1, 31), None, True, None),
)


def _open(*day: int) -> dt.datetime:
    return calendar.session_open(dt.date(*day))


def test_meta_and_fb_are_one_company() -> None:
    assert resolve(FACEBOOK, "META", _open(2024, 7, 1)) == META
    assert resolve(FACEBOOK, "FB", _open(2024, 7, 1)) == META
    assert resolve(FACEBOOK, "FB", _open(2020, 7, 1)) == META
    assert resolve(FACEBOOK, "META", _open(2021, 7, 1)) == ROUNDHILL
    # Nobody bears it between the two; the name is still the last one's.
    assert resolve(FACEBOOK, "META", _open(2022, 3, 1)) == ROUNDHILL
    assert resolve(FACEBOOK, "META", _open(2022, 6, 8)) == ROUNDHILL
    assert resolve(FACEBOOK, "META", _open(2022, 6, 9)) == META
    assert resolve(FACEBOOK, "META", _open(2021, 6, 29)) is None
    assert resolve(FACEBOOK, "NOPE", _open(2024, 7, 1)) is None


def test_a_rename_is_known_at_the_open_and_not_before() -> None:
    opened = calendar.session_open(CHANGE)
    before = as_known(FACEBOOK, opened - dt.timedelta(microseconds=1))
    assert before.filter(pl.col("symbol") == "FB").select("valid_to", "active").row(0) == (
        None,
        True,
    )
    assert as_known(FACEBOOK, opened).sort("known_at").equals(FACEBOOK.sort("known_at"))


def test_a_change_on_a_day_without_a_session_is_known_at_the_next_open() -> None:
    saturday, monday = dt.date(2024, 6, 29), dt.date(2024, 7, 1)
    assert known_at(saturday) == calendar.session_open(monday)
    assert known_at(monday) == calendar.session_open(monday)
    assert known_at(None) == calendar.session_open(calendar.FIRST_DATE)


def test_follow_gives_each_symbol_its_time() -> None:
    spells = follow(FACEBOOK, ["META", "SPY", "META"], _open(2024, 7, 1))
    assert spells.rows() == [
        ("META", "FB", dt.date(2012, 5, 18), CHANGE),
        ("META", "META", CHANGE, None),
        ("SPY", "SPY", None, None),
    ]
    with pytest.raises(MarketError, match=r"META as of 2020.*nobody|nobody.*META as of 2020"):
        follow(FACEBOOK, ["META"], _open(2020, 7, 1))


def test_former_symbols_are_those_of_whoever_bears_the_symbol_today() -> None:
    assert former_symbols(FACEBOOK, ["META", "SPY"]) == ["FB", "META", "SPY"]
    assert former_symbols(FACEBOOK, ["METV"]) == ["META", "METV"]
    assert former_symbols(FACEBOOK, ["FB"]) == ["FB"]


def test_without_identities_a_symbol_is_itself() -> None:
    bars = daily_bars({"AA": [1.0, 2.0], "BB": [3.0, 4.0]}, DAYS[0])
    spells = follow(empty(IDENTITY_SCHEMA), ["BB"], OPENS[0])
    found = of_companies(bars.lazy(), spells, date="session").collect()
    assert found.equals(bars.filter(pl.col("symbol") == "BB"))
    nothing = follow(empty(IDENTITY_SCHEMA), [], OPENS[0])
    assert of_companies(bars.lazy(), nothing, date="session").collect().is_empty()


@dataclass(frozen=True)
class World:
    """Who bears which symbol on which session: what is true, day by day."""

    bearer: dict[tuple[str, dt.date], str]
    today: dt.date = DAYS[-1]

    def spells(self) -> list[Spell]:
        found: list[Spell] = []
        for company in sorted(set(self.bearer.values())):
            mine = sorted((d, s) for (s, d), c in self.bearer.items() if c == company)
            run: list[tuple[dt.date, str]] = []
            for day, symbol in [*mine, (dt.date.max, "")]:
                if run and run[-1][1] != symbol:
                    found.append(self._spell(company, run, day))
                    run = []
                run.append((day, symbol))
        return found

    def _spell(self, company: str, run: list[tuple[dt.date, str]], then: dt.date) -> Spell:
        first, symbol, last = run[0][0], run[0][1], run[-1][0]
        if then != dt.date.max:
            return (company, company, symbol, first, then, False, None)
        if last == self.today:
            return (company, company, symbol, first, None, True, None)
        return (company, company, symbol, first, last + dt.timedelta(days=1), False, last)

    def meant(self, symbol: str, day: dt.date) -> str | None:
        """The company that a symbol means: its bearer of that day, or the last one before."""
        for back in reversed([d for d in DAYS if d <= day]):
            if (symbol, back) in self.bearer:
                return self.bearer[symbol, back]
        return None

    def series(self, symbol: str, day: dt.date) -> list[tuple[dt.date, str]]:
        """Sessions up to ``day`` and the symbols under which the company's bars lie then."""
        company = self.meant(symbol, day)
        held = ((d, s) for (s, d), c in self.bearer.items() if c == company and d <= day)
        return sorted(held)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Companies that list, rename, swap and delist on random days; no symbol has two bearers."""
    now: dict[str, str] = {}
    bearer: dict[tuple[str, dt.date], str] = {}
    gone = 0
    for day in DAYS:
        event = draw(st.sampled_from(["none", "none", "list", "rename", "delist", "swap"]))
        free = [n for n in NAMES if n not in now]
        if event == "list" and free:
            now[draw(st.sampled_from(free))] = f"C{gone}"
            gone += 1
        elif event == "rename" and now and free:
            now[draw(st.sampled_from(free))] = now.pop(draw(st.sampled_from(sorted(now))))
        elif event == "delist" and now:
            now.pop(draw(st.sampled_from(sorted(now))))
        elif event == "swap" and len(now) > 1:
            a, b = sorted(now)[:2]
            now[a], now[b] = now[b], now[a]
        bearer |= {(symbol, day): company for symbol, company in now.items()}
    return World(bearer)


@settings(max_examples=150, deadline=None)
@given(world=worlds(), moment=st.integers(0, len(DAYS) - 1))
def test_any_history_is_followed_as_day_by_day(world: World, moment: int) -> None:
    table = identities(*world.spells())
    day, as_of = DAYS[moment], OPENS[moment]
    # A bar under every symbol on every session, whoever bore it, told apart by its close.
    bars = daily_bars(
        {n: [100.0 * k + d for d in range(len(DAYS))] for k, n in enumerate(NAMES)}, DAYS[0]
    )
    for name in NAMES:
        assert resolve(table, name, as_of) == world.meant(name, day)
        if world.meant(name, day) is None:
            if table.filter(pl.col("symbol") == name).height:
                with pytest.raises(MarketError, match="nobody"):
                    follow(table, [name], as_of)
            continue
        found = of_companies(bars.lazy(), follow(table, [name], as_of), date="session").collect()
        # A spell whose end is not known yet goes on; what came later is not asked about.
        seen = found.filter(pl.col("session") <= day).sort("session")
        assert set(found["symbol"]) == {name}
        expected = [100.0 * NAMES.index(s) + DAYS.index(d) for d, s in world.series(name, day)]
        assert seen["close"].to_list() == expected


@settings(max_examples=100, deadline=None)
@given(world=worlds(), moment=st.integers(0, len(DAYS) - 1))
def test_the_future_changes_no_answer(world: World, moment: int) -> None:
    today = DAYS[moment]
    past = World({key: c for key, c in world.bearer.items() if key[1] <= today}, today)
    keys = ["identity", "symbol", "valid_from"]
    told_then, told_later = (
        as_known(identities(*w.spells()), OPENS[moment]).sort(keys) for w in (past, world)
    )
    assert told_later.equals(told_then)
