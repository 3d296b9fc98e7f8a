"""The containers, as far as they can be tried without an engine.

The files are linted and every path in them exists; and the services are started as processes, by
the very commands of ``compose.yaml``, on loopback, beside a PostgreSQL server, until each one's
own health check passes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.pipelines.installation import clean_environment
from tests.postgres import PostgresServer, postgres_server

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name in SERVICES if name != "postgres"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 0.5

pytestmark = pytest.mark.xdist_group("containers")


def test_the_dockerfile_passes_its_linter() -> None:
    done = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_exists_and_is_let_through() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    let_through = {n.removeprefix("!") for n in lines if n.startswith("!")}
    assert all((ROOT / n).exists() for n in names)
    assert names == let_through


def test_every_package_of_the_distribution_is_in_the_image() -> None:
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    packages -= {"tests", "benchmarks", "evidence"}
    assert packages <= set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE))


def test_no_password_has_a_default_and_nothing_listens_beyond_this_machine() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert "${POSTGRES_PASSWORD:-" not in text
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_services_wait_for_what_they_need_and_mounts_exist() -> None:
    for name, service in SERVICES.items():
        assert "healthcheck" in service, name
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in SERVICES[needed]
        for mount in service["volumes"]:
            place = mount.split(":")[0]
            if place.startswith("./"):
                assert (ROOT / place).exists(), mount
            else:
                assert place in COMPOSE["volumes"], mount


def test_the_instance_in_containers_differs_in_its_storage_alone() -> None:
    here = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    there = yaml.safe_load((ROOT / "containers/dagster.yaml").read_text())
    assert there.pop("storage") == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert there == here


def test_dagsters_storage_is_reached_by_the_driver_that_it_was_written_for() -> None:
    """By another one it starts, and cannot record a run: it notifies with bound parameters."""
    given = [SERVICES[name].get("environment", {}) for name in OURS]
    urls = {e["DAGSTER_POSTGRES_URL"] for e in given if "DAGSTER_POSTGRES_URL" in e}
    assert urls
    assert all(url.startswith("postgresql+psycopg2://") for url in urls)


class Stack:
    """The services as processes: hosts become loopback, ports free ones, folders this one's."""

    def __init__(self, postgres: PostgresServer, data: Path) -> None:
        self.data = data
        self.ports = {"5000": _free(), "4000": _free(), "3000": _free(), "9108": _free()}
        self._postgres = postgres.port
        shutil.copytree(ROOT / "containers", data / "dagster", dirs_exist_ok=True)

    def place(self, text: str) -> str:
        """Return a text of ``compose.yaml`` as it is on this machine."""
        text = re.sub(r"\$\{POSTGRES_PASSWORD[^}]*\}", "unused", text)
        text = re.sub(r"\$\{\w+:-\}", "", text)
        text = text.replace("@postgres:5432", f"@127.0.0.1:{self._postgres}")
        for there, here in self.ports.items():
            text = re.sub(rf"(?<=[:=])(mlflow:)?{there}\b", f"{here}", text)
        text = text.replace("//mlflow", "//127.0.0.1").replace("0.0.0.0", "127.0.0.1")
        return text.replace("/data", str(self.data))

    def environment(self, service: str) -> dict[str, str]:
        """Return what a service sees."""
        given = {k: self.place(v) for k, v in SERVICES[service]["environment"].items()}
        image = {"ISOBAR_HOME": str(self.data), "DAGSTER_HOME": str(self.data / "dagster")}
        ours = {"CODE_SERVER_HOST": "127.0.0.1", "CODE_SERVER_PORT": str(self.ports["4000"])}
        ours["ISOBAR_MLFLOW_URL"] = f"http://127.0.0.1:{self.ports['5000']}"
        path = {"PATH": f"{BIN}:{clean_environment()['PATH']}", "PYTHONPATH": str(ROOT)}
        return clean_environment() | given | image | ours | path

    @contextmanager
    def running(self, service: str) -> Iterator[None]:
        """Run a service's command; it is healthy when the block begins."""
        command = [self.place(word) for word in SERVICES[service]["command"]]
        log = self.data / f"{service}.log"
        with log.open("wb") as told:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env=self.environment(service),
                cwd=ROOT,
                stdout=told,
                stderr=told,
                start_new_session=True,
            )
            try:
                self._wait(service, process, log)
                yield
            finally:
                _end(process)

    def _wait(self, service: str, process: subprocess.Popen[bytes], log: Path) -> None:
        check = [self.place(w) for w in SERVICES[service]["healthcheck"]["test"][1:]]
        command = [str(BIN / check[0]), *check[1:]]
        ports = [p for p in self.ports.values() if any(str(p) in word for word in check)]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            # A check takes seconds of the very core on which the service starts.
            if all(_is_taken(port) for port in ports):
                done = subprocess.run(
                    command, env=self.environment(service), cwd=ROOT, capture_output=True
                )
                if done.returncode == 0:
                    return
            with suppress(subprocess.TimeoutExpired):
                process.wait(PAUSE_SECONDS)
        pytest.fail(f"{service} is not healthy:\n{log.read_text()[-4000:]}")


def _free() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _is_taken(port: int) -> bool:
    with closing(socket.socket()) as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group of a process that this test began."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _asked(stack: Stack, query: str) -> Mapping[str, Any]:
    url = f"http://127.0.0.1:{stack.ports['3000']}/graphql"
    answer = requests.post(url, json={"query": query}, timeout=60)
    answer.raise_for_status()
    return answer.json()["data"]


def test_the_services_start_become_healthy_and_see_one_another(tmp_path: Path) -> None:
    with postgres_server() as postgres, ExitStack() as up:
        for statement in (ROOT / "containers/databases.sql").read_text().split(";"):
            if "CREATE" in statement:
                postgres.execute(statement[statement.index("CREATE") :])
        postgres.execute("CREATE DATABASE dagster")
        stack = Stack(postgres, tmp_path)
        for service in OURS:
            up.enter_context(stack.running(service))
        found = _asked(
            stack,
            "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus "
            "locationOrLoadError { __typename ... on RepositoryLocation { name } } } } } }",
        )
        (location,) = found["workspaceOrError"]["locationEntries"]
        assert location["locationOrLoadError"] == {
            "__typename": "RepositoryLocation",
            "name": "isobar",
        }
