"""Out-of-sample predictions as a frame, on the screen and as a file."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from isobar.workspace import Workspace
from market.errors import MarketError, ModelError
from market.horizons import find_horizon
from tests.commands import isobar
from tests.families import engines_of
from tests.pipelines.installation import Installation

pytestmark = pytest.mark.xdist_group("installation")

COLUMNS = [
    *("symbol", "as_of", "horizon", "engine", "model_version"),
    *("p_short", "p_neutral", "p_long", "expected_return_bps"),
]


@pytest.fixture
def workspace(installation: Installation) -> Workspace:
    return Workspace(installation.home)


def test_every_engine_and_the_ensemble_forecast_each_row_once(workspace: Workspace) -> None:
    got = workspace.predictions("1d")
    assert got.columns == COLUMNS
    engines = {"ensemble", *engines_of(find_horizon("1d"))}
    per_row = got.group_by("symbol", "as_of").agg(pl.col("engine"))
    assert all(sorted(e) == sorted(engines) for e in per_row["engine"].to_list())
    assert got.equals(got.sort("as_of", "symbol", "engine"))
    total = got.select(pl.sum_horizontal("p_short", "p_neutral", "p_long")).to_series()
    assert total.to_list() == pytest.approx([1.0] * got.height)


def test_a_period_holds_both_its_ends(workspace: Workspace) -> None:
    whole = workspace.predictions("1d")
    days = whole["as_of"].dt.date().unique().sort()
    part = workspace.predictions("1d", str(days[3]), days[5])
    wanted = whole.filter(pl.col("as_of").dt.date().is_between(days[3], days[5]))
    assert part.equals(wanted)
    assert part["as_of"].dt.date().n_unique() == 3


def test_an_empty_period_and_an_unknown_horizon_are_refused(workspace: Workspace) -> None:
    with pytest.raises(ModelError, match=r"no out-of-sample predictions of horizon 1d.*2031-01-01"):
        workspace.predictions("1d", "2031-01-01")
    with pytest.raises(MarketError, match="unknown horizon"):
        workspace.predictions("2d")


def test_the_file_holds_what_the_notebook_sees(
    installation: Installation, workspace: Workspace, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.parquet"
    days = workspace.predictions("1d")["as_of"].dt.date()
    done = isobar(
        *("predictions", "--horizon", "1d", "--start", str(days[0]), "--end", str(days.max())),
        *("--out", str(out), "--json"),
        environment=installation.environment,
    )
    assert done.status == 0, done.err
    assert pl.read_parquet(out).equals(workspace.predictions("1d"))
    assert done.document["rows"] == pl.read_parquet(out).height
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.parquet"]


def test_what_cannot_be_written_or_read_says_so(installation: Installation, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "predictions.parquet"
    done = isobar(
        *("predictions", "--horizon", "1d", "--out", str(missing)),
        environment=installation.environment,
    )
    assert done.status == 1
    assert "Remedy" in done.err
    reversed_dates = ("--start", "2025-06-03", "--end", "2025-06-02")
    done = isobar(
        "predictions", "--horizon", "1d", *reversed_dates, environment=installation.environment
    )
    assert done.status == 2
    assert "reversed dates" in done.err
