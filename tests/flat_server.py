"""The vendor's flat files on a real S3 server (moto in server mode) on loopback."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import boto3
import polars as pl
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from market.flatfiles import BUCKET, FlatFileSource
from market.schema import Bar
from market.timeframes import Timeframe

ACCESS_KEY, SECRET_KEY = "AKIAFLATFILETESTKEY0", "flat-file-very-secret-0123456789"
HEADER = "ticker,volume,open,close,high,low,window_start,transactions"
_REGION = "us-east-1"
_FOLDERS = {Timeframe.M1: "minute_aggs_v1", Timeframe.D1: "day_aggs_v1"}


def file_key(timeframe: Timeframe, session: dt.date) -> str:
    """The name of a day file, written independently of the source under test."""
    day = session.isoformat()
    return f"us_stocks_sip/{_FOLDERS[timeframe]}/{day[:4]}/{day[5:7]}/{day}.csv.gz"


def day_csv(bars: pl.DataFrame, timeframe: Timeframe) -> bytes:
    """The text of a day file that holds these bars (``BAR_SCHEMA``, one session)."""
    start = pl.col(Bar.BAR_START)
    if timeframe is Timeframe.D1:  # Day files are dated by New York's midnight.
        midnight = start.dt.convert_time_zone("America/New_York").dt.truncate("1d")
        start = midnight.dt.convert_time_zone("UTC")
    return (
        bars.select(
            pl.col(Bar.SYMBOL).alias("ticker"),
            pl.col(Bar.VOLUME),
            *(pl.col(c) for c in (Bar.OPEN, Bar.CLOSE, Bar.HIGH, Bar.LOW)),
            (start.dt.epoch("us") * 1000).alias("window_start"),
            pl.col(Bar.TRADES).alias("transactions"),
        )
        .write_csv()
        .encode()
    )


@dataclass
class FlatServer:
    """A running S3 server with the vendor's bucket."""

    url: str
    client: Any
    bucket: str

    def put(self, timeframe: Timeframe, session: dt.date, body: bytes) -> None:
        """Store the bytes of an object as they are."""
        self.client.put_object(Bucket=self.bucket, Key=file_key(timeframe, session), Body=body)

    def put_bars(self, timeframe: Timeframe, bars: pl.DataFrame) -> None:
        """Store one gzipped file for each session of ``bars``."""
        for (session,), rows in bars.group_by(Bar.SESSION):
            assert isinstance(session, dt.date)
            self.put(timeframe, session, gzip.compress(day_csv(rows, timeframe)))

    def source(self, access: str = ACCESS_KEY, secret: str = SECRET_KEY, **options: Any) -> Any:
        """Return a source on this server."""
        keys = SecretStr(access), SecretStr(secret)
        return FlatFileSource(*keys, self.url, **{"bucket": self.bucket, **options})

    @contextmanager
    def checking_keys(self) -> Iterator[tuple[str, str]]:
        """From here on keys are checked; gives one pair that may read the bucket."""
        iam = _client("iam", self.url, ACCESS_KEY, SECRET_KEY)
        allow = {
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{self.bucket}/*",
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        reader = f"reader-of-{self.bucket}"
        iam.create_user(UserName=reader)
        iam.put_user_policy(UserName=reader, PolicyName="read", PolicyDocument=policy)
        made = iam.create_access_key(UserName=reader)["AccessKey"]
        self._reset_auth("0")
        try:
            yield made["AccessKeyId"], made["SecretAccessKey"]
        finally:
            self._reset_auth("inf")

    def _reset_auth(self, free_requests: str) -> None:
        address = f"{self.url}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        with urlopen(Request(address, free_requests.encode(), plain, method="POST")) as answer:
            assert answer.status == 200


@contextmanager
def flat_server() -> Iterator[FlatServer]:
    """Run an S3 server on a free loopback port, with an empty bucket.

    All such servers of one process hold the same buckets, so each has one of its own.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # No line for every request.
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = _client("s3", url, ACCESS_KEY, SECRET_KEY)
        bucket = f"{BUCKET}-{uuid4().hex}"
        client.create_bucket(Bucket=bucket)
        yield FlatServer(url, client, bucket)
        client.close()
    finally:
        server.stop()


def _client(service: str, url: str, access: str, secret: str) -> Any:
    return boto3.Session(access, secret, region_name=_REGION).client(service, endpoint_url=url)
