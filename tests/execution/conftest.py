"""A distant broker for the tests of its client: ``fake`` answers at ``url``, ``broker`` asks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from execution.alpaca import AlpacaBroker
from market.serving import BackgroundServer
from tests.execution.distant_broker import Fake, make


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Fake, str]]:
    fake = Fake()
    with BackgroundServer(fake.app) as server:
        yield fake, server.url


@pytest.fixture
def fake(served: tuple[Fake, str]) -> Iterator[Fake]:
    fake, _ = served
    fake.reset()
    yield fake
    fake.release.set()


@pytest.fixture
def url(served: tuple[Fake, str]) -> str:
    return served[1]


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def broker(url: str, pauses: list[float]) -> AlpacaBroker:
    return make(url, sleep=pauses.append)
