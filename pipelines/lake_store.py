"""The lake of an installation: a folder, or a bucket that several machines share."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from market.lake import Lake
from market.ledger import open_ledger
from pipelines.settings import Settings


def open_lake(settings: Settings) -> Lake:
    """Return the lake that the settings name; nothing is read yet.

    Parameters
    ----------
    settings : Settings
        ``lake_url`` and ``s3``; without a URL the lake is a folder of the data root.

    Examples
    --------
    >>> open_lake(Settings(home="var/demo"))
    Lake('var/demo/lake')
    """
    if not settings.lake_url:
        return Lake(settings.lake_root)

    @contextmanager
    def lock() -> Generator[None]:
        with open_ledger(settings.resolved_ledger_url) as ledger, ledger.lake_lock():
            yield

    return Lake(settings.lake_root, options=settings.s3.options, lock=lock)
