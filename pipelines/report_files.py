"""A report becomes files and a row: whole or not at all, and once for the same content."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from market.hash_chain import canonical_json
from market.ledger import Ledger
from market.ledger_tables import reports as reports_table
from pipelines.resources import Stores
from reports.analysis import conflicts, turned
from reports.compose import compose
from reports.document import Tone
from reports.facts import Report
from reports.first_screen import doubts
from reports.render import render_document_markdown, render_html, render_markdown

FOLDER = "reports"


@dataclass(frozen=True, slots=True)
class PublishedReport:
    """A report's row of the ledger, and its files."""

    report_id: str
    run: str
    as_of: dt.datetime
    created_at: dt.datetime
    html: Path
    markdown: Path
    content_hash: str
    summary: dict[str, Any]
    already_published: bool = False


def publish_report(stores: Stores, report: Report) -> PublishedReport:
    """Write a report's files and its row.

    Each file is written beside its place, forced to the disk and moved there: what was there
    before stays until then. The row comes last. The same content again changes nothing, and puts
    back a file that is missing or was changed.

    Parameters
    ----------
    stores : Stores
        Where to.
    report : Report
        ``made_at`` is when it was made, and no part of its content.

    Returns
    -------
    PublishedReport
        The row that stands; an earlier one where the content is the same.

    Raises
    ------
    OSError
        When a file cannot be written; the old one stays.
    LedgerError
        When the row cannot be written; the next call writes it.
    """
    digest = content_hash(report)
    with stores.ledger as ledger:
        newest = _newest(ledger, report.run, report.as_of)
    if newest is not None and newest["content_hash"] == digest:
        made_at = newest["created_at"]
        as_it_was = replace(report, made_at=made_at, known_by=min(made_at, report.next_run_at))
        _write(stores, as_it_was)
        return _published(stores, newest, already=True)
    assert report.made_at is not None
    html = _write(stores, report)
    row: dict[str, Any] = {
        "run": report.run,
        "as_of": report.as_of,
        "created_at": report.made_at,
        # From the data root, which may move.
        "path": html.relative_to(stores.settings.home).as_posix(),
        "content_hash": digest,
        "summary": summarise(report),
    }
    with stores.ledger as ledger, ledger.transaction() as connection:
        count = connection.scalar(
            sa.select(sa.func.count()).where(
                reports_table.c.run == report.run, reports_table.c.as_of == report.as_of
            )
        )
        edition = (count or 0) + 1
        row["summary"] = {"edition": edition, **row["summary"]}
        key = canonical_json([report.run, report.as_of, digest, edition])
        row["report_id"] = hashlib.sha256(key).hexdigest()[:32]
        connection.execute(reports_table.insert(), row)
    return _published(stores, row, already=False)


def content_hash(report: Report) -> str:
    """Return a digest of what a report says, whenever it was made.

    The moment up to which the stores were read is left out too: reading them later and finding
    the same is the same report.
    """
    timeless = replace(report, made_at=None, known_by=report.as_of)
    return hashlib.sha256(render_html(timeless).encode()).hexdigest()


def summarise(report: Report) -> dict[str, Any]:
    """Return what the ledger keeps of a report: its conclusions, in numbers and words."""
    counts = report.signals.group_by("horizon", "direction").len()
    directions: dict[str, dict[str, int]] = {}
    for horizon, direction, n in counts.sort("horizon", "direction").iter_rows():
        directions.setdefault(horizon, {})[direction] = n
    found = doubts(report)
    return {
        "session": report.session.isoformat(),
        "batch_id": None if report.batch is None else report.batch.batch_id,
        "late": report.batch is not None and report.batch.late,
        "regime": report.regimes["regime"][-1] if report.regimes.height else None,
        "previous_regime": report.previous_regime,
        "trading_state": report.trading.state,
        "directions": directions,
        "turned": turned(report).height,
        "disagreeing": len(conflicts(report)),
        "outcomes": report.outcomes.height,
        "positions": report.book.positions.height,
        "failures": sum(d.tone is Tone.BAD for d in found),
        "warnings": sum(d.tone is Tone.WARN for d in found),
    }


def first_screen(report: Report) -> str:
    """Return the first screen as Markdown."""
    return render_document_markdown(compose(report), summary_only=True)


def find_report(stores: Stores, run: str, as_of: dt.datetime) -> PublishedReport | None:
    """Return the newest report of a run, ``None`` where there is none."""
    with stores.ledger as ledger:
        row = _newest(ledger, run, as_of)
    return None if row is None else _published(stores, row, already=True)


def _newest(ledger: Ledger, run: str, as_of: dt.datetime) -> dict[str, Any] | None:
    c = reports_table.c
    rows = ledger.rows(sa.select(reports_table).where(c.run == run, c.as_of == as_of))
    # Not by created_at: in a replay several may be made at one moment.
    return max(rows, key=lambda row: row["summary"]["edition"], default=None)


def _published(stores: Stores, row: dict[str, Any], *, already: bool) -> PublishedReport:
    html = stores.settings.home / row["path"]
    return PublishedReport(
        report_id=row["report_id"],
        run=row["run"],
        as_of=row["as_of"],
        created_at=row["created_at"],
        html=html,
        markdown=html.with_suffix(".md"),
        content_hash=row["content_hash"],
        summary=row["summary"],
        already_published=already,
    )


def _write(stores: Stores, report: Report) -> Path:
    folder = stores.settings.home / FOLDER / report.session.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    html = folder / f"{report.run}.html"
    replace_file(html.with_suffix(".md"), render_markdown(report))
    replace_file(html, render_html(report))
    return html


def replace_file(path: Path, text: str) -> bool:
    """Put a text in a file's place, whole or not at all; return whether it was another text."""
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return False
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp lets nobody else read; a page is for the desk.
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return True
