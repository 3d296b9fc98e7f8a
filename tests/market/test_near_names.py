"""What an unknown name is answered with: what was nearly meant, in every letter case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import MarketError
from market.horizons import HORIZONS, find_horizon
from market.near_names import did_you_mean, near_names
from market.timeframes import Timeframe, parse_timeframe

NAMES = st.lists(st.text("abcXYZ019._", min_size=1, max_size=8), unique=True, max_size=12)


@given(NAMES, st.text(max_size=9))
def test_what_is_near_is_known_once_and_never_more_than_three(known: list[str], name: str) -> None:
    near = near_names(name, known)
    assert set(near) <= set(known)
    assert len(near) == len(set(near)) <= 3


@given(NAMES.filter(bool), st.data())
def test_a_name_in_another_letter_case_is_near_itself(
    known: list[str], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(known))
    rivals = [k for k in known if k.casefold().startswith(name.casefold())]
    assert name in near_names(name.swapcase(), known) or len(rivals) > 3


def test_what_begins_with_the_name_comes_before_what_looks_like_it() -> None:
    assert near_names("trading.mo", ["trading.no", "trading.mode"]) == ["trading.mode"]


def test_where_nothing_is_near_the_other_remedy_is_given() -> None:
    assert did_you_mean("weather", ["1m", "1h"], "choose one of these") == "choose one of these"
    assert did_you_mean("", ["1m", "1h"], "choose one of these") == "choose one of these"


@pytest.mark.parametrize(
    ("name", "near"),
    [("1H", "1h"), ("14", "14d"), ("2d", "7d, 1d"), ("1mo", "1m, 1M"), ("60m", "30m, 10m")],
)
def test_an_unknown_horizon_is_refused_with_near_ones(name: str, near: str) -> None:
    with pytest.raises(MarketError, match=rf"'{name}'.*months are 'M'.*did you mean {near}"):
        find_horizon(name)


def test_a_horizon_that_resembles_none_is_sent_to_the_table() -> None:
    with pytest.raises(MarketError, match="choose a row of the horizons table"):
        find_horizon("weather")
    assert all(find_horizon(h.name) is h for h in HORIZONS)


def test_an_unknown_timeframe_is_refused_with_near_ones() -> None:
    with pytest.raises(MarketError, match="did you mean 1h"):
        parse_timeframe("1hour")
    assert all(parse_timeframe(t.value) is t for t in Timeframe)
