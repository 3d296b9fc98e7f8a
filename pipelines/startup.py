"""What a process of Isobar's own does before it loads what it works with."""

from __future__ import annotations

import atexit
import gc
import sys

_OBJECTS, _YOUNG, _OLD = 50_000, 20, 100


def collect_seldom() -> None:
    """Let Python look for cycles of garbage seldom, and not once more when it ends.

    Hundreds of thousands of objects of the libraries live as long as the process, and with
    Python's own thresholds the search walks through them again and again: for a sixth of the
    seconds in which Dagster's definitions load, and 2.3 s at the end of a scheduled run. Memory
    without cycles is freed at once as ever.

    Notes
    -----
    For the command line, Dagster's code location and the steps of their runs; a library that is
    imported into another's process must not set what belongs to that process.

    Objects in cycles are not finalized at the end of the process, which Python promises for none.

    Examples
    --------
    >>> before = gc.get_threshold()
    >>> collect_seldom()
    >>> gc.get_threshold()
    (50000, 20, 100)
    >>> gc.set_threshold(*before)
    """
    gc.set_threshold(_OBJECTS, _YOUNG, _OLD)
    atexit.register(_end_at_once)


def _end_at_once() -> None:
    # DuckDB's binding counts at the very end what was not freed, and prints that it leaks.
    if "duckdb" not in sys.modules:
        gc.freeze()
