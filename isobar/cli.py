"""The command line. Every query has ``--json``; logs and progress go to stderr.

Exit status: 0 fine, 1 the work failed, 2 the command was used wrongly.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Annotated

# Dagster would report usage to its makers; nothing here leaves the machine unasked.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "true")

# Idle threads of the tree libraries would otherwise spin, which starves a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from rich.traceback import Traceback

from isobar.contents import Contents, use_readable_colours
from isobar.output import log, styled
from market.errors import IsobarError, UsageError
from pipelines.redaction import redact
from pipelines.startup import collect_seldom

use_readable_colours()
app = typer.Typer(
    name="isobar",
    cls=Contents,
    help="US-equity bars into trustworthy signals and safe orders.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_STATE = {"debug": False}


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and all logs.")] = False,
) -> None:
    """US-equity bars into trustworthy signals and safe orders."""
    _STATE["debug"] = debug
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, stream=sys.stderr)


def main() -> None:
    """Run the command line; turn errors into one message and an exit status."""
    collect_seldom()
    try:
        app(standalone_mode=True)
    except IsobarError as error:
        _fail(error, 2 if isinstance(error, UsageError) else 1)
    except Exception as error:  # noqa: BLE001  (the edge: whatever it is, one message and a status)
        _fail(_told(error), 1, error)


def _told(error: Exception) -> IsobarError:
    """Return the message for an error that no floor raised on purpose."""
    text = str(error).splitlines()[0] if str(error) else "no message"
    if getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error):
        return IsobarError(text, remedy="free disk space and run the same again: it resumes")
    if "disk I/O error" in str(error):
        # What SQLite says where there is no room for the files beside its own.
        return IsobarError(text, remedy="see that the disk has room and is sound, then run again")
    if isinstance(error, OSError):
        return IsobarError(text, remedy="check that the place exists and can be written")
    problem = f"unexpected {type(error).__name__}: {text}"
    return IsobarError(problem, remedy="run it with --debug to see where it comes from")


def _fail(error: Exception, status: int, cause: Exception | None = None) -> None:
    if _STATE["debug"] or "--debug" in sys.argv:
        shown = cause or error
        log.print(Traceback.from_exception(type(shown), shown, shown.__traceback__))
    log.print(styled(("Error:", "bold red")), end=" ")
    # Not wrapped: a path that is broken in two can be neither read nor copied.
    log.print(redact(str(error)), highlight=False, soft_wrap=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
