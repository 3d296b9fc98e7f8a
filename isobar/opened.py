"""An installation that was opened for reading: its settings, stores and the names in it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from features.registry import feature_names
from isobar.ledger_dataset import LEDGER_TABLES
from isobar.names import Names
from market.errors import MarketError
from market.horizons import Horizon, find_horizon
from market.ingest_log import ingested_symbols
from market.lake_tables import TABLES
from market.ledger import Ledger, open_ledger
from market.schema import Bar
from market.source import EVERY
from market.timeframes import Timeframe
from pipelines.lake_store import open_lake
from pipelines.settings import Settings, load_settings

if TYPE_CHECKING:
    from pipelines.resources import Stores


class Opened:
    """What every part of a :class:`isobar.workspace.Workspace` reads from.

    Parameters
    ----------
    home : Path or str, optional
        Data root; ``ISOBAR_HOME`` or ``./var`` when absent.
    """

    def __init__(self, home: Path | str | None = None) -> None:
        # With the settings of that data root: its horizons and costs made what is in it.
        self.settings: Settings = load_settings(None if home is None else Path(home))
        self.lake = open_lake(self.settings)

    @property
    def ledger(self) -> Ledger:
        """The ledger (signals, orders, weights, ...)."""
        return open_ledger(self.settings.resolved_ledger_url)

    @cached_property
    def stores(self) -> Stores:
        """Lake, ledger and tracking store, as the pipeline has them."""
        # Dagster takes a second to import, which who reads bars need not wait.
        from pipelines.resources import Stores

        return Stores(self.settings)

    @property
    def symbols(self) -> Names:
        """Symbols with daily bars; ``workspace.symbols.<TAB>`` completes them.

        Examples
        --------
        >>> Workspace("var/demo").symbols[0]  # doctest: +SKIP
        'ZZAA'
        """
        found = ingested_symbols(self.lake, Timeframe.D1)
        if EVERY in found:
            rows = self.lake.scan("bars_1d").select(pl.col(Bar.SYMBOL).unique())
            found = set(rows.collect()[Bar.SYMBOL])
        return Names("symbol", sorted(found), "see `isobar ingest --help`")

    @property
    def horizons(self) -> Names:
        """Horizons that are switched on; ``workspace.horizons["<TAB>`` completes them.

        Examples
        --------
        >>> list(Workspace("var/demo").horizons)  # doctest: +SKIP
        ['5m', '15m', '1h', '4h', '1d', '14d', '1M']
        """
        on = (h.name for h in self.settings.enabled_horizons)
        return Names("horizon", on, "add it to `models.horizons` in isobar.toml")

    @property
    def feature_names(self) -> Names:
        """Registered features; ``workspace.feature_names.<TAB>`` completes them.

        Examples
        --------
        >>> Workspace("var/demo").feature_names.rsi_14  # doctest: +SKIP
        'rsi_14'
        """
        return Names("feature", feature_names(), "see `workspace.catalogue()`")

    @property
    def tables(self) -> Names:
        """Tables of lake and ledger that :meth:`sql` can name; ``workspace["<TAB>`` completes them.

        Examples
        --------
        >>> "signals_current" in Workspace("var/demo").tables  # doctest: +SKIP
        True
        """
        lake = [t for t, spec in TABLES.items() if self.lake.exists(t) and not spec.is_copy]
        ledger = [f"ledger_{t}" if t in TABLES else t for t in LEDGER_TABLES]
        return Names("table", [*lake, *ledger], "see `workspace.tables`")


def named(symbols: str | Sequence[str]) -> list[str]:
    """Return one symbol or several as a list."""
    return [symbols] if isinstance(symbols, str) else list(symbols)


def horizon_name(name: str | None) -> str | None:
    """Return a horizon's name where one is given; an unknown one is refused."""
    return None if name is None else find_horizon(name).name


def block_sessions(horizon: Horizon) -> float:
    """Return the blocks of a bootstrap over sessions: twice what labels overlap, five at least."""
    return float(max(5, 2 * horizon.sessions))


def as_date(value: dt.date | str | None) -> dt.date | None:
    """Return a date that may be written ``YYYY-MM-DD``.

    Raises
    ------
    MarketError
        On other text.
    """
    if value is None or isinstance(value, dt.date):
        return value
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        raise MarketError(
            "not a date", got=value, allowed="YYYY-MM-DD", remedy="write it like 2024-06-03"
        ) from None


def within(
    rows: pl.LazyFrame, start: dt.date | str | None, end: dt.date | str | None
) -> pl.LazyFrame:
    """Return the rows of sessions from ``start`` to ``end``, both included where given."""
    first, last = as_date(start), as_date(end)
    if first:
        rows = rows.filter(pl.col(Bar.SESSION) >= first)
    if last:
        rows = rows.filter(pl.col(Bar.SESSION) <= last)
    return rows
