"""Read from the lake what features may look at besides their own bars."""

import datetime as dt
from functools import partial
from pathlib import Path

import polars as pl

from features.longer_bars import INNER, TIMEFRAMES
from features.premarket import USUAL_SESSIONS
from features.sentiment import BASE_DAYS, SILENCE
from features.side import SideTables
from market import calendar
from market.bars import name_companies, read_adjusted, read_premarket
from market.errors import MarketError
from market.lake import Lake
from market.reference_ingest import INDICES_TABLE, NEWS_TABLE, YIELDS_TABLE
from market.schema import Bar, IndexBar, News, Ticker, Yield
from market.timeframes import Timeframe
from pipelines.feature_run import SideReader, warm_up_sessions
from pipelines.settings import Settings

_SECTOR = "sector"


def read_side_tables(
    lake: Lake,
    timeframe: Timeframe,
    start: dt.date,
    end: dt.date,
    sectors: Path | None = None,
) -> SideTables:
    """Return the side tables for the features of some sessions.

    Parameters
    ----------
    lake : Lake
        Bars, and macro values and news where there are any.
    timeframe : Timeframe
        Of the bars that the features are computed on.
    start, end : date
        First and last session whose features are wanted; what lies before and is needed for
        their first values is read too.
    sectors : Path, optional
        CSV with ``symbol`` and ``sector``, one row per symbol.

    Returns
    -------
    SideTables
        Symbols are named as :func:`market.bars.by_company` names them; a table that the lake
        lacks is ``None``.

    Raises
    ------
    MarketError
        When the CSV lacks a column or names a symbol twice.

    Examples
    --------
    >>> import tempfile
    >>> lake = Lake(tempfile.mkdtemp())
    >>> day = dt.date(2024, 7, 3)
    >>> read_side_tables(lake, Timeframe.D1, day, day).news is None
    True
    """
    longer: dict[Timeframe, pl.DataFrame] = {}
    premarket = None
    if timeframe.is_intraday:
        # Daily bars also tell what was usual before the open.
        usual = _back(start, 2 * USUAL_SESSIONS)
        for other in TIMEFRAMES:
            if other.minutes > timeframe.minutes:
                first = _back(start, warm_up_sessions(other, INNER))
                first = min(first, usual) if other is Timeframe.D1 else first
                longer[other] = _companies(lake, read_adjusted(lake, other, first, end))
        premarket = _companies(lake, read_premarket(lake, usual, end))
    return SideTables(
        longer=longer,
        indices=_until(lake, INDICES_TABLE, IndexBar.SESSION, end),
        yields=_until(lake, YIELDS_TABLE, Yield.DATE, end),
        news=_news(lake, start, end),
        premarket=premarket,
        sectors=None if sectors is None else read_sectors(lake, sectors, end),
    )


def side_reader(settings: Settings, lake: Lake, timeframe: Timeframe) -> SideReader:
    """Return what reads the side tables of an installation for some sessions."""
    return partial(_read, lake, timeframe, settings.features.sectors_file)


def _read(
    lake: Lake, timeframe: Timeframe, sectors: Path | None, start: dt.date, end: dt.date
) -> SideTables:
    return read_side_tables(lake, timeframe, start, end, sectors)


def _back(session: dt.date, sessions: int) -> dt.date:
    return calendar.sessions_around(calendar.next_session(session), sessions + 1, 0)[0]


def _companies(lake: Lake, bars: pl.DataFrame) -> pl.DataFrame:
    named = name_companies(lake, bars, date=Bar.SESSION)
    return named.sort(Bar.SYMBOL, Bar.BAR_START)


def _until(lake: Lake, table: str, date: str, end: dt.date) -> pl.DataFrame | None:
    """Return a small table from its beginning: what is measured against a year needs it."""
    if not lake.exists(table):
        return None
    return lake.scan(table).filter(pl.col(date) <= end).collect()


def _news(lake: Lake, start: dt.date, end: dt.date) -> pl.DataFrame | None:
    if not lake.exists(NEWS_TABLE):
        return None
    # A silence before the window hides when the table began.
    first = start - dt.timedelta(days=BASE_DAYS) - 2 * SILENCE
    rows = (
        lake.scan(NEWS_TABLE)
        .filter(pl.col(News.MONTH).is_between(first.replace(day=1), end))
        .with_columns(
            pl.col(News.PUBLISHED_AT)
            .dt.convert_time_zone(str(calendar.NEW_YORK))
            .dt.date()
            .alias("_date")
        )
        .collect()
    )
    return name_companies(lake, rows, date="_date").drop("_date")


def read_sectors(lake: Lake, path: Path, end: dt.date) -> pl.DataFrame:
    """Return ``symbol``, ``sector`` of the companies as they are named at ``end``.

    Raises
    ------
    MarketError
        When the file lacks a column or names a symbol twice.
    """
    rows = pl.read_csv(path, infer_schema=False)
    wanted = [Ticker.SYMBOL.value, _SECTOR]
    missing = [c for c in wanted if c not in rows.columns]
    if missing:
        raise MarketError(
            "the table of sectors lacks columns",
            got=", ".join(rows.columns),
            allowed=", ".join(wanted),
            remedy=f"add {', '.join(missing)} to its header",
        )
    rows = rows.select(wanted).drop_nulls()
    twice = rows.filter(pl.col(Ticker.SYMBOL).is_duplicated())[Ticker.SYMBOL]
    if len(twice):
        raise MarketError(
            "the table of sectors names a symbol twice",
            got=twice[0],
            allowed="one row per symbol",
            remedy="remove the double",
        )
    dated = rows.with_columns(pl.lit(end).alias("_date"))
    return name_companies(lake, dated, date="_date").drop("_date")
