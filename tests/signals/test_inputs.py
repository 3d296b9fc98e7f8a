from dataclasses import replace

import orjson
import pytest

from market.errors import SignalError
from market.hash_chain import canonical_json
from signals.inputs import BatchInputs, HorizonInputs, changed_inputs

DAY = HorizonInputs({"linear": "linear-1"}, {}, {"features": "a", "prices": "b", "forecasts": "c"})
BEFORE = BatchInputs("1.0", {"costs": {"bps": 1}, "seed": 7}, {"bars_1d": 4}, {"1d": DAY})


def with_day(**changes):
    return replace(BEFORE, horizons={"1d": replace(DAY, **changes)})


def test_inputs_survive_the_ledger():
    assert BatchInputs.from_json(orjson.loads(canonical_json(BEFORE.to_json()))) == BEFORE


@pytest.mark.parametrize("broken", [{}, {"code": "1"}, {**BEFORE.to_json(), "horizons": {"1d": 3}}])
def test_other_json_is_refused(broken):
    with pytest.raises(SignalError, match="cannot be read"):
        BatchInputs.from_json(broken)


def test_nothing_changed():
    assert changed_inputs(BEFORE, BEFORE) == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (replace(BEFORE, code="1.1"), "code: 1.0, now 1.1"),
        (replace(BEFORE, settings={"costs": {"bps": 2}, "seed": 7}), "settings: costs"),
        (replace(BEFORE, tables={"bars_1d": 5}), "table bars_1d: version 4, now 5"),
        (replace(BEFORE, tables={}), "table bars_1d: version 4, now None"),
        (with_day(champions={"linear": "linear-2"}), "1d: champions"),
        (with_day(challengers={"linear": "linear-3"}), "1d: challengers"),
        (with_day(digests={**DAY.digests, "features": "x"}), "1d: features"),
        (with_day(digests={"features": "a", "forecasts": "c"}), "1d: prices"),
    ],
)
def test_what_changed_is_named_and_nothing_else(after, said):
    assert changed_inputs(BEFORE, after) == [said]


def test_what_came_out_is_no_input():
    assert changed_inputs(BEFORE, with_day(digests={**DAY.digests, "forecasts": "x"})) == []


def test_a_horizon_that_was_not_made_again_is_not_missed():
    assert changed_inputs(replace(BEFORE, horizons={"1d": DAY, "1M": DAY}), BEFORE) == []
