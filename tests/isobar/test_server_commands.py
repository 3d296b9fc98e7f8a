"""The served paper broker has the depth that the command line asks for."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
import requests
from fastapi import FastAPI
from pydantic import SecretStr

from execution.alpaca import AlpacaBroker
from execution.broker import OrderRequest, OrderType, Side, TimeInForce
from isobar import server_commands
from market import calendar
from market.serving import BackgroundServer
from tests.commands import isobar

DAY = dt.date(2025, 1, 2)
OPEN = calendar.session_open(DAY)
MINUTE = dt.timedelta(minutes=1)
WANTED = OrderRequest("one", "A", Side.BUY, Decimal(250), OrderType.MARKET, TimeInForce.DAY)


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    """Ten minutes of A, a thousand shares each."""
    starts = [OPEN + n * MINUTE for n in range(10)]
    rows = {"symbol": "A", "ts": starts, "volume": 1000.0}
    prices = dict.fromkeys(("open", "high", "low", "close"), 50.0)
    made = pl.DataFrame(rows).with_columns(**{k: pl.lit(v) for k, v in prices.items()})
    made.write_parquet(tmp_path / "bars.parquet")
    return tmp_path / "bars.parquet"


def served(monkeypatch: pytest.MonkeyPatch, bars: Path, *arguments: str) -> FastAPI:
    """The application that the command would serve until it is interrupted."""
    apps: list[FastAPI] = []
    monkeypatch.setattr(server_commands, "serve", lambda app, port: apps.append(app))
    done = isobar(
        *["serve", "alpaca", "--port", "8100", "--bars", str(bars), "--speed", "0"],
        *["--as-of", OPEN.isoformat(), *arguments],
        environment={"ISOBAR_HOME": str(bars.parent / "home")},
    )
    assert done.status == 0, done.err
    return apps[0]


def filled_by_the_minute(app: FastAPI, minutes: int) -> list[Decimal]:
    key = SecretStr("replay")
    headers = {"APCA-API-KEY-ID": "replay", "APCA-API-SECRET-KEY": "replay"}
    with BackgroundServer(app) as server:
        broker = AlpacaBroker(key, key, server.url, is_paper=True)
        broker.submit(WANTED)
        found: list[Decimal] = []
        for n in range(1, minutes + 1):
            to = (OPEN + n * MINUTE).isoformat()
            url = f"{server.url}/replay/advance"
            requests.post(url, json={"to": to}, headers=headers, timeout=5).raise_for_status()
            order = broker.find_order("one")
            assert order is not None
            found.append(order.filled_quantity)
        broker._client._session.close()
    return found


def test_with_a_share_of_the_volume_a_large_order_fills_in_parts(monkeypatch, bars: Path):
    app = served(monkeypatch, bars, "--participation", "0.1")
    # At the open of OPEN. As the next bar begins, what arrives comes before what rests.
    assert filled_by_the_minute(app, 3) == [100, 200, 250]


def test_without_one_it_fills_whole(monkeypatch, bars: Path):
    assert filled_by_the_minute(served(monkeypatch, bars), 1) == [250]


@pytest.mark.parametrize("share", ["0", "-0.1", "1.01", "NaN", "much"])
def test_what_is_no_share_is_refused_before_anything_is_read(tmp_path: Path, share: str):
    done = isobar(
        *["serve", "alpaca", "--port", "8100", f"--participation={share}"],
        environment={"ISOBAR_HOME": str(tmp_path / "home")},
    )
    assert done.status == 2
    assert "above 0 and at most 1" in done.message
