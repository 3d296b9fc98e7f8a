"""An S3 server (moto) on loopback, in a process of its own: Delta's client holds the GIL."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import boto3
import pytest
import requests

from pipelines.vendor_settings import S3Settings

ACCESS_KEY, SECRET_KEY = "AKIALAKETESTKEY00000", "lake-very-secret-0123456789"
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.1


class S3Server:
    """A running server; every bucket is new."""

    def __init__(self, url: str) -> None:
        self.url = url
        session = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        self.client = session.client("s3", endpoint_url=url)

    def bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"lake-{uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return name

    def settings(self, endpoint: str = "") -> S3Settings:
        """Return how it is reached."""
        keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
        return S3Settings.model_validate({"endpoint": endpoint or self.url, **keys})

    def keys(self, bucket: str) -> list[str]:
        """Return the names of all objects in a bucket."""
        return [o["Key"] for o in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server until the block ends."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url)
        made = S3Server(url)
        yield made
        made.client.close()
    finally:
        process.kill()
        process.wait()


@contextmanager
def between(server: S3Server, passes: Callable[[str, str], bool]) -> Iterator[str]:
    """Give the URL of a server that hands on the requests of which ``passes(method, path)``.

    The others get no answer: their connection is closed.
    """

    class Forward(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            if not passes(self.command, self.path):
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = requests.request(
                self.command, server.url + self.path, headers=dict(self.headers), data=body
            )
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
            size = answer.headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", size or str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as forwarding:
        thread = threading.Thread(target=forwarding.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{forwarding.server_address[1]}"
        finally:
            forwarding.shutdown()
            thread.join()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    pytest.fail("the S3 server does not answer")
