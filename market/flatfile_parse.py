"""From the bytes of a gzipped day file to bars, as they arrive.

A file is decompressed and parsed block by block: neither the file nor its text is ever whole in
memory or on disk. A file that is not whole, or a row that does not say which bar it is, refuses the
file: a day is all or nothing. What a bar says is not judged here: a price that cannot be is a row
with that price, or with none where it is no number.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import polars as pl

from market import calendar
from market.errors import SourceError
from market.polygon_parse import check_range
from market.schema import BAR_SCHEMA, UTC_MICROSECONDS, Bar
from market.timeframes import Timeframe

ENDPOINT_URL = "https://files.massive.com"
BUCKET = "flatfiles"
COLUMNS = pl.Schema(
    {
        "ticker": pl.String(),
        "volume": pl.Float64(),
        "open": pl.Float64(),
        "close": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "window_start": pl.Int64(),
        "transactions": pl.Int64(),
    }
)

_BLOCK_BYTES = 4 << 20
_LONGEST_HEADER = 4096
_MINUTE_NS = 60_000_000_000
_GZIP = 31
_TICKER = r"^[A-Za-z0-9][A-Za-z0-9.:\-]{0,31}$"
_REMEDY = "run again; if it stays, report the file to the vendor and ingest this session over REST"


@dataclass(frozen=True, slots=True)
class DayFile:
    """One day file: what it must hold, and how its bytes become bars.

    Attributes
    ----------
    key : str
        Its name at the vendor, for messages.
    timeframe : Timeframe
        ``1m`` or ``1d``.
    session : date
        The session that every row must belong to, by its date in New York.
    delay : timedelta
        ``known_at`` is ``bar_end`` plus this.

    Notes
    -----
    Source: the vendor's documentation, "Flat Files", "Minute Aggregates" and "Day Aggregates":
    prices are not adjusted, ``window_start`` is in nanoseconds since 1970, UTC.
    """

    key: str
    timeframe: Timeframe
    session: dt.date
    delay: dt.timedelta

    def read(self, chunks: Iterable[bytes], symbols: Collection[str] | None) -> pl.DataFrame:
        """Return the file's bars, all of them or those of some symbols.

        Parameters
        ----------
        chunks : iterable of bytes
            The gzipped file in pieces of any size.
        symbols : collection of str or None
            Symbols to keep; None keeps all. A symbol without a bar has no rows.

        Returns
        -------
        pl.DataFrame
            ``BAR_SCHEMA``, sorted by symbol and time. ``vwap`` is null: flat files have none.

        Raises
        ------
        SourceError
            A file that is cut short or not gzip, lacks a column, or has a row without a symbol,
            with fewer or more values than columns, or of another time than this session's.
        """
        lines = _whole_lines(self._decompressed(chunks), _BLOCK_BYTES)
        names: list[str] | None = None
        parts: list[pl.DataFrame] = []
        rows = 0
        with closing(_one_ahead(lines)) as blocks:
            for block in blocks:
                if names is None:
                    names, block = self._header(block)
                if not block.strip():
                    continue
                table = self._checked(self._parsed(block, names))
                rows += table.height
                if symbols is not None:
                    table = table.filter(pl.col("ticker").is_in(list(symbols)))
                parts.append(self._bars(table))
        if not rows:
            raise self._bad("it has no rows")
        return self._sorted(pl.concat(parts))

    def _decompressed(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        inflate = zlib.decompressobj(_GZIP)
        begun = False
        try:
            for chunk in chunks:
                data = chunk
                while data:
                    if inflate.eof:  # A gzip file may have several members, one after another.
                        inflate = zlib.decompressobj(_GZIP)
                    begun = True
                    yield inflate.decompress(data, _BLOCK_BYTES)
                    data = inflate.unused_data or inflate.unconsumed_tail
        except zlib.error as error:
            raise self._bad(f"it is not intact gzip ({error})") from error
        if not begun or not inflate.eof:
            raise self._bad("it is cut short: the gzip stream does not end")

    def _header(self, block: bytes) -> tuple[list[str], bytes]:
        first, _, rest = block.partition(b"\n")
        text = first[:_LONGEST_HEADER].decode("utf-8", "replace").removeprefix("\ufeff")
        names = text.rstrip("\r").split(",")
        if not set(COLUMNS) <= set(names) or len(set(names)) != len(names):
            raise SourceError(
                f"the flat file {self.key} does not have the columns of a day file",
                got=text[:120],
                allowed=", ".join(COLUMNS),
                remedy="check that the bucket holds the vendor's stock aggregates",
            )
        return names, rest

    def _parsed(self, block: bytes, names: list[str]) -> pl.DataFrame:
        try:
            table = _read_csv(block, names, COLUMNS)
        except pl.exceptions.PolarsError:
            table = self._leniently_parsed(block, names)
        if block.count(b",") != table.height * (len(names) - 1):
            raise self._bad("a line has fewer values than there are columns")
        return table.select(COLUMNS.names())

    def _leniently_parsed(self, block: bytes, names: list[str]) -> pl.DataFrame:
        """Return a block in which some value is no number: null there."""
        try:
            text = _read_csv(block, names, pl.Schema())
        except pl.exceptions.PolarsError as error:
            said = str(error).splitlines()[0][:120]
            raise self._bad(f"a line cannot be read ({said})") from None
        return text.with_columns(pl.col(n).cast(t, strict=False) for n, t in COLUMNS.items())

    def _checked(self, table: pl.DataFrame) -> pl.DataFrame:
        rules = self._rules()
        broken = table.select(
            (~rule.fill_null(value=False)).any().alias(str(n))
            for n, (_, _, rule) in enumerate(rules)
        ).row(0)
        for (problem, column, rule), is_broken in zip(rules, broken, strict=True):
            if is_broken:
                row = table.filter(~rule.fill_null(value=False)).row(0, named=True)
                at = "" if column == "ticker" else f" of {row['ticker']}"
                raise self._bad(f"column {column!r}{at} {problem}", row[column])
        return table

    def _rules(self) -> list[tuple[str, str, pl.Expr]]:
        """Return (what is wrong, column, expression that is true of a good row)."""
        start = pl.col("window_start")
        first, last = (
            _nanoseconds(calendar.midnight(day))
            for day in (self.session, self.session + dt.timedelta(days=1))
        )
        rules = [
            # Whether it could be a symbol is asked once per symbol, in ``_sorted``.
            ("is empty", "ticker", pl.col("ticker").is_not_null()),
            (
                f"is not nanoseconds within {self.session} in New York",
                "window_start",
                start.is_between(first, last, closed="left"),
            ),
        ]
        if self.timeframe is Timeframe.M1:
            rules.append(("is not on a whole minute", "window_start", start % _MINUTE_NS == 0))
        return rules

    def _bars(self, table: pl.DataFrame) -> pl.DataFrame:
        if self.timeframe is Timeframe.M1:
            start = (pl.col("window_start") // 1000).cast(UTC_MICROSECONDS)
            end = start + dt.timedelta(minutes=1)
        else:
            start = pl.lit(calendar.session_open(self.session), UTC_MICROSECONDS)
            end = pl.lit(calendar.session_close(self.session), UTC_MICROSECONDS)
        columns = {
            Bar.SYMBOL: pl.col("ticker"),
            Bar.SESSION: pl.lit(self.session),
            Bar.BAR_START: start,
            Bar.BAR_END: end,
            Bar.KNOWN_AT: end + self.delay,
            Bar.VWAP: pl.lit(None, pl.Float64),
            Bar.TRADES: pl.col("transactions"),
        }
        return table.select(columns.get(Bar(n), pl.col(n)).alias(n) for n in BAR_SCHEMA)

    def _sorted(self, bars: pl.DataFrame) -> pl.DataFrame:
        try:
            bars = check_range(bars, self.session, self.session)
        except SourceError as error:
            raise self._bad(error.problem, error.got) from None
        strange = bars.select(pl.col(Bar.SYMBOL).unique()).filter(
            ~pl.col(Bar.SYMBOL).str.contains(_TICKER)
        )
        if strange.height:
            raise self._bad("not a symbol", strange[Bar.SYMBOL][0][:40])
        return bars

    def _bad(self, problem: str, got: object = None) -> SourceError:
        return SourceError(
            f"the flat file {self.key} is unusable: {problem}", got=got, remedy=_REMEDY
        )


def _whole_lines(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield blocks of about ``size`` bytes that end at the end of a line."""
    held: list[bytes] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < size:
            continue
        block = b"".join(held)
        # Without any end of a line this is no CSV: what parses it will say so.
        cut = block.rfind(b"\n") + 1 or len(block)
        held, length = [block[cut:]], len(block) - cut
        yield block[:cut]
    if length:
        yield b"".join(held)


def _one_ahead(blocks: Iterator[bytes]) -> Generator[bytes]:
    """Yield the blocks while another thread fetches and decompresses the next one."""
    with ThreadPoolExecutor(1, "flat-file") as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block


def _read_csv(block: bytes, names: list[str], kinds: pl.Schema) -> pl.DataFrame:
    return pl.read_csv(
        block,
        has_header=False,
        schema={n: kinds.get(n, pl.String()) for n in names},
        quote_char=None,
    )


def _nanoseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000
