"""What docs/backtest.md names is there, and what the backtest has is named; figures are JSON."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from backtest.metrics import cost_lines
from backtest.overnight import SILENT_SESSIONS
from backtest.simulation import COST_LINES, FillStatus, FlowKind
from execution.denials import DenialCode
from market.costs import CostModel
from market.spread import LEAST_PAIRS
from pipelines.assets.backtest import _costs
from pipelines.settings import known_settings
from tests.backtest import scenes

PAGE = (Path(__file__).parents[2] / "docs" / "backtest.md").read_text()


def test_every_setting_that_is_named_exists_and_every_one_of_costs_is_named():
    known = set(known_settings())
    named = set(re.findall(r"`((?:costs|orders|targets|risk)\.\w+)`", PAGE))
    assert named - known == set()
    costs = {f"costs.{field.name}" for field in fields(CostModel)}
    assert costs <= known
    assert costs - named - {"costs.commission_bps"} == set()


def test_defaults_are_those_of_the_page():
    default = CostModel()
    for name, stated in re.findall(r"`costs\.(\w+)` (\d[\d.]*|on|off)\b", PAGE):
        expected = {"on": True, "off": False}.get(stated, stated)
        assert float(getattr(default, name)) == float(expected), name
    assert f"`costs.delisting_haircut` ({default.delisting_haircut:.2f}" in PAGE
    assert (SILENT_SESSIONS, LEAST_PAIRS) == (10, 10)
    assert "no bar for ten sessions" in PAGE
    assert "from ten products on" in PAGE


def test_every_status_line_and_flow_is_explained():
    for word in (*FillStatus, *COST_LINES, FlowKind.BORROW, FlowKind.CASH_IN_LIEU):
        assert f"`{word.value}`" in PAGE
    codes = {c.value for c in DenialCode}
    assert set(re.findall(r"denial `(\w+)`", PAGE)) <= codes


def test_what_costs_take_is_json_and_named():
    simulation = scenes.run_synthetic("1d", costs=CostModel())
    found = _costs(simulation) | {"cost_lines": cost_lines(simulation)}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name in found:
        assert f"| `{name}` |" in PAGE
    assert [row["multiple"] for row in found["cost_sensitivity"]] == [0.0, 1.0, 2.0, 3.0]
