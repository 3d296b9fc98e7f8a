"""Flat files through the command line: keys from the environment, bars in the lake, no key kept."""

from __future__ import annotations

from pathlib import Path

from market.lake import Lake
from market.replay import create_app
from market.replay_data import ServedMarket
from market.schema import Bar
from market.serving import BackgroundServer
from market.synthetic import SyntheticSpec, generate
from market.timeframes import Timeframe
from tests.commands import isobar
from tests.flat_server import ACCESS_KEY, SECRET_KEY, flat_server
from tests.pipelines.installation import POLYGON_KEY, environment


def test_bars_come_from_flat_files_and_no_key_stays_behind(tmp_path: Path) -> None:
    made = generate(SyntheticSpec(symbols=4, sessions=3, minute_sessions=0, alpha={}))
    market = ServedMarket(made.daily, None, made.splits, made.dividends, made.tickers)
    days = sorted(made.daily[Bar.SESSION].unique())
    home = tmp_path / "home"
    home.mkdir()
    symbols = str(made.tickers["symbol"].to_list()).replace("'", '"')
    (home / "isobar.toml").write_text(f"symbols = {symbols}\n[history]\nend = {days[-1]}\n")
    with (
        BackgroundServer(create_app(market, api_key=POLYGON_KEY)) as rest,
        flat_server() as files,
    ):
        files.put_bars(Timeframe.D1, made.daily)
        files_only = {
            "POLYGON_S3_ACCESS_KEY": ACCESS_KEY,
            "POLYGON_S3_SECRET_KEY": SECRET_KEY,
            "ISOBAR_POLYGON__S3_ENDPOINT": files.url,
            "ISOBAR_POLYGON__S3_BUCKET": files.bucket,
        }
        done = isobar(
            *f"ingest --start {days[0]} --end {days[-1]} --timeframe 1d".split(),
            environment={**environment(home, rest.url), **files_only},
        )
    assert done.status == 0, done.err
    stored = Lake(home / "lake").read_bars("bars_1d")
    assert stored.drop(Bar.VWAP).equals(made.daily.drop(Bar.VWAP))
    assert stored[Bar.VWAP].null_count() == stored.height
    log = Lake(home / "lake").scan("ingest_log").collect()
    assert log["source"].str.starts_with("polygon-flat-files").all()
    kept = [p.read_bytes() for p in home.rglob("*") if p.is_file()]
    secrets = [s.encode() for s in (ACCESS_KEY, SECRET_KEY, POLYGON_KEY)]
    assert not [s for s in secrets if any(s in body for body in kept)]
    assert not [s for s in secrets if s.decode() in done.out + done.err]
