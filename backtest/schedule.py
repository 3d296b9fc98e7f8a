"""What is acted on when: forecasts by the bar they are traded before, the regime, the clock."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from backtest.tape import Moment, Tape, moment_of
from execution.broker import Clock
from market import calendar
from market.errors import BacktestError
from market.horizons import Horizon
from market.regimes import RegimeLabel
from market.timeframes import Timeframe
from models.forecast import PREDICTION_SCHEMA, Prediction
from signals.schema import ENSEMBLE_ENGINE, SIGNAL_SCHEMA, SignalColumn


@dataclass(frozen=True, slots=True)
class Due:
    """The forecasts that are acted on before one bar, by horizon, the shortest first."""

    moment: Moment
    forecasts: tuple[tuple[Horizon, pl.DataFrame], ...]


@dataclass(frozen=True, slots=True)
class RegimeHistory:
    """The regime by the moment from which it was known."""

    times: list[dt.datetime]
    labels: list[str]

    @classmethod
    def of(cls, regimes: pl.DataFrame) -> RegimeHistory:
        """Read it from a table with ``as_of`` and ``regime``."""
        known = regimes.select("as_of", "regime").sort("as_of")
        return cls(known["as_of"].to_list(), known["regime"].to_list())

    def at(self, moment: dt.datetime) -> str:
        """Return the regime known at a moment; neutral before the first."""
        place = bisect_right(self.times, moment)
        return self.labels[place - 1] if place else RegimeLabel.NEUTRAL.value


def in_order(horizons: Sequence[Horizon]) -> tuple[Horizon, ...]:
    """Return horizons as they are traded together, the shortest first.

    Raises
    ------
    BacktestError
        When there is none, or one comes twice.
    """
    if not horizons or len(set(horizons)) < len(horizons):
        raise BacktestError(
            "these horizons cannot be traded together",
            got=[h.name for h in horizons],
            allowed="one or more, each once",
            remedy="name each horizon once",
        )
    return tuple(sorted(horizons, key=lambda h: h.minutes))


def finest_timeframe(horizons: Sequence[Horizon]) -> Timeframe:
    """Return the shortest bar of some horizons: that of the bars on which they trade together."""
    return min((h.timeframe for h in horizons), key=lambda t: t.minutes)


def checked_predictions(predictions: pl.DataFrame, horizons: Sequence[Horizon]) -> pl.DataFrame:
    """Return the predictions, or say what makes them unusable.

    Raises
    ------
    BacktestError
        On missing columns, no rows, other horizons or another engine, or a symbol with two rows
        of one horizon at one time.
    """
    missing = [c for c in PREDICTION_SCHEMA.names() if c not in predictions.columns]
    if missing or predictions.is_empty():
        raise BacktestError(
            "predictions are unusable",
            got=f"{predictions.height} rows, without {missing}",
            allowed="rows of models.forecast.PREDICTION_SCHEMA",
            remedy="run the walk-forward first",
        )
    for column, only in (
        (Prediction.HORIZON, [h.name for h in horizons]),
        (Prediction.ENGINE, [ENSEMBLE_ENGINE]),
    ):
        found = predictions[column].unique().sort().to_list()
        if found != sorted(only):
            raise BacktestError(
                f"predictions of another {column}",
                got=found,
                allowed=f"{only}, all of them",
                remedy="filter the predictions, or blend the engines first",
            )
    keys = (Prediction.HORIZON, Prediction.SYMBOL, Prediction.AS_OF)
    if predictions.select(keys).is_duplicated().any():
        raise BacktestError(
            "a symbol has two predictions at one time",
            allowed="one row per horizon, symbol and as_of",
            remedy="pass the newest version of each prediction only",
        )
    return predictions.select(PREDICTION_SCHEMA.names())


def decisions_due(
    predictions: pl.DataFrame, tape: Tape, horizons: Sequence[Horizon]
) -> dict[int, Due]:
    """Return the forecasts by the bar before which they are acted on, the newest per symbol.

    What several horizons have for one bar is one decision, at the latest of their moments.

    Raises
    ------
    BacktestError
        When none of a horizon can be traded on these bars.
    """
    bar_of = {start: k for k, start in enumerate(tape.starts)}
    timeframe = finest_timeframe(horizons)
    moments: dict[int, Moment] = {}
    parts: dict[int, list[tuple[Horizon, pl.DataFrame]]] = {}
    for horizon in horizons:
        own = predictions.filter(pl.col(Prediction.HORIZON) == horizon.name)
        places: list[tuple[dt.datetime, int]] = []
        for as_of in own[Prediction.AS_OF].unique().sort():
            moment = moment_of(as_of, horizon, timeframe)
            bar = None if moment is None else bar_of.get(moment.fills_at)
            if moment is None or bar is None:
                continue
            places.append((as_of, bar))
            # Of those that share a bar the latest stays.
            if bar not in moments or moment.decided_at >= moments[bar].decided_at:
                moments[bar] = moment
        if not places:
            raise BacktestError(
                "no prediction can be traded on these bars",
                got=f"predictions of {horizon.name} from {own[Prediction.AS_OF].min()}, "
                f"bars from {tape.starts[0]} to {tape.ends[-1]}",
                allowed=f"bars of timeframe {timeframe} that follow the predictions",
                remedy="pass the bars of the period, in the shortest timeframe of the horizons",
            )
        for bar, part in _newest_by_bar(own, places).items():
            parts.setdefault(bar, []).append((horizon, part))
    return {bar: Due(moments[bar], tuple(found)) for bar, found in parts.items()}


def _newest_by_bar(
    predictions: pl.DataFrame, places: Sequence[tuple[dt.datetime, int]]
) -> dict[int, pl.DataFrame]:
    """Return the newest forecast of each symbol by the bar that its moment belongs to."""
    bars = pl.DataFrame(
        places,
        schema={Prediction.AS_OF: predictions.schema[Prediction.AS_OF], "_bar": pl.Int64},
        orient="row",
    )
    parts = (
        predictions.join(bars, on=Prediction.AS_OF)
        .sort(Prediction.AS_OF, Prediction.SYMBOL)
        .unique([Prediction.SYMBOL, "_bar"], keep="last", maintain_order=True)
        .partition_by("_bar", as_dict=True, include_key=False)
    )
    return {int(key[0]): part for key, part in parts.items()}


def clock_at(now: dt.datetime, is_open: bool, session: dt.date) -> Clock:
    """Return the broker's clock before or during a session."""
    opens = calendar.next_session(session) if is_open else session
    return Clock(now, is_open, calendar.session_open(opens), calendar.session_close(session))


def as_published(composed: pl.DataFrame, now: dt.datetime, batch_id: str) -> pl.DataFrame:
    """Fill in what publication to the ledger would; nothing is chained here."""
    c = SignalColumn
    moment = pl.lit(now).cast(SIGNAL_SCHEMA[c.AS_OF])
    return composed.with_columns(
        pl.concat_str(pl.lit(f"{batch_id}:"), c.SYMBOL).alias(c.ID),
        pl.lit(batch_id).alias(c.BATCH_ID),
        pl.lit(1, dtype=pl.Int64).alias(c.REVISION),
        moment.alias(c.TS_EMIT),
        moment.alias(c.AS_OF),
        pl.lit("").alias(c.PREV_HASH),
        pl.lit("").alias(c.HASH),
    ).select(SIGNAL_SCHEMA.names())
