"""The part of the workspace that is about models and backtests: what was found, and what serves."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import polars as pl

from isobar.opened import Opened, horizon_name, within
from market.errors import ModelError
from market.horizons import find_horizon
from market.schema import UTC_MICROSECONDS
from models.forecast import PREDICTION_SCHEMA, PUBLIC_COLUMNS, Prediction

# Backtests and the registry take a second to import: only where they are asked for.
if TYPE_CHECKING:
    from backtest.comparison import Run
    from isobar.tear_sheet import TearSheet
    from models.registry_store import StoredCard, StoredModel
    from pipelines.backtest_store import StoredBacktest

MODEL_SCHEMA = pl.Schema(
    {
        "horizon": pl.String(),
        "family": pl.String(),
        "number": pl.Int64(),
        "role": pl.String(),
        "rank_ic": pl.Float64(),
        "trained_at": UTC_MICROSECONDS,
        "known_at": UTC_MICROSECONDS,
        "rows": pl.Int64(),
        "features": pl.Int64(),
        "recipe": pl.String(),
        "version": pl.String(),
    }
)
"""Stored models; ``role`` is champion, challenger or empty, ``number`` MLflow's version."""

BACKTEST_SCHEMA = pl.Schema(
    {
        "backtest": pl.String(),
        "horizon": pl.String(),
        "start_session": pl.Date(),
        "end_session": pl.Date(),
        "sessions": pl.Int64(),
        "total_return": pl.Float64(),
        "sharpe_ratio": pl.Float64(),
        "sharpe_low": pl.Float64(),
        "sharpe_high": pl.Float64(),
        "deflated_sharpe_ratio": pl.Float64(),
        "max_drawdown": pl.Float64(),
        "created_at": UTC_MICROSECONDS,
    }
)
"""Backtests in the ledger; returns are shares, after costs, ratios are annual."""


class Results(Opened):
    """Models, their trainings and forecasts, and backtests of them."""

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
            found = within(rows, start, end).collect()
        if found.is_empty():
            raise ModelError(
                f"no out-of-sample predictions of horizon {name}",
                got=f"{start or 'the first'} to {end or 'the last session'}",
                allowed="a period that a training has walked through",
                remedy=f"run `isobar train --horizon {name}`, or choose another period",
            )
        order = (Prediction.AS_OF, Prediction.SYMBOL, Prediction.ENGINE)
        return found.sort(order).select(PUBLIC_COLUMNS)

    def models(self, horizon: str | None = None) -> pl.DataFrame:
        """Return the stored models: champions, challengers and those that were.

        Parameters
        ----------
        horizon : str, optional
            One alone; all that are on by default.

        Returns
        -------
        pl.DataFrame
            ``MODEL_SCHEMA`` of :mod:`isobar.results`; ``rank_ic`` is the family's own, out of
            sample, in the training that made the model.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.models("1d").filter(role="champion")["family"].to_list()  # doctest: +SKIP
        ['gradient_boosting', 'linear', 'lstm']
        """
        tracker = self.stores.tracker
        found = [m for name in self._wanted(horizon) for m in tracker.stored(name)]
        return pl.DataFrame([_model_row(m) for m in found], schema=MODEL_SCHEMA)

    def runs(self, horizon: str | None = None) -> pl.DataFrame:
        """Return every finished training in MLflow, a row for each engine that it judged.

        Parameters
        ----------
        horizon : str, optional
            One alone; all that are on by default.

        Returns
        -------
        pl.DataFrame
            ``RUN_SCHEMA`` of :mod:`models.run_store`: run, role, versions of data, settings and
            code, and the scores out of sample with 95 percent intervals; the newest first.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.runs("1d").select("engine", "rank_ic", "rank_ic_low")  # doctest: +SKIP
        """
        tracker = self.stores.tracker
        return pl.concat([tracker.runs(name) for name in self._wanted(horizon)])

    def model_history(self, horizon: str | None = None) -> pl.DataFrame:
        """Return every change of champions and challengers, with reason and evidence.

        Parameters
        ----------
        horizon : str, optional
            One alone; all that are on by default.

        Returns
        -------
        pl.DataFrame
            ``HISTORY_SCHEMA`` of :mod:`models.succession`.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.model_history("1d").select("family", "at", "step", "reason")  # doctest: +SKIP
        """
        tracker = self.stores.tracker
        return pl.concat([tracker.history(name) for name in self._wanted(horizon)])

    def card(self, horizon: str, family: str | None = None) -> StoredCard:
        """Return the model card of the newest training; a notebook shows it as text.

        Parameters
        ----------
        horizon : str
            A row of the horizons table.
        family : str, optional
            The training that made this family's champion instead.

        Raises
        ------
        ModelError
            When there is none; with the command that makes one.

        Examples
        --------
        >>> print(Workspace("var/demo").card("1d").text[:16])  # doctest: +SKIP
        # Model card: 1d
        """
        return self.stores.tracker.card(find_horizon(horizon).name, family)

    def skill(self, horizon: str) -> pl.DataFrame:
        """Return the rank IC of each engine's out-of-sample forecasts in every session.

        Parameters
        ----------
        horizon : str
            A row of the horizons table.

        Returns
        -------
        pl.DataFrame
            ``engine``, ``session``, ``rank_ic``, ``known_at`` (UTC), ascending.

        Raises
        ------
        ModelError
            When no training of this horizon has been judged yet.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.skill("1d").group_by("engine").agg(pl.col("rank_ic").mean())  # doctest: +SKIP
        """
        name = find_horizon(horizon).name
        rows = pl.DataFrame()
        if self.lake.exists("session_skill"):
            rows = self.lake.scan("session_skill").filter(pl.col("horizon") == name).collect()
        if rows.is_empty():
            raise ModelError(
                f"no skill by session of horizon {name}",
                allowed="a horizon whose forecasts were judged",
                remedy=f"run `isobar train --horizon {name}`",
            )
        order = ["engine", "session"]
        return rows.sort(order).select(*order, "rank_ic", "known_at")

    def backtests(self, horizon: str | None = None) -> pl.DataFrame:
        """Return the backtests that are kept, the newest first.

        Parameters
        ----------
        horizon : str, optional
            Only those that traded it, alone or with others.

        Returns
        -------
        pl.DataFrame
            ``BACKTEST_SCHEMA`` of :mod:`isobar.results`.

        Examples
        --------
        >>> Workspace("var/demo").backtests("1d")["sharpe_ratio"][0]  # doctest: +SKIP
        """
        name = horizon_name(horizon)
        kept = [s for s in self._stored() if name is None or name in s.horizons]
        return pl.DataFrame([_backtest_row(s) for s in kept], schema=BACKTEST_SCHEMA)

    def tear_sheet(self, backtest: str) -> TearSheet:
        """Return a backtest: its numbers, its sessions and its page.

        Parameters
        ----------
        backtest : str
            A horizon (its newest), several joined by ``+``, or an id or the beginning of one.

        Raises
        ------
        BacktestError
            When there is none, or its sessions are not kept; with the command that makes it.

        Examples
        --------
        >>> sheet = Workspace("var/demo").tear_sheet("1d")  # doctest: +SKIP
        >>> sheet.table.columns  # doctest: +SKIP
        ['metric', 'value', '95%']
        """
        from isobar.tear_sheet import TearSheet
        from pipelines.backtest_store import find_backtest, page_of, read_run

        stored = find_backtest(self._stored(), backtest)
        return TearSheet(read_run(self.stores, stored), page_of(self.stores, stored))

    def compare_backtests(self, *backtests: str) -> pl.DataFrame:
        """Return two to six backtests side by side, as text, a row for each metric.

        Parameters
        ----------
        *backtests : str
            As for :meth:`tear_sheet`.

        Returns
        -------
        pl.DataFrame
            ``metric`` and a column for each backtest, value and interval on two lines. The last
            row is the difference of Sharpe ratios to the first one, the same sessions drawn again.

        Raises
        ------
        BacktestError
            When one is not there, or there are fewer than two or more than six.

        Examples
        --------
        >>> Workspace("var/demo").compare_backtests("1d", "14d").columns[0]  # doctest: +SKIP
        'metric'
        """
        from backtest.comparison import compare_runs, written_rows

        runs: list[Run] = [self.tear_sheet(b).run for b in backtests]
        rows = written_rows(compare_runs(runs, seed=self.settings.models.seed))
        return pl.DataFrame(rows, schema=["metric", *(r.name for r in runs)], orient="row")

    def _wanted(self, horizon: str | None) -> list[str]:
        return [find_horizon(horizon).name] if horizon else list(self.horizons)

    def _stored(self) -> list[StoredBacktest]:
        from pipelines.backtest_store import list_backtests

        return list_backtests(self.stores)


def _model_row(model: StoredModel) -> dict[str, Any]:
    return {
        "horizon": model.horizon,
        "family": model.family,
        "number": model.number,
        "role": model.role,
        "rank_ic": model.metrics.get(f"rank_ic_{model.family}"),
        "trained_at": model.trained_at,
        "known_at": model.known_at,
        "rows": model.rows,
        "features": len(model.feature_names),
        "recipe": model.recipe,
        "version": model.version,
    }


def _backtest_row(stored: StoredBacktest) -> dict[str, Any]:
    metrics = stored.metrics
    low, high = metrics.get("sharpe_interval") or (None, None)
    judged = metrics.get("overfitting") or {}
    return {
        "backtest": stored.backtest_id,
        "horizon": stored.horizon,
        "start_session": dt.date.fromisoformat(stored.start_session),
        "end_session": dt.date.fromisoformat(stored.end_session),
        "sessions": metrics.get("sessions"),
        "total_return": metrics.get("total_return"),
        "sharpe_ratio": metrics.get("sharpe_ratio"),
        "sharpe_low": low,
        "sharpe_high": high,
        "deflated_sharpe_ratio": judged.get("deflated_sharpe_ratio"),
        "max_drawdown": metrics.get("max_drawdown"),
        "created_at": stored.created_at,
    }
