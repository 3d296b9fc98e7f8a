"""The part of the workspace that consumers read: signals, what became of them, and weights.

What judges signals is imported where it is asked for: it takes seconds, and most read signals.
"""

from __future__ import annotations

import datetime as dt

import polars as pl

from isobar.bar_view import end_of_time
from isobar.opened import Opened, horizon_name
from market.horizons import find_horizon
from signals.agreement import compare_horizons
from signals.consume import newest_cursor, read_after
from signals.outcomes import SignalOutcome
from signals.publish import read_signals
from signals.schema import ENSEMBLE_ENGINE, SignalColumn

_OUTCOME_COLUMNS = (
    SignalColumn.AS_OF,
    SignalColumn.SYMBOL,
    SignalColumn.HORIZON,
    SignalColumn.ENGINE,
    SignalColumn.REGIME,
    SignalColumn.DIRECTION,
    SignalColumn.CONFIDENCE,
    SignalColumn.EXPECTED_RETURN_BPS,
    SignalOutcome.REALISED_RETURN_BPS,
    SignalOutcome.TARGET_TOUCHED_AT,
    SignalOutcome.STOP_TOUCHED_AT,
    SignalOutcome.KNOWN_AT,
)


class Published(Opened):
    """Signals, outcomes, scoreboard and weights."""

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
        horizon = horizon_name(horizon)
        with self.ledger as ledger:
            if after is None:
                return read_signals(
                    ledger, since=since, horizon=horizon, symbol=symbol, engine=engine
                )
            return read_after(
                ledger, after, since=since, horizon=horizon, symbol=symbol, engine=engine
            ).rows

    def cursor(self) -> str:
        """Return the cursor after which nothing has been published yet.

        Keep it, and ask :meth:`signals` for what came ``after`` it.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.signals(after=ws.cursor()).is_empty()  # doctest: +SKIP
        True
        """
        with self.ledger as ledger:
            return newest_cursor(ledger)

    def outcomes(
        self,
        *,
        horizon: str | None = None,
        engine: str | None = None,
        since: dt.datetime | None = None,
    ) -> pl.DataFrame:
        """Return signals whose end is known, beside what became of them.

        Parameters
        ----------
        horizon, engine : str, optional
            Only these.
        since : datetime, optional
            Signals of which ``as_of`` is from then on; aware.

        Returns
        -------
        pl.DataFrame
            ``as_of``, ``symbol``, ``horizon``, ``engine``, ``regime``, ``direction``,
            ``confidence``, ``expected_return_bps``, ``realised_return_bps`` (in excess of the mean
            of all symbols, not signed by the direction), ``target_touched_at``,
            ``stop_touched_at``, ``known_at``, in the order of publication.

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.outcomes(horizon="1d", engine="ensemble").height  # doctest: +SKIP
        """
        from signals.record import read_outcomes

        with self.ledger as ledger:
            rows = read_signals(ledger, since=since, horizon=horizon_name(horizon), engine=engine)
            became = read_outcomes(ledger, since=since)
        joined = rows.join(became, left_on="id", right_on="signal_id", maintain_order="left")
        return joined.select(_OUTCOME_COLUMNS)

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

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.scoreboard(horizon="1d", regime="all").select(  # doctest: +SKIP
        ...     "engine", "signals", "hit_rate", "promised_hit_rate")
        """
        from pipelines.scoreboard import read_scoreboard
        from signals.scoreboard import Board

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

        Examples
        --------
        >>> ws = Workspace("var/demo")  # doctest: +SKIP
        >>> ws.weights(horizon="1d", regime="bull")["weight"].sum()  # doctest: +SKIP
        1.0
        """
        from signals.record import read_weights

        moment = as_of or end_of_time()
        with self.ledger as ledger:
            rows = read_weights(ledger, as_of=moment)
        if horizon:
            rows = rows.filter(pl.col("horizon") == find_horizon(horizon).name)
        return rows if regime is None else rows.filter(pl.col("regime") == regime)

    def agreement(self, *, engine: str = ENSEMBLE_ENGINE) -> pl.DataFrame:
        """Return the newest batch's directions by symbol and horizon, disagreements first.

        See :func:`signals.agreement.compare_horizons`.

        Examples
        --------
        >>> Workspace("var/demo").agreement().head(3)  # doctest: +SKIP
        """
        with self.ledger as ledger:
            newest = ledger.read("select max(as_of) as newest from signal_batches").item()
            since = None if newest is None else dt.datetime.fromisoformat(newest)
            return compare_horizons(read_signals(ledger, since=since), engine=engine)
