"""`isobar features` and `isobar audit leaks`, as a shell sees them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from features.registry import REGISTRY
from isobar.workspace import Workspace
from market.errors import FeatureError
from tests.commands import Outcome, isobar
from tests.pipelines.installation import Installation, environment, environment_of

OWN = """
from features.spec import Feature, Stage, from_expression
import polars as pl

CLOSE = pl.col("close")


def make(name, expression, lookback):
    compute = from_expression(expression)
    return Feature(name, compute, ("close",), lookback, Stage.TIME_SERIES, "mine", "none")


SOUND = make("sound", CLOSE / CLOSE.shift(3) - 1, 4)
AHEAD = make("ahead", CLOSE.shift(-1) / CLOSE - 1, 1)
BOTH = [SOUND, AHEAD]
NOTHING = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def empty_home(tmp_path: Path, *arguments: str) -> Outcome:
    return isobar(*arguments, environment=environment(tmp_path / "home"))


def test_the_list_is_the_registry(tmp_path: Path) -> None:
    rows = empty_home(tmp_path, "features", "list", "--json").document
    assert [r["name"] for r in rows] == [f.name for f in REGISTRY]
    daily = empty_home(tmp_path, "features", "list", "--timeframe", "1d", "--json").document
    assert 0 < len(daily) <= len(rows)
    few = empty_home(tmp_path, "features", "list", "--family", "alpha158", "--json").document
    assert len(few) == 158


def test_a_feature_is_described(tmp_path: Path) -> None:
    told = empty_home(tmp_path, "features", "describe", "rsi_14", "--json").document
    assert told["reads"] == "close"
    assert "Wilder" in told["source"]
    assert told["reaches back to"] == "the start of history, fading"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("features", "describe", "rsi_41"), "did you mean rsi_14"),
        (("features", "list", "--family", "alpha185"), "did you mean alpha158"),
        (("features", "list", "--timeframe", "7m"), "unknown timeframe"),
        (("audit", "leaks", "--synthetic", "--feature", "nowhere.py:X"), "no feature there"),
        (("audit", "leaks", "--synthetic", "--feature", "mine.py"), "FILE.py:NAME"),
    ],
)
def test_a_wrong_use_says_what_is_right(tmp_path: Path, arguments, message: str) -> None:
    done = empty_home(tmp_path, *arguments)
    assert done.status == 2
    assert message in done.message


def test_an_audit_without_bars_says_what_to_do(tmp_path: Path) -> None:
    done = empty_home(tmp_path, "audit", "leaks")
    assert done.status == 1
    assert "isobar ingest" in done.message


def test_a_feature_of_ones_own_that_looks_ahead_is_found(tmp_path: Path, own: Path) -> None:
    place = f"{own}:BOTH"
    done = empty_home(
        tmp_path, "audit", "leaks", "--synthetic", "--timeframe", "1d", "--feature", place, "--json"
    )
    assert done.status == 1
    assert done.document["clean"] is False
    assert [f["column"] for f in done.document["findings"]] == ["ahead"]
    shown = empty_home(
        tmp_path, "audit", "leaks", "--synthetic", "--timeframe", "1d", "--feature", place
    )
    assert shown.status == 1
    assert "ahead looks ahead" in shown.out


def test_a_sound_feature_of_ones_own_is_not_accused(tmp_path: Path, own: Path) -> None:
    place = f"{own}:SOUND"
    done = empty_home(
        tmp_path, "audit", "leaks", "--synthetic", "--timeframe", "30m", "--feature", place
    )
    assert done.status == 0
    assert "Nothing had seen the future" in done.out


def test_what_is_no_feature_is_refused(tmp_path: Path, own: Path) -> None:
    done = empty_home(tmp_path, "audit", "leaks", "--synthetic", "--feature", f"{own}:NOTHING")
    assert done.status == 2
    assert "this is no feature" in done.message


def test_an_installation_is_clean_and_says_what_depends_on_the_start(
    installation: Installation,
) -> None:
    done = isobar("audit", "leaks", "--cuts", "2", "--json", environment=installation.environment)
    assert done.status == 0, done.err + done.out
    assert done.document["findings"] == []
    names = [a["name"] for a in done.document["audited"]]
    for subject in ("features on 1d bars", "features on 15m bars", "labels of 1h", "regimes"):
        assert subject in names
    depend = {s["feature"]: s["settles_bars"] for s in done.document["depend_on_start"]}
    assert depend["obv"] is None
    assert "MA20" not in depend


def test_a_notebook_has_any_timeframe_and_any_name(installation: Installation) -> None:
    with environment_of(installation.environment, installation.home):
        workspace = Workspace()
        kept = workspace.features("ZZAA", "1d", names=["rsi_14", "MA20"])
        assert kept.columns[4:] == ["MA20", "rsi_14"]
        assert not workspace.lake.exists("features_1h")
        now = workspace.features(["ZZAA", "ZZAB"], "1h", names=["return_1", "return_1_z"])
        assert now["symbol"].unique().sort().to_list() == ["ZZAA", "ZZAB"]
        bars = workspace.bars("ZZAA", "1h", adjusted="total")
        joined = now.join(bars, on=["symbol", "bar_end"]).sort("bar_end")
        wanted = joined["close"] / joined["close"].shift(1) - 1.0
        assert joined["return_1"].to_list()[1:] == pytest.approx(wanted.to_list()[1:], abs=1e-6)
        every = workspace.features("ZZAA", "1d", "2025-06-20", "2025-06-24")
        assert every.select(pl.col(pl.Float32)).width > 300
        with pytest.raises(FeatureError, match="did you mean"):
            workspace.features("ZZAA", "1d", names=["retrun_1"])
