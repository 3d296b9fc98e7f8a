"""Promises are kept in the lake, and served for as long as they are what they would be now."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from market.horizons import find_horizon
from market.ingest_log import LOG_TABLE
from market.lake import Lake
from pipelines import scoreboard
from pipelines.drift import newest_walked
from pipelines.resources import Stores
from pipelines.scoreboard import PROMISES_TABLE, keep_promises, read_scoreboard
from tests.pipelines.installation import HORIZONS, TODAY, Installation

pytestmark = pytest.mark.xdist_group("installation")


@pytest.fixture
def stores(installation: Installation, tmp_path: Path) -> Stores:
    return installation.copy(tmp_path).stores


def board(stores: Stores, engine: str | None = None) -> pl.DataFrame:
    settings = stores.settings
    with stores.ledger as ledger:
        return read_scoreboard(
            stores.lake,
            ledger,
            settings.enabled_horizons,
            band_bps=settings.band_bps,
            seed=settings.models.seed,
            engine=engine,
        )


def keep(stores: Stores, *, seed: int | None = None) -> list[str]:
    settings = stores.settings
    with stores.ledger as ledger:
        return keep_promises(
            stores.lake,
            ledger,
            settings.enabled_horizons,
            band_bps=settings.band_bps,
            seed=settings.models.seed if seed is None else seed,
        )


def test_the_runs_kept_what_would_be_computed_now(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(scoreboard, "read_labels", None)
        kept = board(stores)
        assert keep(stores) == []
    shutil.rmtree(stores.lake.uri(PROMISES_TABLE))
    assert board(stores).equals(kept)
    assert (kept["promised_signals"] > 0).any()
    assert sorted(kept["horizon"].unique()) == sorted(HORIZONS)
    assert keep(stores) == list(HORIZONS)
    assert board(stores).equals(kept)


def test_one_engine_is_its_row_of_the_whole_board(stores: Stores) -> None:
    whole = board(stores)
    for engine in whole["engine"].unique():
        assert board(stores, engine).equals(whole.filter(pl.col("engine") == engine))


def rewrite(stores: Stores, table: str, rows: pl.DataFrame) -> None:
    parts = rows["horizon"].unique().to_list() if table == "predictions" else None
    assert stores.lake.replace(table, rows, parts)


def test_other_forecasts_make_other_promises(stores: Stores) -> None:
    rows = stores.lake.scan("predictions").collect()
    before = board(stores)
    turned = rows.filter(pl.col("horizon") == "1d").with_columns(-pl.col("expected_return_bps"))
    rewrite(stores, "predictions", turned)
    after = board(stores)
    same = pl.col("horizon") != "1d"
    assert after.filter(same).equals(before.filter(same))
    assert not after.filter(~same).equals(before.filter(~same))
    assert keep(stores) == ["1d"]
    assert board(stores).equals(after)


def test_forecasts_come_in_one_order_whatever_that_of_their_rows_in_the_lake(
    tmp_path: Path,
) -> None:
    """Sums of floats would differ in their last bit, and with them the contents of the lake."""
    days = [TODAY - dt.timedelta(days=k) for k in range(40)]
    rows = pl.DataFrame({"session": days}).join(
        pl.DataFrame({"symbol": ["A", "B", "C"]}), how="cross"
    )
    rows = rows.with_columns(
        pl.col("session").cast(pl.Datetime("us", "UTC")).alias("bar_end"),
        horizon=pl.lit("1d"),
        engine=pl.lit("ensemble"),
        score=pl.int_range(pl.len()),
    )
    lake = Lake(tmp_path)
    every = pl.lit(value=True)
    lake.replace("predictions", rows, ["1d"])
    sorted_file = newest_walked(lake, find_horizon("1d"), every, None)
    mixed = rows.sample(fraction=1, shuffle=True, seed=3)
    write_deltalake(lake.uri("predictions"), mixed.to_arrow(), mode="overwrite")
    assert not lake.scan("predictions").collect().equals(sorted_file)
    assert newest_walked(lake, find_horizon("1d"), every, None).equals(sorted_file)


@pytest.mark.parametrize(
    ("session", "timeframe", "made"),
    [
        (dt.date(2025, 6, 2), "1d", ["1d"]),
        (dt.date(2025, 6, 16), "1m", ["1h"]),
        # Labels of the sessions before the first live one have ended by then.
        (TODAY + dt.timedelta(days=14), "1d", []),
    ],
)
def test_bars_that_changed_count_as_far_as_labels_reach(
    stores: Stores, session: dt.date, timeframe: str, made: list[str]
) -> None:
    log = stores.lake.scan(LOG_TABLE).collect()
    here = (pl.col("session") == session) & (pl.col("timeframe") == timeframe)
    if log.filter(here).is_empty():
        newest = log.filter(timeframe=timeframe, session=TODAY)
        assert newest.height == 1
        log = pl.concat([log, newest.with_columns(pl.lit(session).alias("session"))])
    changed = pl.when(here).then(pl.lit("other")).otherwise(pl.col("content"))
    rewrite(stores, LOG_TABLE, log.with_columns(changed.alias("content")))
    assert keep(stores) == made


def test_regimes_identities_and_the_seed_count(stores: Stores) -> None:
    regimes = stores.lake.scan("regimes").collect()
    later = pl.when(pl.col("session") >= TODAY).then(pl.lit("bear")).otherwise("regime")
    rewrite(stores, "regimes", regimes.with_columns(later.alias("regime")))
    assert keep(stores) == []
    rewrite(stores, "regimes", regimes.with_columns(pl.lit("bear").alias("regime")))
    assert keep(stores) == list(HORIZONS)
    identities = stores.lake.scan("identities").collect()
    rewrite(stores, "identities", identities.head(identities.height - 1))
    assert keep(stores) == list(HORIZONS)
    assert keep(stores, seed=99) == list(HORIZONS)
