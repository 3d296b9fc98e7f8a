"""Promises are kept in the lake, and served for as long as they are what they would be now."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from market.ingest_log import LOG_TABLE
from pipelines import scoreboard
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


def test_the_order_in_which_rows_are_read_changes_no_score(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of floats would differ in their last bit, and with them the contents of the lake."""
    shutil.rmtree(stores.lake.uri(PROMISES_TABLE))
    whole = board(stores)
    for name in ("newest_walked", "read_labels", "read_outcomes"):
        monkeypatch.setattr(scoreboard, name, shuffled(getattr(scoreboard, name)))
    assert board(stores).equals(whole)


def shuffled(read: Callable[..., pl.DataFrame]) -> Callable[..., pl.DataFrame]:
    return lambda *args, **kwargs: read(*args, **kwargs).sample(fraction=1, shuffle=True, seed=3)


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
