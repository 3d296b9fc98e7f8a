"""What the vendor's client makes of a vendor that does not answer at all."""

from __future__ import annotations

import datetime as dt
import socket

import pytest
from pydantic import SecretStr

from market.errors import SourceError
from market.polygon import PolygonSource
from market.timeframes import Timeframe

KEY = "sk-very-secret-0123456789"
DAY = dt.date(2024, 7, 2)


def test_a_vendor_that_is_not_there_is_no_slow_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    source = PolygonSource(SecretStr(KEY), url, sleep=lambda _seconds: None)
    with pytest.raises(SourceError, match="could not be reached") as refused:
        source.bars(["AAA"], Timeframe.M1, DAY, DAY)
    assert "base URL" in str(refused.value)
