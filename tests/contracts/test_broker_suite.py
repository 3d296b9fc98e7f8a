"""The contract suite's second venue, the real paper service, tried at our own paper server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from execution.paper import ReplayClock, create_app
from market.serving import BackgroundServer
from tests.contracts import test_broker as suite

ROOT = Path(__file__).parents[2]


def outcomes(**environment: str) -> tuple[dict[str, int], str]:
    """Run the suite at that venue alone, and count what came of it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ISOBAR_TEST_ALPACA")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-rs", "-k", "alpaca_paper_service",
         suite.__file__],
        cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    counts = re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout.splitlines()[-1])
    return {what: int(n) for n, what in counts}, done.stdout


def test_without_keys_it_is_skipped_with_its_reason():
    found, said = outcomes()
    assert set(found) == {"skipped"}
    assert "no keys of a paper account in ISOBAR_TEST_ALPACA_KEY and _SECRET" in said


@pytest.mark.parametrize("is_open", [True, False])
def test_with_keys_every_contract_holds_that_needs_no_control(is_open: bool):
    clock = ReplayClock(suite.OPEN + (10 if is_open else -60) * suite.MINUTE)
    app = create_app(suite.bars(), api_key="a-key", secret_key="a-secret", clock=clock)
    with BackgroundServer(app) as server:
        found, said = outcomes(
            ISOBAR_TEST_ALPACA_KEY="a-key",
            ISOBAR_TEST_ALPACA_SECRET="a-secret",
            ISOBAR_TEST_ALPACA_URL=server.url,
            ISOBAR_TEST_ALPACA_SYMBOL="XYZ",
        )
        assert set(found) == {"passed", "skipped"}, said
        assert found["passed"] >= 20
        assert suite.UNCONTROLLED in said
        assert ("the market is shut" in said) is not is_open
        book = suite.AlpacaBroker(
            suite.SecretStr("a-key"), suite.SecretStr("a-secret"), server.url, is_paper=True
        )
        assert book.open_orders() == []
        assert book.positions() == []
        bids = book.orders_since(suite.OPEN - 120 * suite.MINUTE)
        assert sum(o.client_order_id.startswith("test-") for o in bids) > 5
