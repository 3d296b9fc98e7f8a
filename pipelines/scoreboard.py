"""Live signals and the backtest's promises, read from the stores for the scoreboard.

A promise is of the walk-forward's forecasts before the first live one, so it stays the same from
day to day: it is kept in the lake with a digest of all that it was made from.
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from functools import cache, partial

import polars as pl

from market import calendar
from market.horizons import Horizon
from market.lake import Lake
from market.ledger import Ledger
from market.lineage import Inputs, input_hashes
from market.timeframes import Timeframe
from models.forecast import Prediction
from pipelines.code_version import code_version
from pipelines.drift import newest_walked
from pipelines.training import read_labels
from signals.publish import read_signals
from signals.record import read_outcomes
from signals.scoreboard import (
    BOARD_SCHEMA,
    SIDE_SCHEMA,
    Board,
    Judged,
    join_sides,
    judge_predictions,
    judge_signals,
    score_judged,
)

PROMISES_TABLE = "promises"
_MADE_FROM = "made_from"
_ORDER = (Judged.HORIZON, Judged.ENGINE, Judged.AS_OF, Judged.SYMBOL)


def read_scoreboard(
    lake: Lake,
    ledger: Ledger,
    horizons: Sequence[Horizon],
    *,
    band_bps: float,
    seed: int,
    engine: str | None = None,
    since: dt.datetime | None = None,
) -> pl.DataFrame:
    """Return the scoreboard of some horizons.

    Parameters
    ----------
    lake, ledger
        The stores.
    horizons : sequence of Horizon
        Rows of the horizons table.
    band_bps, seed
        The neutral band, and the seed of the bootstrap.
    engine : str, optional
        One alone.
    since : datetime, optional
        Signals of which ``as_of`` is from then on.

    Returns
    -------
    pl.DataFrame
        ``signals.scoreboard.BOARD_SCHEMA``. Promises are the walk-forward's forecasts of the
        newest sessions before the first live one of any engine; the kept ones where they are
        still what they would be now.
    """
    made_from = _Origins(lake, band_bps, seed)
    outcomes = read_outcomes(ledger, since=since)
    parts = [pl.DataFrame(schema=BOARD_SCHEMA)]
    for horizon in horizons:
        signals = read_signals(ledger, since=since, horizon=horizon.name)
        live = judge_signals(signals, outcomes, band_bps=band_bps)
        first = _first_session(live)
        promised = _kept(lake, horizon, made_from(horizon, first))
        if promised is None:
            promised = _promise(lake, horizon, first, band_bps=band_bps, seed=seed)
        if engine is not None:
            live = live.filter(pl.col(Judged.ENGINE) == engine)
            promised = promised.filter(pl.col(Board.ENGINE) == engine)
        parts.append(join_sides(_score(live, seed), promised))
    return pl.concat(parts)


def keep_promises(
    lake: Lake, ledger: Ledger, horizons: Sequence[Horizon], *, band_bps: float, seed: int
) -> list[str]:
    """Make the promises of horizons again where they rest on something new, and keep them.

    Parameters
    ----------
    lake, ledger, horizons, band_bps, seed
        As for :func:`read_scoreboard`.

    Returns
    -------
    list of str
        The horizons whose promises were made.
    """
    made_from = _Origins(lake, band_bps, seed)
    outcomes = read_outcomes(ledger)
    made: list[str] = []
    for horizon in horizons:
        live = judge_signals(
            read_signals(ledger, horizon=horizon.name), outcomes, band_bps=band_bps
        )
        first = _first_session(live)
        origin = made_from(horizon, first)
        if _kept(lake, horizon, origin) is None:
            rows = _promise(lake, horizon, first, band_bps=band_bps, seed=seed)
            rows = rows.with_columns(pl.lit(origin).alias(_MADE_FROM))
            if lake.replace(PROMISES_TABLE, rows, [horizon.name]) and rows.height:
                made.append(horizon.name)
    return made


class _Origins:
    """Digests of all that promises are made from; what horizons share is read once."""

    def __init__(self, lake: Lake, band_bps: float, seed: int) -> None:
        self._lake, self._shared = lake, f"{code_version()} {band_bps!r} {seed}"
        self._bars: Callable[[Timeframe], dict[dt.date, Inputs]] = cache(
            partial(input_hashes, lake, warm_up_sessions=0)
        )

    def __call__(self, horizon: Horizon, before: dt.date | None) -> str:
        """Return the digest of a promise on sessions before one, or on all."""
        timeframe = Timeframe.M1 if horizon.timeframe.is_intraday else Timeframe.D1
        bars = self._bars(timeframe)
        # Labels of the sessions before have ended by then, so later bars change nothing.
        end = calendar.offset_session(before, horizon.sessions) if before else None
        reached = max((s for s in bars if end is None or s <= end), default=None)
        text = [
            self._shared,
            horizon.name,
            str(before),
            bars[reached].history if reached else "",
            *self._predictions(horizon),
            *(self._small(name, before) for name in ("regimes", "identities")),
        ]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()

    def _predictions(self, horizon: Horizon) -> list[str]:
        if not self._lake.exists("predictions"):
            return []
        files = self._lake.open("predictions").file_uris()
        # A file is never changed, and its folder says whose it is.
        mine = f"/{Prediction.HORIZON}={horizon.name}/"
        return sorted(name for _, _, name in (f.partition(mine) for f in files) if name)

    def _small(self, table: str, before: dt.date | None) -> str:
        if not self._lake.exists(table):
            return ""
        rows = self._lake.scan(table)
        if table == "regimes" and before is not None:
            rows = rows.filter(pl.col("session") < before)
        return hashlib.sha256(rows.collect().write_csv().encode()).hexdigest()


def _first_session(live: pl.DataFrame) -> dt.date | None:
    first = live[Judged.SESSION].min()
    return first if isinstance(first, dt.date) else None


def _kept(lake: Lake, horizon: Horizon, origin: str) -> pl.DataFrame | None:
    if not lake.exists(PROMISES_TABLE):
        return None
    wanted = (pl.col(Board.HORIZON) == horizon.name) & (pl.col(_MADE_FROM) == origin)
    rows = lake.scan(PROMISES_TABLE).filter(wanted).collect()
    return None if rows.is_empty() else rows.select(SIDE_SCHEMA.names()).cast(SIDE_SCHEMA)


def _promise(
    lake: Lake, horizon: Horizon, before: dt.date | None, *, band_bps: float, seed: int
) -> pl.DataFrame:
    """Return the scores of the walk-forward's newest sessions before one."""
    nothing = pl.DataFrame(schema=SIDE_SCHEMA)
    if not lake.exists("predictions"):
        return nothing
    walked = newest_walked(lake, horizon, pl.col(Prediction.HORIZON) == horizon.name, before)
    if walked.is_empty():
        return nothing
    begin = walked[Prediction.SESSION].min()
    labels = read_labels(lake, horizon, begin if isinstance(begin, dt.date) else None)
    regimes = lake.scan("regimes").collect()
    return _score(judge_predictions(walked, labels, regimes, band_bps=band_bps), seed)


def _score(judged: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Return the scores of one side.

    In what order a lake and a join give their rows is not certain, and sums of them differ by it
    in their last bit: what is kept must not.
    """
    return score_judged(judged.sort(_ORDER), seed=seed)
