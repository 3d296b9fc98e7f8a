"""The notebook's view of an installation: bars, features, signals, SQL."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import polars as pl

from features.registry import select_features
from features.spec import PANEL_KEYS, Feature
from isobar.sql import query_tables
from market import calendar
from market.actions import Adjustment, adjust_lazily, session_factors
from market.errors import MarketError, ModelError
from market.horizons import find_horizon
from market.identity import follow, of_companies
from market.ingest_log import ingested_symbols
from market.lake_tables import TABLES
from market.ledger import Ledger, open_ledger
from market.schema import IDENTITY_SCHEMA, Bar, Identity, Split, empty
from market.source import EVERY
from market.timeframes import Timeframe, parse_timeframe, resample
from models.forecast import PREDICTION_SCHEMA, PUBLIC_COLUMNS, Prediction
from pipelines.feature_run import compute_now, feature_table, kept_features
from pipelines.lake_store import open_lake
from pipelines.scoreboard import read_scoreboard
from pipelines.settings import Settings, load_settings
from pipelines.side_tables import side_reader
from signals.agreement import compare_horizons
from signals.consume import read_after
from signals.publish import read_signals
from signals.record import read_weights
from signals.schema import ENSEMBLE_ENGINE
from signals.scoreboard import Board


class Workspace:
    """Read-only access to the lake and the ledger.

    Parameters
    ----------
    home : Path or str, optional
        Data root; ``ISOBAR_HOME`` or ``./var`` when absent.

    Examples
    --------
    >>> ws = Workspace("var/demo")  # doctest: +SKIP
    >>> ws.bars("ZZAA", "15m", "2025-06-02", "2025-06-06").height  # doctest: +SKIP
    130
    """

    def __init__(self, home: Path | str | None = None) -> None:
        self.settings: Settings = load_settings()
        if home is not None:
            self.settings = self.settings.model_copy(update={"home": Path(home)})
        self.lake = open_lake(self.settings)

    def __repr__(self) -> str:
        held = ", ".join(t for t in TABLES if self.lake.exists(t)) or "empty"
        return f"Workspace({str(self.settings.home)!r}: {held})"

    @property
    def ledger(self) -> Ledger:
        """The ledger (signals, orders, weights, ...)."""
        return open_ledger(self.settings.resolved_ledger_url)

    @overload
    def bars(
        self,
        symbols: str | Sequence[str],
        timeframe: str = ...,
        start: dt.date | str | None = ...,
        end: dt.date | str | None = ...,
        *,
        adjusted: str = ...,
        as_of: dt.datetime | None = ...,
        identity: bool = ...,
        lazy: Literal[False] = ...,
    ) -> pl.DataFrame: ...

    @overload
    def bars(
        self,
        symbols: str | Sequence[str],
        timeframe: str = ...,
        start: dt.date | str | None = ...,
        end: dt.date | str | None = ...,
        *,
        adjusted: str = ...,
        as_of: dt.datetime | None = ...,
        identity: bool = ...,
        lazy: Literal[True],
    ) -> pl.LazyFrame: ...

    def bars(
        self,
        symbols: str | Sequence[str],
        timeframe: str = "1d",
        start: dt.date | str | None = None,
        end: dt.date | str | None = None,
        *,
        adjusted: str = "split",
        as_of: dt.datetime | None = None,
        identity: bool = True,
        lazy: bool = False,
    ) -> pl.DataFrame | pl.LazyFrame:
        """Return bars of a timeframe.

        Parameters
        ----------
        symbols : str or sequence of str
            One or several. Each stands for the company that bears the symbol at ``as_of``, or
            bore it last: its bars under former symbols come along, under the name asked for, and
            those of another company that used the ticker before do not.
        timeframe : str
            ``1m 5m 15m 30m 1h 4h 1d 1w 1M``.
        start, end : date or str, optional
            Sessions, both included.
        adjusted : str
            ``raw``, ``split`` or ``total`` (dividends reinvested).
        as_of : datetime, optional
            Aware: bars and adjustments as they were known then; by default, everything.
        identity : bool
            Follow the company, as far as the lake has identities; ``False`` gives all that was
            ever traded under this very ticker.
        lazy : bool
            Return a scan instead: your filters and columns reach the files. Timeframes that are
            resampled are read first all the same.

        Returns
        -------
        pl.DataFrame or pl.LazyFrame
            ``BAR_SCHEMA``, sorted by symbol and time; prices in USD, times in UTC.

        Raises
        ------
        MarketError
            On an unknown symbol, timeframe or view, reversed dates, or a symbol that nobody bore
            by ``as_of``.
        """
        wanted = [symbols] if isinstance(symbols, str) else list(symbols)
        frame, view = parse_timeframe(timeframe), _view(adjusted)
        first, last = _date(start), _date(end)
        if first and last and last < first:
            calendar.sessions_between(first, last)
        moment = as_of or calendar.session_close(_far_session())
        spells = self._spells(wanted, moment, identity)
        if frame.is_intraday:
            self._require(spells, ingested_symbols(self.lake, Timeframe.M1), Timeframe.M1)
        names = spells[Identity.SYMBOL].unique().to_list()

        def scan(table: str, begin: dt.date | None, end: dt.date | None) -> pl.LazyFrame:
            # Named here, although filtered again below: the lake chooses its layout by them.
            rows = self.lake.scan_bars(table, start=begin, end=end, symbols=names)
            return of_companies(rows, spells, date=Bar.SESSION)

        known = pl.col(Bar.KNOWN_AT) <= moment
        order = [Bar.SYMBOL, Bar.BAR_START]
        # All of it: factors depend on the actions up to as_of, whatever period is asked for.
        daily = scan("bars_1d", None, None).sort(order).collect()
        if not frame.is_intraday:
            self._require(spells, set(daily[Bar.SYMBOL].unique()), Timeframe.D1)
        daily = daily.filter(known)
        if frame in (Timeframe.D1, Timeframe.M1):
            found = scan(f"bars_{frame.value}", first, last)
        elif frame.is_intraday:
            minutes = scan("bars_1m", first, last).filter(known).sort(order).collect()
            found = resample(minutes, frame).lazy()
        else:
            found = resample(daily, frame).lazy()
        if first:
            found = found.filter(pl.col(Bar.SESSION) >= first)
        if last:
            found = found.filter(pl.col(Bar.SESSION) <= last)
        query = adjust_lazily(found, self._factors(daily, spells), view, moment)
        query = query.sort(order)
        return query if lazy else query.collect()

    def features(
        self,
        symbols: str | Sequence[str] | None = None,
        timeframe: str = "1d",
        start: dt.date | str | None = None,
        end: dt.date | str | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Return features, sorted by symbol and time.

        They come from the lake where they are kept there. Others (of a timeframe that no horizon
        in use needs, say) are computed now from the lake's bars, of all symbols, since some are
        measured against the others.

        Parameters
        ----------
        symbols : str or sequence of str, optional
            One or several, or all.
        timeframe : str
            ``1m 5m 15m 30m 1h 4h 1d 1w 1M``.
        start, end : date or str, optional
            Sessions, both included.
        names : sequence of str, optional
            Registered features, or outputs of the indicators in the settings; all by default.

        Returns
        -------
        pl.DataFrame
            ``symbol``, ``session``, ``bar_end``, ``as_of`` (UTC) and a float32 column per feature.

        Raises
        ------
        FeatureError
            On an unknown feature name, with near ones.
        LakeError
            When there are no bars.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.features("ZZAA", "1d", names=["rsi_14", "MA20"]).columns[4:]  # doctest: +SKIP
        ['MA20', 'rsi_14']
        """
        frame = parse_timeframe(timeframe)
        features = self._named_features(names, frame)
        first, last = _date(start), _date(end)
        table = feature_table(frame)
        columns = [f.name for f in features]
        if self.lake.exists(table) and set(columns) <= set(
            self.lake.scan(table).collect_schema().names()
        ):
            rows = self.lake.scan(table)
        else:
            side = side_reader(self.settings, self.lake, frame)
            rows = compute_now(self.lake, frame, features, first, last, side).lazy()
        if symbols is not None:
            wanted = [symbols] if isinstance(symbols, str) else list(symbols)
            rows = rows.filter(pl.col(Bar.SYMBOL).is_in(wanted))
        if first:
            rows = rows.filter(pl.col(Bar.SESSION) >= first)
        if last:
            rows = rows.filter(pl.col(Bar.SESSION) <= last)
        return rows.select(*PANEL_KEYS, *columns).sort(Bar.SYMBOL, Bar.BAR_END).collect()

    def _named_features(self, names: Sequence[str] | None, timeframe: Timeframe) -> list[Feature]:
        kept = {f.name: f for f in kept_features(self.settings, timeframe)}
        if names is None:
            return list(kept.values())
        others = [n for n in names if n not in kept]
        registered = {f.name: f for f in select_features(others)}
        return [f for n, f in (kept | registered).items() if n in set(names)]

    def predictions(
        self,
        horizon: str,
        start: dt.date | str | None = None,
        end: dt.date | str | None = None,
    ) -> pl.DataFrame:
        """Return out-of-sample predictions, of every engine and of the ensemble.

        Each was made by a model that had seen nothing later than the row's ``as_of``.

        Parameters
        ----------
        horizon : str
            A row of the horizons table, like ``1d``.
        start, end : date or str, optional
            Sessions, both included.

        Returns
        -------
        pl.DataFrame
            ``symbol``, ``as_of`` (UTC), ``horizon``, ``engine``, ``model_version``, ``p_short``,
            ``p_neutral``, ``p_long`` and ``expected_return_bps``, sorted by time, symbol, engine.

        Raises
        ------
        ModelError
            When there are none in this period.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.predictions("1d", "2025-06-02")["engine"].unique().sort()  # doctest: +SKIP
        """
        name = find_horizon(horizon).name
        found = pl.DataFrame(schema=PREDICTION_SCHEMA)
        if self.lake.exists("predictions"):
            rows = self.lake.scan("predictions").filter(pl.col(Prediction.HORIZON) == name)
            first, last = _date(start), _date(end)
            if first:
                rows = rows.filter(pl.col(Prediction.SESSION) >= first)
            if last:
                rows = rows.filter(pl.col(Prediction.SESSION) <= last)
            found = rows.collect()
        if found.is_empty():
            raise ModelError(
                f"no out-of-sample predictions of horizon {name}",
                got=f"{start or 'the first'} to {end or 'the last session'}",
                allowed="a period that a training has walked through",
                remedy=f"run `isobar train --horizon {name}`, or choose another period",
            )
        order = (Prediction.AS_OF, Prediction.SYMBOL, Prediction.ENGINE)
        return found.sort(order).select(PUBLIC_COLUMNS)

    def signals(
        self,
        *,
        since: dt.datetime | None = None,
        horizon: str | None = None,
        symbol: str | None = None,
        engine: str | None = None,
        after: str | None = None,
    ) -> pl.DataFrame:
        """Return current signals, or all that were published after a given one.

        Parameters
        ----------
        since : datetime, optional
            Aware: signals with an ``as_of`` from here on.
        horizon, symbol, engine : str, optional
            Only these.
        after : str, optional
            The ``hash`` of the last signal that was seen. Whatever came after it is returned,
            whole batches, superseded rows included; 64 zeros ask for everything.

        Returns
        -------
        pl.DataFrame
            ``SIGNAL_SCHEMA``, in the order of publication; without ``after``, of each batch its
            last revision.

        Raises
        ------
        SignalError
            When no signal has this hash.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> seen = ws.signals()["hash"][-1]  # doctest: +SKIP
        >>> ws.signals(after=seen).height  # doctest: +SKIP
        0
        """
        with self.ledger as ledger:
            if after is None:
                return read_signals(
                    ledger, since=since, horizon=horizon, symbol=symbol, engine=engine
                )
            return read_after(
                ledger, after, since=since, horizon=horizon, symbol=symbol, engine=engine
            ).rows

    def scoreboard(
        self,
        *,
        horizon: str | None = None,
        regime: str | None = None,
        engine: str | None = None,
        since: dt.datetime | None = None,
    ) -> pl.DataFrame:
        """Return what live signals were worth, beside what the backtest promised.

        Parameters
        ----------
        horizon : str, optional
            A row of the horizons table; all that are on by default.
        regime : str, optional
            ``bull``, ``bear``, ``neutral``, or ``all`` for the rows over all of them.
        engine : str, optional
            One alone.
        since : datetime, optional
            Signals of which ``as_of`` is from then on; aware.

        Returns
        -------
        pl.DataFrame
            ``BOARD_SCHEMA`` of :mod:`signals.scoreboard`; intervals are null below ten sessions.
        """
        wanted = [find_horizon(horizon)] if horizon else self.settings.enabled_horizons
        with self.ledger as ledger:
            rows = read_scoreboard(
                self.lake,
                ledger,
                wanted,
                band_bps=self.settings.band_bps,
                seed=self.settings.models.seed,
                engine=engine,
                since=since,
            )
        return rows if regime is None else rows.filter(pl.col(Board.REGIME) == regime)

    def weights(
        self,
        *,
        horizon: str | None = None,
        regime: str | None = None,
        as_of: dt.datetime | None = None,
    ) -> pl.DataFrame:
        """Return the weights of engines in force at a moment, with their evidence.

        Parameters
        ----------
        horizon, regime : str, optional
            One alone.
        as_of : datetime, optional
            Aware; the newest of all by default.

        Returns
        -------
        pl.DataFrame
            ``WEIGHTS_SCHEMA`` of :mod:`signals.record`.
        """
        moment = as_of or calendar.session_close(_far_session())
        with self.ledger as ledger:
            rows = read_weights(ledger, as_of=moment)
        if horizon:
            rows = rows.filter(pl.col("horizon") == find_horizon(horizon).name)
        return rows if regime is None else rows.filter(pl.col("regime") == regime)

    def agreement(self, *, engine: str = ENSEMBLE_ENGINE) -> pl.DataFrame:
        """Return the newest batch's directions by symbol and horizon, disagreements first.

        See :func:`signals.agreement.compare_horizons`.
        """
        with self.ledger as ledger:
            newest = ledger.read("select max(as_of) as newest from signal_batches").item()
            since = None if newest is None else dt.datetime.fromisoformat(newest)
            return compare_horizons(read_signals(ledger, since=since), engine=engine)

    def sql(self, query: str) -> pl.DataFrame:
        """Run DuckDB SQL over the tables of lake and ledger, in a connection of its own.

        Examples
        --------
        >>> Workspace("var/demo").sql(  # doctest: +SKIP
        ...     "select horizon, count(*) from signals_current group by horizon")
        """
        with self.ledger as ledger:
            return query_tables(self.lake, ledger, query)

    def _spells(self, wanted: Sequence[str], as_of: dt.datetime, identity: bool) -> pl.DataFrame:
        identities = empty(IDENTITY_SCHEMA)
        if identity and self.lake.exists("identities"):
            identities = self.lake.scan("identities").collect()
        return follow(identities, wanted, as_of)

    def _factors(self, daily: pl.DataFrame, spells: pl.DataFrame) -> pl.DataFrame:
        splits, dividends = (
            of_companies(self.lake.scan(table), spells, date=Split.EX_DATE).collect()
            for table in ("splits", "dividends")
        )
        return session_factors(daily, splits, dividends)

    def _require(self, spells: pl.DataFrame, there: set[str], timeframe: Timeframe) -> None:
        table = f"bars_{timeframe.value}"
        found = pl.col(Identity.SYMBOL).is_in(there) | pl.col("name").is_in(there)
        missing = sorted(set(spells["name"]) - set(spells.filter(found)["name"]))
        if missing and EVERY not in there:
            raise MarketError(
                "symbols without bars in the lake",
                got=missing[:10],
                allowed=f"{len(ingested_symbols(self.lake, timeframe))} symbols in {table}",
                remedy=f"run `isobar ingest --symbols {','.join(missing[:10])} ...`",
            )


def _far_session() -> dt.date:
    return calendar.previous_session(calendar.LAST_DATE)


def _view(name: str) -> Adjustment:
    try:
        return Adjustment(name)
    except ValueError:
        raise MarketError(
            "unknown price view",
            got=name,
            allowed=", ".join(a.value for a in Adjustment),
            remedy="choose one of these",
        ) from None


def _date(value: dt.date | str | None) -> dt.date | None:
    if value is None or isinstance(value, dt.date):
        return value
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        raise MarketError(
            "not a date", got=value, allowed="YYYY-MM-DD", remedy="write it like 2024-06-03"
        ) from None
