"""Publication of a report: whole or not at all, once for the same content."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from market.ledger_tables import reports as reports_table
from pipelines import report_files
from pipelines.report_files import (
    content_hash,
    find_report,
    first_screen,
    publish_report,
    replace_file,
)
from pipelines.resources import Stores
from pipelines.settings import Settings
from tests.pipelines.installation import clean_environment
from tests.reports.scenes import AS_OF, full

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(Settings(home=tmp_path / "home"))


def rows_of(stores: Stores) -> list[dict[str, object]]:
    with stores.ledger as ledger:
        return ledger.rows(sa.select(reports_table))


def test_a_report_is_two_files_and_a_row(stores: Stores):
    made = publish_report(stores, full())
    assert made.html == stores.settings.home / "reports" / "2025-06-30" / "midday.html"
    assert made.markdown == made.html.with_suffix(".md")
    assert "<!doctype html>" in made.html.read_text()
    assert made.markdown.read_text().startswith("# Midday report")
    (row,) = rows_of(stores)
    assert row["path"] == "reports/2025-06-30/midday.html"
    assert row["content_hash"] == content_hash(full())
    assert row["created_at"] == AS_OF
    assert made.summary["directions"]["1d"] == {"long": 4, "neutral": 1, "short": 5}
    assert made.summary["trading_state"] == "active"
    assert made.summary["failures"] == 1


def test_the_same_content_again_changes_nothing(stores: Stores):
    first = publish_report(stores, full())
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (first.html, first.markdown)}
    later = AS_OF + dt.timedelta(minutes=20)
    again = publish_report(stores, full(made_at=later, known_by=later))
    assert (first.already_published, again.already_published) == (False, True)
    assert again.report_id == first.report_id
    assert again.created_at == AS_OF
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before} == before
    assert len(rows_of(stores)) == 1


def test_other_content_is_a_new_row_and_the_old_row_stays(stores: Stores):
    publish_report(stores, full())
    changed = publish_report(stores, full(unread=("news (gone)",)))
    back = publish_report(stores, full())
    rows = rows_of(stores)
    assert len({r["report_id"] for r in rows}) == len(rows) == 3
    assert not changed.already_published
    found = find_report(stores, "midday", AS_OF)
    assert found is not None
    assert found.report_id == back.report_id
    assert "gone" not in found.html.read_text()


@pytest.mark.parametrize("suffix", [".html", ".md"])
@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_a_harmed_file_is_put_back_as_it_was(stores: Stores, suffix: str, harm: str):
    made = publish_report(stores, full())
    place = made.html.with_suffix(suffix)
    whole = place.read_bytes()
    if harm == "removed":
        place.unlink()
    else:
        place.write_bytes(whole[:100])
    publish_report(stores, full())
    assert place.read_bytes() == whole
    assert len(rows_of(stores)) == 1


def test_a_failed_write_leaves_the_old_page_and_no_row(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
):
    made = publish_report(stores, full())
    old = made.html.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(report_files.os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            publish_report(stores, full(unread=("news (gone)",)))
    assert made.html.read_bytes() == old
    assert sorted(p.name for p in made.html.parent.iterdir()) == ["midday.html", "midday.md"]
    assert len(rows_of(stores)) == 1
    publish_report(stores, full(unread=("news (gone)",)))
    assert made.html.read_bytes() != old
    assert len(rows_of(stores)) == 2


_KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines import report_files

moment = sys.argv[2]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "before it is on the disk":
    report_files.os.fsync = die
else:
    Path.replace = die
report_files.replace_file(Path(sys.argv[1]), "new " * 100_000)
"""


@pytest.mark.parametrize("moment", ["before it is on the disk", "before it is moved"])
def test_a_killed_write_leaves_the_old_page(tmp_path: Path, moment: str):
    place = tmp_path / "eod.html"
    replace_file(place, "old")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _KILLED, str(place), moment],
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert place.read_text() == "old"
    assert replace_file(place, "new")
    assert place.read_text() == "new"


def test_a_page_can_be_read_by_everyone(tmp_path: Path):
    replace_file(tmp_path / "eod.html", "text")
    assert (tmp_path / "eod.html").stat().st_mode & 0o444 == 0o444
    assert [p.name for p in tmp_path.iterdir()] == ["eod.html"]


def test_the_digest_is_of_what_is_said_and_not_of_when():
    later = AS_OF + dt.timedelta(hours=1)
    assert content_hash(full()) == content_hash(full(made_at=later, known_by=later))
    assert content_hash(full()) != content_hash(full(previous_regime="bull"))


def test_the_first_screen_is_told_to_dagster():
    text = first_screen(replace(full(), unread=("news (gone)",)))
    assert "## What not to trust" in text
    assert "## Strongest" not in text
    assert "news (gone)" in text
