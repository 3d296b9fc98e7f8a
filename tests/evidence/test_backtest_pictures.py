"""The pages behind the README's pictures are made of a synthetic market and say so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evidence import backtest_pictures
from market.errors import UsageError
from market.synthetic import SyntheticSpec


def test_pages_are_the_same_again_and_say_what_they_are_of() -> None:
    spec = SyntheticSpec(symbols=6, sessions=90, minute_sessions=0, seed=3)
    pages = backtest_pictures.render_pages(spec)
    assert set(pages) == {"tear-sheet", "backtest-comparison"}
    assert "synthetic symbols" in pages["tear-sheet"]
    assert "By sector" in pages["tear-sheet"]
    assert "Overfitting" in pages["tear-sheet"]
    assert pages == backtest_pictures.render_pages(spec)


def test_without_a_browser_nothing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match="install chromium"):
        backtest_pictures.photograph(tmp_path / "a.html", tmp_path / "a.png", (390, 800))
    assert list(tmp_path.iterdir()) == []
