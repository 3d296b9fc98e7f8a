"""An MLflow server on loopback, with its files in a folder, begun and ended by who asks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.ray_cluster import free_port

_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.2


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run a server until the block ends; give its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    place = ["--port", str(port), "--workers", "1", "--backend-store-uri"]
    place += [f"sqlite:///{folder}/tracking.db", "--artifacts-destination", f"{folder}/artifacts"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "mlflow.log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [*command, *place], stdout=told, stderr=told, env=dict(os.environ) | quiet
        )
    try:
        _wait(process, url, log)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException):
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        time.sleep(_PAUSE_SECONDS)
    pytest.fail(f"no MLflow server:\n{log.read_text()[-3000:]}")
