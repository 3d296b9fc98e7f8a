"""The notebook's view of an installation: everything that was computed, by one object."""

from __future__ import annotations

import datetime as dt
import html

import polars as pl
import sqlalchemy as sa

from isobar.published import Published
from isobar.research import Research
from isobar.results import Results
from isobar.sql import query_tables
from market.lake_tables import TABLES
from market.ledger_tables import signal_batches


class Workspace(Research, Results, Published):
    """Read-only access to the lake, the ledger and the models.

    Parameters
    ----------
    home : Path or str, optional
        Data root; ``ISOBAR_HOME`` or ``./var`` when absent.

    Notes
    -----
    ======================  =====================================================================
    bars and features       :meth:`bars`, :meth:`features`, :meth:`labels`, :meth:`catalogue`
    a feature's worth       :meth:`evaluate_feature`, :meth:`audit_feature`
    models                  :meth:`models`, :meth:`runs`, :meth:`card`, :meth:`skill`,
                            :meth:`model_history`, :meth:`predictions`
    backtests               :meth:`backtests`, :meth:`tear_sheet`, :meth:`compare_backtests`
    signals                 :meth:`signals`, :meth:`cursor`, :meth:`outcomes`,
                            :meth:`scoreboard`, :meth:`weights`, :meth:`agreement`
    everything else         :meth:`sql`, and ``workspace["table"]``
    names, with Tab         ``symbols``, ``horizons``, ``feature_names``, ``tables``
    ======================  =====================================================================

    Examples
    --------
    >>> ws = Workspace("var/demo")  # doctest: +SKIP
    >>> ws.bars(ws.symbols.ZZAA, "15m", "2025-06-02", "2025-06-06").height  # doctest: +SKIP
    130
    """

    def __repr__(self) -> str:
        return "\n".join(f"{name:<13} {value}" for name, value in self._summary())

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in self._summary()
        )
        return f"<table>{rows}</table>"

    def __getitem__(self, table: str) -> pl.LazyFrame:
        """Return a table of the lake or the ledger as a lazy frame.

        Parameters
        ----------
        table : str
            A name in :attr:`tables`. Tables of the ledger are read at once, and their times are
            text, as in :meth:`sql`.

        Raises
        ------
        LakeError
            When it was never written; with the command that makes it.
        UsageError
            When there is no such table; with near names.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws["regimes"].tail(1).collect()["regime"][0]  # doctest: +SKIP
        'bear'
        """
        if table in TABLES and not TABLES[table].is_copy:
            return self.lake.scan(table)
        name = self.tables[table]
        return self.sql(f'select * from "{name}"').lazy()

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.tables)

    def sql(self, query: str) -> pl.DataFrame:
        """Run DuckDB SQL over the tables of lake and ledger, in a connection of its own.

        Parameters
        ----------
        query : str
            One statement; :attr:`tables` lists what it can name.

        Raises
        ------
        UsageError
            When DuckDB refuses it; of a table that is not there yet, with the command that
            makes it.

        Examples
        --------
        >>> Workspace("var/demo").sql(  # doctest: +SKIP
        ...     "select horizon, count(*) from signals_current group by horizon")
        """
        with self.ledger as ledger:
            return query_tables(self.lake, ledger, query)

    def _summary(self) -> list[tuple[str, str]]:
        return [
            ("data root", self.settings.home.as_posix()),
            ("symbols", repr(self.symbols)),
            ("daily bars", self._sessions("bars_1d")),
            ("minute bars", self._sessions("bars_1m")),
            ("horizons", ", ".join(self.horizons)),
            ("newest batch", self._newest_batch()),
        ]

    def _sessions(self, table: str) -> str:
        found = sorted(self.lake.sessions(table)) if self.lake.exists(table) else []
        if not found:
            return "none yet: run `isobar bootstrap`, or `isobar demo`"
        return f"{len(found):,} sessions, {found[0]} to {found[-1]}"

    def _newest_batch(self) -> str:
        table = signal_batches.c
        query = sa.select(signal_batches).where(table.complete).order_by(table.seq.desc()).limit(1)
        with self.ledger as ledger:
            found = ledger.rows(query)
        if not found:
            return "none yet: run `isobar run`"
        row = found[0]
        late = ", late" if row["late"] else ""
        at: dt.datetime = row["as_of"]
        return f"{row['run']} of {at:%Y-%m-%d %H:%M} UTC, {row['rows']:,} signals{late}"
