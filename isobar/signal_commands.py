"""The signals command: what is current, what came after a hash, what comes next."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from enum import StrEnum
from typing import Annotated, Any

import orjson
import polars as pl
import typer
from rich.table import Table

from isobar import output
from isobar.arguments import JsonFlag, read_horizons, read_time
from isobar.workspace import Workspace
from market.errors import UsageError
from market.hash_chain import canonical_json
from market.ledger_notices import listening
from signals.consume import Delivery, follow, newest_cursor
from signals.publish import CHANNEL
from signals.schema import SIGNAL_SCHEMA, SignalColumn

_SHOWN = 40
_UTC = "%Y-%m-%dT%H:%M:%S%.6fZ"


class _Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("signals")(signals)


def signals(
    since: Annotated[str, typer.Option("--since", help="as_of from this ISO time on.")] = "",
    horizon: Annotated[str, typer.Option("--horizon", help="One horizon.")] = "",
    symbol: Annotated[str, typer.Option("--symbol", help="One symbol.")] = "",
    engine: Annotated[
        str, typer.Option("--engine", help="Engine; `all` for every one.")
    ] = "ensemble",
    after: Annotated[
        str,
        typer.Option(
            "--after",
            metavar="HASH",
            help="All that was published after the signal with this hash, superseded rows "
            "included; 64 zeros: after none, so everything.",
        ),
    ] = "",
    following: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Go on with each batch as it is published, until Ctrl-C. Begins after --after, "
            "or with the next batch. With --json: one line for each batch, with its hash.",
        ),
    ] = False,
    every: Annotated[
        float,
        typer.Option(
            "--every",
            min=0.05,
            help="Seconds between looks of --follow, on SQLite; PostgreSQL tells by itself.",
        ),
    ] = 1.0,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="CSV with a header on stdout; lists are JSON.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show current signals, strongest first; or all after a hash; or each new batch as it comes.

    A consumer keeps the hash of the last signal that it has dealt with, and goes on with
    --after HASH: it misses nothing, corrections included. docs/signals.md says what to do with
    them.
    """
    form = _form(as_csv, as_json)
    workspace = Workspace()
    if horizon:
        read_horizons([horizon], workspace.settings)
    wanted: dict[str, Any] = {
        "since": read_time(since, "--since"),
        "horizon": horizon or None,
        "symbol": symbol or None,
        "engine": None if engine == "all" else engine,
    }
    with _until_the_reader_leaves():
        if following:
            _follow(workspace, after, wanted, form, every)
        else:
            _show(workspace.signals(**wanted, after=after or None), after, form)


def _form(as_csv: bool, as_json: bool) -> _Form:
    if as_csv and as_json:
        raise UsageError(
            "two forms at once",
            got="--csv and --json",
            allowed="one of them",
            remedy="leave one out",
        )
    return _Form.CSV if as_csv else _Form.JSON if as_json else _Form.TABLE


@contextlib.contextmanager
def _until_the_reader_leaves() -> Generator[None]:
    """End quietly when whoever reads stdout has gone."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer would be complained about at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show(rows: pl.DataFrame, after: str, form: _Form) -> None:
    if form is _Form.JSON:
        output.print_json(rows.to_dicts())
    elif form is _Form.CSV:
        sys.stdout.write(_csv(rows, header=True))
    elif rows.is_empty():
        none = "Nothing was published after it." if after else "No signals match."
        hint = "" if after else " `isobar run eod` publishes some."
        output.out.print(none + hint)
    elif after:
        _print(_table(f"Signals after {after[:12]} ({rows.height:,}), times in UTC", rows))
        output.out.print(f"Go on with --after {rows[SignalColumn.HASH][-1]}", soft_wrap=True)
    else:
        newest = rows.sort(SignalColumn.AS_OF, SignalColumn.CONFIDENCE, descending=True)
        _print(_table(f"Signals ({rows.height:,}), times in UTC", newest.head(_SHOWN)))
        if rows.height > _SHOWN:
            more = f"... and {rows.height - _SHOWN:,} more: narrow it, or use --json"
            output.out.print(more)


@contextlib.contextmanager
def ends_on_interrupt() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Give a function that waits, and that Ctrl-C ends.

    Pressed while something is read or written, it ends the next wait: an interrupt in the
    middle of a query would leave a connection that can be neither used nor given back. Pressed
    again, it ends at once.
    """
    pressed = waiting = False

    def remember(_number: int, _frame: object) -> None:
        nonlocal pressed
        again, pressed = pressed, True
        if waiting or again:
            raise KeyboardInterrupt

    def wait_with(wait: Callable[[], None]) -> None:
        nonlocal waiting
        waiting = True
        try:
            # Asked after ``waiting`` is set: whatever is pressed from here on raises by itself.
            if pressed:
                raise KeyboardInterrupt
            wait()
        finally:
            waiting = False

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield wait_with
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(
    workspace: Workspace, after: str, wanted: dict[str, Any], form: _Form, every: float
) -> None:
    write = _writer(form)
    # Ctrl-C is how this ends: nothing went wrong.
    with (
        contextlib.suppress(KeyboardInterrupt),
        ends_on_interrupt() as wait_with,
        workspace.ledger as ledger,
        listening(ledger, CHANNEL, poll_seconds=every) as wait,
    ):
        cursor = after or newest_cursor(ledger)
        output.log.print(f"Following after {cursor}; Ctrl-C ends it.", soft_wrap=True)

        for delivery in follow(ledger, cursor, lambda: wait_with(wait), **wanted):
            for batch, rows in _by_batch(delivery):
                write(batch, rows)
                # A whole batch at a time: nobody downstream sees half of one for long.
                sys.stdout.flush()


def _by_batch(delivery: Delivery) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    parts = delivery.rows.partition_by(SignalColumn.BATCH_ID, as_dict=True)
    for batch in delivery.batches.iter_rows(named=True):
        rows = parts.get((batch["batch_id"],))
        if rows is not None:
            yield batch, rows


def _writer(form: _Form) -> Callable[[dict[str, Any], pl.DataFrame], None]:
    """Return what writes one batch to stdout."""
    if form is _Form.CSV:
        sys.stdout.write(_csv(pl.DataFrame(schema=SIGNAL_SCHEMA), header=True))
        sys.stdout.flush()

    def write(batch: dict[str, Any], rows: pl.DataFrame) -> None:
        if form is _Form.CSV:
            sys.stdout.write(_csv(rows, header=False))
        elif form is _Form.JSON:
            sys.stdout.write(_json_line(batch, rows))
        else:
            late = ", late" if batch["late"] else ""
            kind = f"{batch['run']} {batch['as_of']:%Y-%m-%d %H:%M}"
            title = f"{kind}, revision {batch['revision']}{late} ({rows.height:,})"
            _print(_table(title, rows))
            sys.stdout.write(f"{batch['head_hash']}\n")

    return write


def _json_line(batch: dict[str, Any], rows: pl.DataFrame) -> str:
    told = ("batch_id", "run", "as_of", "revision", "scheduled_for", "ts_emit", "late", "rows")
    document = {
        "hash": batch["head_hash"],
        **{name: batch[name] for name in told},
        "signals": rows.to_dicts(),
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE).decode()


def _csv(rows: pl.DataFrame, *, header: bool) -> str:
    lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]
    flat = rows.with_columns(
        pl.Series(c, [canonical_json(v).decode() for v in rows[c].to_list()], dtype=pl.String())
        for c in lists
    )
    return flat.write_csv(include_header=header, datetime_format=_UTC)


def _table(title: str, rows: pl.DataFrame) -> Table:
    columns = ("as of", "symbol", "for", "direction", "conf.", "bps", "regime", "until")
    shown = [
        (
            f"{r['as_of']:%y-%m-%d %H:%M}",
            r["symbol"],
            r["horizon"],
            r["direction"],
            f"{r['confidence']:.0%}",
            f"{r['expected_return_bps']:+.1f}",
            r["regime"],
            f"{r['valid_until']:%m-%d %H:%M}",
        )
        for r in rows.to_dicts()
    ]
    return output.table(title, columns, shown)


def _print(made: Table) -> None:
    # Not printed by the console: it would end the process by itself when the reader has gone.
    with output.out.capture() as text:
        output.out.print(made)
    sys.stdout.write(text.get())
