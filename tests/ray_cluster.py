"""A Ray cluster on loopback: a head with a job server, begun and ended by the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import requests

_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.5


@contextmanager
def ray_cluster(environment: Mapping[str, str], folder: Path, cpus: int = 2) -> Iterator[str]:
    """Give the address of the job server of a cluster whose machines have this environment."""
    ports = [free_port() for _ in range(4)]
    server = f"http://127.0.0.1:{ports[0]}"
    # Sockets have short names only.
    with tempfile.TemporaryDirectory(prefix="ray") as place:
        command = [Path(sys.executable).parent / "ray", "start", "--head", "--block"]
        options = {
            "node-ip-address": "127.0.0.1",
            "dashboard-host": "127.0.0.1",
            "dashboard-port": ports[0],
            "port": ports[1],
            "ray-client-server-port": ports[2],
            "dashboard-agent-listen-port": ports[3],
            "num-cpus": cpus,
            "memory": 8_000_000_000,
            "object-store-memory": 100_000_000,
            "temp-dir": place,
            "disable-usage-stats": None,
        }
        told = [f"--{n}" if v is None else f"--{n}={v}" for n, v in options.items()]
        log = folder / "ray.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, *told],
                env=dict(environment) | {"RAY_GRAFANA_HOST": "", "RAY_PROMETHEUS_HOST": ""},
                cwd=folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            wait_for(process, f"{server}/api/jobs/", log)
            yield server
        finally:
            _end(process, place)


def wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until a server answers; fail with its log where it ends or does not."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException):
            if requests.get(url, timeout=5).ok:
                return
        time.sleep(_PAUSE_SECONDS)
    pytest.fail(f"no answer at {url}:\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes], place: str) -> None:
    """End what was begun: its descendants, and those who left its group but name its folder."""
    import psutil

    def ours() -> list[psutil.Process]:
        found = {process.pid: psutil.Process(process.pid)} if process.poll() is None else {}
        for parent in list(found.values()):
            found |= {p.pid: p for p in parent.children(recursive=True)}
        for other in psutil.process_iter():
            with suppress(psutil.Error):
                if any(place in word for word in other.cmdline()):
                    found[other.pid] = other
        return [p for p in found.values() if p.pid != os.getpid()]

    mine = ours()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for left in {*mine, *ours()}:
        with suppress(psutil.Error):
            left.kill()
    process.wait()


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
