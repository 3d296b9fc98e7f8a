"""Workspace.bars: lazily or at once, the same; the past as it was known then."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from isobar.workspace import Workspace
from market import calendar
from market.compaction import compact
from market.errors import UsageError
from market.layouts import BY_SYMBOL_TABLE
from market.schema import Bar
from tests.pipelines.installation import TODAY, YESTERDAY, Installation, environment_of

pytestmark = pytest.mark.xdist_group("installation")


@pytest.fixture
def workspace(installation: Installation) -> Workspace:
    return Workspace(installation.home)


@pytest.mark.parametrize("view", ["raw", "split", "total"])
@pytest.mark.parametrize("timeframe", ["1m", "15m", "1d", "1w"])
def test_lazy_gives_the_same_as_eager(workspace: Workspace, timeframe: str, view: str) -> None:
    names = installation_symbols(workspace)[:2]
    eager = workspace.bars(names, timeframe, adjusted=view)
    lazy = workspace.bars(names, timeframe, adjusted=view, lazy=True)
    assert isinstance(lazy, pl.LazyFrame)
    assert eager.height > 0
    assert lazy.collect().equals(eager)
    some = lazy.filter(pl.col(Bar.SESSION) == YESTERDAY).select(Bar.SYMBOL, Bar.CLOSE).collect()
    wanted = eager.filter(pl.col(Bar.SESSION) == YESTERDAY).select(Bar.SYMBOL, Bar.CLOSE)
    assert some.equals(wanted)


def test_a_lazy_scan_opens_only_the_sessions_asked_for(workspace: Workspace) -> None:
    name = installation_symbols(workspace)[0]
    one = workspace.bars(name, "1m", TODAY, TODAY, adjusted="raw", lazy=True)
    assert one.collect()[Bar.SESSION].unique().to_list() == [TODAY]
    plan = one.select(Bar.CLOSE).explain()
    assert plan.count("session=") == plan.count(f"session={TODAY}") == 1
    assert "12/12 COLUMNS" not in plan


def test_settled_months_come_from_the_copy_by_symbol_and_sql_does_not_show_it(
    installation: Installation, tmp_path: Path
) -> None:
    workspace = Workspace(installation.copy(tmp_path, ledger=False).home)
    name = installation_symbols(workspace)[0]
    before = workspace.bars(name, "1m")
    compact(workspace.lake, workspace.lake.sessions("bars_1m"), dt.date(2099, 1, 1))
    plan = workspace.bars(name, "1m", adjusted="raw", lazy=True).explain()
    assert BY_SYMBOL_TABLE in plan
    assert "session=" not in plan
    assert workspace.bars(name, "1m").equals(before)
    with pytest.raises(UsageError, match=BY_SYMBOL_TABLE):
        workspace.sql(f"select count(*) from {BY_SYMBOL_TABLE}")


def test_the_past_is_as_it_was_known_then(workspace: Workspace) -> None:
    name = installation_symbols(workspace)[0]
    noon = calendar.session_open(TODAY) + dt.timedelta(hours=2)
    seen = workspace.bars(name, "1m", as_of=noon)
    assert seen[Bar.KNOWN_AT].max() <= noon
    assert seen[Bar.SESSION].max() == TODAY
    assert workspace.bars(name, "1d", as_of=noon)[Bar.SESSION].max() == YESTERDAY


def installation_symbols(workspace: Workspace) -> list[str]:
    return (
        workspace.lake.scan("bars_1m")
        .select(pl.col(Bar.SYMBOL).unique().sort())
        .collect()[Bar.SYMBOL]
        .to_list()
    )


def test_it_has_the_settings_of_its_data_root(installation: Installation, tmp_path: Path) -> None:
    with environment_of({}, tmp_path):
        workspace = Workspace(installation.home)
    assert list(workspace.horizons) == ["1h", "1d"]
    assert workspace.settings.config_hash == installation.settings.config_hash
    assert workspace.settings.home == installation.home
