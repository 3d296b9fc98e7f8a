"""The documentation site: built without a warning, with every page in it, and nothing from afar."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = ("-q", "-W", "--keep-going", "-b", "html", "-d", f"{folder}/doctrees")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, f"{ROOT}/docs", f"{folder}/html"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def test_every_page_is_reached_from_the_first(site: Path) -> None:
    index = (site / "index.html").read_text("utf-8")
    linked = set(re.findall(r'href="([\w/-]+)\.html', index))
    pages = {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in _pages()}
    assert pages - {"index"} <= linked


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    loaded = r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)|<link[^>]+href="(https?:[^"]+)'
    for page in site.rglob("*.html"):
        assert re.findall(loaded, page.read_text("utf-8")) == [], page.name


def _pages() -> list[Path]:
    return [p for p in (ROOT / "docs").rglob("*.md") if "images" not in p.parts]
