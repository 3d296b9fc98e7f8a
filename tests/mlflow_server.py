"""An MLflow server on loopback, with its files in a folder, begun and ended by who asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ray_cluster import free_port, wait_for


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
        wait_for(process, f"{url}/health", log)
        yield url
    finally:
        process.terminate()
        process.wait(30)
