"""Names complete on Tab, and a wrong one says what was nearly meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isobar.names import Names
from market.errors import UsageError

HORIZONS = Names("horizon", ["15m", "1h", "1d", "1M"], "switch it on")
SYMBOLS = Names("symbol", [f"ZZ{a}{b}" for a in "ABCDEFGH" for b in "ABCDEFGH"], "ingest it")


@given(st.lists(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True), unique=True))
def test_every_name_is_itself_and_in_its_place(names: list[str]) -> None:
    made = Names("thing", names, "make it")
    assert list(made) == names
    assert [made[n] for n in names] == names
    assert [made[k] for k in range(len(names))] == names
    assert made._ipython_key_completions_() == names


def test_a_wrong_name_says_what_was_nearly_meant() -> None:
    with pytest.raises(UsageError, match=r"unknown symbol.*64 of them.*did you mean ZZAB"):
        SYMBOLS["ZZABX"]
    with pytest.raises(UsageError, match=r"15m, 1h, 1d, 1M\. Remedy: did you mean 1d"):
        HORIZONS["1D"]
    with pytest.raises(UsageError, match="switch it on"):
        HORIZONS["a year"]
    with pytest.raises(AttributeError, match="did you mean ZZAA"):
        SYMBOLS.ZZA  # noqa: B018
    assert not hasattr(SYMBOLS, "_repr_html_")
    assert "ZZAA" in SYMBOLS
    assert "AAPL" not in SYMBOLS


def test_tab_completes_them() -> None:
    # What IPython asks: names that Python can write after a dot, and all of them as keys.
    assert "ZZAB" in dir(SYMBOLS)
    assert dir(HORIZONS) == []
    assert HORIZONS._ipython_key_completions_() == ["15m", "1h", "1d", "1M"]


def test_it_shows_how_many_there_are() -> None:
    assert repr(HORIZONS) == "4: 15m, 1h, 1d, 1M"
    assert repr(SYMBOLS).endswith("… and 56 more")
