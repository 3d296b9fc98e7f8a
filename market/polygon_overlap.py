"""A few requests at once, results in the order of what was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

IN_FLIGHT = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def overlap(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    report: Callable[[int, int], None],
) -> list[Result]:
    """Return ``work(item)`` of every item, in order, with at most four under way.

    While one answer is read, the next ones are on their way. The first error ends the whole:
    what has not begun never does, what is under way is waited for.

    Parameters
    ----------
    work : callable
        Called from threads; must not share state without a lock.
    items : sequence
        What to work on.
    report : callable
        Called with (done, total) from the calling thread, in order.

    Examples
    --------
    >>> overlap(lambda n: n * n, [3, 1, 2], lambda done, total: None)
    [9, 1, 4]
    """
    total = len(items)
    report(0, total)
    done: list[Result] = []
    pool = ThreadPoolExecutor(max_workers=IN_FLIGHT, thread_name_prefix="bars")
    try:
        for result in pool.map(work, items):
            done.append(result)
            report(len(done), total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return done
