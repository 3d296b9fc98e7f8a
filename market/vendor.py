"""One source of two roads: flat files for history where they cost less, REST for the rest."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable, Sequence

import polars as pl

from market import calendar
from market.errors import SourceError
from market.flatfiles import AbsentFileError, FlatFileSource
from market.polygon import PolygonSource
from market.polygon_meter import RequestMetrics
from market.request_estimate import BARS_PER_PAGE
from market.schema import Bar
from market.source import EVERY
from market.timeframes import Timeframe

# A day's file is there by about this hour, New York time, of the calendar day after.
FILE_HOUR = dt.time(11)
# Sessions of one symbol on a page of the REST service.
_SESSIONS_PER_PAGE = {
    Timeframe.M1: BARS_PER_PAGE // calendar.REGULAR_MINUTES,
    Timeframe.D1: BARS_PER_PAGE,
}


class VendorSource:
    """A :class:`~market.source.BarSource` that takes each session's bars by the cheaper road.

    A session comes from its flat file when the file should be there by now and the files of the
    sessions asked for are fewer than the pages that REST would take by symbol; the whole market
    (``EVERY``) always does where there is a file. One whose file is not there after all, and one
    that is not filed yet, come over REST. Corporate actions and tickers always do.

    Flat files have no vwap. So that a bar does not depend on the road it came by, ``vwap`` is
    null on both: what needs it uses (high + low + close) / 3 for training as for today.

    Parameters
    ----------
    rest : PolygonSource
        Raw prices.
    flat : FlatFileSource
        With the same delay of the data plan.
    clock : callable, optional
        The time of day (aware), which says what files there are; tests replace it.
    on_progress : callable, optional
        Called with (done, total) files; the REST source reports its own requests.

    Raises
    ------
    SourceError
        When the two disagree on the delay, or the REST source adjusts prices.
    """

    def __init__(
        self,
        rest: PolygonSource,
        flat: FlatFileSource,
        *,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if rest.known_delay != flat.known_delay or rest.adjusted:
            raise SourceError(
                "the two roads to the vendor would tell different bars",
                got=f"delays of {rest.known_delay} and {flat.known_delay},"
                f" {'adjusted' if rest.adjusted else 'raw'} REST prices",
                allowed="one delay, raw prices",
                remedy="give both the delay of the data plan; adjusted prices come over REST alone",
            )
        self._rest = rest
        self._flat = flat
        self._clock = clock
        self._on_progress = on_progress
        self._origins: dict[tuple[Timeframe, dt.date], str] = {}

    def __repr__(self) -> str:
        return f"VendorSource({self._rest!r}, {self._flat!r})"

    @property
    def name(self) -> str:
        """Short name; :meth:`origin` says it session by session."""
        return f"{self._flat.name}+rest"

    @property
    def adjusted(self) -> bool:
        """Prices are raw."""
        return False

    @property
    def metrics(self) -> RequestMetrics:
        """Requests, bytes and waits of both roads so far."""
        return self._rest.metrics + self._flat.metrics

    def afresh(self) -> VendorSource:
        """Return this source going past kept answers, to look for revisions; the rest is shared."""
        other = copy.copy(self)
        other._rest = self._rest.afresh()
        return other

    def origin(self, timeframe: Timeframe, session: dt.date) -> str:
        """Return the name of the source that the newest bars of a session came from."""
        return self._origins.get((timeframe, session), self.name)

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        """Return raw ``1m`` or ``1d`` bars of the sessions from ``start`` to ``end``.

        Returns
        -------
        pl.DataFrame
            ``BAR_SCHEMA``, sorted by symbol and time; ``vwap`` is null.

        Raises
        ------
        SourceError
            An unknown symbol, or whatever either road refuses (a file that the plan does not
            cover, too); never half a frame.
        """
        wanted = [EVERY] if EVERY in symbols else sorted(set(symbols))
        sessions = calendar.sessions_between(start, end)
        files = self._files(wanted, timeframe, sessions)
        if not files:
            bars = _without_vwap(self._rest.bars(wanted, timeframe, start, end))
            self._note(timeframe, sessions, self._rest.name)
            return bars
        parts = self._read_files(wanted, timeframe, files)
        others = [s for s in sessions if s not in parts]
        frames = [*parts.values()]
        for first, last in _spans(others):
            frames.append(_without_vwap(self._rest.bars(wanted, timeframe, first, last)))
        bars = frames[0]  # Each frame is sorted.
        if len(frames) > 1:
            bars = pl.concat(frames).sort(Bar.SYMBOL, Bar.BAR_START)
        if not others:  # Otherwise REST was asked for every symbol, and knew it.
            self._rest.check_known(sorted(set(wanted) - {EVERY, *bars[Bar.SYMBOL].unique()}))
        self._note(timeframe, list(parts), self._flat.name)
        self._note(timeframe, others, self._rest.name)
        return bars

    def splits(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return splits with an ex-date in the range (``SPLIT_SCHEMA``), over REST."""
        return self._rest.splits(symbols, start, end)

    def dividends(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return dividends with an ex-date in the range (``DIVIDEND_SCHEMA``), over REST."""
        return self._rest.dividends(symbols, start, end)

    def tickers(self) -> pl.DataFrame:
        """Return the symbols that the vendor knows (``TICKER_SCHEMA``), over REST."""
        return self._rest.tickers()

    def _files(
        self, symbols: Sequence[str], timeframe: Timeframe, sessions: Sequence[dt.date]
    ) -> list[dt.date]:
        """Return the sessions to read from files: all that are filed by now, or none."""
        per_page = _SESSIONS_PER_PAGE.get(timeframe)
        if per_page is None:
            return []
        now = self._clock()
        filed = [s for s in sessions if _filed_at(s) <= now]
        if EVERY in symbols:
            return filed
        pages = len(symbols) * -(-len(filed) // per_page)
        return filed if len(filed) < pages else []

    def _read_files(
        self, symbols: Sequence[str], timeframe: Timeframe, sessions: Sequence[dt.date]
    ) -> dict[dt.date, pl.DataFrame]:
        found: dict[dt.date, pl.DataFrame] = {}
        kept = None if EVERY in symbols else symbols
        for done, session in enumerate(sessions):
            self._report(done, len(sessions))
            try:
                found[session] = self._flat.session_bars(timeframe, session, kept)
            except AbsentFileError:
                continue
        self._report(len(sessions), len(sessions))
        return found

    def _note(self, timeframe: Timeframe, sessions: Sequence[dt.date], name: str) -> None:
        self._origins.update(((timeframe, s), name) for s in sessions)

    def _report(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, total)


def _filed_at(session: dt.date) -> dt.datetime:
    day_after = session + dt.timedelta(days=1)
    return dt.datetime.combine(day_after, FILE_HOUR, calendar.NEW_YORK).astimezone(dt.UTC)


def _without_vwap(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.with_columns(pl.lit(None, pl.Float64).alias(Bar.VWAP))


def _spans(sessions: Sequence[dt.date]) -> list[tuple[dt.date, dt.date]]:
    """Return the first and last of each run of consecutive sessions."""
    spans: list[tuple[dt.date, dt.date]] = []
    for session in sessions:
        if spans and calendar.next_session(spans[-1][1]) == session:
            spans[-1] = spans[-1][0], session
        else:
            spans.append((session, session))
    return spans
