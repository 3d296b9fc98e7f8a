"""Bulk history from the vendor's flat files: one S3 object holds one session of the whole market.

The only file that knows ``boto3``. What an object holds is checked in
:mod:`market.flatfile_parse`; nothing is unpacked to disk.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import boto3
import polars as pl
import urllib3.exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr

from market import calendar
from market.errors import SourceError
from market.flatfile_parse import BUCKET, ENDPOINT_URL, DayFile
from market.polygon_meter import Meter, RequestMetrics
from market.polygon_wire import check_base_url
from market.schema import BAR_SCHEMA, Bar, Ticker, empty
from market.source import EVERY, BarSource
from market.timeframes import Timeframe

REQUEST_ATTEMPTS = 4
BODY_ATTEMPTS = 3

_FOLDERS = {
    Timeframe.M1: "us_stocks_sip/minute_aggs_v1",
    Timeframe.D1: "us_stocks_sip/day_aggs_v1",
}
_CHUNK_BYTES = 1 << 20
_KEY_NAMES = "POLYGON_S3_ACCESS_KEY and POLYGON_S3_SECRET_KEY"
_WRONG_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "401"})
_DENIED = frozenset({"AccessDenied", "403"})
_ABSENT = frozenset({"NoSuchKey", "404"})
_BROKEN_BODY = (BotoCoreError, urllib3.exceptions.HTTPError)


class AbsentFileError(SourceError):
    """The vendor has no such file: not yet, or never."""


class FlatFileSource:
    """A :class:`~market.source.BarSource` on the vendor's day files.

    Parameters
    ----------
    access_key, secret_key : SecretStr
        The keys of the flat-file plan. They sign requests; no message, log or repr holds them.
    endpoint_url : str, default "https://files.massive.com"
        The S3 endpoint (``https://files.polygon.io`` is its older name); ``http://`` on loopback.
    bucket : str, default "flatfiles"
        The bucket.
    known_delay : timedelta, default 0
        Delay of the data plan: ``known_at`` is ``bar_end`` plus this.
    timeout_seconds : float, default 30.0
        Time limit for connecting and for each read.
    on_progress : callable, optional
        Called by :meth:`bars` with (done, total) files.
    actions : BarSource, optional
        Where splits, dividends and tickers come from: flat files hold none of them.

    Raises
    ------
    SourceError
        When a key, the address, the delay or the time limit cannot be used.

    Notes
    -----
    A request is tried at most four times with exponential backoff (botocore's ``standard`` mode);
    a body that breaks off is read again from its beginning, three times in all. Source: the
    vendor's documentation, "Flat Files Quickstart": endpoint, bucket, names of the files, and that
    a day's file is there by about 11:00 New York time of the day after.

    Examples
    --------
    >>> FlatFileSource(SecretStr("access"), SecretStr("secret"))
    FlatFileSource(endpoint_url='https://files.massive.com', bucket='flatfiles')
    """

    def __init__(
        self,
        access_key: SecretStr,
        secret_key: SecretStr,
        endpoint_url: str = ENDPOINT_URL,
        *,
        bucket: str = BUCKET,
        known_delay: dt.timedelta = dt.timedelta(0),
        timeout_seconds: float = 30.0,
        on_progress: Callable[[int, int], None] | None = None,
        actions: BarSource | None = None,
    ) -> None:
        if known_delay < dt.timedelta(0) or not timeout_seconds > 0:
            raise SourceError(
                "the delay or the time limit of the source is impossible",
                got=f"known_delay={known_delay}, timeout_seconds={timeout_seconds}",
                allowed="a delay of zero or more, a time limit above zero",
                remedy="correct the setting",
            )
        self._endpoint_url = _check_endpoint(endpoint_url)
        self._bucket = bucket
        self._delay = known_delay
        self._on_progress = on_progress
        self._actions = actions
        self._known: set[str] = set()
        self._meter = Meter()
        self._client = _connect(access_key, secret_key, self._endpoint_url, timeout_seconds)

    def __repr__(self) -> str:
        return f"FlatFileSource(endpoint_url={self._endpoint_url!r}, bucket={self._bucket!r})"

    @property
    def name(self) -> str:
        """Short name, written beside the data."""
        return "polygon-flat-files"

    @property
    def adjusted(self) -> bool:
        """Flat files hold raw prices."""
        return False

    @property
    def known_delay(self) -> dt.timedelta:
        """What is added to ``bar_end`` to make ``known_at``."""
        return self._delay

    @property
    def metrics(self) -> RequestMetrics:
        """Requests, bytes (compressed) and retries so far."""
        return self._meter.metrics

    def afresh(self) -> FlatFileSource:
        """Return this source: it keeps no file, so every answer is new."""
        return self

    def origin(self, timeframe: Timeframe, session: dt.date) -> str:
        """Return the name of this source."""
        return self.name

    def session_bars(
        self, timeframe: Timeframe, session: dt.date, symbols: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Return the raw bars of one session: of the whole market, or of some symbols.

        Parameters
        ----------
        timeframe : Timeframe
            ``1m`` (extended hours included) or ``1d``.
        session : date
            A trading day whose file is there.
        symbols : sequence of str, optional
            Symbols to keep; None keeps every one. A symbol without a bar has no rows.

        Returns
        -------
        pl.DataFrame
            ``BAR_SCHEMA``, sorted by symbol and time; ``vwap`` is null.

        Raises
        ------
        SourceError
            Refused, not there (yet), out of reach, or a file with anything wrong in it, also in
            rows that were not asked for; never half a frame.
        MarketError
            When the exchange is closed on this date.
        """
        key = self._key(timeframe, session)
        file = DayFile(key, timeframe, session, self._delay)
        wanted = None if symbols is None else set(symbols)
        for attempt in range(1, BODY_ATTEMPTS + 1):
            body = self._open(key)
            try:
                return file.read(self._chunks(body), wanted)
            except _BROKEN_BODY as error:
                self._meter.add(retries=int(attempt < BODY_ATTEMPTS))
                if attempt == BODY_ATTEMPTS:
                    raise SourceError(
                        f"the flat file {key} broke off {BODY_ATTEMPTS} times while it was read"
                        f" ({type(error).__name__})",
                        remedy="check the network, raise the time limit, then run again",
                    ) from None
            finally:
                body.close()
        raise AssertionError("unreachable")

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        """Return raw ``1m`` or ``1d`` bars of the sessions from ``start`` to ``end``.

        Every session costs one file of the whole market, however few symbols are asked for;
        ``EVERY`` keeps them all.

        Returns
        -------
        pl.DataFrame
            ``BAR_SCHEMA``, sorted by symbol and time; ``vwap`` is null.

        Raises
        ------
        SourceError
            An unknown symbol, or any file that :meth:`session_bars` refuses; never half a frame.
        """
        _folder(timeframe)
        wanted = None if EVERY in symbols else sorted(set(symbols))
        sessions = calendar.sessions_between(start, end)
        if wanted == [] or not sessions:
            return empty(BAR_SCHEMA)
        parts: list[pl.DataFrame] = []
        for done, session in enumerate(sessions):
            self._report(done, len(sessions))
            parts.append(self.session_bars(timeframe, session, wanted))
        self._report(len(sessions), len(sessions))
        bars = parts[0]  # A session's bars are sorted.
        if len(parts) > 1:
            bars = pl.concat(parts).sort(Bar.SYMBOL, Bar.BAR_START)
        self._check_known(set(wanted or ()) - set(bars[Bar.SYMBOL].unique()))
        return bars

    def splits(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return the splits of the companion source (``SPLIT_SCHEMA``)."""
        return self._companion("splits").splits(symbols, start, end)

    def dividends(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return the dividends of the companion source (``DIVIDEND_SCHEMA``)."""
        return self._companion("dividends").dividends(symbols, start, end)

    def tickers(self) -> pl.DataFrame:
        """Return the tickers of the companion source (``TICKER_SCHEMA``)."""
        return self._companion("tickers").tickers()

    def _key(self, timeframe: Timeframe, session: dt.date) -> str:
        calendar.session_open(session)  # Raises where the exchange is closed.
        return f"{_folder(timeframe)}/{session:%Y/%m}/{session.isoformat()}.csv.gz"

    def _open(self, key: str) -> Any:
        self._meter.add(requests=1)
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            retries: int = answer["ResponseMetadata"].get("RetryAttempts", 0)
            self._meter.add(requests=retries, retries=retries)
            return answer["Body"]
        except ClientError as error:
            raise self._refusal(key, error) from None
        except BotoCoreError as error:
            raise SourceError(
                f"the flat files are out of reach ({type(error).__name__})",
                got=self._endpoint_url,
                remedy="check the network and the endpoint, then run again",
            ) from None

    def _chunks(self, body: Any) -> Iterator[bytes]:
        while chunk := body.read(_CHUNK_BYTES):
            self._meter.add(bytes=len(chunk))
            yield chunk

    def _refusal(self, key: str, error: ClientError) -> SourceError:
        answer: Any = error.response
        code = str(answer.get("Error", {}).get("Code", "no code"))[:40]
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _ABSENT:
            return AbsentFileError(
                "the vendor has no such flat file",
                got=key,
                allowed="sessions that are over; a file appears the day after the session, at"
                " about 11:00 New York time",
                remedy="wait for the file, or ingest this session over REST",
            )
        if code == "NoSuchBucket":
            return SourceError(
                "the flat files' endpoint has no such bucket",
                got=self._bucket,
                allowed=BUCKET,
                remedy="correct the bucket or the endpoint",
            )
        if code in _WRONG_KEYS:
            return SourceError(
                f"the vendor does not accept the flat-file keys ({code})",
                remedy=f"set {_KEY_NAMES} to the S3 keys of the vendor's dashboard; the REST key"
                " is another one",
            )
        if code in _DENIED or status == 403:
            return SourceError(
                f"the vendor refuses this flat file ({code})",
                got=key,
                allowed="files that the plan of these keys covers",
                remedy=f"check how far back the plan's flat files go; without {_KEY_NAMES}"
                " bars come over REST alone",
            )
        return SourceError(
            f"the vendor cannot serve the flat file {key} ({code}, status {status})",
            remedy="run again later; the vendor's status page says whether it is known",
        )

    def _check_known(self, missing: set[str]) -> None:
        if not missing - self._known:
            return
        if self._actions is not None:
            self._known = set(self._actions.tickers()[Ticker.SYMBOL])
        unknown = sorted(missing - self._known)
        if unknown:
            raise SourceError(
                "the flat files of these sessions do not have these symbols",
                got=unknown[:10],
                allowed="symbols with a bar in them"
                if self._actions is None
                else f"symbols with a bar in them, or known to {self._actions.name}",
                remedy="correct the symbols or leave them out",
            )

    def _companion(self, table: str) -> BarSource:
        if self._actions is None:
            raise SourceError(
                f"flat files hold no {table}",
                allowed="bars",
                remedy="give the source a companion: FlatFileSource(..., actions=PolygonSource())",
            )
        return self._actions

    def _report(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, total)


class _WithoutKeys(logging.Filter):
    """Keep back the debug records of botocore that hold signed headers or the vendor's echo."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG


_WITHOUT_KEYS = _WithoutKeys()
_LOGGERS_WITH_KEYS = (
    "botocore.auth",
    "botocore.awsrequest",
    "botocore.endpoint",
    "botocore.httpsession",
    "botocore.parsers",
    "botocore.retries.standard",
)


def _connect(
    access_key: SecretStr, secret_key: SecretStr, endpoint_url: str, timeout_seconds: float
) -> Any:
    keys = _usable_key(access_key, "access"), _usable_key(secret_key, "secret")
    for name in _LOGGERS_WITH_KEYS:
        logging.getLogger(name).addFilter(_WITHOUT_KEYS)
    config = Config(
        signature_version="s3v4",
        connect_timeout=timeout_seconds,
        read_timeout=timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        s3={"addressing_style": "path"},
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.Session(
            aws_access_key_id=keys[0], aws_secret_access_key=keys[1], region_name="us-east-1"
        )
        return session.client("s3", endpoint_url=endpoint_url, config=config)
    except BotoCoreError as error:
        raise SourceError(
            f"the S3 client cannot be made ({type(error).__name__})",
            remedy="check the AWS_ variables and files of this machine: botocore reads them",
        ) from None


def _folder(timeframe: Timeframe) -> str:
    try:
        return _FOLDERS[timeframe]
    except KeyError:
        raise SourceError(
            "this source has no bars of this length",
            got=timeframe.value,
            allowed="1m, 1d",
            remedy="ask for 1m bars and resample them",
        ) from None


def _usable_key(secret: SecretStr, which: str) -> str:
    key = secret.get_secret_value()
    if not re.fullmatch(r"[!-~]+", key):
        raise SourceError(
            f"the flat files' {which} key is empty or has characters that no key has",
            allowed="printable ASCII without spaces",
            remedy=f"set {_KEY_NAMES} to the keys, without line breaks",
        )
    return key


def _check_endpoint(endpoint_url: str) -> str:
    try:
        return check_base_url(endpoint_url)
    except SourceError as error:
        raise SourceError(
            "the flat files' endpoint cannot be used",
            got=error.got,
            allowed=error.allowed,
            remedy=f"use {ENDPOINT_URL}, or the address of a test server",
        ) from None
