"""What Dagster shows of tables, and of how old they may be."""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from market import calendar
from market.lake import Lake
from market.schema import BAR_SCHEMA
from pipelines.definitions import build_definitions
from pipelines.freshness import EVERY_SESSION
from pipelines.settings import Settings
from pipelines.table_metadata import as_table, column_schema, describe_table
from tests.markets import market

GRAPH = build_definitions(Settings()).resolve_asset_graph()
ON_DEMAND = {"walk_forward_backtest", "combined_backtest", "promises"}


def test_a_table_tells_rows_sessions_and_its_newest_rows(tmp_path: Path) -> None:
    lake, daily = Lake(tmp_path), market(symbols=3, sessions=6).daily
    assert describe_table(lake, "bars_1d") == {}
    days = daily["session"].unique().sort()
    lake.replace("bars_1d", daily, days.to_list())
    # What was replaced is not counted.
    lake.replace("bars_1d", daily.filter(pl.col("symbol") != daily["symbol"][0]), days.to_list())
    told = describe_table(lake, "bars_1d", ["symbol", "close"], rows=1)
    assert told["dagster/row_count"] == 12
    assert (told["first session"], told["last session"]) == (str(days[0]), str(days[-1]))
    assert told["sessions in the table"] == 6
    newest = daily.filter(pl.col("session") == days[-1])["close"].to_list()
    shown = told["newest rows"].md_str.splitlines()
    assert shown[:2] == ["| symbol | close |", "|---|---|"]
    assert len(shown) == 3
    assert shown[2].split(" | ")[1].rstrip(" |") in [f"{v:.4g}" for v in newest]


def test_a_table_without_sessions_tells_its_rows(tmp_path: Path) -> None:
    lake, made = Lake(tmp_path), market(symbols=3, sessions=6)
    lake.replace("dividends", made.dividends, None)
    assert describe_table(lake, "dividends") == {"dagster/row_count": made.dividends.height}


def test_cells_cannot_break_a_table() -> None:
    shown = as_table(pl.DataFrame({"a": ["x|y", None], "b": [float("nan"), 2.0]})).md_str
    assert shown.splitlines()[2:] == ["| x\\|y | nan |", "|  | 2 |"]


def test_columns_are_listed_with_their_types() -> None:
    bars = column_schema(BAR_SCHEMA)["dagster/column_schema"].columns
    assert [c.name for c in bars] == list(BAR_SCHEMA)
    types = {c.name: c.type for c in bars}
    assert (types["close"], types["known_at"]) == ("float64", "timestamp, UTC")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dagster_can_hand_on_what_is_defined() -> None:
    # What a code server does for the web server; no load of the definitions does it.
    repository = build_definitions(Settings()).get_repository_def()
    assert "known_at" in serialize_value(RepositorySnap.from_def(repository))


@pytest.mark.parametrize("key", sorted(GRAPH.materializable_asset_keys), ids=str)
def test_every_asset_that_a_schedule_makes_may_be_overdue(key: dg.AssetKey) -> None:
    policy = GRAPH.get(key).freshness_policy
    assert (policy is None) == (key.to_user_string() in ON_DEMAND)


def test_no_ordinary_week_is_overdue_and_a_missed_session_is() -> None:
    """From the end of the run of one session to that of the next, over all of the calendar's
    years since 2012; storms and mourning apart, nothing is late, and two missed sessions are."""
    days = calendar.sessions_between(dt.date(2012, 11, 5), dt.date(2029, 12, 31))
    gaps = [b - a for a, b in itertools.pairwise(days)]
    assert max(gaps) <= EVERY_SESSION.warn_window.to_timedelta()
    longest = max(c - a for a, c in zip(days, days[2:], strict=False))
    assert longest > EVERY_SESSION.warn_window.to_timedelta()
