"""The command that shows a report, and makes it where there is none: report."""

from __future__ import annotations

import datetime as dt
import sys
import webbrowser
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from rich.markdown import Markdown

from isobar import output
from isobar.arguments import JsonFlag, read_date, read_run
from market import calendar
from market.errors import UsageError
from market.horizons import Run, scheduled_for
from market.ledger_tables import signal_batches
from pipelines.jobs import report_job_name
from pipelines.launch import Launcher
from pipelines.report_files import PublishedReport, find_report
from pipelines.resources import Stores
from pipelines.settings import load_settings
from reports.render import first_screen_of


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("report")(report)


def report(
    run: Annotated[str, typer.Argument(help="premarket, midday or eod")],
    session: Annotated[
        str, typer.Option("--session", help="YYYY-MM-DD; by default the newest that published.")
    ] = "",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown on stdout.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make it again from what is there now.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the first screen of a run's report; one that is missing or outdated is made."""
    if open_page + markdown + as_json > 1:
        raise UsageError(
            "these options exclude each other",
            got=["--open", "--markdown", "--json"],
            allowed="one of them, or none",
            remedy="choose one",
        )
    kind = read_run(run)
    stores = Stores(load_settings())
    day = read_date(session, "--session") if session else _newest_session(stores, kind)
    if not calendar.is_session(day):
        raise UsageError(
            "no trading session on this day",
            got=day.isoformat(),
            allowed="a trading day of XNYS",
            remedy=f"try {calendar.previous_session(day)}",
        )
    found = find_report(stores, kind.value, scheduled_for(kind, day))
    if rebuild or found is None or not _is_whole(stores, kind, day, found):
        Launcher(stores.settings).launch(report_job_name(kind), partition=day.isoformat())
        found = find_report(stores, kind.value, scheduled_for(kind, day))
    assert found is not None
    _show(found, open_page=open_page, markdown=markdown, as_json=as_json)


def _newest_session(stores: Stores, run: Run) -> dt.date:
    c = signal_batches.c
    query = sa.select(sa.func.max(c.as_of)).where(c.run == run.value, c.complete)
    with stores.ledger as ledger:
        newest = next(iter(ledger.rows(query)[0].values()))
    if newest is None:
        raise UsageError(
            f"no {run.value} run has published signals yet",
            allowed="a run that has, or a session by --session",
            remedy=f"run `isobar run {run.value}`",
        )
    moment: dt.datetime = newest
    return moment.astimezone(calendar.NEW_YORK).date()


def _is_whole(stores: Stores, run: Run, session: dt.date, found: PublishedReport) -> bool:
    """Whether the files are there and of the newest revision of the run's signals."""
    c = signal_batches.c
    query = (
        sa.select(c.batch_id)
        .where(c.run == run.value, c.as_of == scheduled_for(run, session), c.complete)
        .order_by(c.revision.desc())
        .limit(1)
    )
    with stores.ledger as ledger:
        rows = ledger.rows(query)
    newest = rows[0]["batch_id"] if rows else None
    there = found.html.exists() and found.markdown.exists()
    return there and found.summary["batch_id"] == newest


def _show(found: PublishedReport, *, open_page: bool, markdown: bool, as_json: bool) -> None:
    if as_json:
        output.print_json(_document(found))
    elif markdown:
        sys.stdout.write(found.markdown.read_text("utf-8"))
    elif open_page:
        webbrowser.open(found.html.resolve().as_uri())
        output.log.print(f"Report: {found.html}", soft_wrap=True)
    else:
        output.out.print(Markdown(first_screen_of(found.markdown.read_text("utf-8"))))
        output.log.print(f"The whole report: {found.html}", soft_wrap=True)


def _document(found: PublishedReport) -> dict[str, Any]:
    return {
        "report_id": found.report_id,
        "run": found.run,
        "as_of": found.as_of,
        "created_at": found.created_at,
        "html": found.html,
        "markdown": found.markdown,
        "content_hash": found.content_hash,
        "summary": found.summary,
    }
