"""Macro data, news and identities in an installation: there, checked, and never in the way."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import dagster as dg
import orjson
import polars as pl
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr

from isobar import server_commands
from market import calendar
from market.errors import MarketError, SourceError, UsageError
from market.polygon import PolygonSource
from market.request_limiter import Plan
from market.serving import BackgroundServer
from market.synthetic_reference import generate_reference
from pipelines import jobs
from pipelines.launch import Launcher
from tests.pipelines.installation import (
    POLYGON_KEY,
    RUNS,
    TODAY,
    YESTERDAY,
    Installation,
    environment,
    environment_of,
)
from tests.reference_tables import vix

pytestmark = pytest.mark.xdist_group("installation")
EVENING = dt.datetime(2025, 7, 1, 22, 30, tzinfo=dt.UTC)
CHECKS = {
    "treasury_yields_are_sound",
    "indices_are_sound",
    "news_are_sound",
    "identities_are_sound",
}


def _fetch(
    of: Installation, now: dt.datetime, vendor_url: str, **config: Any
) -> dict[str, dict[str, Any]]:
    values = environment(of.home, vendor_url, of.broker_url)
    with environment_of(values, of.home):
        launcher = Launcher(of.settings, now=now)
        # The settings of an installation name its own vendor. Who asks which plan it is takes a
        # refusal for the free one, and waits between calls as that demands.
        polygon = launcher.settings.polygon.model_copy(
            update={"base_url": vendor_url, "plan": Plan.ADVANCED}
        )
        launcher.stores.settings = launcher.settings.model_copy(update={"polygon": polygon})
        return launcher.launch(jobs.REFERENCE_JOB, config=config)


def _checks(of: Installation) -> dict[str, bool]:
    values = {**of.environment, "DAGSTER_HOME": str(of.home / "dagster")}
    with environment_of(values), dg.DagsterInstance.get() as instance:
        run = instance.get_runs(limit=1)[0]
        records = instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ).records
    found = [r.event_log_entry.dagster_event for r in records]
    checks = [e.event_specific_data for e in found if e is not None]
    return {c.check_name: c.passed for c in checks}  # type: ignore[union-attr]


def test_a_bootstrap_leaves_what_was_known_by_then(installation: Installation) -> None:
    lake, made = installation.stores.lake, generate_reference(installation.market)
    then = calendar.session_close(YESTERDAY) + dt.timedelta(minutes=20)
    for table in ("treasury_yields", "indices"):
        told = getattr(made, table).filter(pl.col("known_at") <= then)
        assert lake.scan(table).collect().sort("known_at").equals(told.sort("known_at"))
    news = made.news.filter(
        (pl.col("known_at") <= then) & (pl.col("published_at") >= then - dt.timedelta(days=29))
    )
    keys = ["article_id", "symbol"]
    found = lake.scan("news").collect()
    assert news.height > 0
    assert news.join(found, on=keys, how="anti").is_empty()
    assert found["known_at"].max() <= then
    first = installation.market.tickers["symbol"][0]
    spells = lake.scan("identities").filter(pl.col("symbol").is_in([first, "ZYAA"])).collect()
    assert spells["identity"].n_unique() == 1


def test_the_evening_job_completes_it_and_its_checks_pass(
    installation: Installation, tmp_path: Path
) -> None:
    copy = installation.copy(tmp_path)
    copy.clock.advance_to(EVENING)
    done = _fetch(copy, EVENING, copy.vendor_url)
    assert {m["in plan"] for m in done.values()} == {True}
    assert done["indices"]["rows added"] == 1
    assert done["treasury_yields"]["rows added"] == 3
    assert done["identities"]["former symbols"] == ["ZYAA"]
    assert _checks(copy) == dict.fromkeys(CHECKS, True)
    lake = copy.stores.lake
    index = lake.scan("indices").collect()
    for moment, newest in ((calendar.session_close(TODAY), YESTERDAY), (EVENING, TODAY)):
        assert index.filter(pl.col("known_at") <= moment)["session"].max() == newest
    longer = _fetch(copy, EVENING, copy.vendor_url, news={"start": "2025-02-03"})
    made = generate_reference(installation.market).news
    assert longer["news"]["rows added"] > 0
    assert lake.scan("news").collect().height == made.height
    with pytest.raises(MarketError, match="not a date"):
        _fetch(copy, EVENING, copy.vendor_url, news={"start": "long ago"})


def _always(answer: Response) -> FastAPI:
    app = FastAPI(docs_url=None, openapi_url=None)

    async def say(request: Request) -> Response:
        return answer

    app.add_api_route("/{path:path}", say, methods=["GET"])
    return app


def test_what_the_plan_lacks_is_reported_and_leaves_the_lake_alone(
    installation: Installation, tmp_path: Path
) -> None:
    copy = installation.copy(tmp_path)
    lake = copy.stores.lake
    tables = ("treasury_yields", "indices", "news", "identities")
    before = {t: lake.version(t) for t in tables}
    refusal = Response(orjson.dumps({"status": "NOT_AUTHORIZED"}), 403)
    late = EVENING + dt.timedelta(days=30)
    with BackgroundServer(_always(refusal)) as server:
        done = _fetch(copy, late, server.url)
    assert {name: m["in plan"] for name, m in done.items()} == dict.fromkeys(tables, False)
    assert {t: lake.version(t) for t in tables} == before
    # Nobody is told that all is well: what is there grows old.
    found = _checks(copy)
    assert {n for n, passed in found.items() if not passed} == CHECKS - {"identities_are_sound"}


def test_an_outage_is_a_failure(installation: Installation, tmp_path: Path) -> None:
    copy = installation.copy(tmp_path)
    with (
        BackgroundServer(_always(Response(b"<html>", 404))) as server,
        pytest.raises(SourceError, match="unexpected status"),
    ):
        _fetch(copy, EVENING + dt.timedelta(days=30), server.url)


def test_no_run_of_a_day_waits_for_it(installation: Installation) -> None:
    for run, session in RUNS:
        made = installation.story[f"{run.value} {session}"]
        assert f"signals_{run.value}" in made
        assert not {"treasury_yields", "indices", "news", "identities"} & set(made)


def test_files_of_vix_and_yields_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = vix().rename({"session": "date"}).select("date", "open", "high", "low", "close")
    index.write_parquet(tmp_path / "vix.parquet")
    day = index["date"][0]
    bars = {"symbol": "AAA", "date": day, "open": 1.0, "high": 2.0, "low": 1.0, "close": 1.5}
    pl.DataFrame([bars | {"volume": 100.0}]).write_parquet(tmp_path / "bars.parquet")
    served: list[FastAPI] = []
    monkeypatch.setattr(server_commands, "serve", lambda app, port: served.append(app))
    with environment_of(environment(tmp_path), tmp_path):
        server_commands.serve_polygon(
            8101, [tmp_path / "bars.parquet"], vix=tmp_path / "vix.parquet"
        )
        with pytest.raises(UsageError, match="its own VIX"):
            server_commands.serve_polygon(8101, synthetic=True, vix=tmp_path / "vix.parquet")
    with BackgroundServer(served[0]) as server:
        source = PolygonSource(SecretStr(POLYGON_KEY), server.url)
        assert source.index_bars(["VIX"], day, vix()["session"][-1]).equals(vix())
