"""The part of the workspace for research: bars, features, labels, and a feature's worth."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, overload

import polars as pl

from features.catalogue import summarise
from features.labels import forward_returns
from features.registry import select_features
from features.spec import PANEL_KEYS, Feature
from isobar.bar_view import read_view
from isobar.opened import Opened, as_date, block_sessions, named, within
from market.bars import by_company, read_adjusted
from market.horizons import Horizon, find_horizon
from market.schema import Bar
from market.timeframes import Timeframe, parse_timeframe
from pipelines.feature_run import compute_now, feature_table, kept_features
from pipelines.side_tables import side_reader

# What judges features takes a second to import: only where it is asked for.
if TYPE_CHECKING:
    from isobar.leak_audit import AuditReport
    from models.feature_evaluation import FeatureReport

AHEAD = (1, 2, 3, 5, 10, 21)
"""How many bars ahead a feature's decay is measured."""


class Research(Opened):
    """Bars, features and labels, and what a feature is worth."""

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
            On an unknown symbol (with near ones), timeframe or view, reversed dates, or a symbol
            that nobody bore by ``as_of``.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.bars("ZZAA", "15m", "2025-06-02", "2025-06-06").height  # doctest: +SKIP
        130
        """
        query = read_view(
            self.lake,
            named(symbols),
            timeframe,
            as_date(start),
            as_date(end),
            adjusted=adjusted,
            as_of=as_of,
            identity=identity,
        )
        return query if lazy else query.collect()

    def features(
        self,
        symbols: str | Sequence[str] | None = None,
        timeframe: str = "1d",
        start: dt.date | str | None = None,
        end: dt.date | str | None = None,
        *,
        names: Sequence[str | Feature] | None = None,
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
        names : sequence of str or Feature, optional
            Registered features, outputs of the indicators in the settings, or features of your
            own that are registered nowhere; all that are kept by default.

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
        features = self._chosen(names, frame)
        first, last = as_date(start), as_date(end)
        table = feature_table(frame)
        columns = [f.name for f in features]
        own = any(isinstance(n, Feature) for n in names or ())
        if (
            not own
            and self.lake.exists(table)
            and set(columns) <= set(self.lake.scan(table).collect_schema().names())
        ):
            rows = self.lake.scan(table)
        else:
            side = side_reader(self.settings, self.lake, frame)
            rows = compute_now(self.lake, frame, features, first, last, side).lazy()
        if symbols is not None:
            rows = rows.filter(pl.col(Bar.SYMBOL).is_in(self._known(symbols)))
        rows = within(rows, first, last)
        return rows.select(*PANEL_KEYS, *columns).sort(Bar.SYMBOL, Bar.BAR_END).collect()

    def labels(
        self,
        horizon: str,
        symbols: str | Sequence[str] | None = None,
        start: dt.date | str | None = None,
        end: dt.date | str | None = None,
    ) -> pl.DataFrame:
        """Return what came after each bar: the returns over a horizon that models learn from.

        Parameters
        ----------
        horizon : str
            A row of the horizons table, like ``1d``.
        symbols : str or sequence of str, optional
            One or several, or all.
        start, end : date or str, optional
            Sessions, both included.

        Returns
        -------
        pl.DataFrame
            As of :func:`features.labels.forward_returns`: ``forward_return``, ``excess_return``
            (less the mean of all symbols), ``label_known_at``; null where the end is not there.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.labels("14d", "ZZAA")["excess_return"].null_count()  # doctest: +SKIP
        10
        """
        row = find_horizon(horizon)
        rows = self._labels(row, [row.steps], as_date(start))[row.steps].lazy()
        if symbols is not None:
            rows = rows.filter(pl.col(Bar.SYMBOL).is_in(self._known(symbols)))
        return within(rows, start, end).sort(Bar.SYMBOL, Bar.BAR_END).collect()

    def catalogue(
        self,
        search: str = "",
        *,
        family: str | None = None,
        timeframe: str | None = None,
    ) -> pl.DataFrame:
        """Return the registered features and what they mean.

        Parameters
        ----------
        search : str, optional
            Words that name or meaning hold, in any case; all of them.
        family : str, optional
            Only of this family.
        timeframe : str, optional
            Only those that make sense on bars of this length.

        Returns
        -------
        pl.DataFrame
            ``name``, ``family``, ``meaning``, ``inputs``, ``lookback_bars``,
            ``lookback_sessions``, ``session_minutes``, ``memory``, ``stage``, ``scope``,
            ``source``.

        Raises
        ------
        FeatureError
            On an unknown family, with near ones.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.catalogue("wilder", timeframe="1d")["name"].to_list()[:2]  # doctest: +SKIP
        """
        frame = parse_timeframe(timeframe) if timeframe else None
        found = pl.DataFrame(
            [summarise(f) for f in select_features(family=family, timeframe=frame)]
        )
        text = pl.concat_str("name", "meaning", "source", separator=" ").str.to_lowercase()
        for word in search.lower().split():
            found = found.filter(text.str.contains(word, literal=True))
        return found

    def evaluate_feature(
        self,
        feature: str | Feature,
        horizon: str = "1d",
        start: dt.date | str | None = None,
        end: dt.date | str | None = None,
        *,
        quantiles: int | None = None,
        ahead: Sequence[int] = AHEAD,
    ) -> FeatureReport:
        """Say what a feature is worth: IC with interval, decay, quantile returns, turnover.

        Returns are in excess of the mean of all symbols and before costs. It is one look at one
        feature: who looks at five hundred finds twelve whose interval lies above zero by chance.

        Parameters
        ----------
        feature : str or Feature
            A registered one, or one of your own.
        horizon : str
            Over which return it is judged; its timeframe is that of the bars.
        start, end : date or str, optional
            Sessions, both included.
        quantiles : int, optional
            Number of groups; :data:`models.feature_evaluation.QUANTILES` of them by default.
        ahead : sequence of int
            Bars ahead of which the decay is measured, beside the horizon's own.

        Returns
        -------
        FeatureReport
            Numbers and frames; :mod:`isobar.charts` draws them.

        Raises
        ------
        FeatureError
            On an unknown feature, with near ones.
        ModelError
            When there is nothing to judge in this period.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.evaluate_feature("return_5", "1d").ic.excludes_zero  # doctest: +SKIP
        """
        from models.feature_evaluation import QUANTILES, evaluate_feature

        row = find_horizon(horizon)
        panel = self._panel(feature, row.timeframe, start, end)
        return evaluate_feature(
            panel,
            self._labels(row, [*ahead, row.steps], as_date(start)),
            feature=panel.columns[-1],
            horizon=row.name,
            bars=row.steps,
            seed=self.settings.models.seed,
            block=block_sessions(row),
            quantiles=QUANTILES if quantiles is None else quantiles,
        )

    def audit_feature(
        self, feature: str | Feature, timeframe: str = "1d", *, cuts: int = 4, sessions: int = 500
    ) -> AuditReport:
        """Cut off the future at several moments and compare to the bit.

        Parameters
        ----------
        feature : str or Feature
            A registered one, or one of your own.
        timeframe : str
            Of its bars.
        cuts : int
            Number of moments.
        sessions : int
            Newest sessions of daily bars that it is computed on; of minutes at most twenty.

        Returns
        -------
        AuditReport
            ``is_clean``, what was found, and whether it depends on where history starts.

        Raises
        ------
        FeatureError
            On an unknown feature, with near ones.

        Examples
        --------
        >>> Workspace("var/demo").audit_feature("rsi_14").is_clean  # doctest: +SKIP
        True
        """
        from isobar.leak_audit import run_audit

        frame = parse_timeframe(timeframe)
        return run_audit(
            self.settings,
            timeframes=[frame],
            features=self._chosen([feature], frame),
            cuts=cuts,
            sessions=sessions,
            minute_sessions=min(20, sessions),
            seed=self.settings.models.seed,
            synthetic=False,
            progress=_silent,
        )

    def _panel(
        self,
        feature: str | Feature,
        timeframe: Timeframe,
        start: dt.date | str | None,
        end: dt.date | str | None,
    ) -> pl.DataFrame:
        panel = self.features(timeframe=timeframe.value, start=start, end=end, names=[feature])
        if self.settings.universe.kind == "fixed":
            return panel
        return self.stores.only_members(panel.lazy()).collect()

    def _labels(
        self, horizon: Horizon, steps: Sequence[int], start: dt.date | None
    ) -> dict[int, pl.DataFrame]:
        bars = read_adjusted(self.lake, horizon.timeframe, start, None)
        return {
            n: by_company(
                self.lake, bars, lambda rows, n=n: forward_returns(rows, replace(horizon, steps=n))
            )
            for n in sorted(set(steps))
        }

    def _known(self, symbols: str | Sequence[str]) -> list[str]:
        there = self.symbols
        return [there[s] for s in named(symbols)]

    def _chosen(self, names: Sequence[str | Feature] | None, timeframe: Timeframe) -> list[Feature]:
        kept = {f.name: f for f in kept_features(self.settings, timeframe)}
        if names is None:
            return list(kept.values())
        own = {f.name: f for f in names if isinstance(f, Feature)}
        asked = [n if isinstance(n, str) else n.name for n in names]
        others = [n for n in asked if n not in kept and n not in own]
        registered = {f.name: f for f in select_features(others)}
        return [f for n, f in (kept | registered | own).items() if n in set(asked)]


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody how far an audit has come."""
