"""Fixtures that several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pipelines.installation import Installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A tiny installation that lived through two days; read it, and copy it to write."""
    from tests.pipelines.installation import build

    with build(tmp_path_factory.mktemp("installation") / "home") as made:
        yield made
